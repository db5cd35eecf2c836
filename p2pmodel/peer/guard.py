"""Who may speak to the HTTP port: programs of this machine's owner, not a web page in a browser.

Any page can make a browser send requests to 127.0.0.1. So a request must name this server by an address and not by a
name that somebody else's DNS points here (rebinding), must come from no other origin, and must carry the token of the
data directory if it changes anything. The Unix socket needs none of this: its file mode decides who may open it.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from p2pmodel.errors import P2PModelError, RefusedError
from p2pmodel.net.address import Address, split_host_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RequestGuard:
    """Checks requests that arrive at `bound`; `token` is what state-changing ones must carry."""

    def __init__(self, bound: Address, token: str) -> None:
        self._bound = bound
        self._token = token

    def middleware(
        self, reads_only: Callable[[str], bool] = lambda path: False
    ) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """`reads_only` says of a path that nothing can be changed there, by whatever method."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.check_source(request.headers.get)
            if not reads_only(request.path):
                self.check_token(request.method, request.headers.get)
            return await handler(request)

        return check

    def check(self, method: str, header: Callable[[str], str | None]) -> None:
        """Raises `RefusedError`, or the HTTP errors 401 (no token) and 415 (wrong content type)."""
        self.check_source(header)
        self.check_token(method, header)

    def check_source(self, header: Callable[[str], str | None]) -> None:
        """Raises `RefusedError` for what a page of somebody else's makes a browser send."""
        host = header(hdrs.HOST) or ""
        if not self._is_ours(host):
            raise RefusedError("the Host header must name this server by its loopback address and port")
        origin = header(hdrs.ORIGIN)
        if origin is not None and not self._is_origin(origin, host):
            raise RefusedError("requests from other origins are refused")
        # An image or a script of a page comes without an origin, and may make this peer fetch a model.
        if header("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise RefusedError("requests from other sites are refused")

    def check_token(self, method: str, header: Callable[[str], str | None]) -> None:
        """Raises the HTTP errors 401 (no token) and 415 (wrong content type)."""
        if method in ("GET", "HEAD"):
            return
        scheme, _, token = (header(hdrs.AUTHORIZATION) or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token.encode()):
            raise web.HTTPUnauthorized(
                reason="needs the header 'Authorization: Bearer TOKEN' with the data directory's api-token",
                headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
            )
        content_type = (header(hdrs.CONTENT_TYPE) or "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(reason="the body must be application/json")

    def _is_ours(self, host_header: str) -> bool:
        try:
            host, port = split_host_port(host_header)
        except P2PModelError:
            return False
        if port != self._bound.port:
            return False
        if host.lower() == "localhost":
            return True
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return False
        # Where somebody bound the port to an outside address on purpose, that address is ours too. A literal is safe
        # in any case: rebinding needs a name.
        return ip.is_loopback or ip == self._bound.ip or self._bound.ip.is_unspecified

    def _is_origin(self, origin: str, host_header: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme == "http" and parts.netloc.lower() == host_header.lower() and not parts.path
