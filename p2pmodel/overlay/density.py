"""Are the nodes nearest to a key too near to be there by chance? Then somebody has placed them, and we ask wider.

Ids are hashes of keys, so among N honest nodes the distance of the i-th nearest to any place, times N and divided by
the size of the space, follows the gamma distribution of shape i. Somebody who hides a key must own its nearest nodes
and has to search for ids nearer than the honest ones; then the i-th nearest is nearer than chance allows. The idea is
that of "Content Censorship in IPFS" (NDSS 2024), which compares whole distributions; so does its cure: store and ask
everywhere within the distance that `k` honest nodes fill, because the honest ones still live there, behind the others.

Plain functions and one plain object; distances are integers of `ID_BITS` bits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from statistics import median

from p2pmodel.limits import BUCKET_SIZE
from p2pmodel.overlay.package import ID_BITS

_CHANCE = 0.001
"""Odds that one honest order statistic is called crowded. Two are looked at, and the size of the network is known to
about a fifth only: together that makes false alarms for less than one key in a hundred (measured, see the tests)."""
_SAMPLES_MAX = 33
_SAMPLES_MIN = 5
_SAMPLE_S = 3600.0
"""A network may have grown since."""


@lru_cache(maxsize=64)
def _unlikely(i: int) -> float:
    """The `_CHANCE` quantile of the gamma distribution of shape `i`: P(Poisson(x) >= i) = `_CHANCE`."""
    low, high = 0.0, float(i)
    for _ in range(60):
        middle = (low + high) / 2
        term = fewer = math.exp(-middle)
        for count in range(1, i):
            term *= middle / count
            fewer += term
        if 1 - fewer < _CHANCE:
            low = middle
        else:
            high = middle
    return low


def radius_for(size_estimate: float, k: int = BUCKET_SIZE) -> int:
    """The distance within which `k` of `size_estimate` honest nodes are expected."""
    return min(int(k * (1 << ID_BITS) / max(size_estimate, 1.0)), (1 << ID_BITS) - 1)


def too_near(size_estimate: float, i: int) -> int:
    """The `i`-th nearest of `size_estimate` honest nodes is nearer than this once in a thousand places."""
    return int(_unlikely(i) * (1 << ID_BITS) / max(size_estimate, 1.0))


def is_crowded(distances: Sequence[int], size_estimate: float) -> bool:
    """Whether the nearest nodes to a key, `distances` from it in ascending order, are too near for chance.

    At most the first `BUCKET_SIZE` are looked at. Fewer than that, or a network of less than twice as many, is known
    whole, and nobody can be hidden there.
    """
    if len(distances) < BUCKET_SIZE or size_estimate < 2 * BUCKET_SIZE:
        return False
    return any(distances[i - 1] < too_near(size_estimate, i) for i in (BUCKET_SIZE // 2, BUCKET_SIZE))


class NetworkSize:
    """How many nodes the network has, from how far apart the ones nearest to many places are.

    Each lookup of ours shows the nearest to one place. The median over the last of them is right within a few per
    cent, and does not move where fewer than half of the places were chosen and filled by somebody.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES_MAX)

    def saw(self, count: int, farthest: int, now: float) -> None:
        """A lookup's `count` nearest nodes, all that there are within `farthest` of its target."""
        if count >= BUCKET_SIZE and farthest > 0:
            # The median of the inverse of a gamma variable of shape i is nearly 1 / (i - 1/3).
            self._samples.append((now, (count - 1 / 3) * float(1 << ID_BITS) / farthest))

    def estimate(self, of_table: float, now: float) -> float:
        """The number of nodes; `of_table`, the routing table's own guess, counts as one more sample."""
        fresh = [size for at, size in self._samples if now - at < _SAMPLE_S]
        if len(fresh) < _SAMPLES_MIN:
            return of_table
        return median([*fresh, of_table])
