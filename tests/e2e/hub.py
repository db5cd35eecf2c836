"""A Hugging Face Hub with one repository, on loopback: what a real `huggingface_hub` needs to fill a real cache."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = "org/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".gguf")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """`files` by path. `cut` is a path of which only half is ever sent."""

    def __init__(self, files: Mapping[str, bytes], cut: str = "") -> None:
        self.files, self.cut = files, cut

    def etag(self, path: str) -> str:
        data = self.files[path]
        return hashlib.sha256(data).hexdigest() if path.endswith(_LARGE) else git_oid(data)

    def info(self) -> dict[str, object]:
        return {
            "_id": "0" * 24,
            "id": REPO,
            "modelId": REPO,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "sha": COMMIT,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in self.files],
        }

    def tree(self) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for path, data in self.files.items():
            entry: dict[str, object] = {"type": "file", "oid": git_oid(data), "size": len(data), "path": path}
            if path.endswith(_LARGE):
                entry["lfs"] = {"oid": self.etag(path), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return entries


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in (
            f"/api/models/{REPO}",
            f"/api/models/{REPO}/revision/main",
            f"/api/models/{REPO}/revision/{COMMIT}",
        ):
            self._send(json.dumps(self.hub.info()).encode(), body=body)
        elif path.startswith(f"/api/models/{REPO}/tree/"):
            self._send(json.dumps(self.hub.tree()).encode(), body=body)
        elif path.startswith(f"/{REPO}/resolve/"):
            self._file(path.split("/", 5)[5], body=body)
        else:
            self._send(b"{}", body=body, status=404, headers={"X-Error-Code": "EntryNotFound"})

    def _file(self, path: str, *, body: bool) -> None:
        data = self.hub.files.get(path)
        if data is None:
            self._send(b"", body=body, status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"ETag": f'"{self.hub.etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if path == self.hub.cut and body:
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self._send(data, body=body, headers=headers)

    def _send(self, data: bytes, *, body: bool, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running(hub: Hub) -> Iterator[str]:
    """Its address, as `HF_ENDPOINT` takes it."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
