"""A peer that is a cache, in a simulated network: what it takes up, what it serves, and what it does not do."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodel.model import Digest, ModelId
from p2pmodel.net import Address
from p2pmodel.overlay import overlay_key
from p2pmodel.peer.near_caches import CACHE_KEY, NearCaches

MIB = 1 << 20
pytestmark = pytest.mark.slow


async def neighbourhood(swarm, quota):
    """A publisher on a slow line, two other peers, and a cache of so many bytes."""
    net = await swarm(peers=2, seed=1)
    (publisher,) = await net.add(upload_bytes_per_s=2 * MIB)
    (cache,) = await net.add(config={"cache_bytes": quota})
    return net, publisher, net.peers[:2], cache


async def until(condition, timeout_s=600.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (virtual time)
            await asyncio.sleep(0.5)


def used(cache):
    return cache.peer.store.cache.use().used_bytes


def by(report, peer):
    return sum(one.bytes for one in report.peers if one.peer_id == peer.peer_id.text)


async def test_what_one_neighbour_asks_for_the_next_has_from_the_cache(swarm):
    net, publisher, (one, two), cache = await neighbourhood(swarm, 64 * MIB)
    model = await publisher.publish(net.random_model(16 * MIB))
    await one.fetch(model, peers=[cache])
    await until(lambda: cache.holds(model))
    await one.stop()
    report = await two.fetch(model, peers=[cache])
    assert by(report, cache) > 12 * MIB
    (kept,) = await cache.models()
    assert kept.cached and not kept.pinned and used(cache) <= 64 * MIB


async def test_a_cache_stays_within_its_quota_and_lets_go_of_what_others_do_not_ask_for(swarm):
    net, publisher, (one, two), cache = await neighbourhood(swarm, 16 * MIB)
    models = [await publisher.publish(net.random_model(7 * MIB)) for _ in range(3)]
    for peer, model in zip((one, two), models, strict=False):
        await peer.fetch(model, peers=[cache])
        await until(lambda model=model: cache.holds(model))
    assert used(cache) >= 14 * MIB
    await asyncio.sleep(3600)
    await asyncio.gather(one.fetch(models[2], peers=[cache]), two.fetch(models[2], peers=[cache]))
    await until(lambda: cache.holds(models[2]))
    assert used(cache) <= 16 * MIB
    await asyncio.sleep(60)
    assert cache.holds(models[2]) and not (cache.holds(models[0]) and cache.holds(models[1]))


async def test_asking_for_what_nobody_has_costs_the_cache_nothing(swarm):
    net, publisher, (one, _), cache = await neighbourhood(swarm, 20 * MIB)
    link = await one.peer.swarm.connect(Address.parse(cache.address))
    for number in range(100):
        link.expect(ModelId(Digest.of(bytes([number]))))
    await asyncio.sleep(30)
    assert used(cache) == 0 and await cache.models() == []
    assert len(cache.peer.caching._pulls) <= 3
    model = await publisher.publish(net.random_model(4 * MIB))
    await one.fetch(model, peers=[cache])


async def test_of_what_the_cache_looked_into_and_had_no_room_for_nothing_stays(swarm):
    net, publisher, (one, _), cache = await neighbourhood(swarm, 16 * MIB)
    mine = await publisher.publish(net.random_model(15 * MIB + 100_000))
    await cache.fetch(mine)
    cache.peer.store.pin(id_of(mine))
    model = await publisher.publish(net.random_model(8 * MIB))
    looked = []
    fetch = cache.peer.caching._fetch

    async def look(model_id):
        try:
            return await fetch(model_id)
        finally:
            looked.append((model_id, cache.peer.store.object(model_id) is not None))

    cache.peer.caching._fetch = look
    await one.fetch(model, peers=[cache])
    await until(lambda: looked and not cache.peer.caching._pulls)
    assert looked == [(id_of(model), True)]
    assert [kept.model_id for kept in await cache.models()] == [id_of(mine).hex]
    assert cache.peer.store.object(id_of(model)) is None, "its manifest is forgotten with it"
    assert cache.holds(mine)


async def test_nobody_alone_makes_the_cache_fetch_without_end(swarm):
    net, publisher, (one, _), cache = await neighbourhood(swarm, 16 * MIB)
    models = [await publisher.publish(net.random_model(6 * MIB)) for _ in range(4)]
    for model in models:
        await one.fetch(model, peers=[cache])
        await asyncio.sleep(40)
    fetched = sum(have.held for model in models if (have := cache.peer.store.have_map(id_of(model))))
    assert fetched <= 12, "half of its quota in an hour for one asker, and what was under way"


async def test_a_fetch_of_its_own_user_ends_the_pull_and_gives_the_files_their_names(swarm):
    net, publisher, (one, _), cache = await neighbourhood(swarm, 64 * MIB)
    model = await publisher.publish(net.random_model(16 * MIB))
    fetching = asyncio.ensure_future(one.fetch(model, peers=[cache]))
    await until(lambda: id_of(model) in cache.peer.caching._pulls)
    await asyncio.sleep(1)
    report = await cache.fetch(model)
    assert report.verified and (await cache.models())[0].state == "fetched"
    await fetching


async def test_a_cache_that_is_killed_and_started_again_serves_what_it_had(swarm):
    net, publisher, (one, two), cache = await neighbourhood(swarm, 64 * MIB)
    model = await publisher.publish(net.random_model(8 * MIB))
    await one.fetch(model, peers=[cache])
    await until(lambda: cache.holds(model))
    cache.crash()
    await cache.restart()
    await until(lambda: cache.holds(model))
    assert by(await two.fetch(model, peers=[cache]), cache) > 0


async def test_what_goes_is_told_to_those_who_follow_and_withdrawn_from_the_overlay(swarm):
    net, publisher, (one, two), cache = await neighbourhood(swarm, 64 * MIB)
    model = await publisher.publish(net.random_model(8 * MIB))
    await one.fetch(model, peers=[cache])
    await until(lambda: cache.holds(model))
    link = await two.peer.swarm.connect(Address.parse(cache.address))
    link.expect(id_of(model))
    await until(lambda: id_of(model) in link.held)
    layout = cache.peer.store.layout(id_of(model))
    (gone,) = cache.peer.store.cache.collect(keep_bytes=5 * MIB).models
    assert not gone.whole and 3 <= gone.chunks <= 4
    kept = cache.peer.store.have_map(id_of(model))
    await until(lambda: link.held[id_of(model)] == kept)
    lost = next(index for index in range(len(layout)) if index not in kept)

    async def providers(index):
        key = overlay_key(layout[index].digest)
        return {provider.peer async for provider in two.peer.overlay.providers(key)}

    await asyncio.sleep(5)
    assert cache.peer_id not in await providers(lost)
    assert cache.peer_id in await providers(next(iter(kept)))
    cache.peer.store.cache.collect(keep_bytes=0)
    await until(lambda: id_of(model) not in link.held)


async def test_near_caches_are_found_by_a_key_of_their_own_and_far_ones_left_alone(swarm):
    _, _, (one, _), cache = await neighbourhood(swarm, 64 * MIB)
    await asyncio.sleep(5)
    near = NearCaches(one.peer.overlay, one.peer.network.clock)
    assert await near.find() == [], "it is on the internet"
    found = [provider.peer async for provider in one.peer.overlay.providers(CACHE_KEY)]
    assert found == [cache.peer_id]


def id_of(model):
    return ModelId(Digest.from_hex(model.model_id))
