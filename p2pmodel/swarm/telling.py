"""When to tell whom of chunks that are here now: a plain object for one model.

A few followers hear of everything at once. Where there are many, one message for each chunk and each of them would cost
more than the chunks: they hear of what has gathered a few times a second, and not of what they hold themselves. Only a
chunk that hardly anybody has is told to some at once, for it is they who spread it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from random import Random
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""

TELL_S = 0.02
"""Chunks verified within this time are told of in one message."""
TELL_MANY_S = 0.25
_MESSAGES_PER_S = 100
"""To all followers together, besides what is rare: the more there are, the more is gathered for each."""
_AT_ONCE = 8
"""Followers that hear of everything at once, and of what is rare where there are more."""


class Telling(Generic[K]):
    """What is here and not told yet. `add`, then `due` a little later, until nothing is `waiting`."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._rare = 0
        """Not told to anybody."""
        self._gathered = 0
        """Not told to everybody."""
        self._told_at = float("-inf")

    @property
    def waiting(self) -> bool:
        return bool(self._gathered)

    @property
    def rare(self) -> bool:
        """Whether something waits that is told of at once."""
        return bool(self._rare)

    @staticmethod
    def _pause_s(followers: int) -> float:
        return max(TELL_MANY_S, followers / _MESSAGES_PER_S)

    def add(self, bits: int, *, rare: int) -> None:
        """These chunks are here now; hardly anybody has those of them that are also in `rare`."""
        self._gathered |= bits
        self._rare |= bits & rare

    def wait_s(self, followers: int, now: float) -> float:
        """How long until something is `due`, with so many to tell."""
        if self._rare or followers <= _AT_ONCE:
            return TELL_S
        return max(TELL_S, self._told_at + self._pause_s(followers) - now)

    def due(self, followers: Sequence[K], now: float) -> list[tuple[K, int]]:
        """Whom to tell of what now. `followers` are all who are to hear of it."""
        if len(followers) <= _AT_ONCE or now - self._told_at >= self._pause_s(len(followers)):
            told, self._gathered, self._rare = self._gathered, 0, 0
            self._told_at = now
            return [(peer, told) for peer in followers]
        rare, self._rare = self._rare, 0
        return [(peer, rare) for peer in self._rng.sample(followers, _AT_ONCE)] if rare else []
