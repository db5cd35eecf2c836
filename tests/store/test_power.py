"""Power cuts: whatever was not synced may be lost, torn or reordered, and still no claim is false."""

from __future__ import annotations

import os
import random

import pytest

from p2pmodel.errors import P2PModelError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Digest
from p2pmodel.store import OS_FILES

PAGE = 4096


class Power:
    """Remembers what would be lost, until a sync makes it durable; `cut` loses some of it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.writes: dict[int, list[tuple[int, bytes]]] = {}
        """By inode: offset and former bytes, oldest first."""
        self.descriptors: dict[int, int] = {}
        self.kept: list[int] = []
        self.names: list[tuple[int, str, int, str, int]] = []
        """Renames that no directory sync has made durable: where from, where to."""
        self.calls_left: int | None = None

    def keep(self, inner, flags: int = os.O_RDONLY) -> int:
        """A descriptor of its own, without the locks of the first."""
        self.kept.append(os.open(f"/proc/self/fd/{inner._fd}", flags))
        return self.kept[-1]

    def step(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise P2PModelError("the power is gone")

    def cut(self) -> None:
        for source, name, target, new_name, _ in reversed(self.names):
            if self.dice.random() < 0.5:
                try:
                    os.rename(new_name, name, src_dir_fd=target, dst_dir_fd=source)
                except FileNotFoundError:
                    pass
        for inode, writes in self.writes.items():
            for offset, former in reversed(writes):
                for at in range(0, len(former), PAGE):
                    if self.dice.random() < 0.5:
                        os.pwrite(self.descriptors[inode], former[at : at + PAGE], offset + at)
        for descriptor in self.kept:
            os.close(descriptor)


class PowerFile:
    def __init__(self, inner, power):
        self._inner, self._power = inner, power

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def write(self, data, offset):
        self._power.step()
        inode = self._inner.status().identity.inode
        if inode not in self._power.descriptors:
            self._power.descriptors[inode] = self._power.keep(self._inner, os.O_RDWR)
        former = bytearray(len(data))
        self._inner.read_into(memoryview(former), offset)
        self._power.writes.setdefault(inode, []).append((offset, bytes(former)))
        self._inner.write(data, offset)

    def sync(self):
        self._power.step()
        self._inner.sync()
        self._power.writes.pop(self._inner.status().identity.inode, None)


class PowerDirectory(PowerFile):
    def directory(self, name, **options):
        inner = self._inner.directory(name, **options)
        return inner and PowerDirectory(inner, self._power)

    def open(self, name, **options):
        self._power.step()
        inner = self._inner.open(name, **options)
        return inner and PowerFile(inner, self._power)

    def rename(self, name, to, new_name):
        self._power.step()
        inode = os.fstat(to._inner._fd).st_ino
        self._power.names.append((self._power.keep(self._inner), name, self._power.keep(to._inner), new_name, inode))
        self._inner.rename(name, to._inner, new_name)

    def remove(self, name):
        self._power.step()
        self._inner.remove(name)

    def sync(self):
        self._power.step()
        self._inner.sync()
        inode = os.fstat(self._inner._fd).st_ino
        self._power.names = [entry for entry in self._power.names if entry[4] != inode]


class PowerFiles(type(OS_FILES)):
    def __init__(self, power: Power) -> None:
        self._power = power

    def open_directory(self, path, *, create=False):
        inner = OS_FILES.open_directory(path, create=create)
        return inner and PowerDirectory(inner, self._power)

    def open_file(self, path):
        inner = OS_FILES.open_file(path)
        return inner and PowerFile(inner, self._power)

    def status(self, path):
        return OS_FILES.status(path)


def run_until_the_cut(shop, moves, seed_store, layout, name, power):
    """A fetch that claims now and then. Returns what was claimed at the last barrier that held."""
    store = shop.store(f"data-{name}", files=PowerFiles(power))
    claimed = 0
    try:
        intake = store.open_intake(layout, range(len(layout.files)), shop.base / f"out-{name}")
        intake.adopt()
        missing = list(intake.missing)
        power.dice.shuffle(missing)
        for index in missing:
            moves.pull(seed_store, intake, [index])
            if power.dice.random() < 0.3:
                held = intake.have.bits
                intake.claim()
                claimed = held
        intake.finish()
        held = intake.have.bits
        intake.claim()
        claimed = held
    except P2PModelError:
        pass
    shop.abandon(store)
    return claimed


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_after_a_power_cut_all_that_was_claimed_is_there_and_nothing_else_is_said_to_be(shop, moves, tmp_path, block):
    same = shop.dice.randbytes(9000)
    files = {"a.bin": shop.dice.randbytes(3 * CHUNK_BYTES + 5), "d/b": same, "d/e/c": same, "empty": b""}
    seed_store, published = shop.published(files)
    layout = published.layout
    for seed in range(block * 10, block * 10 + 10):
        power = Power(seed)
        power.calls_left = power.dice.randrange(45)
        claimed = run_until_the_cut(shop, moves, seed_store, layout, seed, power)
        power.cut()
        store = shop.store(f"data-{seed}")
        out = tmp_path / f"out-{seed}"
        check_haves(store, layout, moves)
        if seed % 3 == 0:
            store.prove()
            check_haves(store, layout, moves)
        intake = store.open_intake(layout, range(len(layout.files)), out)
        intake.adopt()
        check_haves(store, layout, moves)
        assert not claimed & ~intake.have.bits, f"seed {seed}: a durable claim was lost"
        moves.pull(seed_store, intake)
        intake.finish()
        intake.close()
        assert moves.contents(out) == files, f"seed {seed}"
        store.close()


def check_haves(store, layout, moves) -> None:
    have = store.have_map(layout.model_id)
    for index in have or ():
        data = moves.read_chunk(store, layout[index].digest)
        assert data is not None and Digest.of(data) == layout[index].digest, f"chunk {index} is not there"
