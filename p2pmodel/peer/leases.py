"""Who of those that gather a file reads which run of it from the origin: each run once, by one for all.

The owner of a run is drawn by rendezvous hashing among the peers that gather and are heard of (Thaler and
Ravishankar, 1998), so that all who know each other agree without a word, and a peer that comes or goes moves its own
runs alone. Whoever begins a run says so, for not all know the same peers. A lease lasts as long as its holder is heard
of: from one that brings nothing for a while, the next takes over. Whoever has read its own runs takes the last of those
that others have not begun, where they need much longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from p2pmodel.limits import FROM_ORIGIN_STREAMS, GATHER_LATE_S, PARTS_PER_RUN

_AHEAD = 2.0
"""Others are relieved of a run where they need so many times as long for what is theirs as we do for that run."""


@dataclass(slots=True)
class _Member:
    heard_at: float
    parts: int = 0
    """That it has told of since it joined."""
    joined_at: float = 0.0
    claimed: dict[int, float] = field(default_factory=dict)
    """Runs that it has said it reads, and when; the last few of them."""


class Leases:
    """`me` and the members are names that all know each other by; `file` is the same for all who gather it."""

    def __init__(self, me: bytes, file: bytes) -> None:
        self._me, self._file = me, file
        self._members: dict[bytes, _Member] = {}
        self._scores: dict[tuple[bytes, int], bytes] = {}

    @property
    def members(self) -> int:
        return len(self._members)

    def joined(self, member: bytes, now: float) -> None:
        self._members.setdefault(member, _Member(now, joined_at=now))

    def left(self, member: bytes) -> None:
        self._members.pop(member, None)

    def heard(self, member: bytes, parts: int, now: float) -> None:
        """It has `parts` more."""
        if (known := self._members.get(member)) is not None and parts:
            known.heard_at = now
            known.parts += parts

    def claimed(self, member: bytes, runs: Sequence[int], now: float) -> None:
        """It has begun to read these. More than it can have under way are a claim to nothing."""
        if (known := self._members.get(member)) is not None:
            for run in runs:
                known.claimed.setdefault(run, now)
            while len(known.claimed) > FROM_ORIGIN_STREAMS:
                del known.claimed[next(iter(known.claimed))]

    def taken(self, now: float, patience_s: float = GATHER_LATE_S) -> set[int]:
        """Runs that others read now."""
        return {
            run
            for member in self._members.values()
            for run, since in member.claimed.items()
            if now - max(since, member.heard_at) < patience_s
        }

    def goes_before(self, member: bytes, run: int) -> bool:
        """Whether it is this member's to read, where both have begun."""
        return self._score(member, run) > self._score(self._me, run)

    def owner(self, run: int, now: float, patience_s: float = GATHER_LATE_S) -> bytes:
        """Who reads this run."""
        lively = [name for name, member in self._members.items() if now - member.heard_at < patience_s]
        return max([self._me, *lively], key=lambda name: self._score(name, run))

    def _score(self, name: bytes, run: int) -> bytes:
        key = name, run
        if key not in self._scores:
            self._scores[key] = blake3(self._file + run.to_bytes(8, "big") + name).digest()
        return self._scores[key]

    def next(
        self, lacking: Sequence[int], now: float, *, run_s: float | None = None, patience_s: float = GATHER_LATE_S
    ) -> int | None:
        """The run to read now, of those that nobody has, which come in the order in which they are wanted.

        `run_s`: how long one takes here, where that is known. None: all of them are others'.
        """
        taken = self.taken(now, patience_s)
        lacking = [run for run in lacking if run not in taken]
        owners = {run: self.owner(run, now, patience_s) for run in lacking}
        mine = [run for run in lacking if owners[run] == self._me]
        if mine:
            return mine[0]
        if run_s is None or not lacking:
            return None
        theirs: dict[bytes, list[int]] = {}
        for run in lacking:
            theirs.setdefault(owners[run], []).append(run)
        slowest = max(theirs, key=lambda name: self._needs_s(name, len(theirs[name]), now, run_s))
        runs = theirs[slowest]
        if len(runs) > 1 and self._needs_s(slowest, len(runs), now, run_s) > _AHEAD * run_s:
            return runs[-1]
        return None

    def _needs_s(self, name: bytes, runs: int, now: float, run_s: float) -> float:
        """How long a member needs for so many runs, at the pace at which it brought parts; unknown, at ours."""
        member = self._members[name]
        if not member.parts:
            return runs * run_s
        each_s = (now - member.joined_at) / member.parts * PARTS_PER_RUN
        return runs * each_s
