"""Chunks of one hash that stand at several places of a model: each hash is asked for once, and fills all of them.

The first place that is missing is asked for in place of the others, its twins. Where that one comes otherwise, from
this disk, and the others do not, another of them is asked for: nobody may wait for what nobody is asked for.
"""

from __future__ import annotations

from itertools import islice

from p2pmodel.model import Layout
from p2pmodel.model.have_map import bits_of, iter_bits, membership

_IMPLIED_MAX = 256
_PLACES_LOOKED_AT = 8


class Twins:
    """Of one download. Sets of chunks are bits; `missing` is what may be asked for, now or later."""

    def __init__(self, layout: Layout, missing: int) -> None:
        self._twins: dict[int, tuple[int, ...]] = {}
        """For a chunk that is asked for, the missing chunks of the same hash that it will fill as well."""
        self._first: dict[int, int] = {}
        """For each twin, the chunk that is asked for in its place."""
        self._implied: dict[int, int] = {}
        """For a place of a hash, the chunk that is asked for: who holds the one can send the other."""
        self._places: dict[int, list[int]] = {}
        """The other way round; for so few hashes that a message costs no more for a manifest made to that end."""
        is_missing = membership(missing)
        for places in layout.repeated():
            if group := [index for index in places if is_missing(index)]:
                self._found(group)
                if len(self._places) < _IMPLIED_MAX:
                    self._look_at(group[0], places)
        self._firsts, self._hidden = bits_of(self._twins), bits_of(self._first)
        self._looked_at = bits_of(self._implied)

    def _found(self, group: list[int]) -> None:
        first, *twins = group
        self._twins[first] = tuple(twins)
        self._first.update((twin, first) for twin in twins)

    def _forget(self, first: int) -> tuple[int, ...]:
        twins = self._twins.pop(first)
        for twin in twins:
            del self._first[twin]
        return twins

    def _look_at(self, first: int, places: tuple[int, ...] | list[int]) -> None:
        looked_at = self._places[first] = list(islice(places, _PLACES_LOOKED_AT))
        self._implied.update((place, first) for place in looked_at if place != first)

    def asked_for(self, bits: int) -> int:
        """With the chunk that is asked for in place of each twin."""
        hidden = bits & self._hidden
        return bits ^ hidden | bits_of({self._first[twin]: None for twin in iter_bits(hidden)}) if hidden else bits

    def filled_by(self, bits: int) -> int:
        """With the twins of these chunks."""
        return bits | bits_of([twin for first in iter_bits(bits & self._firsts) for twin in self._twins[first]])

    def implied_by(self, bits: int) -> int:
        """Chunks that a peer can send because it holds the same bytes at another place of the model."""
        # As bits, because to look at one place after the other took half of what a have-map cost.
        return bits_of({self._implied[place]: None for place in iter_bits(bits & self._looked_at)})

    def arrived(self, index: int) -> tuple[int, ...]:
        """A chunk has come over the network, and its twins with it; these are returned."""
        if index not in self._twins:
            return ()
        twins = self._forget(index)
        self._firsts ^= 1 << index
        self._hidden &= ~bits_of(twins)
        return twins

    def came_otherwise(self, bits: int) -> dict[int, int]:
        """These chunks are here, and maybe not their twins: returns which chunk is asked for in place of which now."""
        touched = dict.fromkeys(self._first[twin] for twin in iter_bits(bits & self._hidden))
        touched.update((first, None) for first in iter_bits(bits & self._firsts))
        if not touched:
            return {}
        instead: dict[int, int] = {}
        is_here = membership(bits)
        before, firsts, hidden = list[int](), list[int](), list[int]()
        for first in touched:
            group = [first, *self._forget(first)]
            before += group
            left = [index for index in group if not is_here(index)]
            if not left:
                continue
            self._found(left)
            firsts.append(left[0])
            hidden += left[1:]
            if left[0] != first:
                instead[first] = left[0]
                if places := self._places.pop(first, None):
                    self._implied.pop(left[0], None)
                    self._look_at(left[0], places)
        # All at once, for a set of chunks is as long as the model, and a manifest may repeat a million of them.
        others = ~bits_of(before)
        self._firsts, self._hidden = self._firsts & others | bits_of(firsts), self._hidden & others | bits_of(hidden)
        if instead:
            self._looked_at = bits_of(self._implied)
        return instead
