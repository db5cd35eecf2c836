"""What a seed shows to whom while it is the only one: a plain object driven with `now` and a `Random`.

Each chunk is shown to one peer first, as if nothing else were here (super-seeding, BEP 16). So the first copy that the
seed sends is one whole copy, of which every peer has another part to pass on; shown everything, some chunks would leave
twice before others leave once. What a peer does not take is shown to another, a peer that wants something else is shown
everything, and once all has left nothing is hidden any more. Only so much is shown at a time as leaves in half a
second: whoever takes faster is given more.

What was sent counts once somebody else is heard to have it. Where nobody is, long after that is usual, it is shown to
another peer, and the one that kept it to itself is shown nothing more: a thief costs what it was sent first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm.rarity import random_bit

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""

_AHEAD_MIN, _AHEAD_MAX = 8, 1024
"""Chunks shown and not yet sent, over all peers."""
_AHEAD_S = 0.5
_PATIENCE_S = 0.5
"""A peer that asks for nothing of what it is shown for so long wants something else."""
_STALE_S = 1.0
"""Once everything is shown to somebody, what has not been sent so long after is shown to another as well; or twice as
long as all that is shown takes to leave, if that is longer."""
_SETTLE_PART, _SETTLE_MAX_S, _SETTLE_CROWD = 0.25, 10.0, 8
"""After the first copy, a crowd has this part of the time that it took to complete each other: whoever asks the seed
again at once takes from it what a neighbour has as well."""
_PASSING_ON_S = 3.0
"""A chunk that was sent should be with somebody else within this time, as long as nothing is known of this crowd;"""
_PASSING_ON_MIN_S, _PASSING_ON_USUAL = 1.0, 4.0
"""later, within so many times as long as it takes on average, and never less than the first."""
_PASSING_ON_WEIGHT = 1 / 16
_SENT_MAX = 3
"""So often a chunk is sent at most before it counts as passed on, whatever is heard."""
_FORGET_S = 10.0
"""What was sent to a peer that is gone within this time may be gone with it."""


@dataclass(slots=True)
class _Shown:
    """What one peer has been shown."""

    bits: int = 0
    waiting: dict[int, float] = field(default_factory=dict)
    """Shown to it and sent to nobody yet, with the time."""
    took_at: float = 0.0
    """When something was sent to it for the last time."""
    everything: bool = False
    idle: bool = False
    """It asks, and does not take what it asked for: shown nothing more until it does."""
    keeps: bool = False
    """It did not pass on what it was sent: shown nothing more until somebody has a chunk of it."""


class SuperSeed(Generic[K]):
    """The first copy of one model. `chunks`: what is to be spread, as bits.

    `news` and `tick` say what to tell whom: sets of chunks as bits, each only once.
    """

    def __init__(self, chunks: int, rng: Random, now: float) -> None:
        self._chunks = chunks
        self._rng = rng
        self._began = now
        self._unshown = chunks
        self._unsent = chunks
        self._peers: dict[K, _Shown] = {}
        self._turns: deque[K] = deque()
        self._waiting_at: dict[int, dict[K, None]] = {}
        """For each chunk that is shown and not yet sent, to whom."""
        self._ahead = _AHEAD_MIN
        self._stale_s = _STALE_S
        self._lately: deque[tuple[float, K, int]] = deque(maxlen=4 * _AHEAD_MAX)
        """What was sent for the first time, when and to whom."""
        self._alone: dict[int, tuple[K, float]] = {}
        """What one peer was sent and nobody else is known to have: to whom and when."""
        self._alone_bits = 0
        self._passing_on_s = _PASSING_ON_S
        self._sent_again: dict[int, int] = {}
        """How often each chunk was sent that had to be shown once more."""
        self._passed_at: float | None = None

    @property
    def unsent(self) -> int:
        """Chunks that have been sent to nobody."""
        return self._unsent

    def over(self, now: float) -> bool:
        """Whether nothing needs to be hidden any more."""
        if self._passed_at is None:
            return False
        crowd = len(self._peers) >= _SETTLE_CROWD
        settle_s = min(_SETTLE_PART * (self._passed_at - self._began), _SETTLE_MAX_S) if crowd else 0.0
        return now - self._passed_at >= settle_s

    def visible(self, peer: K) -> int:
        """What this peer may know of."""
        shown = self._peers[peer]
        return self._chunks if shown.everything else shown.bits

    def serves(self, peer: K, index: int, now: float) -> bool:
        """Whether this peer may have this chunk now: not what is meant for another, asked for before it was hidden."""
        shown = self._peers.get(peer)
        if shown is not None and self._unshown & 1 << index:
            self._show(peer, index, now)
        return shown is None or shown.everything or bool(shown.bits & self._unsent & 1 << index)

    # --- peers come and go ---------------------------------------------------------------------------------------

    def peer_joined(self, peer: K, *, everything: bool = False) -> None:
        """`everything`: it knows what is here, and is not to unlearn it."""
        if peer not in self._peers:
            self._peers[peer] = _Shown(everything=everything)
            self._turns.append(peer)

    def peer_left(self, peer: K, now: float, *, gone: bool) -> None:
        """What was shown to it alone is shown to another; where it is gone, what it was lately sent as well."""
        shown = self._peers.pop(peer, None)
        if shown is None:
            return
        self._turns.remove(peer)
        self._take_back(peer, shown)
        if gone:
            for at, to, index in self._lately:
                if to == peer and now - at <= _FORGET_S:
                    self._unsent |= 1 << index
                    self._unshown |= 1 << index
            if self._unsent:
                self._passed_at = None

    def _take_back(self, peer: K, shown: _Shown) -> None:
        for index in shown.waiting:
            peers = self._waiting_at[index]
            del peers[peer]
            if not peers:
                del self._waiting_at[index]
                self._unshown |= 1 << index
        shown.waiting.clear()

    # --- chunks leave --------------------------------------------------------------------------------------------

    def sent(self, peer: K, index: int, now: float) -> None:
        """A chunk has left."""
        if peer in self._peers:
            self._peers[peer].took_at = now
            self._peers[peer].idle = False
        bit = 1 << index
        if not self._unsent & bit:
            return
        self._unsent ^= bit
        self._unshown &= ~bit
        self._lately.append((now, peer, index))
        if self._sent_again.get(index, 1) < _SENT_MAX:
            self._alone[index] = peer, now
            self._alone_bits |= bit
        for other in self._waiting_at.pop(index, ()):
            del self._peers[other].waiting[index]
        if not self._waiting_at:
            self._ahead = min(2 * self._ahead, _AHEAD_MAX)
        if not self._unsent:
            self._passed_at = now

    def heard(self, peer: K, bits: int, now: float) -> None:
        """This peer says that it holds these chunks."""
        for index in iter_bits(bits & self._alone_bits):
            first, at = self._alone[index]
            if first == peer:
                continue
            del self._alone[index]
            self._alone_bits ^= 1 << index
            self._passing_on_s += _PASSING_ON_WEIGHT * (_PASSING_ON_USUAL * (now - at) - self._passing_on_s)
            if first in self._peers:
                self._peers[first].keeps = False

    def _show_again(self, now: float) -> None:
        """What was kept by whom it was sent to is to be sent to another, if there is one that may pass it on."""
        patience_s = max(self._passing_on_s, _PASSING_ON_MIN_S)
        late = [index for index, (_, at) in self._alone.items() if now - at > patience_s]
        for index in late:
            first, _ = self._alone.pop(index)
            self._alone_bits ^= 1 << index
            if first in self._peers:
                self._peers[first].keeps = True
            self._sent_again[index] = self._sent_again.get(index, 1) + 1
            self._unsent |= 1 << index
            self._unshown |= 1 << index
            self._passed_at = None
        if self._sent_again and self._unshown:
            self._let_go(now)

    def _let_go(self, now: float) -> None:
        """What should be sent again and can be shown to nobody who passes it on counts as sent.

        What was sent to nobody yet is shown even to those who keep what they get: there is nobody else.
        """
        stuck = self._unshown
        for shown in self._peers.values():
            if not (shown.keeps or shown.everything):
                stuck &= shown.bits
        for index in iter_bits(stuck):
            if index in self._sent_again:
                self._unsent &= ~(1 << index)
                self._unshown &= ~(1 << index)
            else:
                for shown in self._peers.values():
                    shown.keeps = False
        if not self._unsent and self._passed_at is None:
            self._passed_at = now

    @property
    def hungry(self) -> bool:
        """Whether it is time for `news`: often enough that nobody waits, seldom enough to tell of several at once."""
        return bool(self._unshown) and 4 * len(self._waiting_at) <= 3 * self._ahead

    def news(self, now: float) -> dict[K, int]:
        """Chunks that these peers are to be told of now, the peers in turn."""
        told: dict[K, int] = {}
        each = max(2, -(-self._ahead // max(len(self._peers), 1)))
        full = 0
        while self._unshown and len(self._waiting_at) < self._ahead and full < len(self._turns):
            peer = self._turns[0]
            self._turns.rotate(-1)
            shown = self._peers[peer]
            fresh = self._unshown & ~shown.bits
            if shown.everything or shown.idle or shown.keeps or len(shown.waiting) >= each or not fresh:
                full += 1
                continue
            full = 0
            index = random_bit(fresh, self._rng)
            self._show(peer, index, now)
            told[peer] = told.get(peer, 0) | 1 << index
        return told

    def _show(self, peer: K, index: int, now: float) -> None:
        self._unshown &= ~(1 << index)
        shown = self._peers[peer]
        shown.bits |= 1 << index
        shown.waiting[index] = now
        self._waiting_at.setdefault(index, {})[peer] = None

    # --- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float, idle: Collection[K]) -> dict[K, int]:
        """To be called a few times a second; `idle` are the peers that ask for nothing now. Returns as `news`."""
        lately = sum(now - at <= 1.0 for at, _, _ in self._lately)
        self._ahead = min(max(int(_AHEAD_S * lately), _AHEAD_MIN), _AHEAD_MAX)
        if lately:
            self._stale_s = max(_STALE_S, 2.0 * len(self._waiting_at) / lately)
        self._show_again(now)
        told = self._open_to_the_picky(now, idle)
        for peer, shown in self._peers.items():
            if shown.waiting and now - max(min(shown.waiting.values()), shown.took_at) > self._stale_s:
                self._take_back(peer, shown)
                shown.idle = True
        for more in (self.news(now), self._once_more(now)):
            for peer, bits in more.items():
                told[peer] = told.get(peer, 0) | bits
        return told

    def _open_to_the_picky(self, now: float, idle: Collection[K]) -> dict[K, int]:
        told = {}
        for peer in idle:
            shown = self._peers.get(peer)
            if shown is None or not shown.waiting:
                continue
            if now - max(min(shown.waiting.values()), shown.took_at) > _PATIENCE_S:
                told[peer] = self._chunks & ~shown.bits
                self._take_back(peer, shown)
                shown.everything = True
        return told

    def _once_more(self, now: float) -> dict[K, int]:
        """Show to others what those do not take to whom it was shown first."""
        told: dict[K, int] = {}
        if self._unshown:
            return told
        for index, peers in list(self._waiting_at.items()):
            if now - max(self._peers[peer].waiting[index] for peer in peers) <= self._stale_s:
                continue
            for _ in range(len(self._turns)):
                peer = self._turns[0]
                self._turns.rotate(-1)
                shown = self._peers[peer]
                if not shown.everything and not shown.bits & 1 << index:
                    self._show(peer, index, now)
                    told[peer] = told.get(peer, 0) | 1 << index
                    break
        return told
