"""A hub on loopback that behaves like the Hugging Face Hub, well or badly as a test wants it: real HTTP, real sockets.

Repositories have commits, branches, files in LFS and others; what is in LFS is redirected to a second origin (another
port) with a signed URL that expires, with Xet headers on the way. `faults` says what goes wrong. It counts what it was
asked and the bytes of files that it gave: `async with Hub() as hub`, then `hub.url` is what `--origin` or `HF_ENDPOINT`
takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

from p2pmodel.gateway.git import blob_oid, pointer
from p2pmodel.testing.hub_content import Repo, RepoContent, in_lfs

_SECRET = b"the hub's own"
_PIECE_BYTES = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True)
class Faults:
    """What goes wrong, from now on."""

    rate_limited: int = 0
    """So many of the next requests are answered 429."""
    retry_after_s: float = 0
    status: int = 0
    """With which every request is answered, if not 0."""
    bytes_per_s: float | None = None
    """Of each answer that carries a file."""
    cut: Counter[str] = field(default_factory=Counter)
    """How often the content of a path ends half-way, from the next time on."""
    wrong: set[str] = field(default_factory=set)
    """Paths whose content has another last byte."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that the tree and the headers give out instead of the true ones."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Likewise hashes."""
    location: str = ""
    """Where files in LFS are redirected instead."""
    loop: bool = False
    """Files are redirected to themselves."""
    stalled: asyncio.Event | None = None
    """Answers that carry a file wait for it, in the middle."""
    header_bytes: int = 0
    json_bytes: int = 0
    """So much more in each header, in each answer in JSON."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request. `what` is `info`, `tree`, `paths-info`, `resolve`, `content`, `xet`, `whoami` or `other`."""

    method: str
    what: str
    path: str
    authorization: str
    range: str
    etag: str = ""
    """Of `If-None-Match`."""


class _Fault(Exception):
    """An answer that is not the one that was asked for."""

    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


