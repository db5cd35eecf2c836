"""Every checker fires: each test breaks one promise on purpose, in a network that is otherwise in order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2pmodel.limits import OUTSTANDING_RPC_MAX, PROVIDERS_PER_KEY_MAX
from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import node_id
from p2pmodel.overlay.package import Contact
from p2pmodel.swarm.questions import Questions
from p2pmodel.testing import Net, SimPeer, ViolationError
from p2pmodel.testing.hostile_swarm import BoastingShelf, CorruptingShelf

pytestmark = pytest.mark.slow
STRANGER = SecretKey.from_seed(b"s" * 32).public


async def two_files(net: Net) -> object:
    return await net[0].publish(net.model_from({"a.bin": b"a" * 300_000, "b.bin": b"b" * 300_000}))


async def look(net: Net) -> None:
    await net.run_for(10)


# --- bytes -----------------------------------------------------------------------------------------------------------


async def test_a_have_map_that_names_a_chunk_which_is_not_on_the_disk_is_caught(swarm):
    net = await swarm(peers=3, seed=1)
    model = await two_files(net)
    await net[1].fetch(model, files=["a.bin"])
    uploads = net[1].peer.swarm._uploads
    uploads.shelf = BoastingShelf(uploads.shelf)
    with pytest.raises(ViolationError, match=r"peer 1 .*chunk 1 of .* not on its disk \[seed 1, "):
        await net[2].fetch(model)
    await net.abandon()


async def test_a_chunk_that_is_told_of_as_it_comes_in_and_was_not_written_is_caught(swarm, monkeypatch):
    net = await swarm(peers=3, seed=1, upload_bytes_per_s=1_000_000)
    model = await net[0].publish(net.random_model(size=8 << 20))
    monkeypatch.setattr(net[1].disk, "write", lambda inode, data, offset: None)
    with pytest.raises(ViolationError, match=r"peer 1 .*not on its disk"):
        await net.fetch_all(model)
    await net.abandon()


async def test_a_peer_that_boasts_on_purpose_breaks_no_promise(swarm):
    net = await swarm(peers=3, seed=1)
    model = await two_files(net)
    await net[1].fetch(model, files=["a.bin"])
    net.boast(net[1])
    assert (await net[2].fetch(model)).verified
    assert net.checks.watch.chunks_checked > 0


async def test_a_store_that_hands_over_other_bytes_is_caught(swarm):
    net = await swarm(peers=3, seed=1)
    model = await two_files(net)
    uploads = net[0].peer.swarm._uploads
    uploads.shelf = CorruptingShelf(uploads.shelf, 1.0, net.rng)
    with pytest.raises(ViolationError, match=r"peer 0 .*bytes that do not have the hash"):
        await net[1].fetch(model)
    await net.abandon()


async def test_a_fetched_file_that_is_not_on_the_disk_as_reported_is_caught(swarm, monkeypatch):
    net = await swarm(peers=2, seed=1)
    model = await two_files(net)
    kept = net[1].disk.write

    def bad_write(inode, data, offset):
        kept(inode, memoryview(bytes(data[:-1]) + b"?") if len(data) == 300_000 else data, offset)

    monkeypatch.setattr(net[1].disk, "write", bad_write)
    with pytest.raises(ViolationError, match=r"peer 1 .*a\.bin is reported as fetched and verified, and its bytes are"):
        await net[1].fetch(model)
    await net.abandon()


async def test_a_fetched_file_that_is_missing_is_caught(swarm, monkeypatch):
    net = await swarm(peers=2, seed=1)
    model = await two_files(net)
    with pytest.raises(ViolationError, match=r"a\.bin is reported as fetched and not there"):
        with net.checks.fetching(net[1], _request(model)) as watched:
            report = await net[1].fetch(model)
            watched.delivered(report, Path("/nowhere"))
        net.checks.raise_broken()
    await net.abandon()


def _request(model):
    from p2pmodel.peer.requests import FetchRequest

    return FetchRequest(ref=str(model))


# --- tables and memory -----------------------------------------------------------------------------------------------


def a_contact_at_another_address(net: Net, peer: SimPeer) -> None:
    table = peer.peer.overlay._protocol.table
    contact = next(iter(table))
    contact.move(Address("9.9.9.9", 1))


def a_contact_whose_owner_nobody_has_seen(net: Net, peer: SimPeer) -> None:
    contact = Contact(node_id(STRANGER), STRANGER, Address(net[2].host.ip4, 8764), 0.0)
    peer.peer.overlay._protocol.table.add(contact, 0.0)


def an_id_that_somebody_chose(net: Net, peer: SimPeer) -> None:
    contact = Contact(bytes(20), net[2].peer_id, Address(net[2].host.ip4, 8764), 0.0)
    peer.peer.overlay._protocol.table.add(contact, 0.0)


def the_node_itself(net: Net, peer: SimPeer) -> None:
    table = peer.peer.overlay._protocol.table
    contact = Contact(node_id(peer.peer_id), peer.peer_id, Address(peer.host.ip4, 8764), 0.0)
    table.bucket_of(contact.long_id).add_node(contact)
    table._count += 1


def a_contact_in_the_wrong_bucket(net: Net, peer: SimPeer) -> None:
    table = peer.peer.overlay._protocol.table
    table._split(table.buckets[0])
    contact = next(iter(table))
    wrong = next(bucket for bucket in table.buckets if not bucket.range[0] <= contact.long_id <= bucket.range[1])
    wrong.add_node(contact)
    table._count += 1


def a_wrong_count(net: Net, peer: SimPeer) -> None:
    peer.peer.overlay._protocol.table._count += 1


def a_gap(net: Net, peer: SimPeer) -> None:
    low, high = peer.peer.overlay._protocol.table.buckets[0].range
    peer.peer.overlay._protocol.table.buckets[0].range = (low + 1, high)


def requests_without_end(net: Net, peer: SimPeer) -> None:
    calls = peer.peer.overlay._protocol.calls
    calls._outstanding.update((number.to_bytes(20, "big"), None) for number in range(OUTSTANDING_RPC_MAX + 1))


def providers_without_end(net: Net, peer: SimPeer) -> None:
    peer.peer.overlay._protocol.providers._by_key[bytes(20)] = [None] * (PROVIDERS_PER_KEY_MAX + 1)


def tasks_without_end(net: Net, peer: SimPeer) -> None:
    for _ in range(5_000):
        peer.running.process.context.run(asyncio.create_task, asyncio.sleep(3600))


def a_queue_that_nobody_reads(net: Net, peer: SimPeer) -> None:
    channel = net.internet.channels_by_process()[peer.running.process][0]
    channel._queued_bytes = 5 << 20


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (a_contact_at_another_address, "where it has never been"),
        (a_contact_whose_owner_nobody_has_seen, "where it has never been"),
        (an_id_that_somebody_chose, "not derived from its key"),
        (the_node_itself, "has the node itself"),
        (a_contact_in_the_wrong_bucket, "bucket where it does not belong"),
        (a_wrong_count, "counts 3 contacts and has 2"),
        (a_gap, "gap or overlap"),
        (requests_without_end, "requests of the overlay under way"),
        (providers_without_end, "providers of one key"),
        (tasks_without_end, "tasks, where"),
        (a_queue_that_nobody_reads, "bytes queued to"),
    ],
)
async def test_what_a_peer_keeps_is_looked_at_again_and_again(swarm, breaks, says):
    net = await swarm(peers=3, seed=1)
    model = await two_files(net)
    await net[1].fetch(model)
    await look(net)
    assert net.checks.looks >= 2
    breaks(net, net[1])
    with pytest.raises(ViolationError, match=f"peer 1 .*{says}"):
        await look(net)
    await net.abandon()


# --- progress --------------------------------------------------------------------------------------------------------


async def test_a_fetch_that_stands_still_beside_a_living_holder_is_caught(swarm, monkeypatch):
    net = await swarm(peers=3, seed=1)
    model = await two_files(net)
    asked = []
    ask = Questions.chunk

    def ask_once(questions: Questions, model_id, index, digest, request) -> int:
        asked.append(index)
        # Who has never delivered anything is given up sooner.
        first = len(asked) == 1
        return ask(questions, model_id, index, digest, request) if first else questions.requests.add(request)

    monkeypatch.setattr(Questions, "chunk", ask_once)
    with pytest.raises(ViolationError, match=r"peer 1 .*fetch"):
        await net[1].fetch(model)
    assert net.clock.monotonic() < 200
    await net.abandon()


async def test_a_fetch_whose_holders_are_all_cut_off_is_nobodys_fault(swarm):
    net = await swarm(peers=3, seed=1, upload_bytes_per_s=1_000_000)
    model = await net[0].publish(net.random_model(size=20 << 20))
    fetch = asyncio.create_task(net[1].fetch(model))
    await net.run_for(5)
    net.partition([net[0]])
    await net.run_for(200)
    assert fetch.done()
    assert fetch.exception() is not None


# --- the end ---------------------------------------------------------------------------------------------------------


def leave_a_task(peer: SimPeer) -> object:
    return peer.running.process.context.run(asyncio.create_task, asyncio.sleep(3600))


def leave_a_file(peer: SimPeer) -> object:
    peer.write("/left", b"")
    return peer.running.files.open_file(Path("/left"))


def leave_a_database(peer: SimPeer) -> object:
    return peer.running.files.connect(Path("/data/left.sqlite3"))


@pytest.mark.parametrize(
    ("leave", "says"),
    [
        (leave_a_task, "left 1 tasks behind: sleep"),
        (leave_a_file, "left files open: /left"),
        (leave_a_database, "left files open: /data/left"),
    ],
)
async def test_what_a_peer_leaves_behind_when_it_stops_is_caught(swarm, leave, says):
    net = await swarm(peers=2, seed=1)
    kept = leave(net[1])
    with pytest.raises(ViolationError, match=f"peer 1 .*{says}"):
        await net[1].stop()
    del kept
    await net.abandon()


async def test_a_socket_and_a_connection_that_are_left_open_are_caught(swarm):
    net = await swarm(peers=2, seed=1)
    model = await two_files(net)
    await net[1].fetch(model)
    running = net[1].running
    await running.network.open_datagrams("0.0.0.0", 9, lambda data, source: None)
    await running.network.connect(Address(net[0].host.ip4, 8764), None)
    with pytest.raises(ViolationError, match=r"left 1 sockets open .*\(and 1 more\)"):
        await net[1].stop()
    await net.abandon()


async def test_a_failure_in_the_background_that_a_daemon_would_only_log_is_caught(swarm):
    async def fails() -> None:
        raise ValueError("a mistake")

    net = await swarm(peers=2, seed=1)
    net[1].running.process.context.run(net[1].peer.spawn, fails())
    with pytest.raises(ViolationError, match=r"peer 1 .*a background task failed: ValueError\('a mistake'\)"):
        await net.run_for(1)
    await net.abandon()


async def test_a_test_that_never_ends_is_ended(swarm):
    net = await swarm(peers=2, seed=1, time_limit_s=600)
    with pytest.raises(ViolationError, match="not over after 60"):
        await net.run_for(10_000)
    await net.abandon()
