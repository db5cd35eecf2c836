"""The client of an origin hub: small questions in JSON, and the content of files by ranges.

The origin is believed in what it says of commits and hashes, and in nothing else: every answer is bounded and parsed
before it is used. A token goes to the origin alone (same scheme, host and port); content usually comes from another
place, to which a redirect leads, and that gets neither the token nor a way into networks nearer than the origin's own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from p2pmodel.errors import (
    EntryNotFoundError,
    GatedError,
    NetworkError,
    P2PModelError,
    RateLimitedError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from p2pmodel.gateway.origin_addresses import GuardedResolver, nearness, proxy_for
from p2pmodel.gateway.repositories import RepoAddress, Token
from p2pmodel.limits import (
    ORIGIN_CONNECT_S,
    ORIGIN_CONNECTIONS_MAX,
    ORIGIN_HEADER_BYTES_MAX,
    ORIGIN_JSON_BYTES_MAX,
    ORIGIN_REDIRECTS_MAX,
    ORIGIN_RETRY_AFTER_MAX_S,
    ORIGIN_SILENCE_S,
    ORIGIN_SMALL_S,
)
from p2pmodel.version import __version__

if TYPE_CHECKING:
    import aiohttp

_RETRIES = 2
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_NEXT = re.compile(r"<([^<>]{1,8000})>\s*;[^,]*\brel=\"?next\"?", re.ASCII)
_REDIRECTS = (301, 302, 303, 307, 308)
_ERRORS: dict[str, type[P2PModelError]] = {
    "RepoNotFound": RepositoryNotFoundError,
    "RevisionNotFound": RevisionNotFoundError,
    "EntryNotFound": EntryNotFoundError,
    "GatedRepo": GatedError,
}
_READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """JSON as it came, not parsed. Empty where it is what `etag` named."""

    body: bytes
    etag: str
    following: str
    """Where the next page is, as a path on the origin, or empty."""
    unchanged: bool = False


class Origin:
    """The hub at `url` (scheme, host and perhaps a path). `close` in the end."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.bytes_read = 0
        """Of files, since the start."""
        self.requests = 0
        self._home = _home(self.url)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._resolver: GuardedResolver | None = None

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _session(self, *, guarded: bool) -> aiohttp.ClientSession:
        import aiohttp

        if guarded not in self._sessions:
            self._resolver = self._resolver or GuardedResolver(urlsplit(self.url).hostname or "")
            resolver = self._resolver if guarded else None
            self._sessions[guarded] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=ORIGIN_CONNECTIONS_MAX, resolver=resolver, ttl_dns_cache=60),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"p2pmodel/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                max_line_size=ORIGIN_HEADER_BYTES_MAX,
                max_field_size=ORIGIN_HEADER_BYTES_MAX,
                read_bufsize=_READ_BYTES,
            )
        return self._sessions[guarded]

    # --- small questions -----------------------------------------------------------------------------------------

    async def json(self, path: str, token: Token | None = None, *, etag: str = "") -> Answer:
        """What the origin says at `path` (escaped, below its URL). `etag`: of what is known already.

        Raises `RepositoryNotFoundError`, `RevisionNotFoundError`, `EntryNotFoundError`, `GatedError`,
        `RateLimitedError`, and `NetworkError` for an origin that is gone or talks nonsense.
        """
        for attempt in range(_RETRIES + 1):
            try:
                async with asyncio.timeout(ORIGIN_SMALL_S):
                    return await self._json(path, token, etag)
            except RateLimitedError as busy:
                if attempt == _RETRIES or busy.retry_after_s > ORIGIN_RETRY_AFTER_MAX_S:
                    raise
                await asyncio.sleep(busy.retry_after_s)
            except TimeoutError as error:
                raise NetworkError(f"the origin {self.url} does not answer in time") from error
        raise AssertionError("unreachable")

    async def _json(self, path: str, token: Token | None, etag: str) -> Answer:
        headers = {"If-None-Match": etag} if etag else {}
        async with self._follow(self.url + path, token, headers, abroad=False) as response:
            if response.status == 304 and etag:
                return Answer(b"", etag, "", unchanged=True)
            await self._refuse_errors(response)
            body = bytearray()
            with self._talking():
                async for piece in response.content.iter_chunked(_READ_BYTES):
                    body += piece
                    if len(body) > ORIGIN_JSON_BYTES_MAX:
                        break
            if len(body) > ORIGIN_JSON_BYTES_MAX:
                raise NetworkError(f"the origin {self.url} answers with more than {ORIGIN_JSON_BYTES_MAX} bytes")
            return Answer(bytes(body), response.headers.get("ETag", "")[:200], self._following(response))

    def _following(self, response: aiohttp.ClientResponse) -> str:
        match = _NEXT.search(response.headers.get("Link", ""))
        if match is None:
            return ""
        url: str = urljoin(str(response.url), match[1])
        if not url.startswith(self.url + "/") or _home(url) != self._home:
            raise NetworkError(f"the origin {self.url} continues its answer at another place")
        return url.removeprefix(self.url)

    # --- content -------------------------------------------------------------------------------------------------

    async def allows(self, address: RepoAddress, path: str, token: Token | None) -> None:
        """Raises `GatedError` and the like where whoever has this token may not have this file."""
        async with asyncio.timeout(ORIGIN_SMALL_S):
            url = self.url + resolve_path(address, path)
            async with self._request("HEAD", url, token, {}) as response:
                if response.status not in _REDIRECTS:
                    await self._refuse_errors(response)

    @asynccontextmanager
    async def content(
        self, address: RepoAddress, path: str, token: Token | None, start: int, end: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a file from `start` to `end`, as they come; not verified, and never more than these.

        Raises as `json` does, and `NetworkError` where they end early or nothing comes for a while.
        """
        headers = {"Range": f"bytes={start}-{end - 1}"}
        url = self.url + resolve_path(address, path)
        async with self._follow(url, token, headers, abroad=True) as response:
            await self._refuse_errors(response)
            yield self._bytes(response, self._skipped(response, start, end), end - start)

    def _skipped(self, response: aiohttp.ClientResponse, start: int, end: int) -> int:
        """How many bytes come before those that were asked for: an origin may send the whole file instead."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise NetworkError(f"the origin {self.url} sends a file in another encoding than its own")
        if response.status == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start or int(match[2]) != end - 1:
                raise NetworkError(f"the origin {self.url} sends another range than it was asked for")
            return 0
        if response.status != 200:
            raise NetworkError(f"the origin {self.url} answers with status {response.status}")
        if response.content_length is not None and response.content_length < end:
            raise NetworkError(f"the origin {self.url} has {response.content_length} bytes where it told of more")
        return start

    async def _bytes(self, response: aiohttp.ClientResponse, skip: int, length: int) -> AsyncIterator[bytes]:
        left = length
        while left:
            with self._talking():
                data = await response.content.read(_READ_BYTES)
            if not data:
                raise NetworkError(f"the origin {self.url} ended a file early")
            self.bytes_read += len(data)
            if skip:
                skip, data = skip - min(skip, len(data)), data[skip:]
            data = data[:left]
            left -= len(data)
            if data:
                yield data

    # --- requests ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _follow(
        self, url: str, token: Token | None, headers: Mapping[str, str], *, abroad: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of the redirects; `abroad`: they may lead away from the origin."""
        for _ in range(ORIGIN_REDIRECTS_MAX + 1):
            async with self._request("GET", url, token, headers) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                with self._talking():
                    await response.content.read(_READ_BYTES)  # so that the connection can be used again
                url = await self._next(url, response.headers.get("Location", ""), abroad=abroad)
            if _home(url) != self._home:
                token = None  # wherever it leads from there
        raise NetworkError(f"the origin {self.url} redirects without end")

    async def _next(self, url: str, location: str, *, abroad: bool) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if not location or parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise NetworkError(f"the origin {self.url} redirects to nowhere")
        if _home(target) == self._home:
            return target
        if not abroad:
            raise NetworkError(f"the origin {self.url} redirects a question to {parts.hostname}")
        if parts.scheme == "http" and urlsplit(url).scheme == "https":
            raise NetworkError(f"the origin {self.url} redirects to {parts.hostname}, out of TLS")
        self._session(guarded=True)
        assert self._resolver is not None
        if (near := nearness(parts.hostname)) is not None and near > await self._resolver.allowed():
            raise NetworkError(f"the origin {self.url} redirects into a network that is not its own: {parts.hostname}")
        return target

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, token: Token | None, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp
        from yarl import URL

        home = _home(url) == self._home
        told = dict(headers) | ({"Authorization": f"Bearer {token.secret}"} if home and token is not None else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ORIGIN_CONNECT_S, sock_read=ORIGIN_SILENCE_S)
        session, proxy = self._session(guarded=not home), proxy_for(url)
        self.requests += 1
        with self._talking():
            response = await session.request(
                method, URL(url, encoded=True), headers=told, allow_redirects=False, timeout=timeout, proxy=proxy
            )
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """What can go wrong on the line, as `NetworkError`."""
        import aiohttp

        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NetworkError(f"the origin {self.url} cannot be asked: {_text(error)}") from error

    async def _refuse_errors(self, response: aiohttp.ClientResponse) -> None:
        if response.status < 400:
            return
        if _home(str(response.url)) != self._home:  # a link that has expired, as a rule; the next one is a new one
            raise NetworkError(f"where the origin {self.url} redirects to answers with status {response.status}")
        code = response.headers.get("X-Error-Code", "")
        message = response.headers.get("X-Error-Message", "")[:500]
        if response.status == 429:
            raise RateLimitedError(f"the origin {self.url} has had too many requests", _retry_after(response.headers))
        if kind := _ERRORS.get(code):
            raise kind(message or f"the origin {self.url} says {code}")
        if response.status in (401, 403):
            raise GatedError(message or f"the origin {self.url} refuses it (status {response.status})")
        if response.status == 404:
            raise EntryNotFoundError(message or f"the origin {self.url} does not know it")
        raise NetworkError(f"the origin {self.url} answers with status {response.status}")


def api_path(address: RepoAddress, *rest: str) -> str:
    """Below the hub's URL: `api/models/org/name` and what follows."""
    parts = [f"{address.kind}s", *address.repo_id.split("/"), *rest]
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def resolve_path(address: RepoAddress, path: str) -> str:
    """Where the hub has a file; `address.revision` is in it."""
    parts = [] if address.kind == "model" else [f"{address.kind}s"]
    parts += [*address.repo_id.split("/"), "resolve", address.revision]
    return "/" + "/".join(quote(part, safe="") for part in parts) + "/" + quote(path)


def _home(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what makes an origin (RFC 6454)."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise NetworkError(f"not a URL: {url[:200]!r}") from error
    return parts.scheme, (parts.hostname or "").lower(), port


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return min(float(text), 3600.0) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) else 1.0


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
