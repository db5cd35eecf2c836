"""What a run of a scenario has to say: measured lines held against their marks, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Line:
    """One measured value. `mark` is what the scorecard `id` asks for; None where it only wants the figure.

    A share is given as a fraction and unit "%"; other values as they are, with their unit ("s", "B/s", ...).
    """

    id: str
    what: str
    value: float
    mark: float | None = None
    at_most: bool = False
    """The value may not be above the mark; otherwise it may not be below it."""
    unit: str = ""
    digits: int = 2

    @property
    def ok(self) -> bool:
        if self.mark is None:
            return True
        return self.value <= self.mark if self.at_most else self.value >= self.mark

    @property
    def value_text(self) -> str:
        return self._text(self.value)

    @property
    def mark_text(self) -> str:
        """As in ">= 99.9 %"; empty where there is no mark."""
        if self.mark is None:
            return ""
        return f"{'<=' if self.at_most else '>='} {self._text(self.mark, short=True)}"

    def _text(self, value: float, *, short: bool = False) -> str:
        shown = 100 * value if self.unit == "%" else value
        text = f"{shown:,.{self.digits}f}"
        if "." in text and (short or float(shown).is_integer()):
            text = text.rstrip("0").rstrip(".")
        return f"{text} {self.unit}".rstrip()

    def to_json(self) -> dict[str, object]:
        mark = None if self.mark is None else f"{'<=' if self.at_most else '>='} {self.mark:g}"
        return {"id": self.id, "what": self.what, "value": _rounded(self.value), "mark": mark, "ok": self.ok}


@dataclass(slots=True)
class Result:
    """What one run of a scenario found. The same seed and options give the same, byte for byte."""

    lines: list[Line]
    virtual_seconds: float
    event_log_sha256: str
    options: dict[str, object] = field(default_factory=dict)
    """What the run chose where the caller left it open; goes to the JSON beside what the caller gave."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the table has to know: what was taken as given, what was sampled."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """Measured points by name, for the plot."""

    @property
    def ok(self) -> bool:
        return all(line.ok for line in self.lines)


def share(part: int, whole: int) -> float:
    """`part` of `whole` as a fraction; all of nothing is 1."""
    return part / whole if whole else 1.0


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value that `fraction` of `values` do not exceed (nearest rank); infinite where there are none."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(fraction * 1_000_000) // 1_000_000))
    return ordered[min(rank, len(ordered)) - 1]


def show_table(result: Result, title: str, console: Console) -> None:
    """The lines against the scorecard, and the notes below them."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for head, justify in (("id", "left"), ("what", "left"), ("value", "right"), ("mark", "right"), ("", "left")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for line in result.lines:
        verdict = Text("measured", "dim") if line.mark is None else Text("ok", "green") if line.ok else _SHORT
        table.add_row(line.id, line.what, line.value_text, line.mark_text, verdict)
    console.print(table)
    for note in result.notes:
        console.print(Text(note, "dim"))


_SHORT = Text("falls short", "bold red")


def _rounded(value: float) -> float | None:
    """Six significant digits: no noise of the last bit between two machines. None for what is not finite."""
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.6g}")
