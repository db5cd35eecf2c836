"""Keeps what this node provides announced: at once, in the background, again in time, and withdrawn at the end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from p2pmodel.limits import BUCKET_SIZE, KEYS_PER_ANNOUNCE_MAX, WITHDRAW_TIMEOUT_S
from p2pmodel.net import Address
from p2pmodel.overlay.announcements import Announcements
from p2pmodel.overlay.crawl import Candidate
from p2pmodel.overlay.delivery import Delivery, Sequences
from p2pmodel.overlay.lookup import nearest_nodes
from p2pmodel.overlay.profile import Profile
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.records import sign_batch
from p2pmodel.overlay.sweep import Sweep
from p2pmodel.overlay.wire import WireEvidence

_LANES_NOW, _LANES_LATER = 8, 3
"""Parts of the key space that are walked side by side."""
_KEYS_PER_LANE_MIN = 4
_RETRY_S = 5.0
_RETRY_MAX_S = 300.0
_OWN_EVIDENCE_MAX = 1_024
_DIRECT_WITHDRAWALS_MAX = 1_000
_SETTLE_S = 0.25
"""Between a newcomer and the announcement that it causes: newcomers come in groups."""


class Announcer:
    """Drives sweeps. `run` is its background task; the other methods may be called at any time after the start."""

    def __init__(self, protocol: OverlayProtocol, profile: Profile) -> None:
        self._protocol = protocol
        self._profile = profile
        self._clock = protocol.clock
        self.kept = Announcements(profile.republish_s)
        self._sequences = Sequences(protocol.clock.wall)
        self._holders: dict[bytes, tuple[Address, bytes, float]] = {}
        """Who holds any record of ours: address, token, monotonic time of the last."""
        self._own_evidence: OrderedDict[bytes, WireEvidence] = OrderedDict()
        self._wake = asyncio.Event()
        self._retry_s = _RETRY_S
        self._retry_at = 0.0

    async def run(self) -> None:
        """Announce what is pending or due, for ever."""
        while True:
            if await self._woken():
                await asyncio.sleep(_SETTLE_S)
            now = self._clock.monotonic()
            self.kept.grown(self._protocol.table.size_estimate())
            if not len(self._protocol.table) or now < self._retry_at:
                continue
            due = self.kept.take_due(now)
            if not due:
                continue
            try:
                stored = await self._announce(due, self._profile.sweep_replicas, _LANES_LATER)
            finally:
                self.kept.give_back(due)
            self._retry_s = _RETRY_S if stored else min(2 * self._retry_s, _RETRY_MAX_S)
            self._retry_at = 0.0 if stored == len(due) else self._clock.monotonic() + self._retry_s

    def neighbour_joined(self) -> None:
        """Somebody new to tell: what was published alone goes out now."""
        if self.kept.pending:
            self._retry_at = 0.0
            self._wake.set()
        elif len(self.kept) and self.kept.grown(self._protocol.table.size_estimate()):
            self._wake.set()

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce now; returns how many keys at least one other node holds."""
        self.kept.add(keys)
        taken = self.kept.take(keys)
        try:
            return await self._announce(taken, self._profile.replicas, _LANES_NOW)
        finally:
            self.kept.give_back(taken)

    def provide_later(self, keys: Iterable[bytes]) -> None:
        self.kept.add(keys)
        self._retry_at = 0.0
        self._wake.set()

    async def withdraw(self, keys: Iterable[bytes] | None) -> None:
        """Stop providing `keys`, or everything, and tell the holders as far as `WITHDRAW_TIMEOUT_S` allows."""
        if keys is None:
            self.kept.clear()
            self._own_evidence.clear()
            batches: list[list[bytes]] = [[]]
        else:
            removed = self.kept.remove(keys)
            for key in removed:
                self._own_evidence.pop(key, None)
            batches = [removed[at : at + KEYS_PER_ANNOUNCE_MAX] for at in range(0, len(removed), KEYS_PER_ANNOUNCE_MAX)]
        if not batches or not self._holders:
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
        if keys is None:
            self._holders.clear()

    def own_evidence(self, key: bytes) -> WireEvidence | None:
        """Our own record of `key`, for whoever asks us directly: we are a provider even where nobody holds it yet."""
        if key not in self.kept:
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

    async def _woken(self) -> bool:
        """Wait for a reason or a tick; says whether there was a reason."""
        try:
            async with asyncio.timeout(self._profile.tick_s if len(self.kept) else None):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _announce(self, keys: list[bytes], replicas: int, lanes: int) -> int:
        """Sweep over sorted `keys`; returns how many are stored somewhere."""
        protocol = self._protocol
        if not keys or not len(protocol.table):
            return 0
        size = protocol.table.size_estimate()
        stored: set[bytes] = set()

        def on_stored(holder: bytes, address: Address, token: bytes, batch: Sequence[bytes]) -> None:
            now = self._clock.monotonic()
            self._holders[holder] = (address, token, now)
            stored.update(batch)
            self.kept.announced(batch, now, size)

        delivery = Delivery(protocol, self._sequences, ttl_s=self._profile.ttl_s, on_stored=on_stored)

        async def send(node: Candidate, batch: list[bytes]) -> None:
            await delivery.send(node.id, node.address, node.token, batch)

        async def explore(target: bytes, seeds: Iterable[tuple[bytes, Address]]) -> list[Candidate]:
            return await nearest_nodes(protocol, target, group_nodes_max=self._profile.group_nodes_max, seeds=seeds)

        if size <= 2 * BUCKET_SIZE:
            lanes = 1
        lanes = max(1, min(lanes, len(keys) // _KEYS_PER_LANE_MIN))
        parts = [keys[len(keys) * i // lanes : len(keys) * (i + 1) // lanes] for i in range(lanes)]
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(Sweep(part, replicas, explore, send).run())
            await delivery.drain()
        finally:
            delivery.close()
            self._forget_old_holders()
        return len(stored)

    async def _tell_holders(self, delivery: Delivery, batches: list[list[bytes]]) -> None:
        if len(batches) * len(self._holders) <= _DIRECT_WITHDRAWALS_MAX or batches == [[]]:
            for batch in batches:
                for holder, (address, token, _) in list(self._holders.items()):
                    await delivery.send(holder, address, token, batch)
            return

        async def send(node: Candidate, batch: list[bytes]) -> None:
            await delivery.send(node.id, node.address, node.token, batch)

        async def explore(target: bytes, seeds: Iterable[tuple[bytes, Address]]) -> list[Candidate]:
            return await nearest_nodes(
                self._protocol, target, group_nodes_max=self._profile.group_nodes_max, seeds=seeds
            )

        await Sweep([key for batch in batches for key in batch], self._profile.replicas, explore, send).run()

    def _forget_old_holders(self) -> None:
        before = self._clock.monotonic() - self._profile.ttl_s
        self._holders = {holder: entry for holder, entry in self._holders.items() if entry[2] > before}
