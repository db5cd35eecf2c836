"""`python -m simulations`: what is asked wrongly, what comes out, and with which exit code. No network is simulated."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest

from p2pmodel.testing.report import Line, Result
from simulations import cli, figures
from simulations.scenario import Observer, Options, Scenario, option


@dataclass(frozen=True, kw_only=True)
class _Options(Options):
    share: float = option(0.5, "50 % of something.", low=0, high=1)
    rounds: int = option(3, "How many.", low=1)
    kind: str = option("mild", "Which.", choices=("mild", "hot"))
    twice: bool = option(False, "Twice.")


def _run(options: _Options, observer: Observer) -> Result:
    observer.progress("running: 1 of 1")
    observer.log.add(1.5, "event", options.seed)
    lines = [Line("D1", "share", options.share, 0.5, unit="%"), Line("D2", "seconds", math.inf, None, True, "s")]
    return Result(lines, 12.5, observer.log.sha256, {"signatures": "none"}, ["A note."], {"x": [1.0, 2.0]})


def _plot(result: Result, options: _Options, figure: object) -> None:
    axes = figure.add_subplot()
    axes.plot(result.series["x"], [1, 2])
    figures.mark(axes, 1.5, "a mark")


@pytest.fixture(autouse=True)
def one_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Scenario("toy", "a toy: 100 % of it", "A toy.\n\nIt has two lines.", _Options, _run, _plot)
    monkeypatch.setattr(cli, "scenarios", lambda: {"toy": toy})


def test_json_has_the_fields_of_the_contract_and_no_others(capsys):
    assert cli.main(["toy", "--peers", "7", "--seed", "5", "--rounds", "4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == [
        "scenario",
        "seed",
        "peers",
        "options",
        "virtual_seconds",
        "wall_seconds",
        "event_log_sha256",
        "lines",
    ]
    assert (printed["scenario"], printed["seed"], printed["peers"]) == ("toy", 5, 7)
    assert printed["options"] == {"share": 0.5, "rounds": 4, "kind": "mild", "twice": False, "signatures": "none"}
    assert printed["virtual_seconds"] == 12.5 and printed["wall_seconds"] >= 0
    assert len(bytes.fromhex(printed["event_log_sha256"])) == 32
    assert printed["lines"] == [
        {"id": "D1", "what": "share", "value": 0.5, "mark": ">= 0.5", "ok": True},
        {"id": "D2", "what": "seconds", "value": None, "mark": None, "ok": True},
    ]


def test_a_line_that_falls_short_makes_the_exit_code_one(capsys):
    assert cli.main(["toy", "--share", "0.4"]) == 1
    assert "falls short" in capsys.readouterr().out


def test_the_table_shows_values_marks_and_notes(capsys):
    assert cli.main(["toy"]) == 0
    out = capsys.readouterr().out
    assert "toy: 1,000 peers, seed 1" in out and "50 %" in out and ">= 50 %" in out and "A note." in out
    assert "12 s of virtual time" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which scenario"),
        (["toi"], "did you mean 'toy'"),
        (["nothing"], "there are: toy"),
        (["--json", "toy"], "the scenario comes first"),
        (["toy", "--peers", "1"], "--peers 1: expected a number from 2 to 20,000"),
        (["toy", "--peers", "many"], "'many' is no whole number"),
        (["toy", "--peers"], "expected one argument"),
        (["toy", "--seed", "-4"], "expected a number at least 0"),
        (["toy", "--share", "nan"], "'nan' is no number"),
        (["toy", "--kind", "cold"], "invalid choice: 'cold'"),
        (["toy", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["toy", "--plot", "out.gif"], "ends in .png or .svg"),
        (["toy", "--plot", "/no/such/place/out.png"], "no directory"),
        (["toy", "--log", "/no/such/place/log"], "No such file or directory"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_exit_code_two(arguments, words, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("simulations: error: ") and captured.err.count("\n") == 1
    assert words in captured.err


def test_help_explains_the_scenario_and_its_own_options(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["toy", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "It has two lines." in out and "50 % of something. (default 0.5)" in out and "--twice" in out


def test_general_help_lists_every_scenario(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "a toy: 100 % of it" in capsys.readouterr().out


def test_ctrl_c_is_one_sentence(monkeypatch, capsys):
    def interrupted(options: _Options, observer: Observer) -> Result:
        raise KeyboardInterrupt

    toy = Scenario("toy", "", "", _Options, interrupted, _plot)
    monkeypatch.setattr(cli, "scenarios", lambda: {"toy": toy})
    assert cli.main(["toy"]) == 130
    assert capsys.readouterr().err == "simulations: interrupted; nothing was measured\n"


def test_the_log_file_holds_the_lines_that_the_hash_is_of(tmp_path, capsys):
    import hashlib

    assert cli.main(["toy", "--log", str(tmp_path / "log"), "--json"]) == 0
    lines = (tmp_path / "log").read_bytes()
    assert lines == b"1.5 event (1,)\n"
    assert hashlib.sha256(lines).hexdigest() == json.loads(capsys.readouterr().out)["event_log_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_is_written_in_the_format_of_its_name(ending, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"out.{ending}"
    assert cli.main(["toy", "--plot", str(path), "--quiet"]) == 0
    head = path.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if ending == "png" else b"<svg" in path.read_bytes()[:1000]


def test_without_matplotlib_a_plot_is_refused_before_the_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["toy", "--plot", str(tmp_path / "out.png")]) == 2
    assert "pip install 'p2pmodel[sim]'" in capsys.readouterr().err


def test_progress_goes_to_stderr_and_can_be_silenced(capsys):
    cli.main(["toy", "--json"])
    captured = capsys.readouterr()
    assert captured.err == "running: 1 of 1\n" and json.loads(captured.out)
    cli.main(["toy", "--json", "--quiet"])
    assert capsys.readouterr().err == ""
