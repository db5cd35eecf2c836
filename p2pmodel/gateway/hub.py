"""The Hugging Face endpoint: what clients of the hub ask, answered from wherever a repository comes from.

Requests and answers are those that huggingface_hub 0.36, 1 and 2, and what is built on them, make and expect. It reads
and changes nothing, so it asks for no token of ours; the one that a client sends is its hub's, and goes nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from p2pmodel.errors import EntryNotFoundError, NotFoundError, P2PModelError, StaleBytesError, UsageError
from p2pmodel.gateway.addresses import Call, Target, parse_target
from p2pmodel.gateway.answers import (
    commits,
    directory_entry,
    error_of,
    file_entry,
    header_text,
    references,
    repository_info,
    tree_paths,
)
from p2pmodel.gateway.ranges import UnsatisfiableRangeError, names, parse_range
from p2pmodel.gateway.repositories import RepoAddress, RepoFile, Repositories, Repository, Token
from p2pmodel.limits import FIRST_BYTE_INTERIM_S, HUB_URL_BYTES_MAX, PATHS_INFO_MAX, TREE_PAGE_ENTRIES

T = TypeVar("T")
log = logging.getLogger(__name__)
_READ_ONLY = "this endpoint is read-only; `p2pmodel publish` offers a model to the network"
_NO_XET = "this endpoint serves no Xet; set HF_HUB_DISABLE_XET=1, as `p2pmodel env` does"
_SAFE = {"X-Content-Type-Options": "nosniff"}
_FILE_HEADERS = {
    **_SAFE,
    # Strangers' files come from the origin of the control API: no browser may run one as a page of it.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Content-Disposition": "attachment",
    "Accept-Ranges": "bytes",
}


class HubFront:
    """Everything below `prefix`."""

    prefix = "/hf"

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories

    async def close(self) -> None:
        await self._repositories.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._handle(request)
        except P2PModelError as error:
            status, headers = error_of(error)
            return _json({"error": str(error)}, status, headers)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw_path, _, query = request.raw_path.partition("?")
        if len(request.raw_path) > HUB_URL_BYTES_MAX:
            raise UsageError("the address is too long")
        target = parse_target(raw_path.removeprefix(self.prefix))
        if target.call is Call.UPLOAD:
            return _json({"error": _READ_ONLY}, 501, {"X-Error-Message": _READ_ONLY})
        if target.call is Call.XET_TOKEN:
            return _json({"error": _NO_XET}, 404, {"X-Error-Message": _NO_XET})
        if target.call is Call.WHOAMI:
            return await self._whoami(request)
        if target.repo is None or target.call is Call.UNKNOWN:
            raise _unknown(request)
        if request.method not in (("POST",) if target.call is Call.PATHS_INFO else ("GET", "HEAD")):
            return _json({"error": _READ_ONLY}, 501, {"X-Error-Message": _READ_ONLY})
        if target.call is Call.RESOLVE:
            return await self._resolve(request, target)
        return await patiently(request, self._describe(request, target, _asked(query)))

    async def _find(self, request: web.Request, address: RepoAddress) -> Repository:
        return await self._repositories.find(address, _token(request))

    async def _whoami(self, request: web.Request) -> web.Response:
        token = _token(request)
        told = await self._repositories.whoami(token) if token else None
        if told is None:
            message = "this endpoint has no accounts of its own, and no hub behind it knows this token"
            return _json({"error": message}, 401, {"X-Error-Message": message})
        return _json(told)

    # --- what a repository is

    async def _describe(self, request: web.Request, target: Target, asked: dict[str, str]) -> web.Response:
        assert target.repo is not None
        paths = await _asked_paths(request, asked) if target.call is Call.PATHS_INFO else []
        repository = await self._find(request, target.repo)
        headers = {"X-Repo-Commit": repository.commit}
        expand = _true(asked.get("expand"))
        match target.call:
            case Call.INFO:
                blobs = _true(asked.get("blobs"))
                files = await repository.files() if blobs else await repository.paths()
                return _json(repository_info(repository, files), headers=headers)
            case Call.PATHS_INFO:
                return _json(await _entries(repository, paths, expand=expand), headers=headers)
            case Call.TREE:
                return await self._tree(request, target, repository, asked)
            case Call.REFS:
                return _json(references(repository), headers=headers)
            case Call.COMMITS:
                return _json(commits(repository), headers=headers)
        raise _unknown(request)

    async def _tree(
        self, request: web.Request, target: Target, repository: Repository, asked: dict[str, str]
    ) -> web.Response:
        found = tree_paths(await repository.paths(), target.path, recursive=_true(asked.get("recursive")))
        after, headers = asked.get("cursor", ""), {"X-Repo-Commit": repository.commit}
        found = [entry for entry in found if entry[0] > after]
        page, expand = found[: _page_entries(asked.get("limit"))], _true(asked.get("expand"))
        if len(page) < len(found):
            query = urlencode({**asked, "cursor": page[-1][0]})
            path = request.raw_path.partition("?")[0]
            headers["Link"] = f'<{request.scheme}://{request.host}{path}?{query}>; rel="next"'
        files = {file.path: file for file in await repository.files()} if any(not folder for _, folder in page) else {}
        entries = [
            directory_entry(repository, path, expand=expand)
            if is_directory
            else file_entry(repository, files[path], expand=expand)
            for path, is_directory in page
        ]
        return _json(entries, headers=headers)

    # --- its bytes

    async def _resolve(self, request: web.Request, target: Target) -> web.StreamResponse:
        assert target.repo is not None
        repository = await patiently(request, self._find(request, target.repo))
        try:
            file = await patiently(request, repository.file(target.path))
        except EntryNotFoundError as error:  # that it is not there is kept by clients, with the commit
            status, headers = error_of(error)
            return _json({"error": str(error)}, status, {**headers, "X-Repo-Commit": repository.commit})
        headers = {**_FILE_HEADERS, "X-Repo-Commit": repository.commit, "ETag": f'"{file.etag}"'}
        if hdrs.IF_MATCH in request.headers and not names(request.headers[hdrs.IF_MATCH], file.etag, weak=False):
            return web.Response(status=412, headers=headers)
        if names(request.headers.get(hdrs.IF_NONE_MATCH), file.etag, weak=True):
            return web.Response(status=304, headers=headers)
        asked = request.headers.get(hdrs.RANGE)
        if request.headers.get(hdrs.IF_RANGE, headers["ETag"]) != headers["ETag"]:
            asked = None
        try:
            part = parse_range(asked, file.size)
        except UnsatisfiableRangeError:
            return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{file.size}"})
        if request.method == "HEAD" or (part or (0, file.size)) == (0, 0):
            response = _file_response(headers, file, part)
            await response.prepare(request)
            await response.write_eof()
            return response
        try:
            return await _send(request, headers, repository, file, part)
        except StaleBytesError as error:
            # Asked for a part and given all of it, clients throw away what they have (RFC 9110, section 15.3.7).
            log.warning("%s is sent from its beginning: %s", file.path, error)
            return await _send(request, headers, repository, file, None)


def _file_response(headers: dict[str, str], file: RepoFile, part: tuple[int, int] | None) -> web.StreamResponse:
    start, end = part or (0, file.size)
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    response.content_type = "application/octet-stream"
    response.content_length = end - start
    if part:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return response


async def _send(
    request: web.Request,
    headers: dict[str, str],
    repository: Repository,
    file: RepoFile,
    part: tuple[int, int] | None,
) -> web.StreamResponse:
    """What fails before the first byte is an answer of its own; what fails after it can only end the connection."""
    response = _file_response(headers, file, part)
    async with aclosing(repository.read(file, *(part or (0, file.size)))) as blocks:
        first = await patiently(request, _next(blocks.__anext__))
        await response.prepare(request)
        try:
            await response.write(first)
            async for block in blocks:
                await response.write(block)
            await response.write_eof()
        except ConnectionResetError:
            log.debug("the client of %s went away", file.path)
        except P2PModelError as error:
            log.warning("%s of %s breaks off: %s", file.path, repository.address.repo_id, error)
            response.force_close()
            if request.transport is not None:
                request.transport.abort()
    return response


async def _next(step: Callable[[], Awaitable[T]]) -> T:
    """Of a generator that has a first one; an awaitable of its own, so that it can be a task."""
    return await step()


async def patiently(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Do it while the client is told that its request is understood, so that it does not give up waiting.

    Interim responses (RFC 9110, section 15.2) begin the client's clock anew; 100 is the one that all of them take.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=FIRST_BYTE_INTERIM_S))[0]:
            if request.version >= HttpVersion11 and request.transport is not None:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _entries(repository: Repository, paths: list[str], *, expand: bool) -> list[dict[str, Any]]:
    """Of these paths those that are there, without a word of the others: as on the hub."""
    known = await repository.paths()
    entries = []
    for path in dict.fromkeys(path.strip("/") for path in paths):
        if path in known:
            entries.append(file_entry(repository, await repository.file(path), expand=expand))
        elif any(other.startswith(f"{path}/") for other in known):
            entries.append(directory_entry(repository, path, expand=expand))
    return entries


async def _asked_paths(request: web.Request, asked: dict[str, str]) -> list[str]:
    """Of a form, as huggingface_hub sends it, or of JSON, as the hub takes it too."""
    body = await request.read()
    try:
        if request.content_type == "application/json":
            given = msgspec.json.decode(body, type=_PathsInfo)
            paths, expand = ([given.paths] if isinstance(given.paths, str) else given.paths), str(given.expand)
        else:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=PATHS_INFO_MAX + 16)
            paths, expand = form.get("paths", []), form.get("expand", [""])[-1]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"not a list of paths: {error}") from error
    if len(paths) > PATHS_INFO_MAX:
        raise UsageError(f"at most {PATHS_INFO_MAX} paths at once")
    asked.setdefault("expand", expand)
    return paths


class _PathsInfo(msgspec.Struct):
    paths: list[str] | str
    expand: bool = False


def _token(request: web.Request) -> Token | None:
    scheme, _, secret = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return Token(secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None


def _asked(query: str) -> dict[str, str]:
    """Raises `UsageError`."""
    try:
        found = parse_qs(query, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise UsageError("too many parameters") from error
    return {name: values[-1] for name, values in found.items()}


def _true(text: str | None) -> bool:
    """As Python and JavaScript write it: 0.36 sends `True`."""
    return (text or "").lower() in ("true", "1")


def _page_entries(limit: str | None) -> int:
    asked = int(limit) if limit and limit.isdecimal() and len(limit) < 10 else 0
    return min(asked or TREE_PAGE_ENTRIES, TREE_PAGE_ENTRIES)


def _unknown(request: web.Request) -> P2PModelError:
    return NotFoundError(f"this endpoint does not know {header_text(request.path)}")


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(value)
    told = {**_SAFE, "Cache-Control": "no-store", **(headers or {})}
    return web.Response(body=body, status=status, content_type="application/json", headers=told)
