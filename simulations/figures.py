"""Plots: one look for all, colours that colour-blind people can tell apart, PNG or SVG.

matplotlib is an extra (`pip install 'p2pmodel[sim]'`) and is imported only where a plot is asked for.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.testing.report import Result
from simulations.scenario import Options, Scenario

# Okabe and Ito's palette, "Color universal design", 2008.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
)
GREY = "#6B7280"
_FORMATS = (".png", ".svg")
_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E7EB",
    "axes.axisbelow": True,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "white",
    "lines.linewidth": 2,
    "svg.hashsalt": "p2pmodel",
    "svg.fonttype": "none",
}


def check_plot(path: Path) -> None:
    """Before the run, not after it: whether a plot can be drawn there. Raises `UsageError`."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--plot {path}: expected a name that ends in .png or .svg")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no directory {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed: pip install 'p2pmodel[sim]'")


def draw(scenario: Scenario[Any], result: Result, options: Options, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure = pyplot.figure(figsize=(9.6, 5.4), dpi=150, layout="constrained")
        figure.suptitle(
            f"{scenario.name}: {options.peers:,} peers, seed {options.seed}", x=0.01, ha="left", weight="bold", size=15
        )
        scenario.plot(result, options, figure)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        try:
            figure.savefig(path, metadata=metadata)
        except OSError as error:
            raise UsageError(f"--plot {path}: {error.strerror}") from error
        finally:
            pyplot.close(figure)


def mark(axes: Any, value: float, text: str, *, vertical: bool = False, below: bool = False) -> None:
    """A scorecard mark as a dashed line with its words beside it, or `below` it where there is more room."""
    look: Any = {"color": RED, "size": 9, "textcoords": "offset points"}
    look["bbox"] = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
    if vertical:
        axes.axvline(value, color=RED, linestyle="--", linewidth=1.4)
        axes.annotate(
            text, (value, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0), rotation=90, va="bottom", **look
        )
    else:
        axes.axhline(value, color=RED, linestyle="--", linewidth=1.4)
        shift, side = ((0, -4), "top") if below else ((0, 4), "bottom")
        axes.annotate(
            text, (0.995, value), xycoords=("axes fraction", "data"), xytext=shift, ha="right", va=side, **look
        )


def whole_numbers(axis: Any, ticks: int = 8) -> None:
    """At most so many ticks, at whole numbers only, thousands with a comma."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(ticks, integer=True))
    axis.set_major_formatter("{x:,.0f}")
