"""`libtorrent` at its best: TCP only, no encryption, pieces of 4 MiB (v1), discovery off, told whom to connect to.

Measured elsewhere with the same file: 1 MiB pieces 0.28 GB/s, 4 MiB 0.49, version 2 slightly less, its defaults (uTP)
0.008. The seed checks the file before the first transfer, so it need not hash while it sends.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders.contender import Sample, Stage, Watched
from tests.benchmarks.measure import MIB, Child, child

PIECE_BYTES = 4 * MIB
_MODULE = "tests.benchmarks.contenders.bittorrent"
_SETTINGS: dict[str, object] = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "aio_threads": 4,
    "hashing_threads": 2,
    "send_buffer_watermark": 16 * MIB,
    "max_out_request_queue": 2000,
    "max_allowed_in_request_queue": 4000,
    "recv_socket_buffer_size": 4 * MIB,
    "send_socket_buffer_size": 4 * MIB,
}
"""The encryption policy 2 is `pe_disabled`."""


class Libtorrent:
    name = "libtorrent"
    what = "tuned: TCP only, encryption off, pieces of 4 MiB (v1), discovery off"

    def __init__(self) -> None:
        self._sender: Child | None = None

    def missing(self) -> str:
        if importlib.util.find_spec("libtorrent") is None:
            return "the package libtorrent is not installed (pip install 'p2pmodel[bench]')"
        return ""

    def start(self, stage: Stage) -> None:
        self._stage = stage
        self._torrent = stage.work / "file.torrent"
        self._log = stage.work / "log"
        self._sender = self._child("seed", stage.source.parent)
        self._port = self._sender.hear()["port"]

    def _child(self, mode: str, directory: Path) -> Child:
        return Child(self._argv(mode, directory), self._log)

    def _argv(self, mode: str, directory: Path) -> list[str | Path]:
        return [sys.executable, "-m", _MODULE, mode, self._torrent, directory, self._stage.source.name]

    def transfer(self, destination: Path) -> Sample:
        assert self._sender is not None
        destination.mkdir()
        with child(self._argv("fetch", destination), self._log) as receiver:
            receiver.hear()
            watched = Watched(self._sender, receiver)
            return watched.sample(receiver.ask(port=self._port)["seconds"], destination / self._stage.source.name)

    def stop(self) -> None:
        if self._sender is not None:
            self._sender.stop()


# --- in the processes of its own -------------------------------------------------------------------------------------


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _session() -> Any:
    import libtorrent

    settings: Any = {**_SETTINGS, "alert_mask": libtorrent.alert.category_t.status_notification}
    return libtorrent.session(settings)


def _create(torrent: Path, source: Path) -> None:
    import libtorrent

    files = libtorrent.file_storage()
    libtorrent.add_files(files, str(source))
    created = libtorrent.create_torrent(files, PIECE_BYTES, flags=libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(created, str(source.parent))
    torrent.write_bytes(libtorrent.bencode(created.generate()))


def _add(session: Any, torrent: Path, directory: Path) -> Any:
    import libtorrent

    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(directory)
    parameters.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    return session.add_torrent(parameters)


def _wait_whole(session: Any, handle: Any) -> None:
    while not handle.status().is_seeding:
        session.wait_for_alert(5)
        session.pop_alerts()


def _seed(torrent: Path, source: Path) -> None:
    _create(torrent, source)
    session = _session()
    handle = _add(session, torrent, source.parent)
    _wait_whole(session, handle)
    _say(port=session.listen_port())
    sys.stdin.read()


def _fetch(torrent: Path, directory: Path) -> None:
    import libtorrent

    session = _session()
    handle = _add(session, torrent, directory)
    while handle.status().state != libtorrent.torrent_status.downloading:
        session.wait_for_alert(5)
        session.pop_alerts()
    _say(ready=True)
    asked = json.loads(sys.stdin.readline())
    began = time.monotonic()
    handle.connect_peer(("127.0.0.1", asked["port"]))
    _wait_whole(session, handle)
    seconds = time.monotonic() - began
    _flush(session, handle)
    _say(seconds=seconds)
    sys.stdin.read()


def _flush(session: Any, handle: Any) -> None:
    """Until what was received is in the file, so that it can be compared; not part of the time."""
    import libtorrent

    session.apply_settings({"alert_mask": libtorrent.alert.category_t.storage_notification})
    handle.flush_cache()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        session.wait_for_alert(100)
        if any(isinstance(alert, libtorrent.cache_flushed_alert) for alert in session.pop_alerts()):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("seed", "fetch"))
    parser.add_argument("torrent", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("name")
    args = parser.parse_args()
    if args.mode == "seed":
        _seed(args.torrent, args.directory / args.name)
    else:
        _fetch(args.torrent, args.directory)


if __name__ == "__main__":
    main()
