"""Whether others can reach this node: what to make of neighbours who were asked to dial it back.

A plain object; times are monotonic seconds. A dial-back that came is all but proof, one that did not may be a loss or
a lie: so two that came say "reachable", and "unreachable" takes three neighbours of different address groups of whom
each says that it dialled, nobody who got through, and the same again a minute later. Silence says nothing: who is
alone, cut off or among private addresses stays unknown, and counts as reachable. The thinking is that of libp2p's
AutoNAT v2.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, zip_longest

from p2pmodel.limits import DIAL_BACK_HELPERS
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.package import Contact

HELPERS_MIN = 3
"""Neighbours who have to agree that we cannot be reached; with fewer to ask, nobody is asked."""
_CAME_MIN = 2
_CHECKS_TO_TURN = 2
_FIRST_S = (10.0, 30.0)
"""After the start: the node is to know some neighbours, and a thousand that start together are not to ask together."""
_RETRY_S, _RETRY_MAX_S = 60.0, 600.0
_REACHABLE_EVERY_S = 1800.0
_UNREACHABLE_EVERY_S = 600.0
"""More often: who can be reached again is of use again."""
_HINT_AFTER_S = 300.0
"""Between a check and one that a hint causes; anybody can cause hints."""
_HOLDS_S = 3600.0
"""What could not be confirmed for so long is not known any more."""


class Reach(Enum):
    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Answer:
    """One neighbour of this address group said that it dialled us back; `came`: and we heard it."""

    group: bytes
    came: bool


class Reachability:
    """What is known so far, and when to ask again."""

    def __init__(self, now: float, rng: random.Random) -> None:
        self.state = Reach.UNKNOWN
        self._against = 0
        """Checks in a row that contradict `state`."""
        self._checked_at = now
        self._confirmed_at = now
        self._retry_s = _RETRY_S
        self._due_at = now + rng.uniform(*_FIRST_S)

    def due(self, now: float) -> bool:
        return now >= self._due_at

    def judge(self, answers: Sequence[Answer], now: float, rng: random.Random) -> None:
        """Take in one check: the answers of neighbours that were asked at the same time."""
        self._checked_at = now
        verdict = _verdict(answers)
        if verdict is None:
            if any(answer.came for answer in answers):
                self._against = 0
            self.nobody_to_ask(now)
            self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
            pause_s = self._retry_s
        else:
            self._retry_s = _RETRY_S
            pause_s = _RETRY_S if self._turning(verdict, now) else self._every_s
        self._due_at = now + pause_s * rng.uniform(0.8, 1.2)

    def nobody_to_ask(self, now: float) -> None:
        """Nothing was learned. In the long run that is to know nothing."""
        if now - self._confirmed_at >= _HOLDS_S:
            self.state, self._against = Reach.UNKNOWN, 0

    def look_again(self, now: float) -> None:
        """Something hints at another address or another way to the network."""
        self._due_at = min(self._due_at, max(now, self._checked_at + _HINT_AFTER_S))

    def _turning(self, verdict: Reach, now: float) -> bool:
        """Whether `verdict` contradicts what we believe and has to be confirmed by the next check."""
        if verdict is not self.state:
            self._against += 1
            first_good_news = self.state is Reach.UNKNOWN and verdict is Reach.REACHABLE
            if self._against < _CHECKS_TO_TURN and not first_good_news:
                return True
            self.state = verdict
        self._against = 0
        self._confirmed_at = now
        return False

    @property
    def _every_s(self) -> float:
        return _UNREACHABLE_EVERY_S if self.state is Reach.UNREACHABLE else _REACHABLE_EVERY_S


def _verdict(answers: Sequence[Answer]) -> Reach | None:
    groups = len({answer.group for answer in answers})
    came = len({answer.group for answer in answers if answer.came})
    if came >= _CAME_MIN:
        return Reach.REACHABLE
    return Reach.UNREACHABLE if not came and groups >= HELPERS_MIN else None


def choose_helpers(contacts: Iterable[Contact], rng: random.Random) -> list[Contact]:
    """Whom to ask: public addresses of different groups, of both families in turn where there are both.

    Empty where there are too few for a verdict. Private addresses tell nothing about the way in from outside.
    """
    by_group: dict[bytes, list[Contact]] = {}
    for contact in contacts:
        group = address_group(contact.address.host)
        if group is not None and not contact.failures:
            by_group.setdefault(group, []).append(contact)
    if len(by_group) < HELPERS_MIN:
        return []
    one_of_each = [rng.choice(alike) for alike in by_group.values()]
    rng.shuffle(one_of_each)
    four = [contact for contact in one_of_each if contact.address.ip.version == 4]
    six = [contact for contact in one_of_each if contact.address.ip.version == 6]
    mixed = (contact for contact in chain.from_iterable(zip_longest(four, six)) if contact is not None)
    return list(mixed)[:DIAL_BACK_HELPERS]
