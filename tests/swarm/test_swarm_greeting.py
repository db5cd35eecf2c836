"""What is asked in one breath with our hello: asked once, answered to whoever asks the link, and forgotten in time."""

from __future__ import annotations

import asyncio

import pytest
from swarm_town import comes_true

from p2pmodel.errors import CorruptChunkError, PeerGoneError
from p2pmodel.limits import BUNDLED_LISTS_BYTES_MAX
from p2pmodel.model import Bundle, ChunkList, Digest, encode_bundle
from p2pmodel.swarm import Greeting, wire


def serve_model(town, peer) -> bytes:
    """Let this peer have the model's objects. Returns the chunk list."""
    lists = ChunkList.of((chunk.digest, chunk.length) for chunk in town.model.layout)
    for data in (town.model.layout.manifest.encode(), lists.encoded):
        peer.shelf.objects[Digest.of(data)] = data
    return lists.encoded


async def test_who_is_greeted_answers_with_all_that_was_asked_and_is_not_asked_again(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    chunk_list = serve_model(town, seed)
    model_id = town.model.id
    link = await leech.swarm.connect(seed.address, None, lambda: Greeting(model_id, manifest=True))
    link.expect(model_id)
    data = await leech.swarm.fetch_object(model_id, [link], lists_bytes=BUNDLED_LISTS_BYTES_MAX)
    assert Bundle.decode(data, model_id).lists == {Digest.of(chunk_list): chunk_list}
    assert await link.questions.statements(model_id) == [b"statement"]
    await comes_true(lambda: model_id in link.held)
    # The next of each is a request of its own.
    assert await link.questions.statements(model_id) == [b"statement"]
    assert await link.questions.object(model_id) == town.model.layout.manifest.encode()


async def test_a_greeting_comes_before_anything_else_and_asks_for_the_manifest_only_where_it_is_wanted(town) -> None:
    ends = []
    address = await town.hostile_seed(ends.append)
    leech = await town.peer(9)
    await leech.swarm.connect(address, None, lambda: Greeting(town.model.id, manifest=False))
    await comes_true(lambda: ends and ends[0].of(wire.RequestStatements))
    assert len(ends[0].of(wire.Subscribe)) == 1
    assert not ends[0].of(wire.RequestObject)


async def test_a_forged_bundle_ends_the_connection_of_whoever_was_greeted(town) -> None:
    ends = []
    address = await town.hostile_seed(ends.append)
    leech = await town.peer(9)
    link = await leech.swarm.connect(address, None, lambda: Greeting(town.model.id, manifest=True))
    await comes_true(lambda: ends and ends[0].of(wire.RequestObject))
    [asked] = ends[0].of(wire.RequestObject)
    ends[0].answer(asked.request, encode_bundle(town.model.layout.manifest.encode(), [bytes(36)]))
    with pytest.raises((CorruptChunkError, PeerGoneError)):
        await link.questions.object(town.model.id, lists_bytes=BUNDLED_LISTS_BYTES_MAX)
    await ends[0].until_cut_off()


async def test_more_than_was_asked_for_in_a_bundle_is_not_given_memory(town) -> None:
    ends = []
    address = await town.hostile_seed(ends.append)
    leech = await town.peer(9)
    link = await leech.swarm.connect(address)
    await comes_true(lambda: ends)
    ends[0].on_message = lambda message: ends[0].answer(message.request, bytes(1000 + 36 + 5))
    with pytest.raises(PeerGoneError):
        await leech.swarm.fetch_object(town.model.id, [link], size_bytes_max=1000, lists_bytes=36)
    await ends[0].until_cut_off()
    assert not leech.network.shared.receive_buffers.lent_bytes


async def test_a_link_that_nobody_waits_for_any_more_does_not_stay_subscribed(town) -> None:
    ends = []
    address = await town.hostile_seed(ends.append)
    leech = await town.peer(9)
    waiting = asyncio.get_running_loop().create_task(
        leech.swarm.connect(address, None, lambda: Greeting(town.model.id, manifest=True))
    )
    await asyncio.sleep(0)
    waiting.cancel()
    await comes_true(lambda: ends and ends[0].of(wire.Unsubscribe))