class Hub:
    """`tokens` are those that may read what is private or gated. `link_s` is how long a signed URL holds."""

    def __init__(self, *, xet: bool = True, link_s: float = 3600.0, now: Callable[[], float] = time.time) -> None:
        self.faults = Faults()
        self.tokens: set[str] = set()
        self.seen: list[Seen] = []
        self.bytes_sent = 0
        """Of files, over both ports."""
        self.tree_page = 1000
        """Entries in one answer; the next is named in `Link`."""
        self.url = self.content_url = ""
        self._xet, self._link_s, self._now = xet, link_s, now
        self._repos: dict[tuple[str, str], Repo] = {}
        self._contents: dict[str, tuple[str, bytes]] = {}
        """What is in LFS, by SHA-256, with its path."""
        self._runners: list[web.AppRunner] = []

    # --- what it has

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "models",
        private: bool = False,
        gated: str = "",
        revision: str = "main",
    ) -> str:
        """A repository, or the next commit of one, which `revision` names then. Returns the commit."""
        repo = self._repos.setdefault((kind, repo_id), Repo(kind, repo_id, private, gated))
        repo.private, repo.gated = private, gated
        content = {path: RepoContent(files[path]) for path in sorted(files)}
        told = json.dumps([repo_id, len(repo.commits), *((path, file.oid) for path, file in content.items())])
        commit = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
        repo.commits[commit] = content
        repo.refs[revision] = commit
        for path, file in content.items():
            if in_lfs(path):
                self._contents[file.sha256] = path, file.data
        return commit

    def asked(self, what: str, method: str = "") -> int:
        """How many requests of this kind there were."""
        return sum(one.what == what and method in ("", one.method) for one in self.seen)

    def forget(self) -> None:
        """Count from nothing."""
        self.seen.clear()
        self.bytes_sent = 0

    # --- life

    async def __aenter__(self) -> Hub:
        self.url = await self._serve(self._answer)
        self.content_url = await self._serve(self._content)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.die()

    async def die(self) -> None:
        """Nobody listens any more; what is being sent is cut."""
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()

    async def _serve(self, handler: Callable[[web.Request], Any]) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
        self._runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    # --- the hub itself

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        what, act = self._route(parts)
        self._note(request, what)
        try:
            self._may_fail()
            answer: web.StreamResponse = await act(request)
            return answer
        except _Fault as fault:
            headers = {"X-Error-Message": str(fault)}
            headers |= {"X-Error-Code": fault.code} if fault.code else {}
            headers |= {"X-Repo-Commit": fault.commit} if fault.commit else {}
            headers |= {"Retry-After": f"{self.faults.retry_after_s:g}"} if fault.status == 429 else {}
            body = json.dumps({"error": str(fault)}).encode()
            return web.Response(status=fault.status, headers=headers, body=body, content_type="application/json")

    def _note(self, request: web.Request, what: str) -> None:
        head = request.headers
        told = head.get("Authorization", ""), head.get("Range", ""), head.get("If-None-Match", "")
        self.seen.append(Seen(request.method, what, request.rel_url.raw_path, *told))

    def _may_fail(self) -> None:
        if self.faults.rate_limited:
            self.faults.rate_limited -= 1
            raise _Fault(429, message="too many requests")
        if self.faults.status:
            raise _Fault(self.faults.status, message="the hub has trouble")

    def _route(self, parts: list[str]) -> tuple[str, Callable[[web.Request], Any]]:
        if parts[:1] == ["api"]:
            return self._route_api(parts[1:])
        kind = parts.pop(0) if parts[0] in ("datasets", "spaces") else "models"
        if "resolve" in parts[1:3] and len(parts) > parts.index("resolve") + 2:
            at = parts.index("resolve")
            repo_id, revision, path = "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :])
            return "resolve", lambda request: self._resolve(request, kind, repo_id, revision, path)
        return "other", self._nothing

    def _route_api(self, parts: list[str]) -> tuple[str, Callable[[web.Request], Any]]:
        if parts == ["whoami-v2"]:
            return "whoami", self._whoami
        kind, rest = parts[0], parts[1:]
        verbs = ("revision", "tree", "paths-info", "xet-read-token")
        at = next((at for at in (1, 2) if len(rest) > at and rest[at] in verbs), len(rest))
        repo_id, verb = "/".join(rest[:at]), rest[at] if at < len(rest) else "revision"
        revision = rest[at + 1] if at + 1 < len(rest) else "main"
        if verb == "tree":
            return "tree", lambda request: self._tree(request, kind, repo_id, revision, "/".join(rest[at + 2 :]))
        if verb == "paths-info":
            return "paths-info", lambda request: self._paths_info(request, kind, repo_id, revision)
        if verb == "xet-read-token":
            return "xet", self._nothing
        return "info", lambda request: self._info(request, kind, repo_id, revision)

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise _Fault(404, message="Not Found")

    async def _whoami(self, request: web.Request) -> web.StreamResponse:
        if not self._known(request):
            raise _Fault(401, message="Invalid user token.")
        return self._json(request, {"type": "user", "name": "somebody"})

    def _known(self, request: web.Request) -> bool:
        return request.headers.get("Authorization", "").removeprefix("Bearer ") in self.tokens

    def _repo(self, request: web.Request, kind: str, repo_id: str, revision: str) -> tuple[Repo, str]:
        repo = self._repos.get((kind, repo_id))
        if repo is None or (repo.private and not self._known(request)):
            raise _Fault(401, "RepoNotFound", "Repository Not Found")  # the hub says 401 for either
        commit = repo.commit(revision)
        if commit is None:
            raise _Fault(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    async def _info(self, request: web.Request, kind: str, repo_id: str, revision: str) -> web.StreamResponse:
        repo, commit = self._repo(request, kind, repo_id, revision)
        return self._json(
            request,
            {
                "_id": "0" * 24,
                "id": repo_id,
                "modelId": repo_id,
                "private": repo.private,
                "gated": repo.gated or False,
                "disabled": False,
                "downloads": 1,
                "likes": 0,
                "tags": [],
                "sha": commit,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path} for path in repo.commits[commit]],
            },
        )

    def _entries(self, repo: Repo, commit: str) -> list[dict[str, Any]]:
        return [self._entry(path, file) for path, file in repo.commits[commit].items()]

    def _entry(self, path: str, file: RepoContent) -> dict[str, Any]:
        size = self.faults.sizes.get(path, len(file.data))
        if not in_lfs(path):
            return {"type": "file", "oid": file.oid, "size": size, "path": path}
        sha256 = self.faults.sha256.get(path, file.sha256)
        lfs = {"oid": sha256, "size": size, "pointerSize": 130}
        entry = {"type": "file", "oid": blob_oid(pointer(sha256, size)), "size": size, "path": path, "lfs": lfs}
        return entry | ({"xetHash": sha256[::-1]} if self._xet else {})

    async def _tree(
        self, request: web.Request, kind: str, repo_id: str, revision: str, under: str
    ) -> web.StreamResponse:
        repo, commit = self._repo(request, kind, repo_id, revision)
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        prefix = f"{under}/" if under else ""
        entries: dict[str, dict[str, Any]] = {}
        for entry in self._entries(repo, commit):
            if not entry["path"].startswith(prefix):
                continue
            parts = entry["path"][len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                path = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
                entries[path] = {"type": "directory", "oid": oid, "size": 0, "path": path}
            entries[entry["path"]] = entry
        listed = [one for path, one in entries.items() if recursive or "/" not in path[len(prefix) :]]
        if under and not listed:
            raise _Fault(404, "EntryNotFound", f"{under} does not exist", commit)
        start = int(request.query.get("cursor", "0"))
        headers = {}
        if start + self.tree_page < len(listed):
            url = request.url.update_query(cursor=str(start + self.tree_page))
            headers["Link"] = f'<{url}>; rel="next"'
        return self._json(request, listed[start : start + self.tree_page], headers)

    async def _paths_info(self, request: web.Request, kind: str, repo_id: str, revision: str) -> web.StreamResponse:
        repo, commit = self._repo(request, kind, repo_id, revision)
        if request.content_type == "application/json":
            wanted = (await request.json())["paths"]
        else:
            wanted = [str(one) for one in (await request.post()).getall("paths", [])]
        return self._json(request, [entry for entry in self._entries(repo, commit) if entry["path"] in wanted])

    def _json(self, request: web.Request, value: object, headers: Mapping[str, str] | None = None) -> web.Response:
        body = json.dumps(value).encode() + b" " * self.faults.json_bytes
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
        told = {"ETag": etag, **(headers or {})}
        if self.faults.header_bytes:
            told["X-Much"] = "x" * self.faults.header_bytes
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=told)
        return web.Response(body=body, headers=told, content_type="application/json")

    async def _resolve(
        self, request: web.Request, kind: str, repo_id: str, revision: str, path: str
    ) -> web.StreamResponse:
        repo, commit = self._repo(request, kind, repo_id, revision)
        if repo.gated and not self._known(request):
            message = f"Access to model {repo_id} is restricted. You must be authenticated to access it."
            raise _Fault(403 if request.headers.get("Authorization") else 401, "GatedRepo", message)
        file = repo.commits[commit].get(path)
        if file is None:
            raise _Fault(404, "EntryNotFound", f"{path} does not exist on {commit!r}", commit)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.faults.loop:
            return web.Response(status=302, headers=headers | {"Location": str(request.rel_url)})
        if not in_lfs(path):
            return await self._send(request, path, file.data, headers | {"ETag": f'"{file.oid}"'})
        sha256 = self.faults.sha256.get(path, file.sha256)
        headers |= {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(self.faults.sizes.get(path, len(file.data)))}
        headers["Location"] = self.faults.location or self._signed(file.sha256)
        if self._xet:
            token = f"{self.url}/api/{kind}/{repo_id}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": sha256[::-1], "Link": f'<{token}>; rel="xet-auth"'}
        return web.Response(status=302, headers=headers, text="Found")

    # --- the other origin, where large content lies

    def _signed(self, sha256: str) -> str:
        expires = f"{self._now() + self._link_s:.3f}"
        return f"{self.content_url}/lfs/{sha256}?expires={expires}&signature={quote(_signature(sha256, expires))}"

    async def _content(self, request: web.Request) -> web.StreamResponse:
        self._note(request, "content")
        sha256 = request.rel_url.raw_path.rpartition("/")[2]
        expires = request.query.get("expires", "0")
        good = hmac.compare_digest(_signature(sha256, expires), request.query.get("signature", ""))
        if not good or float(expires) < self._now() or sha256 not in self._contents:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        path, data = self._contents[sha256]
        return await self._send(request, path, data, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    async def _send(self, request: web.Request, path: str, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        if path in self.faults.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, end, status = 0, len(data), 200
        if match := _RANGE.fullmatch(request.headers.get("Range", "")):
            start, status = int(match[1]), 206
            end = min(int(match[2]) + 1, len(data)) if match[2] else len(data)
            if start >= len(data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - start
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send_body(request, response, path, memoryview(data)[start:end])
        return response

    async def _send_body(self, request: web.Request, response: web.StreamResponse, path: str, data: memoryview) -> None:
        cut_at = -1
        if self.faults.cut[path]:
            self.faults.cut[path] -= 1
            cut_at = len(data) // 2
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            if at >= cut_at >= 0:
                assert request.transport is not None
                request.transport.abort()
                return
            if self.faults.stalled is not None and at >= len(data) // 2:
                await self.faults.stalled.wait()
            try:
                await response.write(piece)
            except ConnectionError:
                return  # whoever asked has gone
            self.bytes_sent += len(piece)
            if self.faults.bytes_per_s:
                await asyncio.sleep(len(piece) / self.faults.bytes_per_s)


def _signature(sha256: str, expires: str) -> str:
    return hmac.new(_SECRET, f"{sha256} {expires}".encode(), "sha256").hexdigest()
