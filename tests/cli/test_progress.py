"""Goal: the line beside the bar says as much as there is room for, and its time left stands still enough to be read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from p2pmodel.cli.progress import told
from p2pmodel.peer.reports import Progress

GIB = 1 << 30


def at(done_gib: float, **more: object) -> Progress:
    values = {
        "phase": "transfer",
        "bytes_done": round(done_gib * GIB),
        "bytes_total": 14 * GIB,
        "rate_bytes_per_s": 80.0 * (1 << 20),
        "peers": 3,
        "eta_s": 113.0,
        "bytes_reused": 5 * GIB,
    }
    return Progress(**{**values, **more})


def test_what_is_left_out_first_is_what_matters_least() -> None:
    full = "7.0 of 14.0 GiB  80.0 MiB/s  3 peers  2 min left  resumed at 35 %"
    assert told(at(7), 100, steady=True) == full
    assert told(at(7), len(full), steady=True) == full
    assert told(at(7), len(full) - 1, steady=True) == "7.0 of 14.0 GiB  80.0 MiB/s  3 peers  2 min left"
    assert told(at(7), 38, steady=True) == "50 %  80.0 MiB/s  2 min left"
    assert told(at(7), 20, steady=True) == "50 %  2 min left"
    assert told(at(7), 5, steady=True) == "50 %"
    assert told(at(7), 2, steady=True) == "50"
    assert told(at(7), -5, steady=True) == ""


@pytest.mark.parametrize("room", range(80))
def test_it_never_takes_more_room_than_there_is(room: int) -> None:
    for progress in (at(7), at(13, note="waiting for a peer that holds 3 missing chunks"), Progress(phase="lookup")):
        assert len(told(progress, room, steady=True)) <= room


def test_a_note_stands_where_the_numbers_would() -> None:
    waiting = at(13, note="waiting for a peer\x1b[2J", rate_bytes_per_s=0.0, peers=0, eta_s=None)
    assert told(waiting, 100, steady=True) == "13.0 of 14.0 GiB  waiting for a peer\N{REPLACEMENT CHARACTER}[2J"


def test_a_fresh_fetch_is_not_called_resumed_and_tells_no_time_before_it_is_known() -> None:
    assert told(at(1, bytes_reused=0), 100, steady=False) == "1.0 of 14.0 GiB  80.0 MiB/s  3 peers"
    assert "left" not in told(at(1, eta_s=None), 100, steady=True)


@dataclass(frozen=True)
class Case:
    seconds: float
    said: str


@pytest.mark.parametrize(
    "case",
    [
        Case(0.2, "1 s"),
        Case(9.1, "10 s"),
        Case(14.9, "15 s"),
        Case(17.0, "20 s"),
        Case(61.0, "1 min 10 s"),
        Case(599.0, "10 min"),
        Case(601.0, "11 min"),
        Case(3713.0, "1 h 5 min"),
    ],
    ids=str,
)
def test_the_time_left_is_rounded_up_the_more_the_longer_it_is(case: Case) -> None:
    assert f"{case.said} left" in told(at(7, eta_s=case.seconds), 100, steady=True)
