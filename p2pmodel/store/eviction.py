"""Which content to let go of: S3-FIFO (Yang et al., SOSP 2023), by bytes, with a second chance for what is rare.

Three queues. What comes in goes into a small one, a tenth of the bytes; what was not used there is let go of and its
key remembered for a while (the ghost queue); what was used moves on to the main queue, as does what comes back while
it is remembered. In the main queue whatever was used since it was last looked at goes round again. A key of which
nobody else is known to have a copy goes round once more than others.

A plain object: it keeps keys and sizes, and touches nothing. Whoever owns it says what is used, and removes what it
picks. docs/store.md has the measurement by which it was chosen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
"""What is let go of as one: a chunk, or a whole model."""

SMALL_PART = 0.1
"""Of all bytes, in the small queue: the paper's value, good over its 6,594 traces."""
USES_MAX = 3
"""Uses beyond this are not counted: two bits, as in the paper."""
USES_TO_STAY = 1
"""Uses in the small queue that make a key move on. The paper has 2, for objects asked for again within a moment;
models are read once from end to end, so that a second reader says much. Measured: 1 is better by 0.2 to 1.5 points."""
GHOSTS_MIN = 64
"""Keys remembered at least, however few are here; otherwise as many as are here."""


class S3Fifo(Generic[K]):
    """`add`, `touch` and `drop` as things happen; `victim` picks one and forgets it."""

    def __init__(self) -> None:
        self._small: OrderedDict[K, int] = OrderedDict()
        self._main: OrderedDict[K, int] = OrderedDict()
        """Keys with their uses, the next one to go first."""
        self._ghosts: OrderedDict[K, None] = OrderedDict()
        self._sizes: dict[K, int] = {}
        self._spared: dict[K, None] = {}
        """Rare keys that have had their second chance."""
        self._bytes = self._small_bytes = 0
        self.last_size_bytes = 0
        """That of the last victim."""

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: K) -> bool:
        return key in self._sizes

    def __iter__(self) -> Iterator[K]:
        return iter(self._sizes)

    def order(self) -> Iterator[K]:
        """About the order in which keys go, if none is used."""
        yield from self._small
        yield from self._main

    def size(self, key: K) -> int:
        return self._sizes[key]

    def add(self, key: K, size_bytes: int, *, uses: int = 0) -> None:
        """A key is here now; one that is here already has only changed its size. `uses`: what is known from before."""
        if key in self._sizes:
            self._resize(key, size_bytes)
            return
        self._sizes[key] = size_bytes
        self._bytes += size_bytes
        if key in self._ghosts or uses >= USES_TO_STAY:
            self._ghosts.pop(key, None)
            self._main[key] = min(uses, USES_MAX)
        else:
            self._small[key] = uses
            self._small_bytes += size_bytes

    def touch(self, key: K) -> None:
        """A key was used."""
        for queue in (self._small, self._main):
            if key in queue:
                queue[key] = min(queue[key] + 1, USES_MAX)

    def uses(self, key: K) -> int:
        """How often a key was used, as far as that is counted; 0 for one that is not here."""
        return self._small.get(key, self._main.get(key, 0))

    def drop(self, key: K) -> None:
        """A key is gone for another reason; it is not remembered."""
        size = self._sizes.pop(key, None)
        if size is None:
            return
        self._bytes -= size
        self._spared.pop(key, None)
        if self._main.pop(key, None) is None:
            del self._small[key]
            self._small_bytes -= size

    def _resize(self, key: K, size_bytes: int) -> None:
        more = size_bytes - self._sizes[key]
        self._sizes[key] = size_bytes
        self._bytes += more
        if key in self._small:
            self._small_bytes += more

    def victim(
        self, may_go: Callable[[K], bool] = lambda key: True, is_rare: Callable[[K], bool] = lambda key: False
    ) -> K | None:
        """The key to let go of next, which is forgotten here; None where none `may_go`."""
        stuck_in_small: set[K] = set()
        stuck_in_main: set[K] = set()
        while True:
            small = self._takes_small(stuck_in_small, stuck_in_main)
            queue, stuck_here = (self._small, stuck_in_small) if small else (self._main, stuck_in_main)
            if len(stuck_here) >= len(queue):
                return None
            key = next(iter(queue))
            if not may_go(key):
                queue.move_to_end(key)
                stuck_here.add(key)
                continue
            if small and queue[key] >= USES_TO_STAY:
                self._promote(key)
            elif not small and queue[key] > 0:
                queue[key] -= 1
                queue.move_to_end(key)
            elif key not in self._spared and is_rare(key):
                self._spared[key] = None
                if small:
                    self._promote(key)
                else:
                    queue.move_to_end(key)
            else:
                self._forget(key, remember=small)
                return key

    def _takes_small(self, stuck_in_small: set[K], stuck_in_main: set[K]) -> bool:
        """From which queue to take: the small one while it has more than its part. One where all is stuck is passed."""
        if len(stuck_in_small) >= len(self._small):
            return False
        if len(stuck_in_main) >= len(self._main):
            return True
        return self._small_bytes > SMALL_PART * self._bytes

    def _promote(self, key: K) -> None:
        del self._small[key]
        self._small_bytes -= self._sizes[key]
        self._main[key] = 0

    def _forget(self, key: K, *, remember: bool) -> None:
        self.last_size_bytes = self._sizes[key]
        self.drop(key)
        if remember:
            self._ghosts[key] = None
            while len(self._ghosts) > max(len(self), GHOSTS_MIN):
                self._ghosts.popitem(last=False)
