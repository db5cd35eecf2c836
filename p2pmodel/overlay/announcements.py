"""Which keys this node provides, and when each is to be announced: a plain object, times are monotonic seconds.

The key space is a ring of `SLOTS` equal parts, and a cursor goes round it once in an interval. Whatever was announced
in a slot is announced again when the cursor comes by, so the work is spread over the interval and each region is
explored once (the provide sweep of go-libp2p). New keys do not wait for the cursor. The cursor moves in *slots done*
and *slots wanted*; where the first stays behind the second, `behind_s` says by how much.

`state` is what a restart needs: the cursor and, for each slot, when it was last announced and a fingerprint of each of
its keys. Keys come back from whoever provides them; those that the state remembers stand as announced until the cursor
reaches them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from p2pmodel.errors import DecodeError
from p2pmodel.limits import ANNOUNCE_STATE_BYTES_MAX

SLOTS = 64
"""Parts of the ring: among 10,000 nodes a part has 160, so that finding the way there costs little of its sweep."""
_SHIFT = 2
_FRESH = 0.25
"""The cursor passes by keys that were announced less than this part of an interval ago: new keys, mostly."""
_GROWTH = 2.0
"""When the network has grown this much since keys were announced, half of their holders are no longer among the
nearest; then all are announced again. A network that grows to n nodes causes log2(n) rounds."""
_PORTION_KEYS = 16_384
"""New keys that are taken at once: what is sorted and moved without giving others a turn takes milliseconds."""
_PRINT_BYTES = 3
"""Of a fingerprint, beside the six bits of the slot: one new key in 8,000 passes for a known one and waits a round."""


class _SavedSlot(msgspec.Struct, array_like=True):
    announced_at: float
    prints: bytes


class _Saved(msgspec.Struct, array_like=True):
    version: int
    saved_at: float
    done: float
    slots: list[_SavedSlot]


def _no_prints() -> array[int]:
    return array("I")


@dataclass(slots=True)
class _Slot:
    keys: dict[bytes, float | None] = field(default_factory=dict)
    """When each was announced; None where it is pending. One map for both: a million keys have 40 MB of entries."""
    pending: int = 0
    eldest_at: float = 0.0
    """The earliest time in `keys`, while there is any."""
    recalled_at: float = 0.0
    recalled: array[int] = field(default_factory=_no_prints)
    """Fingerprints of keys that were announced at `recalled_at`, before a restart, ascending: four bytes each, where a
    set would take a hundred."""

    @property
    def any_announced(self) -> bool:
        return len(self.keys) > self.pending

    def recalls(self, key: bytes) -> bool:
        print_ = int.from_bytes(key[1 : 1 + _PRINT_BYTES], "big")
        at = bisect_left(self.recalled, print_)
        return at < len(self.recalled) and self.recalled[at] == print_


@dataclass(frozen=True, slots=True)
class Portion:
    """Keys to announce now, sorted. Whoever takes one owes `give_back` for it."""

    keys: list[bytes]
    taken_at: float
    slots_done: int
    """Where the cursor stands once they are announced."""


class Announcements:
    """The kept-announced set. A key is *pending* until some other node holds it, and again when its turn failed."""

    def __init__(self, interval_s: float, now: float) -> None:
        self.interval_s = interval_s
        """Time for one round. May be changed at any time; `advance` counts with it from then on."""
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._busy: dict[bytes, None] = {}
        self._count = self._pending = 0
        self._done = 0
        self._wanted = 0.0
        self._at = now
        self._new_from = 0
        """The slot at which the search for new keys goes on."""
        self._size_then: float | None = None
        """The smallest the network was when any of the announced keys went out."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        return key in self._slot(key).keys

    @property
    def pending(self) -> int:
        return self._pending

    def add(self, keys: Iterable[bytes]) -> None:
        slots, added = self._slots, 0
        for key in keys:  # a hundred thousand at once
            slot = slots[key[0] >> _SHIFT]
            if key in slot.keys:
                continue
            if slot.recalled and slot.recalls(key):
                slot.keys[key] = slot.eldest_at = slot.recalled_at
                self._count += 1
            else:
                slot.keys[key] = None
                slot.pending += 1
                added += 1
        self._count += added
        self._pending += added

    def remove(self, keys: Iterable[bytes]) -> list[bytes]:
        """Returns those that were provided, sorted."""
        removed = sorted({key for key in keys if key in self})
        for key in removed:
            slot = self._slot(key)
            if slot.keys.pop(key) is None:
                slot.pending -= 1
                self._pending -= 1
        self._count -= len(removed)
        return removed

    def clear(self) -> None:
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._count = self._pending = 0

    def announced(self, keys: Iterable[bytes], now: float, network_size: float) -> None:
        """Another node holds `keys` since `now`, when the network was estimated to have `network_size` nodes."""
        for key in keys:
            slot = self._slots[key[0] >> _SHIFT]
            if key not in slot.keys:
                continue  # withdrawn meanwhile
            slot.eldest_at = min(slot.eldest_at, now) if slot.any_announced else now
            if slot.keys[key] is None:
                slot.pending -= 1
                self._pending -= 1
            slot.keys[key] = now
        self._size_then = network_size if self._size_then is None else min(self._size_then, network_size)

    def grown(self, network_size: float) -> bool:
        """Make everything pending where the network has outgrown the holders. Says whether it did."""
        if self._size_then is None or network_size < _GROWTH * self._size_then or self._pending == self._count:
            return False
        self.all_pending()
        return True

    def all_pending(self) -> None:
        """What was announced counts for nothing any more."""
        for slot in self._slots:
            slot.keys = dict.fromkeys(slot.keys)
            slot.pending = len(slot.keys)
            slot.recalled = _no_prints()
        self._pending = self._count
        self._size_then = None

    # --- the cursor -----------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Move the wanted place of the cursor by the time that has passed. It is never more than a round ahead."""
        self._wanted += max(0.0, now - self._at) / self.interval_s * SLOTS
        self._at = now
        while self._done < int(self._wanted) and not self._slots[self._done % SLOTS].any_announced:
            self._slots[self._done % SLOTS].recalled = _no_prints()
            self._done += 1
        self._wanted = min(self._wanted, self._done + SLOTS + 0.0)

    def behind_s(self, now: float) -> float:
        """How late the region is whose turn was due the longest ago; at most an interval."""
        wanted = self._wanted + max(0.0, now - self._at) / self.interval_s * SLOTS
        late = min(wanted - self._done - 1, SLOTS) if self._count > self._pending else 0.0
        return max(0.0, late) / SLOTS * self.interval_s

    def lag_s(self, now: float) -> float:
        """For how long the eldest announcement has stood."""
        return max((now - slot.eldest_at for slot in self._slots if slot.any_announced), default=0.0)

    def take_due(self, now: float) -> Portion | None:
        """What to announce now: the slots whose turn it is with their new keys, else new keys alone."""
        self.advance(now)
        keys: list[bytes] = []
        done = self._done
        while done < int(self._wanted) and len(keys) < _PORTION_KEYS:
            slot = self._slots[done % SLOTS]
            before = now - _FRESH * self.interval_s
            keys += [key for key, at in slot.keys.items() if (at is None or at <= before) and key not in self._busy]
            done += 1
        if not keys:
            keys = self._new_keys()
        if not keys and done == self._done:
            return None
        keys.sort()
        self._busy.update(dict.fromkeys(keys))
        return Portion(keys, now, done)

    def take(self, keys: Iterable[bytes], now: float) -> Portion:
        """As `take_due`, for these keys whether due or not."""
        taken = sorted({key for key in keys if key in self})
        self._busy.update(dict.fromkeys(taken))
        return Portion(taken, now, self._done)

    def give_back(self, portion: Portion) -> None:
        """`portion` has had its turn; keys of it that nobody took since are pending now."""
        touched: dict[int, _Slot] = {}
        for key in portion.keys:
            self._busy.pop(key, None)
            slot = touched.setdefault(key[0] >> _SHIFT, self._slots[key[0] >> _SHIFT])
            at = slot.keys.get(key)
            if at is not None and at < portion.taken_at:
                slot.keys[key] = None
                slot.pending += 1
                self._pending += 1
        for slot in touched.values():
            slot.eldest_at = min((at for at in slot.keys.values() if at is not None), default=0.0)
        while self._done < portion.slots_done:
            self._slots[self._done % SLOTS].recalled = _no_prints()
            self._done += 1

    # --- over a restart -------------------------------------------------------------------------------------------

    def state(self, now: float, wall: float) -> bytes:
        """What `restore` takes: MessagePack, about three bytes for each announced key. `wall` is Unix time."""
        slots, room = [], ANNOUNCE_STATE_BYTES_MAX - 64 * SLOTS
        for slot in self._slots:
            prints = b"".join([key[1 : 1 + _PRINT_BYTES] for key, at in slot.keys.items() if at is not None])
            room -= len(prints)
            if room < 0:
                prints = b""  # announced anew after the restart
            slots.append(_SavedSlot(wall - (now - slot.eldest_at), prints))
        done = self._done + min(1.0, max(0.0, self._wanted - self._done))
        return msgspec.msgpack.encode(_Saved(1, wall, done % SLOTS, slots))

    def restore(self, content: bytes, now: float, wall: float) -> None:
        """Go on where `state` stopped. Raises `DecodeError`, and changes nothing then.

        What is older than an interval and a quarter, or comes from the future because a clock was set back, counts as
        never announced. Call this before `add`.
        """
        if len(content) > ANNOUNCE_STATE_BYTES_MAX:
            raise DecodeError("a state of announcing that is too long")
        try:
            saved = msgspec.msgpack.decode(content, type=_Saved)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError("not a state of announcing") from error
        if saved.version != 1 or len(saved.slots) != SLOTS or not 0 <= saved.done <= SLOTS:
            raise DecodeError("not a state of announcing that we know")
        if any(len(slot.prints) % _PRINT_BYTES for slot in saved.slots):
            raise DecodeError("a broken fingerprint")
        for slot, kept in zip(self._slots, saved.slots, strict=True):
            age_s = wall - kept.announced_at
            if 0 <= age_s <= (1 + _FRESH) * self.interval_s:
                slot.recalled_at = now - age_s
                prints = range(0, len(kept.prints), _PRINT_BYTES)
                slot.recalled = array(
                    "I", sorted(int.from_bytes(kept.prints[at : at + _PRINT_BYTES], "big") for at in prints)
                )
        self._done, self._at = int(saved.done), now
        away_s = max(0.0, wall - saved.saved_at)
        self._wanted = saved.done + min(away_s / self.interval_s, 1.0) * SLOTS

    # --- parts ----------------------------------------------------------------------------------------------------

    def _slot(self, key: bytes) -> _Slot:
        return self._slots[key[0] >> _SHIFT]

    def _new_keys(self) -> list[bytes]:
        """Of the new keys a portion, from the slot where the last one ended onwards."""
        keys: list[bytes] = []
        if not self._pending:
            return keys
        for at in chain(range(self._new_from, SLOTS), range(self._new_from)):
            slot = self._slots[at]
            if slot.pending:
                keys += [key for key, told_at in slot.keys.items() if told_at is None and key not in self._busy]
            if len(keys) >= _PORTION_KEYS:
                self._new_from = (at + 1) % SLOTS
                break
        return keys
