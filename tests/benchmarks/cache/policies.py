"""The contenders: what is used (S3-FIFO), and three that it was chosen against, each for chunks of one size.

`request` says whether a key was there, and lets it in where it was not.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from p2pmodel.store.eviction import S3Fifo


class Policy(Protocol):
    def request(self, key: int) -> bool: ...

    def __contains__(self, key: int) -> bool: ...


class Ours:
    """`p2pmodel.store.eviction`, with `is_rare` keys spared once."""

    def __init__(self, capacity: int, is_rare: Callable[[int], bool] = lambda key: False) -> None:
        self._capacity, self._is_rare = capacity, is_rare
        self._policy: S3Fifo[int] = S3Fifo()

    def request(self, key: int) -> bool:
        if key in self._policy:
            self._policy.touch(key)
            return True
        if len(self._policy) >= self._capacity:
            self._policy.victim(is_rare=self._is_rare)
        self._policy.add(key, 1)
        return False

    def __contains__(self, key: int) -> bool:
        return key in self._policy


class Lru:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int) -> bool:
        if key in self._keys:
            self._keys.move_to_end(key)
            return True
        if len(self._keys) >= self._capacity:
            self._keys.popitem(last=False)
        self._keys[key] = None
        return False

    def __contains__(self, key: int) -> bool:
        return key in self._keys


class Arc:
    """Megiddo and Modha, FAST 2003, figure 4: what was seen once and what was seen again, and ghosts of both."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._target = capacity, 0.0
        self._once: OrderedDict[int, None] = OrderedDict()
        self._again: OrderedDict[int, None] = OrderedDict()
        self._once_ghosts: OrderedDict[int, None] = OrderedDict()
        self._again_ghosts: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int) -> bool:
        once, again, once_ghosts, again_ghosts = self._once, self._again, self._once_ghosts, self._again_ghosts
        if key in once:
            del once[key]
            again[key] = None
            return True
        if key in again:
            again.move_to_end(key)
            return True
        if key in once_ghosts:
            step = max(1.0, len(again_ghosts) / len(once_ghosts))
            self._target = min(self._capacity, self._target + step)
            self._replace(key)
            del once_ghosts[key]
            again[key] = None
            return False
        if key in again_ghosts:
            step = max(1.0, len(once_ghosts) / len(again_ghosts))
            self._target = max(0.0, self._target - step)
            self._replace(key)
            del again_ghosts[key]
            again[key] = None
            return False
        self._make_room(key)
        once[key] = None
        return False

    def __contains__(self, key: int) -> bool:
        return key in self._once or key in self._again

    def _make_room(self, key: int) -> None:
        seen_once = len(self._once) + len(self._once_ghosts)
        total = seen_once + len(self._again) + len(self._again_ghosts)
        if seen_once == self._capacity:
            if len(self._once) < self._capacity:
                self._once_ghosts.popitem(last=False)
                self._replace(key)
            else:
                self._once.popitem(last=False)
        elif total >= self._capacity:
            if total == 2 * self._capacity:
                self._again_ghosts.popitem(last=False)
            self._replace(key)

    def _replace(self, key: int) -> None:
        length = len(self._once)
        if length and (length > self._target or (key in self._again_ghosts and length == int(self._target))):
            self._once_ghosts[self._once.popitem(last=False)[0]] = None
        elif self._again:
            self._again_ghosts[self._again.popitem(last=False)[0]] = None


class _Sketch:
    """Counts of at most 15 in four rows, halved when ten times as many keys as there is room for have been counted."""

    def __init__(self, capacity: int) -> None:
        self._mask = (1 << max(8, (capacity * 4).bit_length())) - 1
        self._rows = [array("B", bytes(self._mask + 1)) for _ in range(4)]
        self._sample, self._counted = 10 * capacity, 0
        self._known: dict[int, tuple[int, int, int, int]] = {}
        """So that it is not judged by what it costs Python to mix bits."""

    def _places(self, key: int) -> tuple[int, int, int, int]:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._mixed(key)
        return found

    def _mixed(self, key: int) -> tuple[int, int, int, int]:
        mixed = (key + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
        step = (mixed * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF) >> 32 | 1
        mask = self._mask
        return mixed & mask, mixed + step & mask, mixed + 2 * step & mask, mixed + 3 * step & mask

    def add(self, key: int) -> None:
        (a, b, c, d), (i, j, k, m) = self._rows, self._places(key)
        least = min(a[i], b[j], c[k], d[m])
        if least < 15:
            for row, at in ((a, i), (b, j), (c, k), (d, m)):
                if row[at] == least:  # conservative update
                    row[at] += 1
        self._counted += 1
        if self._counted >= self._sample:
            self._counted //= 2
            self._rows = [array("B", bytes(count >> 1 for count in row)) for row in self._rows]

    def count(self, key: int) -> int:
        (a, b, c, d), (i, j, k, m) = self._rows, self._places(key)
        return min(a[i], b[j], c[k], d[m])


class TinyLfu:
    """W-TinyLFU (Einziger, Friedman and Manes, TOS 2017): a window of 1 %, a segmented LRU of which 80 % are protected.

    What leaves the window comes in only if it was asked for more often than what would have to go for it.
    """

    def __init__(self, capacity: int) -> None:
        self._window_max = max(1, capacity // 100)
        self._main_max = max(1, capacity - self._window_max)
        self._protected_max = self._main_max * 8 // 10
        self._window: OrderedDict[int, None] = OrderedDict()
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()
        self._sketch = _Sketch(capacity)

    def request(self, key: int) -> bool:
        self._sketch.add(key)
        if key in self._window:
            self._window.move_to_end(key)
            return True
        if key in self._protected:
            self._protected.move_to_end(key)
            return True
        if key in self._probation:
            del self._probation[key]
            self._protected[key] = None
            if len(self._protected) > self._protected_max:
                self._probation[self._protected.popitem(last=False)[0]] = None
            return True
        self._window[key] = None
        if len(self._window) > self._window_max:
            self._admit(self._window.popitem(last=False)[0])
        return False

    def __contains__(self, key: int) -> bool:
        return key in self._window or key in self._probation or key in self._protected

    def _admit(self, candidate: int) -> None:
        if len(self._probation) + len(self._protected) < self._main_max:
            self._probation[candidate] = None
            return
        queue = self._probation or self._protected
        victim = next(iter(queue))
        if self._sketch.count(candidate) > self._sketch.count(victim):
            del queue[victim]
            self._probation[candidate] = None


POLICIES: dict[str, Callable[[int], Policy]] = {"S3-FIFO": Ours, "W-TinyLFU": TinyLfu, "ARC": Arc, "LRU": Lru}
