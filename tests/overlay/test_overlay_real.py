"""Nodes on real loopback UDP, and the entry-node program as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pmodel.model import SecretKey
from p2pmodel.net import Address, Identity, RealNetwork, network_id
from p2pmodel.overlay import CLUSTER, Overlay, Reach
from p2pmodel.overlay.dial_back import NO_TOKEN
from p2pmodel.overlay.neighbours import decode_neighbours
from p2pmodel.overlay.node_id import NO_ID
from p2pmodel.overlay.package import FRAME_BYTES, REQUEST, frame
from p2pmodel.overlay.wire import DialledRequest, decode_reply, decode_request, dial_back, encode_request
from p2pmodel.peer.config import default_network

ROOT = Path(__file__).parents[2]
KEY = bytes(range(20))


@asynccontextmanager
async def node(
    name: str = "test", *, client_only: bool | None = False
) -> AsyncIterator[tuple[Overlay, Address, SecretKey]]:
    key, identity = SecretKey.generate(), network_id(name)
    network = RealNetwork(Identity(key=key, network_id=identity))
    overlay = Overlay(
        key=key,
        network=network,
        network_id=identity,
        rng=random.SystemRandom(),
        profile=CLUSTER,
        client_only=client_only,
    )
    try:
        yield overlay, await overlay.start("127.0.0.1", 0), key
    finally:
        await overlay.stop()
        await network.close()


class Program:
    """`python -m bootstrap` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bootstrap",
            *arguments,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            said: dict[str, Any] = json.loads(await self.process.stdout.readline())
        assert said["event"] == "ready"
        return said

    async def end(self, number: int | None = None) -> tuple[int, str]:
        """Exit code and stderr, after a signal where one is given."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(10):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


@pytest.mark.slow
async def test_nodes_on_real_sockets_find_and_lose_a_provider() -> None:
    async with node() as (first, entry, _), node() as (publisher, at, key), node(client_only=True) as (reader, _, _):
        assert await publisher.bootstrap([entry]) == 1
        assert await reader.bootstrap([entry]) == 1
        assert await publisher.provide([KEY]) == 1
        found = [provider async for provider in reader.providers(KEY)]
        assert [(provider.peer, provider.address) for provider in found] == [(key.public, at)]
        assert [peer for peer, _ in first.neighbours()] == [key.public]
        await publisher.withdraw()
        assert [provider async for provider in reader.providers(KEY)] == []
        assert first.stats().records_held == 0
        assert first.stats().bytes_in > 0


async def test_a_datagram_of_garbage_leaves_a_real_socket_open() -> None:
    async with node() as (first, entry, _), node() as (second, _, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for data in (b"", b"\0", b"\1" * 22, os.urandom(1400), os.urandom(9000), b"\0" * 21 + b"\x91" * 1300):
                attacker.sendto(data, (entry.host, entry.port))
        assert await second.bootstrap([entry]) == 1
        assert first.stats().datagrams_in >= 6


async def test_nodes_on_loopback_ask_nobody_whether_they_are_reached_and_stay_what_they_are() -> None:
    async with AsyncExitStack() as stack:
        nodes = [(await stack.enter_async_context(node(client_only=None)))[:2] for _ in range(5)]
        for overlay, _ in nodes[1:]:
            assert await overlay.bootstrap([nodes[0][1]]) == 1
        for overlay, _ in nodes:
            assert overlay._self_check is not None
            before = overlay.stats().datagrams_out
            await overlay._self_check._check()
            stats = overlay.stats()
            assert (stats.client_only, stats.reachability) == (False, Reach.UNKNOWN)
            assert stats.datagrams_out == before


async def test_a_node_on_a_real_socket_dials_back_from_a_second_port() -> None:
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.setblocking(False)
    loop = asyncio.get_running_loop()

    async def heard() -> tuple[bytes, Address]:
        async with asyncio.timeout(10):
            data, source = await loop.sock_recvfrom(asker, 2000)
        return data, Address(*source)

    with asker:
        async with node() as (_, at, _):
            token, nonce = NO_TOKEN, bytes(range(16))
            while True:
                asked = encode_request(dial_back(network_id("test"), NO_ID, token, nonce))
                asker.sendto(frame(REQUEST, bytes(20), asked), (at.host, at.port))
                data, source = await heard()
                if data[0] == REQUEST:
                    break
                token = decode_reply(dial_back(network_id("test"), NO_ID, token, nonce), data[FRAME_BYTES:]).token
            assert decode_request(data[FRAME_BYTES:]) == DialledRequest(network_id("test"), nonce)
            assert source.host == at.host
            assert source.port != at.port
        # The node is gone, and its second port is free.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind((source.host, source.port))


@pytest.mark.slow
async def test_the_entry_node_introduces_peers_keeps_its_key_and_stops_on_either_signal(tmp_path: Path) -> None:
    data_dir = tmp_path / "entry"
    arguments = ("--listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--json")
    program = await Program.start(*arguments)
    ready = await program.ready()
    entry = Address.parse(ready["listen"])
    name = default_network().name
    async with node(name) as (publisher, _, key), node(name) as (reader, _, _):
        assert await publisher.bootstrap([entry]) == 1
        assert await reader.bootstrap([entry]) == 1
        assert {peer.text for peer, _ in reader.neighbours()} == {ready["peer_id"], key.public.text}
        await publisher.provide([KEY])
        assert [provider.peer async for provider in reader.providers(KEY)] == [key.public]
        refused = await Program.start(*arguments)
        code, errors = await refused.end()
        assert (code, errors.count("\n")) == (8, 1)
        assert await program.end(signal.SIGTERM) == (0, ready_line(ready, name))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in data_dir.rglob("*.pem")}
    assert modes == {0o600}
    saved = decode_neighbours((data_dir / "neighbours.json").read_bytes())
    assert key.public in [each.peer for each in saved]
    again = await Program.start(*arguments)
    assert (await again.ready())["peer_id"] == ready["peer_id"]
    assert (await again.end(signal.SIGINT))[0] == 0


def ready_line(ready: dict[str, Any], name: str) -> str:
    return f"entry node {ready['peer_id']} of network {name!r} listens on {ready['listen']}\n"


@pytest.mark.slow
async def test_an_entry_node_on_a_taken_port_says_so_in_one_sentence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        code, errors = await (await Program.start("--listen", f"127.0.0.1:{port}", "--json")).end()
    assert code == 4
    assert errors.startswith("bootstrap: error: ")
    assert errors.count("\n") == 1
    assert str(port) in errors


@pytest.mark.slow
async def test_entry_nodes_of_a_network_file_meet_and_other_networks_stay_outside(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text('name = "ours"\n')
    first = await Program.start("--listen", "127.0.0.1:0", "--network", str(file), "--json")
    entry = Address.parse((await first.ready())["listen"])
    file.write_text(f'name = "ours"\nbootstrap = ["{entry}"]\n')
    second = await Program.start("--listen", "127.0.0.1:0", "--network", str(file), "--json")
    other = Address.parse((await second.ready())["listen"])
    async with node("ours") as (ours, _, _), node("theirs") as (theirs, _, _):
        assert await ours.bootstrap([other]) == 1
        async with asyncio.timeout(10):
            while entry not in [address for _, address in ours.neighbours()]:
                await ours.bootstrap([other])
        assert await theirs.bootstrap([entry, other]) == 0
    for program in (first, second):
        assert (await program.end(signal.SIGTERM))[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--listen", "nonsense"), 2), (("--network", "/nonexistent/network.toml"), 3), (("--unknown",), 2)],
)
async def test_bad_options_of_the_entry_node_have_their_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    ended, errors = await (await Program.start(*arguments)).end()
    assert ended == code
    assert "Traceback" not in errors
