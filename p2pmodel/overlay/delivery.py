"""Announcements on their way to holders: signed one by one, a window of them in flight, refused ones tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from p2pmodel.limits import ANNOUNCE_WINDOW_DATAGRAMS
from p2pmodel.net import Address
from p2pmodel.overlay.calls import Call
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.records import sign_batch
from p2pmodel.overlay.tokens import TOKEN_BYTES
from p2pmodel.overlay.wire import BAD_TOKEN, SEQUENCE_MAX, STALE, STORED, AnnounceReply, AnnounceRequest, Reply

_TRIES_MAX = 3
"""The first, one with a fresh token, one with a higher sequence number."""


class Sequences:
    """Ever higher numbers, ahead of those of an earlier run as long as the wall clock was not set back.

    Where it was, holders answer `STALE` with the number to pass, and `Delivery` passes it for that holder alone.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, min(max(0, int(self._wall() * 1000)), SEQUENCE_MAX // 2))
        return self._last


class Delivery:
    """Sends batches to holders.

    `on_stored` hears of each that was kept: the holder, its address, fresh token, keys; `on_lost` of each that was not,
    because the holder is gone or full.
    """

    def __init__(
        self,
        protocol: OverlayProtocol,
        sequences: Sequences,
        *,
        ttl_s: int,
        on_stored: Callable[[bytes, Address, bytes, Sequence[bytes]], None],
        on_lost: Callable[[bytes, Sequence[bytes]], None] = lambda holder, keys: None,
        window: int = ANNOUNCE_WINDOW_DATAGRAMS,
    ) -> None:
        self._protocol = protocol
        self._sequences = sequences
        self._ttl_s = ttl_s
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._window = asyncio.Semaphore(window)
        self._calls: dict[Call, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def send(self, holder: bytes, address: Address, token: bytes, keys: Sequence[bytes]) -> None:
        """Start one delivery, as soon as the window has room."""
        await self._window.acquire()
        self._start(holder, address, token or bytes(TOKEN_BYTES), keys, self._sequences.next(), 1)

    async def drain(self) -> None:
        """Wait until all have been answered or given up."""
        await self._idle.wait()

    def close(self) -> None:
        """Take back what is in flight."""
        for call in self._calls:
            self._protocol.calls.cancel(call)
        self._calls.clear()
        self._idle.set()

    def _start(
        self, holder: bytes, address: Address, token: bytes, keys: Sequence[bytes], sequence: int, tries: int
    ) -> None:
        protocol = self._protocol
        assert protocol.transport is not None
        port = protocol.transport.address.port
        signature = sign_batch(
            protocol.key,
            protocol.network_id,
            holder,
            port=port,
            ttl_s=self._ttl_s,
            sequence=sequence,
            keys=keys,
        )
        request = AnnounceRequest(
            network=protocol.network_id,
            sender=protocol.sender_id,
            token=token,
            peer=protocol.key.public.raw,
            port=port,
            ttl_s=self._ttl_s,
            sequence=sequence,
            keys=b"".join(keys),
            signature=signature,
        )
        call: Call

        def replied(reply: Reply) -> None:
            assert isinstance(reply, AnnounceReply)
            self._calls.pop(call, None)
            if reply.status == STORED:
                self._on_stored(holder, address, reply.token, keys)
            elif reply.status == BAD_TOKEN and tries < _TRIES_MAX:
                self._start(holder, address, reply.token, keys, sequence, tries + 1)
                return
            elif reply.status == STALE and tries < _TRIES_MAX and reply.sequence < SEQUENCE_MAX:
                self._start(holder, address, reply.token, keys, reply.sequence + 1, tries + 1)
                return
            else:
                self._on_lost(holder, keys)
            self._over()

        def failed() -> None:
            self._calls.pop(call, None)
            self._on_lost(holder, keys)
            self._over()

        call = protocol.calls.start(address, request, on_reply=replied, on_failed=failed)
        self._calls[call] = None
        self._idle.clear()

    def _over(self) -> None:
        self._window.release()
        if not self._calls:
            self._idle.set()
