"""`libtorrent` at its best: TCP only, no encryption, pieces of 4 MiB, discovery off, told whom to connect to.

Measured elsewhere with the same file: 1 MiB pieces 0.28 GB/s, 4 MiB 0.49, version 2 slightly less, its defaults (uTP)
0.008. The seeds check the file before the first transfer, so they need not hash while they send.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders.contender import SHAPES, Place, Sample, Shape, Stage, Watched, ask_all
from tests.benchmarks.measure import MIB, Child, child, run_command

PIECE_BYTES = 4 * MIB
_MODULE = "tests.benchmarks.contenders.bittorrent"
_SETTINGS: dict[str, object] = {
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
}
"""The encryption policy 2 is `pe_disabled`."""
_LOOPBACK_SETTINGS: dict[str, object] = {"recv_socket_buffer_size": 4 * MIB, "send_socket_buffer_size": 4 * MIB}
"""On a path with latency buffers of a fixed size are less than what the kernel would take by itself."""


class Libtorrent:
    shapes: Sequence[Shape] = SHAPES

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.what = f"tuned: TCP only, encryption off, pieces of 4 MiB (v{version}), discovery off"
        self._version = version
        self._senders: list[Child] = []

    def missing(self) -> str:
        if importlib.util.find_spec("libtorrent") is None:
            return "the package libtorrent is not installed (pip install 'p2pmodel[bench]')"
        return ""

    def start(self, stage: Stage, senders: int) -> None:
        self._stage = stage
        self._torrent = stage.work / "file.torrent"
        run_command(self._argv(Place(), "create", stage.source.parent), stage.log)
        seed = self._argv(stage.sending, "seed", stage.source.parent)
        self._senders += [Child(seed, stage.log) for _ in range(senders)]
        self._seeds = [(stage.sending.host, sender.hear()["port"]) for sender in self._senders]

    def _argv(self, place: Place, mode: str, directory: Path) -> list[str | Path]:
        options = ["--host", place.host, "--version", str(self._version)]
        return place.argv(
            sys.executable, "-m", _MODULE, *options, mode, self._torrent, directory, self._stage.source.name
        )

    def transfer(self, destinations: Sequence[Path]) -> Sample:
        place = self._stage.receiving
        with ExitStack() as stack:
            receivers = []
            for destination in destinations:
                destination.mkdir(parents=True)
                argv = self._argv(place, "fetch", destination)
                receivers.append(stack.enter_context(child(argv, self._stage.log)))
            others = [(place.host, receiver.hear()["port"]) for receiver in receivers]
            watched = Watched(self._senders, receivers)
            # Every pair is connected, by one of the two.
            questions = [{"peers": [*self._seeds, *others[:number]]} for number in range(len(receivers))]
            files = [destination / self._stage.source.name for destination in destinations]
            return watched.sample(ask_all(receivers, questions), files)

    def stop(self) -> None:
        for sender in self._senders:
            sender.stop()


# --- in the processes of its own -------------------------------------------------------------------------------------


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _session(host: str) -> Any:
    import libtorrent

    settings: Any = {
        **_SETTINGS,
        **(_LOOPBACK_SETTINGS if host.startswith("127.") else {}),
        "listen_interfaces": f"{host}:0",
        "alert_mask": libtorrent.alert.category_t.status_notification,
    }
    return libtorrent.session(settings)


def _create(torrent: Path, source: Path, version: int) -> None:
    import libtorrent

    files = libtorrent.file_storage()
    libtorrent.add_files(files, str(source))
    kind = libtorrent.create_torrent.v1_only if version == 1 else libtorrent.create_torrent.v2_only
    created = libtorrent.create_torrent(files, PIECE_BYTES, flags=kind)
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


def _seed(host: str, torrent: Path, directory: Path) -> None:
    session = _session(host)
    handle = _add(session, torrent, directory)
    _wait_whole(session, handle)
    _say(port=session.listen_port())
    sys.stdin.read()


def _fetch(host: str, torrent: Path, directory: Path) -> None:
    import libtorrent

    session = _session(host)
    handle = _add(session, torrent, directory)
    while handle.status().state != libtorrent.torrent_status.downloading:
        session.wait_for_alert(5)
        session.pop_alerts()
    _say(port=session.listen_port())
    asked = json.loads(sys.stdin.readline())
    began = time.monotonic()
    for peer in asked["peers"]:
        handle.connect_peer(tuple(peer))
    _wait_whole(session, handle)
    ended = time.monotonic()
    _flush(session, handle)
    _say(began=began, ended=ended)
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
    parser.add_argument("mode", choices=("create", "seed", "fetch"))
    parser.add_argument("torrent", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--version", type=int, default=1)
    args = parser.parse_args()
    if args.mode == "create":
        _create(args.torrent, args.directory / args.name, args.version)
    elif args.mode == "seed":
        _seed(args.host, args.torrent, args.directory)
    else:
        _fetch(args.host, args.torrent, args.directory)


if __name__ == "__main__":
    main()
