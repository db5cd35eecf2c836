"""A peer without manners: it makes a proper handshake, has the proper keys, and then sends whatever bytes it likes."""

from __future__ import annotations

import asyncio
import socket

from wire_pairs import PATIENCE_S, handshake

from p2pmodel.net import Address, Identity
from p2pmodel.net.handshake import Session
from p2pmodel.net.records import TAG_BYTES


def header(kind: int, length: int) -> bytes:
    return bytes([kind]) + length.to_bytes(3, "big")


class RawPeer:
    """One end of a connection after the handshake."""

    def __init__(self, sock: socket.socket, session: Session, who: Identity) -> None:
        self.sock = sock
        self.session = session
        self.key = who.key.public

    @classmethod
    async def connect(cls, address: Address, who: Identity) -> RawPeer:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        return await cls.secure(sock, who, outgoing=True)

    @classmethod
    async def secure(cls, sock: socket.socket, who: Identity, *, outgoing: bool) -> RawPeer:
        loop, shaking = asyncio.get_running_loop(), handshake(who, outgoing=outgoing)
        while True:
            await loop.sock_sendall(sock, shaking.to_send())
            if shaking.session is not None:
                return cls(sock, shaking.session, who)
            data = await loop.sock_recv(sock, 4096)
            if not data:
                sock.close()
                raise ConnectionError("hung up on in the handshake")
            shaking.receive(data)

    def record(self, kind: int, body: bytes, *, length: int | None = None) -> bytes:
        """Properly sealed, whatever it is; `length` is what the header says of it."""
        head = header(kind, len(body) if length is None else length)
        if self.session.sending is None:
            return head + body
        sealed = bytearray(len(body) + TAG_BYTES)
        self.session.sending.seal_into(head, body, memoryview(sealed))
        return head + sealed

    async def send(self, *parts: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(parts))

    async def until_hung_up(self) -> None:
        """A reset is an end too."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16):
                    pass
            except ConnectionError:
                pass
        self.close()

    def close(self) -> None:
        self.sock.close()
