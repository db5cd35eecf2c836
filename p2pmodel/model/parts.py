"""How a file is cut of which only size and SHA-256 are known: no chunk hashes exist until somebody has read it all.

Peers that gather such a file exchange parts of a fixed length, and divide the reading of the origin among them by runs
of parts. Everything here follows from the two values, so that all who want the file cut it in the same way and meet
under the same id.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pmodel.errors import DecodeError
from p2pmodel.limits import FILE_BYTES_MAX, PART_BYTES_MAX, PART_BYTES_MIN, PARTS_PER_FILE, PARTS_PER_RUN
from p2pmodel.model.digest import Digest, ModelId, Sha256


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a file of `size` bytes, at least one, with this SHA-256."""

    sha256: Sha256
    size: int

    def __post_init__(self) -> None:
        if not 0 < self.size <= FILE_BYTES_MAX:
            raise DecodeError("the size of a file in parts is outside its limits")

    @property
    def gathering_id(self) -> ModelId:
        """Stands for the file where peers tell each other which parts they have, and where they look for each other."""
        told = b"p2pmodel gathering 1\0" + self.sha256.raw + self.size.to_bytes(8, "big")
        return ModelId(Digest.of(told))

    @property
    def leases_id(self) -> ModelId:
        """Likewise, for the runs that each reads from the origin."""
        return ModelId(Digest.of(b"p2pmodel leases 1\0" + self.gathering_id.raw))

    @property
    def part_bytes(self) -> int:
        """Of each part but the last: a power of two."""
        length = PART_BYTES_MIN
        while length < PART_BYTES_MAX and length * PARTS_PER_FILE < self.size:
            length *= 2
        return length

    @property
    def count(self) -> int:
        return -(-self.size // self.part_bytes)

    @property
    def runs(self) -> int:
        return -(-self.count // PARTS_PER_RUN)

    def span(self, index: int) -> tuple[int, int]:
        """The bytes of part `index`: the first, and the one after the last."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        length = self.part_bytes
        return index * length, min((index + 1) * length, self.size)

    def at(self, offset: int) -> int:
        """The part in which the byte at `offset` lies."""
        return offset // self.part_bytes

    def run(self, number: int) -> range:
        """The parts of run `number`."""
        return range(number * PARTS_PER_RUN, min((number + 1) * PARTS_PER_RUN, self.count))

    def key(self, index: int) -> Digest:
        """By what part `index` is asked for. It is no hash of the bytes, which nobody can know before they are here."""
        return Digest.of(b"p2pmodel part 1\0" + self.gathering_id.raw + index.to_bytes(8, "big"))
