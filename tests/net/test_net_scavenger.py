"""The decision of a connection in the background, driven by a line of made-up bytes: alone it fills it, beside others
it leaves it. And on real sockets, that what is decided is told to the kernel, and taken back.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import pytest
from wire_pairs import Source, comes_true

from p2pmodel.limits import MIB, YIELD_TARGET_S, YIELD_WINDOW_BYTES_MIN, YIELD_WINDOW_BYTES_START
from p2pmodel.net import yielding
from p2pmodel.net.scavenger import Scavenger
from p2pmodel.net.tcp_info import TcpInfo

STEP_S = 0.02


@dataclass
class Line:
    """A narrow place with a queue before it, shared with others who always have `others_bytes` under way."""

    rate_bytes_per_s: float
    path_s: float
    queue_bytes: float
    others_bytes: float = 0.0
    now: float = 0.0
    moved: float = 0.0
    lost: int = 0

    def go(self, scavenger: Scavenger, seconds: float) -> float:
        """Returns the rate at which the scavenger's bytes came through meanwhile."""
        before, until = self.moved, self.now + seconds
        while self.now < until:
            room = self.rate_bytes_per_s * self.path_s
            under_way = scavenger.window_bytes + self.others_bytes
            queued = min(max(under_way - room, 0.0), self.queue_bytes)
            if under_way - room > self.queue_bytes:
                self.lost += 1
            round_trip_s = self.path_s + queued / self.rate_bytes_per_s
            share = min(under_way / round_trip_s, self.rate_bytes_per_s) / under_way
            self.moved += share * scavenger.window_bytes * STEP_S
            self.now += STEP_S
            scavenger.decide(self.now, round_trip_s, int(self.moved), self.lost)
        return (self.moved - before) / seconds


@pytest.mark.parametrize("path_s", [0.002, 0.02, 0.08])
@pytest.mark.parametrize("rate", [1.25e6, 12.5e6, 125e6])
def test_alone_it_takes_the_line_within_seconds_and_causes_hardly_a_queue(rate: float, path_s: float) -> None:
    line, scavenger = Line(rate, path_s, rate * 0.1), Scavenger()
    line.go(scavenger, 10.0)
    assert line.go(scavenger, 5.0) > 0.8 * rate
    assert scavenger.window_bytes < rate * (path_s + 2 * YIELD_TARGET_S) + YIELD_WINDOW_BYTES_START
    assert line.lost == 0


@pytest.mark.parametrize("path_s", [0.002, 0.02, 0.08])
def test_it_is_gone_within_a_second_or_two_once_somebody_else_fills_the_queue(path_s: float) -> None:
    line, scavenger = Line(12.5e6, path_s, 12.5e6 * 0.1), Scavenger()
    line.go(scavenger, 10.0)
    line.others_bytes = 12.5e6 * (path_s + 0.05)
    line.go(scavenger, 2.0)
    assert line.go(scavenger, 5.0) < 0.05 * 12.5e6
    assert scavenger.window_bytes == YIELD_WINDOW_BYTES_MIN


def test_it_comes_back_when_the_others_have_gone_but_not_at_once() -> None:
    line, scavenger = Line(12.5e6, 0.02, 12.5e6 * 0.1), Scavenger()
    line.go(scavenger, 5.0)
    line.others_bytes = 12.5e6 * 0.07
    line.go(scavenger, 5.0)
    line.others_bytes = 0.0
    assert line.go(scavenger, 1.0) < 0.1 * 12.5e6
    line.go(scavenger, 9.0)
    assert line.go(scavenger, 5.0) > 0.9 * 12.5e6


def test_a_loss_takes_most_of_the_window_where_no_queue_is_seen() -> None:
    scavenger = Scavenger()
    scavenger.window_bytes = float(MIB)
    scavenger.decide(0.0, 0.02, 0, 0)
    assert scavenger.decide(1.0, 0.02, 50 * MIB, 1) == 0.3 * MIB


def test_one_late_sample_among_several_is_no_queue() -> None:
    scavenger = Scavenger()
    scavenger.window_bytes = float(MIB)
    scavenger.decide(0.0, 0.02, 0, 0)
    scavenger.decide(0.02, 0.2, MIB, 0)
    assert scavenger.decide(0.1, 0.02, 5 * MIB, 0) > MIB
    assert scavenger.base_s == 0.02


def test_a_window_that_is_not_used_does_not_grow_and_nothing_is_learnt_where_nothing_moves() -> None:
    scavenger = Scavenger()
    scavenger.decide(0.0, 0.02, 0, 0)
    assert scavenger.decide(1.0, 0.02, 1000, 0) == YIELD_WINDOW_BYTES_START
    assert scavenger.decide(2.0, 3.0, 1000, 0) == YIELD_WINDOW_BYTES_START
    assert Scavenger().decide(1.0, 0.0, 5, 0) == YIELD_WINDOW_BYTES_START


def test_a_path_that_became_longer_is_believed_after_two_minutes() -> None:
    line, scavenger = Line(12.5e6, 0.02, 12.5e6 * 0.1), Scavenger()
    line.go(scavenger, 5.0)
    line.path_s = 0.06
    line.go(scavenger, 10.0)
    assert line.go(scavenger, 5.0) < 0.1 * 12.5e6
    line.go(scavenger, 130.0)
    assert line.go(scavenger, 10.0) > 0.8 * 12.5e6


# --- over sockets -------------------------------------------------------------------------------------------------


async def test_what_yields_is_told_to_the_kernel_for_later_lanes_too_and_taken_back(town, monkeypatch) -> None:
    paced: dict[socket.socket, float | None] = {}
    clamped: dict[socket.socket, int | None] = {}
    monkeypatch.setattr(yielding, "pace", paced.__setitem__)
    monkeypatch.setattr(yielding, "clamp_window", clamped.__setitem__)
    monkeypatch.setattr(yielding, "_LOOK_IDLE_S", 0.001)
    pair = await town.pair()
    sock = pair.near._lanes[0].socket.sock
    pair.near.yield_line(sending=True, receiving=False)
    await comes_true(lambda: paced.get(sock))
    assert not clamped
    pair.near.yield_line(sending=False, receiving=True)
    await comes_true(lambda: clamped.get(sock))
    assert paced[sock] is None
    pair.near.yield_line(sending=False, receiving=False)
    assert clamped[sock] is None and pair.near._yielding._timer is None
    pair.near.yield_line(sending=True, receiving=True)
    assert pair.near._yielding._timer is not None


async def test_a_channel_that_yields_carries_answers_whole_and_ends_clean(town) -> None:
    pair = await town.pair()
    pair.near.yield_line(sending=False, receiving=True)
    pair.far.yield_line(sending=True, receiving=False)
    await pair.far.send_run([(1, Source(bytes(range(256)) * 4096))])
    await pair.near_handler.until(lambda: pair.near_handler.of("finished"))
    assert pair.near_handler.sinks[1].data == bytes(range(256)) * 4096
    assert TcpInfo.of(pair.near._lanes[0].socket.sock).received_bytes > MIB
