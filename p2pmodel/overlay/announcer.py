"""Keeps what this node provides announced: at once, in the background, again in time, and withdrawn at the end."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from p2pmodel.errors import DecodeError
from p2pmodel.limits import ANNOUNCE_STATE_BYTES_MAX, BUCKET_SIZE, KEYS_PER_ANNOUNCE_MAX, WITHDRAW_TIMEOUT_S
from p2pmodel.net import Address, cancelled
from p2pmodel.overlay.announcements import Announcements, Portion
from p2pmodel.overlay.crawl import Candidate
from p2pmodel.overlay.delivery import Delivery, Sequences
from p2pmodel.overlay.holders import Holders
from p2pmodel.overlay.lookup import nearest_nodes
from p2pmodel.overlay.pace import Pace, Retry
from p2pmodel.overlay.profile import Profile
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.records import sign_batch
from p2pmodel.overlay.sweep import Sweep
from p2pmodel.overlay.wire import WireEvidence

log = logging.getLogger(__name__)

_LANES_NOW, _LANES_LATER = 8, 3
"""Parts of the key space that are walked side by side."""
_KEYS_PER_LANE_MIN = 4
_OWN_EVIDENCE_MAX = 1_024
_DIRECT_WITHDRAWALS_MAX = 1_000
_SETTLE_S = 0.25
"""Between a newcomer and the announcement that it causes: newcomers come in groups."""
_BULK_BYTES_PER_S = 32 * 1024
"""What announcing chunks again may cost where holders die young: the round grows with the keys, 20 minutes for
133,000. Roots are few and keep their pace."""
_COPY_BYTES = 26
"""One key at one holder: its bytes and its part of the datagram."""
_MENDS_MAX = 3
"""Rounds in which keys go to the next nearest because a holder is gone: it may be gone too."""
_ASLEEP_S = 30.0
"""A tick that comes so much too late: the machine slept, or stood still, and others may have woken with it."""
_WAKING_S = 120.0
"""Over so long those who wake together spread what they have missed: no minute has twice the packets of a busy one."""
_BEHIND_PART = 0.25
"""Of an interval: so late is a sweep that does not fit into it."""


class _State(msgspec.Struct, array_like=True):
    roots: bytes
    bulk: bytes


class Announcer:
    """Drives sweeps. `run` is its background task; the other methods may be called at any time after the start.

    Roots and the many other keys are kept apart: a root has more holders, goes out first and never waits for chunks.
    While the node is `hidden`, for others cannot reach it, nothing is announced: who finds a record dials its peer.
    """

    def __init__(self, protocol: OverlayProtocol, profile: Profile, hidden: Callable[[], bool] = lambda: False) -> None:
        self._protocol = protocol
        self._hidden = hidden
        self._profile = profile
        self._clock = protocol.clock
        now = protocol.clock.monotonic()
        self._roots = Announcements(profile.republish_s, now)
        self._bulk = Announcements(profile.republish_s, now)
        self._pace = Pace(profile.republish_s, profile.republish_min_s)
        self._holders = Holders(protocol, self._pace)
        self._sequences = Sequences(protocol.clock.wall)
        self._own_evidence: OrderedDict[bytes, WireEvidence] = OrderedDict()
        self._wake = asyncio.Event()
        self._retry = Retry()
        self._warned = False

    # --- what is kept announced -----------------------------------------------------------------------------------

    @property
    def keys_provided(self) -> int:
        return len(self._roots) + len(self._bulk)

    @property
    def keys_pending(self) -> int:
        return self._roots.pending + self._bulk.pending

    @property
    def interval_s(self) -> float:
        """How often roots are announced at present."""
        return self._pace.interval_s

    def lag_s(self, now: float) -> float:
        return max(self._roots.lag_s(now), self._bulk.lag_s(now))

    def behind_s(self, now: float) -> float:
        return max(self._roots.behind_s(now), self._bulk.behind_s(now))

    def state(self) -> bytes:
        """How far announcing has come, for `restore` after a restart: about three bytes a key."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        return msgspec.msgpack.encode(_State(self._roots.state(now, wall), self._bulk.state(now, wall)))

    def restore(self, content: bytes) -> None:
        """Go on where an earlier run stopped: before the first key is provided. Raises `DecodeError`."""
        if len(content) > 2 * ANNOUNCE_STATE_BYTES_MAX + 16:
            raise DecodeError("a state of announcing that is too long")
        try:
            saved = msgspec.msgpack.decode(content, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError("not a state of announcing") from error
        now, wall = self._clock.monotonic(), self._clock.wall()
        bulk = Announcements(self._profile.republish_s, now)
        bulk.restore(saved.bulk, now, wall)
        self._roots.restore(saved.roots, now, wall)
        self._bulk = bulk

    # --- announcing -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Announce what is new or due, for ever."""
        while True:
            waited_from = self._clock.monotonic()
            if await self._woken():
                await asyncio.sleep(_SETTLE_S)
            elif self._clock.monotonic() - waited_from > self._profile.tick_s + _ASLEEP_S:
                await self._woken(_WAKING_S * self._protocol.rng.random())
            if self._hidden():
                await self._conceal()
                continue
            size = self._protocol.table.size_estimate()
            self._roots.grown(size)
            self._bulk.grown(size)
            while len(self._protocol.table):
                now = self._clock.monotonic()
                await self._holders.probe(now)
                self._set_pace(now)
                if not self._retry.due(now) or not await self._announce_next(now):
                    break

    def neighbour_joined(self) -> None:
        """Somebody new to tell: what was published alone goes out now."""
        size = self._protocol.table.size_estimate()
        if self.keys_pending:
            self._retry.at_once()
            self._wake.set()
        elif self._roots.grown(size) | self._bulk.grown(size):
            self._wake.set()

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce roots now; returns how many of them at least one other node holds."""
        self._add_roots(keys)
        if self._hidden():
            return 0
        portion = self._roots.take(keys, self._clock.monotonic())
        try:
            return await self._announce(self._roots, portion, self._profile.replicas, _LANES_NOW)
        finally:
            self._roots.give_back(portion)
            self._wake.set()  # while there was no key at all, `run` did not look at the clock

    def provide_later(self, keys: Iterable[bytes], *, roots: bool = False) -> None:
        """Announce in the background; `roots` before all others and with more holders."""
        if roots:
            self._add_roots(list(keys))
        else:
            self._bulk.add([key for key in keys if key not in self._roots] if len(self._roots) else keys)
        self._retry.at_once()
        self._wake.set()

    async def withdraw(self, keys: Iterable[bytes] | None) -> None:
        """Stop providing `keys`, or everything, and tell the holders as far as `WITHDRAW_TIMEOUT_S` allows."""
        if keys is None:
            self._roots.clear()
            self._bulk.clear()
            self._own_evidence.clear()
            batches: list[list[bytes]] = [[]]
        else:
            wanted = list(keys)
            removed = sorted(self._roots.remove(wanted) + self._bulk.remove(wanted))
            for key in removed:
                self._own_evidence.pop(key, None)
            batches = [removed[at : at + KEYS_PER_ANNOUNCE_MAX] for at in range(0, len(removed), KEYS_PER_ANNOUNCE_MAX)]
        if batches:
            await self._take_back(batches)
        if keys is None:
            self._holders.clear()

    async def _conceal(self) -> None:
        """Others cannot reach us any more: take back what stands, and keep it to be announced when they can again."""
        if self.keys_pending == self.keys_provided and not len(self._holders):
            return
        for kept in (self._roots, self._bulk):
            kept.all_pending()
        self._own_evidence.clear()
        await self._take_back([[]])
        self._holders.clear()

    async def _take_back(self, batches: list[list[bytes]]) -> None:
        """Tell the holders that these keys, or with an empty batch all, are provided no longer."""
        if not len(self._holders):
            return
        delivery = Delivery(self._protocol, self._sequences, ttl_s=0, on_stored=lambda *_: None)
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                await self._tell_holders(delivery, batches)
                await delivery.drain()
        except TimeoutError:
            pass  # what was not reached ends with its lifetime
        finally:
            delivery.close()

    def own_evidence(self, key: bytes) -> WireEvidence | None:
        """Our own record of `key`, for whoever asks us directly: we are a provider even where nobody holds it yet."""
        if key not in self._roots and key not in self._bulk:
            return None
        found = self._own_evidence.get(key)
        if found is None:
            protocol = self._protocol
            assert protocol.transport is not None
            port, ttl_s, sequence = protocol.transport.address.port, self._profile.ttl_s, self._sequences.next()
            signature = sign_batch(
                protocol.key,
                protocol.network_id,
                protocol.own_id,
                port=port,
                ttl_s=ttl_s,
                sequence=sequence,
                keys=[key],
            )
            found = WireEvidence(
                protocol.key.public.raw, port.to_bytes(2, "big"), ttl_s, ttl_s, sequence, 0, 1, b"", signature
            )
            self._own_evidence[key] = found
            if len(self._own_evidence) > _OWN_EVIDENCE_MAX:
                self._own_evidence.popitem(last=False)
        return found

    # --- the work -------------------------------------------------------------------------------------------------

    def _add_roots(self, keys: Sequence[bytes]) -> None:
        self._bulk.remove(keys)
        self._roots.add(keys)

    async def _woken(self, pause_s: float | None = None) -> bool:
        """Wait for a reason, or `pause_s`: by default a tick. Says whether there was a reason."""
        if pause_s is None and self.keys_provided:
            pause_s = self._profile.tick_s
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _set_pace(self, now: float) -> None:
        """Rounds are as short as the lives of holders ask for, and bulk only as far as it can be afforded."""
        wanted_s, longest_s = self._pace.interval_s, self._profile.republish_s
        bulk_bytes = len(self._bulk) * self._profile.sweep_replicas * _COPY_BYTES
        self._roots.advance(now)
        self._bulk.advance(now)
        self._roots.interval_s = wanted_s
        self._bulk.interval_s = min(max(wanted_s, bulk_bytes / _BULK_BYTES_PER_S), longest_s)
        late_s = self._bulk.behind_s(now)
        if late_s > _BEHIND_PART * self._bulk.interval_s and not self._warned:
            self._warned = True
            log.warning(
                "announcing %d keys takes longer than the %.0f s of a round and is %.0f s behind",
                len(self._bulk),
                self._bulk.interval_s,
                late_s,
            )
        elif not late_s:
            self._warned = False

    async def _announce_next(self, now: float) -> bool:
        """One portion of what is due, roots first. Says whether to go on at once."""
        kept, replicas = self._roots, self._profile.replicas
        portion = kept.take_due(now)
        if portion is None:
            kept, replicas = self._bulk, self._profile.sweep_replicas
            portion = kept.take_due(now)
        if portion is None:
            return False
        try:
            stored = await self._announce(kept, portion, replicas, _LANES_LATER)
        finally:
            kept.give_back(portion)
        self._retry.tried(stored, len(portion.keys), self._clock.monotonic())
        return stored == len(portion.keys)

    async def _announce(self, kept: Announcements, portion: Portion, replicas: int, lanes: int) -> int:
        """Sweep over the keys of `portion`; returns how many are stored somewhere."""
        protocol, keys = self._protocol, portion.keys
        if not keys or not len(protocol.table):
            return 0
        of_table = protocol.table.size_estimate()
        size = protocol.network_size.estimate(of_table, portion.taken_at)
        stored: dict[bytes, None] = {}

        def on_stored(holder: bytes, address: Address, token: bytes, batch: Sequence[bytes]) -> None:
            now = self._clock.monotonic()
            self._holders.stored(holder, address, token, now)
            stored.update(dict.fromkeys(batch))
            kept.announced(batch, now, of_table)

        sweeps: list[Sweep] = []

        def on_lost(holder: bytes, batch: Sequence[bytes]) -> None:
            self._holders.lost(holder, self._clock.monotonic())
            at = bisect_right(starts, batch[0]) - 1
            sweeps[at].lost(holder, batch)

        delivery = Delivery(protocol, self._sequences, ttl_s=self._profile.ttl_s, on_stored=on_stored, on_lost=on_lost)

        async def send(node: Candidate, batch: list[bytes]) -> None:
            await delivery.send(node.id, node.address, node.token, batch)

        if size <= 2 * BUCKET_SIZE:
            lanes = 1
        lanes = max(1, min(lanes, len(keys) // _KEYS_PER_LANE_MIN))
        parts = [keys[len(keys) * i // lanes : len(keys) * (i + 1) // lanes] for i in range(lanes)]
        starts = [part[0] for part in parts]
        sweeps += [Sweep(part, replicas, self._explore, send, size=size) for part in parts]
        # Not a task group: it cancels in the order of a set, another one in each process.
        walking = [asyncio.create_task(sweep.run()) for sweep in sweeps]
        try:
            await asyncio.gather(*walking)
            await delivery.drain()
            for _ in range(_MENDS_MAX):
                if not any([await sweep.mend() for sweep in sweeps]):
                    break
                await delivery.drain()
        finally:
            await cancelled(walking)
            delivery.close()
            self._holders.forget(self._clock.monotonic() - self._profile.ttl_s)
        return len(stored)

    async def _explore(
        self, target: bytes, seeds: Sequence[Candidate], answered: Sequence[Candidate]
    ) -> list[Candidate]:
        """A lookup that says not who asks: thousands of strangers need not know us."""
        return await nearest_nodes(
            self._protocol,
            target,
            group_nodes_max=self._profile.group_nodes_max,
            seeds=[(node.id, node.address) for node in seeds],
            recalled=answered,
            anonymous=True,
        )

    async def _tell_holders(self, delivery: Delivery, batches: list[list[bytes]]) -> None:
        if len(batches) * len(self._holders) <= _DIRECT_WITHDRAWALS_MAX or batches == [[]]:
            for batch in batches:
                for holder in self._holders.all():
                    await delivery.send(holder.id, holder.address, holder.token, batch)
            return

        async def send(node: Candidate, batch: list[bytes]) -> None:
            await delivery.send(node.id, node.address, node.token, batch)

        await Sweep([key for batch in batches for key in batch], self._profile.replicas, self._explore, send).run()
