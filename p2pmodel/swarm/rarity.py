"""How many peers hold each chunk, kept so that "the rarest chunk that this peer has and we want" is cheap to find.

Chunks are grouped by the number of holders; each group is one integer with a bit for each chunk, so a pick is an AND
for each group. With 133,514 chunks that is a few microseconds, and a have-map of a new peer is merged group by group.
"""

from __future__ import annotations

from random import Random


class Rarity:
    """Counts holders of `count` chunks. Level n is the set of chunks with exactly n holders."""

    def __init__(self, count: int) -> None:
        self._everything = (1 << count) - 1
        self._levels: list[int] = [self._everything]

    def add(self, bits: int) -> None:
        """One more holder for each of these chunks."""
        carried = 0
        for level, members in enumerate(self._levels):
            moving = members & bits
            if moving or carried:
                self._levels[level] = (members ^ moving) | carried
            bits ^= moving
            carried = moving
            if not bits and not carried:
                return
        if carried:
            self._levels.append(carried)

    def remove(self, bits: int) -> None:
        """One holder less for each of these chunks; every one of them has at least one."""
        for level in range(1, len(self._levels)):
            moving = self._levels[level] & bits
            self._levels[level] ^= moving
            self._levels[level - 1] |= moving
            bits &= ~moving
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()

    def holders(self, index: int) -> int:
        for level, members in enumerate(self._levels):
            if members >> index & 1:
                return level
        raise IndexError(index)

    def unheld(self, bits: int) -> int:
        """Those of `bits` that nobody holds."""
        return self._levels[0] & bits

    def rarest(self, among: int, rng: Random) -> int | None:
        """One of the chunks of `among` with the fewest holders, at random; None where `among` is empty."""
        for members in self._levels:
            if candidates := members & among:
                return random_bit(candidates, rng)
        return None


def random_bit(bits: int, rng: Random) -> int:
    """The position of a set bit of `bits`, which is not 0: the first one from a random point on, cyclically.

    Uniform over points, not over bits: a chunk behind a gap is likelier. It only has to differ from peer to peer.
    """
    start = rng.randrange(bits.bit_length())
    shifted = bits >> start
    if shifted:
        return start + (shifted & -shifted).bit_length() - 1
    return (bits & -bits).bit_length() - 1
