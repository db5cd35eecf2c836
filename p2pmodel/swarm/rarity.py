"""How many peers hold each chunk, kept so that "the rarest chunks that this peer has and we want" are cheap to find.

The numbers of holders stand in planes of bits, one integer with a bit for each chunk in each, so that a have-map is
added to all of them with two operations a plane. With 133,514 chunks an AND takes a microsecond, and looking for a set
bit ten: so several chunks are picked at a time, and sets that change chunk by chunk (`FlippedBits`) are brought up to
date only when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from p2pmodel.model.have_map import iter_bits

_FLIPS_ONE_BY_ONE = 8
"""Up to here a shift for each flip is cheaper than one pass over a buffer."""
_SPREAD = 4
"""So many chunks are picked at random from a stretch of so many times as many."""
_LOOKS = 4
"""Stretches that are looked at for one pick: each may cost a search behind a gap."""


class FlippedBits:
    """A set of the chunks below `count`, of which members come and go singly and the whole is read now and then."""

    __slots__ = ("_bits", "_count", "_flipped")

    def __init__(self, count: int, bits: int) -> None:
        self._count = count
        self._bits = bits
        self._flipped: list[int] = []

    def flip(self, index: int) -> None:
        """A member leaves, or what is none becomes one."""
        self._flipped.append(index)

    @property
    def bits(self) -> int:
        flipped = self._flipped
        if not flipped:
            return self._bits
        if len(flipped) <= _FLIPS_ONE_BY_ONE:
            for index in flipped:
                self._bits ^= 1 << index
        else:
            changed = bytearray((self._count + 7) // 8)
            for index in flipped:
                changed[index >> 3] ^= 1 << (index & 7)
            self._bits ^= int.from_bytes(changed, "little")
        flipped.clear()
        return self._bits


class Rarity:
    """Counts holders of `count` chunks: plane k has bit k of each chunk's number of holders.

    Nine planes are enough for all peers that can be connected, so that no have-map, whatever it says, costs more than
    a few passes over the set.
    """

    def __init__(self, count: int) -> None:
        self._everything = (1 << count) - 1
        self._planes: list[int] = []

    def add(self, bits: int) -> None:
        """One more holder for each of these chunks."""
        for place, plane in enumerate(self._planes):
            if not bits:
                return
            self._planes[place] = plane ^ bits
            bits &= plane
        if bits:
            self._planes.append(bits)

    def remove(self, bits: int) -> None:
        """One holder less for each of these chunks; every one of them has at least one."""
        for place, plane in enumerate(self._planes):
            if not bits:
                break
            self._planes[place] = plane ^ bits
            bits ^= bits & plane
        while self._planes and not self._planes[-1]:
            self._planes.pop()

    def holders(self, index: int) -> int:
        return sum(bool(plane & 1 << index) << place for place, plane in enumerate(self._planes))

    def rare(self, bits: int) -> int:
        """Those of `bits` that fewer than four hold."""
        for plane in self._planes[2:]:
            bits ^= bits & plane
        return bits

    def unheld(self, bits: int) -> int:
        """Those of `bits` that nobody holds."""
        bits &= self._everything
        for plane in self._planes:
            bits ^= bits & plane
        return bits

    def rarest(self, among: int, count: int, rng: Random) -> list[int]:
        """Some of the chunks of `among`, at most `count`: none of them has more holders than one that is left out.

        The rarest come first, equals in random order. Empty only where `among` is.
        """
        found: list[int] = []
        for candidates in self._rarest_first(among & self._everything):
            some, all_of_them = some_bits(candidates, count - len(found), rng)
            found += some
            if len(found) == count or not all_of_them:
                break
        return found

    def _rarest_first(self, among: int) -> Iterator[int]:
        """Those of `among` in groups with the same number of holders, ascending."""
        groups = [(among, len(self._planes) - 1)]
        while groups:
            members, place = groups.pop()
            if not members:
                continue
            if place < 0:
                yield members
                continue
            more = members & self._planes[place]
            groups.append((more, place - 1))
            groups.append((members ^ more, place - 1))


def some_bits(bits: int, count: int, rng: Random) -> tuple[list[int], bool]:
    """At most `count` set bits of `bits`, which is not 0, in random order, and whether those are all that it has.

    They lie near each other, from a random point on, cyclically: that needs no look at the whole, and other peers
    begin elsewhere. Where they are far between, it may be fewer; never none.
    """
    start = rng.randrange(bits.bit_length())
    found, all_above = _bits_from(bits >> start, start, count, rng)
    below = bits & ((1 << start) - 1)
    if not all_above or not below:
        return found, all_above
    if len(found) >= count:
        return found, False
    more, all_below = _bits_from(below, 0, count - len(found), rng)
    return found + more, all_below


def _bits_from(bits: int, offset: int, count: int, rng: Random) -> tuple[list[int], bool]:
    found: list[int] = []
    width = max(_SPREAD * count, 64)
    mask = (1 << width) - 1
    for _ in range(_LOOKS):
        if not bits:
            break
        if not bits & mask:
            gap = (bits & -bits).bit_length() - 1
            bits >>= gap
            offset += gap
        members = [offset + bit for bit in iter_bits(bits & mask)]
        bits >>= width
        offset += width
        room = count - len(found)
        found += rng.sample(members, min(room, len(members)))
        if len(members) > room:
            return found, False
    return found, not bits


def random_bit(bits: int, rng: Random) -> int:
    """The position of a set bit of `bits`, which is not 0: the first one from a random point on, cyclically.

    Uniform over points, not over bits: a chunk behind a gap is likelier. It only has to differ from peer to peer.
    """
    start = rng.randrange(bits.bit_length())
    shifted = bits >> start
    if shifted:
        return start + (shifted & -shifted).bit_length() - 1
    return (bits & -bits).bit_length() - 1
