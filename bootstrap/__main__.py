"""`python -m bootstrap`: a node of the overlay and nothing else. It introduces peers; it holds and serves no models."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from p2pmodel.errors import DecodeError, P2PModelError, RefusedError
from p2pmodel.limits import NEIGHBOURS_FILE_BYTES_MAX, STOP_TIMEOUT_S
from p2pmodel.model import SecretKey
from p2pmodel.net import Address, Identity, RealNetwork, network_id, split_host_port
from p2pmodel.overlay import CLUSTER, INTERNET, Overlay
from p2pmodel.peer.config import NetworkConfig, default_network, load_network
from p2pmodel.peer.files import make_private_directory, replace_file, storage_errors
from p2pmodel.peer.keyring import Keyring

DEFAULT_LISTEN = "[::]:8764"
NEIGHBOURS_NAME = "neighbours.json"
_SAVE_INTERVAL_S = 600.0
log = logging.getLogger("bootstrap")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code (4: port in use, 8: refused)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="bootstrap: %(message)s")
    try:
        return asyncio.run(_run(options))
    except P2PModelError as error:
        print(f"bootstrap: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bootstrap", description="Run an entry node of the overlay.")
    parser.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="UDP; port 0 takes a free one; 0.0.0.0 is IPv4 alone",
    )
    parser.add_argument("--network", type=Path, metavar="FILE", help="TOML with name, bootstrap and profile")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="keeps the node's key and neighbours")
    parser.add_argument("--json", action="store_true", help="say on stdout, as one JSON line, that it is ready")
    return parser


async def _run(options: argparse.Namespace) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    host, port = split_host_port(options.listen)
    config = default_network() if options.network is None else await load_network(options.network)
    with _data_directory(options.data_dir) as data_dir:
        key = SecretKey.generate() if data_dir is None else await Keyring(data_dir).node_key()
        identity = network_id(config.name)
        network = RealNetwork(Identity(key=key, network_id=identity))
        overlay = Overlay(
            key=key,
            network=network,
            network_id=identity,
            rng=random.SystemRandom(),
            profile=CLUSTER if config.profile == "cluster" else INTERNET,
        )
        try:
            address = await overlay.start(host, port)
            _say_ready(options, key, address, config)
            await _serve(overlay, address, config, data_dir, stopping)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await overlay.stop()
            await network.close()
    return 0


def _say_ready(options: argparse.Namespace, key: SecretKey, address: Address, config: NetworkConfig) -> None:
    peer_id = key.public.text
    if options.json:
        print(json.dumps({"event": "ready", "peer_id": peer_id, "listen": str(address)}), flush=True)
    print(f"entry node {peer_id} of network {config.name!r} listens on {address}", file=sys.stderr)


async def _serve(
    overlay: Overlay, address: Address, config: NetworkConfig, data_dir: Path | None, stopping: asyncio.Event
) -> None:
    joining = asyncio.create_task(_join(overlay, address, config, data_dir))
    try:
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAVE_INTERVAL_S):
                    await stopping.wait()
            if data_dir is not None:
                await _save(overlay, data_dir)
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)


async def _join(overlay: Overlay, own: Address, config: NetworkConfig, data_dir: Path | None) -> None:
    """Meet the other entry nodes and the neighbours of the last run; alone is a fine way to begin."""
    if data_dir is not None:
        _remember(overlay, data_dir)
    entries = [address for text in config.bootstrap for address in await _resolve(text)]
    await overlay.bootstrap([address for address in entries if address != own])


async def _resolve(text: str) -> list[Address]:
    """The addresses of an entry node as its operator wrote it; none, and a warning, where the name is unknown."""
    host, port = split_host_port(text)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        return [Address(str(entry[4][0]), port) for entry in found]
    except (OSError, DecodeError):
        log.warning("the entry node %s has no address now", text)
        return []


@contextlib.contextmanager
def _data_directory(path: Path | None) -> Iterator[Path | None]:
    """The directory, made and locked. Raises `RefusedError` where another node runs in it."""
    if path is None:
        yield None
        return
    path = path.expanduser().absolute()
    with storage_errors(f"use the data directory {path}"):
        make_private_directory(path)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(f"another node runs in the data directory {path}") from error
        yield path
    finally:
        os.close(descriptor)


async def _save(overlay: Overlay, data_dir: Path) -> None:
    try:
        await replace_file(data_dir / NEIGHBOURS_NAME, overlay.saved_neighbours())
    except OSError as error:
        log.warning("cannot keep the neighbours for the next start: %s", error.strerror)


def _remember(overlay: Overlay, data_dir: Path) -> None:
    try:
        with (data_dir / NEIGHBOURS_NAME).open("rb") as file:
            overlay.remember(file.read(NEIGHBOURS_FILE_BYTES_MAX + 1))
    except FileNotFoundError:
        pass
    except (OSError, DecodeError):
        log.warning("the neighbours of the last run cannot be read; starting without them")


if __name__ == "__main__":
    sys.exit(main())
