"""Each scenario of the overlay at a small size: it runs, says what it must, and repeats itself."""

from __future__ import annotations

import json

import pytest

from simulations.cli import main
from simulations.registry import MODULES, scenarios

SMALL = {
    "lookup": ("lookup --peers 30 --lookups 30 --keys 5", {"D1", "D6", "P7"}),
    "churn": ("churn --peers 30 --minutes 2 --lookups 20 --keys 5", {"D3", "D4"}),
    "sessions": ("churn --peers 20 --ipfs --hours 0.5 --records 10", {"D5"}),
    "partition": ("partition --peers 20 --minutes 1 --lookups 5 --keys 4", {"D10"}),
    "sybil": ("sybil --peers 50 --attacks 1 --sybils 1 --lookups 5 --clean 5 --tries 10", {"D8"}),
    "liars": ("sybil --peers 60 --liars 0.2 --lookups 2 --clean 5", {"D7"}),
    "eclipse": ("eclipse --peers 40 --victims 5 --ids 50 --per-victim 20 --rounds 1 --settle 2", {"D9"}),
    "announce": ("announce --peers 60 --keys 200 --sample 3 --recall 10", {"P8"}),
}


def _run(capsys: pytest.CaptureFixture[str], command: str) -> dict[str, object]:
    code = main([*command.split(), "--json", "--quiet"])
    printed = json.loads(capsys.readouterr().out)
    assert code == (0 if all(line["ok"] for line in printed["lines"]) else 1)
    return printed


def _repeatable(printed: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in printed.items() if name != "wall_seconds"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_scenario_measures_its_lines_and_the_same_seed_gives_the_same_to_the_last_event(name, capsys):
    command, ids = SMALL[name]
    first = _run(capsys, command)
    assert {line["id"] for line in first["lines"]} == ids
    assert _repeatable(_run(capsys, command)) == _repeatable(first)


@pytest.mark.parametrize("name", MODULES)
def test_every_scenario_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert scenarios()[name].story.splitlines()[0] in shown
    assert "--peers" in shown and "--seed" in shown and "--plot" in shown


@pytest.mark.slow
def test_another_seed_gives_another_event_log(capsys):
    command, _ = SMALL["announce"]
    hashes = {_run(capsys, f"{command} --seed {seed}")["event_log_sha256"] for seed in range(3)}
    assert len(hashes) == 3


@pytest.mark.slow
def test_in_a_small_quiet_network_every_provider_is_found(capsys):
    printed = _run(capsys, f"{SMALL['lookup'][0]} --dead 0")
    found = next(line for line in printed["lines"] if line["what"] == "found, all alive")
    assert found["value"] == 1.0


@pytest.mark.slow
def test_among_nine_liars_in_ten_more_paths_find_more_and_not_all(capsys):
    """Else the liars would not be what they are said to be."""
    printed = _run(capsys, "sybil --peers 250 --direct --liars 0.9 --lookups 3 --clean 5")
    one, _, eight = (line["value"] for line in printed["lines"])
    assert one < eight < 1


@pytest.mark.slow
def test_an_attacker_with_two_addresses_takes_more_of_a_table_that_does_not_count_address_groups(capsys):
    command = "eclipse --peers 40 --victims 5 --ids 200 --per-victim 100 --rounds 1 --settle 2 --profile"
    limited, unlimited = (
        next(line["value"] for line in _run(capsys, f"{command} {profile}")["lines"])
        for profile in ("internet", "cluster")
    )
    assert 0 < limited < unlimited


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--real-signatures", ""])
def test_which_signatures_were_used_is_said(options, capsys):
    printed = _run(capsys, f"announce --peers 110 --keys 100 --sample 1 --recall 2 {options}")
    assert printed["options"]["signatures"] == ("Ed25519" if options else "keyed BLAKE2b")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("churn --peers 5", "at least 10"),
        ("churn --per-minute 0", "more than 0 percent"),
        ("partition --peers 10", "at least 20"),
        ("sybil --peers 20", "at least 50"),
        ("eclipse --peers 40 --victims 30", "at most half"),
        ("eclipse --addresses 1 --ids 40000", "30,000 ports"),
        ("announce --keys 100 --recall 200", "there are 100 keys"),
        ("lookup --latency-low 50 --latency-high 20", "the smaller first"),
        ("lookup --dead 0.95", "expected a number"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(command, words, capsys):
    assert main(command.split()) == 2
    assert words in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        "lookup --peers 1000 --lookups 10000 --dead 0",
        "lookup --peers 1000 --lookups 3000 --dead 0.2",
        "lookup --peers 1000 --lookups 3000 --dead 0.5",
        "churn --peers 1000 --per-minute 5 --lookups 3000",
        "partition --peers 1000",
    ],
)
def test_the_marks_of_the_scorecard_hold_for_a_thousand_peers(command, capsys):
    printed = _run(capsys, command)
    assert [line for line in printed["lines"] if not line["ok"]] == []
