"""Write tokens (BEP 5): who shows one has received a datagram at its address within the last ten minutes."""

from __future__ import annotations

import hashlib
from hmac import compare_digest

from p2pmodel.limits import TOKEN_ROTATION_S
from p2pmodel.net import Address

TOKEN_BYTES = 8


class Tokens:
    """A keyed hash of the address's IP and the current period; the period before is accepted too. Keeps no state.

    `with_port` binds a token to the port as well.
    """

    def __init__(self, secret: bytes, *, with_port: bool = False) -> None:
        self._secret = secret
        self._with_port = with_port

    def issue(self, to: Address, now: float) -> bytes:
        return self._token(to, int(now // TOKEN_ROTATION_S))

    def check(self, token: bytes, source: Address, now: float) -> bool:
        period = int(now // TOKEN_ROTATION_S)
        return any(compare_digest(token, self._token(source, p)) for p in (period, period - 1))

    def _token(self, address: Address, period: int) -> bytes:
        message = period.to_bytes(8, "big", signed=True) + (address.pack() if self._with_port else address.ip.packed)
        return hashlib.blake2s(message, key=self._secret, digest_size=TOKEN_BYTES).digest()
