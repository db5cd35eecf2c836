"""One end of a connection in the hands of somebody who wants to do harm, from any address of the test's own network."""

from __future__ import annotations

import asyncio
import socket

from p2pmodel.errors import P2PModelError
from p2pmodel.model import SecretKey
from p2pmodel.net import Address, Identity, network_id
from p2pmodel.net.handshake import Handshake, Session, tls_context
from p2pmodel.net.records import TAG_BYTES, Kind, decode_header, encode_header
from p2pmodel.peer.config import DEFAULT_NETWORK_NAME

GONE = (OSError, EOFError, P2PModelError)
"""What it looks like to have been cut off."""


def stranger() -> Identity:
    return Identity(SecretKey.generate(), network_id(DEFAULT_NETWORK_NAME))


async def dial(source: str, to: Address) -> socket.socket:
    """Raises `OSError`."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: as many ports as there are, for each target
        sock.bind((source, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (to.host, to.port))
    except BaseException:
        sock.close()
        raise
    return sock


def client_hello(who: Identity) -> bytes:
    return Handshake(who, tls_context(who), outgoing=True).to_send()


class Caller:
    """After the handshake: says messages, and hears them."""

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self.sock = sock
        self._session = session
        self._heard = bytearray(session.surplus)

    @classmethod
    async def connect(cls, source: str, to: Address, who: Identity | None = None) -> Caller:
        """Raises what is in `GONE`."""
        who = who or stranger()
        sock = await dial(source, to)
        loop, shaking = asyncio.get_running_loop(), Handshake(who, tls_context(who), outgoing=True)
        try:
            while True:
                await loop.sock_sendall(sock, shaking.to_send())
                if shaking.session is not None:
                    return cls(sock, shaking.session)
                data = await loop.sock_recv(sock, 4096)
                if not data:
                    raise EOFError
                shaking.receive(data)
        except BaseException:
            sock.close()
            raise

    async def say(self, *messages: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(map(self.sealed, messages)))

    def sealed(self, message: bytes, kind: Kind = Kind.MESSAGE) -> bytes:
        """A record as it goes on the wire."""
        header = encode_header(kind, len(message))
        keys = self._session.sending
        if keys is None:
            return header + message
        sealed = bytearray(len(message) + TAG_BYTES)
        keys.seal_into(header, message, memoryview(sealed))
        return header + sealed

    async def hear(self) -> bytes:
        """The next message. Raises what is in `GONE`."""
        header = await self._take(4)
        _, length = decode_header(header)
        keys = self._session.receiving
        if keys is None:
            return await self._take(length)
        plain = bytearray(length)
        keys.open_into(header, memoryview(await self._take(length + TAG_BYTES)), memoryview(plain))
        return bytes(plain)

    async def _take(self, count: int) -> bytes:
        while len(self._heard) < count:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError
            self._heard += data
        taken = bytes(self._heard[:count])
        del self._heard[:count]
        return taken

    async def until_cut(self) -> None:
        try:
            while await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16):
                pass
        except OSError:
            pass
        finally:
            self.sock.close()
