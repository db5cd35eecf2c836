"""Networks of overlay nodes in virtual time: joining, finding, expiring, withdrawing, announcing in bulk, growing."""

from __future__ import annotations

import asyncio
import random

import pytest
from overlay_town import NETWORK_ID, FakeNetwork, Node, Town, run

from p2pmodel.errors import DecodeError, NetworkError
from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay import CLUSTER, INTERNET, Overlay, Profile
from p2pmodel.overlay.lookup import nearest_nodes
from p2pmodel.overlay.neighbours import decode_neighbours

KEY = bytes(range(20))
HASTY = Profile(
    republish_s=20.0, ttl_s=45, refresh_s=60.0, tick_s=1.0, replicas=20, sweep_replicas=12, group_nodes_max=0
)


async def until(condition: object, limit_s: float = 60.0) -> float:
    """Virtual seconds until `condition()` holds."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():  # type: ignore[operator]
        assert loop.time() - started < limit_s, "it never came about"
        await asyncio.sleep(0.05)
    return loop.time() - started


async def first_found(node: Node, key: bytes) -> float | None:
    """Virtual seconds to the first provider, None where there is none."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    lookup = node.overlay.providers(key)
    try:
        async for _ in lookup:
            return loop.time() - started
        return None
    finally:
        await lookup.aclose()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_provider_is_found_by_everybody_when_a_fifth_of_150_nodes_is_dead_and_a_miss_ends_in_three_seconds() -> None:
    async def tale() -> None:
        town = Town(1, delay_s=(0.02, 0.1), loss=0.01)
        await town.join(1)
        for _ in range(149):
            node = await town.node()
            await node.overlay.bootstrap([town.nodes[0].address])
        publisher, rng = town.nodes[70], random.Random(1)
        assert await publisher.overlay.provide([KEY]) == 1
        town.kill(rng.sample([node for node in town.nodes if node is not publisher], 30))
        alive = [n for n in town.nodes if n.address not in town.internet.dead and n is not publisher]
        found = [await first_found(node, KEY) for node in rng.sample(alive, 40)]
        times = sorted(time for time in found if time is not None)
        assert len(times) == 40
        assert times[20] <= 0.6
        assert times[-1] <= 2.0
        for node in rng.sample(alive, 5):
            started = asyncio.get_running_loop().time()
            assert await node.find(rng.randbytes(20)) == set()
            assert asyncio.get_running_loop().time() - started <= 3.0

    run(tale())


@pytest.mark.slow
def test_a_key_is_stored_with_the_truly_nearest_nodes() -> None:
    async def tale() -> None:
        town = Town(2)
        await town.join(60)
        await town.nodes[30].overlay.provide([KEY])
        nearest = [node for node in town.truly_nearest(KEY, 21) if node is not town.nodes[30]][:20]
        assert all(KEY in node.protocol.providers._by_key for node in nearest)
        assert town.holders_of(KEY) == 20

    run(tale())


@pytest.mark.slow
def test_a_network_does_not_need_the_node_through_which_everybody_joined() -> None:
    """Found by a sweep whose lookups stayed in one half of the key space: nobody knew anyone in the other."""

    async def tale() -> None:
        town = Town(20)
        await town.join(80)
        await asyncio.sleep(10)
        for node in town.nodes:
            own = node.protocol.own_id[0] >> 7
            assert sum(contact.id[0] >> 7 != own for contact in node.protocol.table) >= 2
        town.kill(town.nodes[:1])
        await town.nodes[40].overlay.provide([KEY])
        for node in town.nodes[1:40:4]:
            assert await node.find(KEY) == {town.nodes[40].peer}

    run(tale())


def test_a_record_ends_when_its_provider_has_died_and_lives_on_while_it_republishes() -> None:
    async def tale() -> None:
        town = Town(3, profile=HASTY)
        await town.join(8)
        dying, living, reader = town.nodes[2], town.nodes[3], town.nodes[5]
        await dying.overlay.provide([KEY])
        await living.overlay.provide([KEY])
        assert await reader.find(KEY) == {dying.peer, living.peer}
        town.kill([dying])
        await asyncio.sleep(50)
        assert await reader.find(KEY) == {living.peer}
        await asyncio.sleep(200)
        assert await reader.find(KEY) == {living.peer}
        assert reader.overlay.stats().records_held <= 1

    run(tale())


def test_nobody_s_wall_clock_matters() -> None:
    async def tale() -> None:
        town = Town(4)
        await town.join(6)
        for n, node in enumerate(town.nodes):
            node.overlay._network.clock.wall_offset += (n - 3) * 3.15e8  # ten years apart
        await town.nodes[1].overlay.provide([KEY])
        for node in town.nodes[2:]:
            assert await node.find(KEY) == {town.nodes[1].peer}

    run(tale())


def test_a_provider_whose_clock_was_set_back_is_heard_again() -> None:
    async def tale() -> None:
        town = Town(5)
        await town.join(5)
        publisher = town.nodes[1]
        await publisher.overlay.provide([KEY])
        await publisher.overlay.withdraw()
        assert town.holders_of(KEY) == 0
        publisher.overlay._announcer._sequences._last = 0
        publisher.overlay._network.clock.wall_offset -= 1e8
        assert await publisher.overlay.provide([KEY]) == 1
        assert town.holders_of(KEY) == 4

    run(tale())


def test_withdrawing_some_or_all_and_stopping_take_the_records_away() -> None:
    async def tale() -> None:
        town = Town(6)
        await town.join(10)
        publisher, keys = town.nodes[4], [bytes([n]) * 20 for n in range(1, 71)]
        assert await publisher.overlay.provide(keys) == 70
        assert town.holders_of(keys[0]) == 9
        await publisher.overlay.withdraw(keys[:60])
        assert [town.holders_of(key) for key in (keys[0], keys[59], keys[60])] == [0, 0, 9]
        assert publisher.overlay.stats().keys_provided == 10
        assert await town.nodes[7].find(keys[0]) == set()
        await publisher.overlay.provide(keys[:1])
        assert town.holders_of(keys[0]) == 9
        before, started = town.internet.datagrams, asyncio.get_running_loop().time()
        await publisher.overlay.stop()
        await publisher.overlay.stop()
        assert town.internet.datagrams - before <= 2 * 9
        assert asyncio.get_running_loop().time() - started < 3.0
        town.nodes.remove(publisher)
        assert all(town.holders_of(key) == 0 for key in keys)
        with pytest.raises(NetworkError):
            publisher.overlay.stats()

    run(tale())


def test_stopping_among_the_dead_ends_in_time() -> None:
    async def tale() -> None:
        town = Town(7)
        await town.join(6)
        await town.nodes[0].overlay.provide([KEY])
        town.kill(town.nodes[1:])
        started = asyncio.get_running_loop().time()
        await town.nodes[0].overlay.stop()
        assert asyncio.get_running_loop().time() - started <= 3.1

    run(tale())


@pytest.mark.slow
def test_who_published_alone_is_found_by_those_who_join_later_however_many() -> None:
    async def tale() -> None:
        town = Town(9)
        publisher = await town.node()
        assert await publisher.overlay.provide([KEY]) == 0
        publisher.overlay.provide_later([bytes([7]) * 20])
        assert publisher.overlay.stats().keys_pending == 2
        await asyncio.sleep(101)  # between two ticks, so that it is the newcomer who sets things off
        (second,) = await town.join(1, through=publisher)
        assert await second.find(KEY) == {publisher.peer}
        await until(lambda: publisher.overlay.stats().keys_pending == 0, 1.0)
        for _ in range(7):
            joined = await town.join(10, through=second)
            assert await joined[-1].find(KEY) == {publisher.peer}
            assert await joined[0].find(bytes([7]) * 20) == {publisher.peer}
        await asyncio.sleep(20)
        nearest = [node for node in town.truly_nearest(KEY, 13) if node is not publisher][:12]
        assert sum(KEY in node.protocol.providers._by_key for node in nearest) >= 6

    run(tale())


def test_a_node_names_itself_for_what_it_provides_but_never_to_itself() -> None:
    async def tale() -> None:
        town = Town(10)
        publisher = await town.node()
        reader = await town.node(client_only=True)
        await publisher.overlay.provide([KEY])
        assert await reader.overlay.bootstrap([publisher.address]) == 1
        found = [provider async for provider in reader.overlay.providers(KEY)]
        assert [(provider.peer, provider.address) for provider in found] == [(publisher.peer, publisher.address)]
        assert found[0].expires_at > reader.overlay._network.clock.wall()
        assert [provider async for provider in publisher.overlay.providers(KEY)] == []
        assert publisher.overlay.neighbours() == []

    run(tale())


@pytest.mark.slow
def test_a_key_with_more_providers_than_fit_in_a_reply_yields_them_all() -> None:
    async def tale() -> None:
        town = Town(11)
        await town.join(45)
        for node in town.nodes[:40]:
            await node.overlay.provide([KEY])
        found = await town.nodes[44].find(KEY)
        assert found == {node.peer for node in town.nodes[:40]}

    run(tale())


def test_networks_of_different_names_do_not_mix() -> None:
    async def tale() -> None:
        town = Town(12)
        await town.join(3)
        stranger = await town.node(network_id=bytes(16))
        assert await stranger.overlay.bootstrap([town.nodes[0].address]) == 0
        assert stranger.overlay.neighbours() == []
        assert all(len(node.overlay.neighbours()) == 2 for node in town.nodes[:3])

    run(tale())


def test_a_node_whose_entry_comes_up_late_joins_by_itself() -> None:
    async def tale() -> None:
        town = Town(13)
        early = await town.node()
        entry_address = Address("33.3.3.3", 4321)
        assert await early.overlay.bootstrap([entry_address]) == 0
        early.overlay.provide_later([KEY])
        await asyncio.sleep(30)
        overlay = Overlay(
            key=SecretKey.from_seed(bytes([4]) * 32),
            network=FakeNetwork(town.internet),
            network_id=NETWORK_ID,
            rng=random.Random(1),
            profile=CLUSTER,
        )
        assert await overlay.start("33.3.3.3", 4321) == entry_address
        await until(lambda: len(early.overlay.neighbours()) == 1, 61.0)
        await until(lambda: early.overlay.stats().keys_pending == 0, 5.0)
        assert [found.peer async for found in overlay.providers(KEY)] == [early.peer]

    run(tale())


def test_dead_neighbours_leave_the_table_and_old_ones_are_asked_again_when_nobody_is_left() -> None:
    async def tale() -> None:
        town = Town(14, profile=HASTY)
        await town.join(6)
        survivor = town.nodes[3]
        survivor.overlay._upkeep.entries.clear()
        town.kill([node for node in town.nodes if node is not survivor])
        await until(lambda: survivor.overlay.neighbours() == [], 600.0)
        town.internet.dead.clear()
        await until(lambda: len(survivor.overlay.neighbours()) >= 3, 61.0)

    run(tale())


@pytest.mark.slow
def test_a_node_comes_back_by_its_saved_neighbours_when_every_entry_node_is_gone() -> None:
    async def tale() -> None:
        town = Town(22)
        await town.join(60)
        await asyncio.sleep(10)
        publisher, restarted = town.nodes[30], town.nodes[40]
        await publisher.overlay.provide([KEY])
        saved = restarted.overlay.saved_neighbours()
        assert len(decode_neighbours(saved)) == len(restarted.overlay.neighbours())
        await restarted.overlay.stop()
        town.kill(town.nodes[:10])
        again = await town.node()
        assert again.overlay.remember(saved) > 20
        await until(lambda: len(again.overlay.neighbours()) >= 20, 30.0)
        assert await again.find(KEY) == {publisher.peer}
        with pytest.raises(DecodeError):
            again.overlay.remember(b"[]")

    run(tale())


@pytest.mark.slow
def test_two_halves_of_a_network_find_each_other_again_within_five_minutes() -> None:
    async def tale() -> None:
        town = Town(23)
        await town.join(60)
        await asyncio.sleep(10)
        rng = random.Random(23)
        left = {node.address for node in rng.sample(town.nodes, 30)}
        carry = town.internet.carry

        def cut(data: bytes, source: Address, to: Address) -> None:
            if (source in left) == (to in left):
                carry(data, source, to)

        town.internet.carry = cut  # type: ignore[method-assign]
        for node in town.nodes:
            node.overlay.provide_later([node.protocol.own_id])
        await asyncio.sleep(18 * 60)
        for node in town.nodes:
            assert {contact.address in left for contact in node.protocol.table} == {node.address in left}
        town.internet.carry = carry  # type: ignore[method-assign]
        await asyncio.sleep(5 * 60)
        for _ in range(100):
            reader, publisher = rng.sample(town.nodes, 2)
            assert publisher.peer in await reader.find(publisher.protocol.own_id)

    run(tale())


@pytest.mark.slow
def test_a_crowd_from_few_addresses_takes_few_places_in_a_table() -> None:
    async def tale() -> None:
        town = Town(24, profile=INTERNET)
        await town.join(60)
        victim = town.nodes[20]
        honest = len(victim.overlay.neighbours())
        for n in range(150):
            sybil = await town.node(host=f"66.{n % 2}.1.{n // 2 % 250 + 1}")
            await sybil.overlay.bootstrap([victim.address])
        theirs = sum(address.host.startswith("66.") for _, address in victim.overlay.neighbours())
        assert 0 < theirs <= 20
        assert len(victim.overlay.neighbours()) - theirs >= honest
        again = await town.node()
        again.overlay.remember(victim.overlay.saved_neighbours())
        await until(lambda: len(again.overlay.neighbours()) >= honest, 60.0)
        await asyncio.sleep(10)
        assert sum(address.host.startswith("66.") for _, address in again.overlay.neighbours()) <= 20

    run(tale())


@pytest.mark.slow
def test_a_trace_tells_what_a_lookup_found_and_what_it_took() -> None:
    async def tale() -> None:
        town = Town(25)
        await town.join(60)
        await asyncio.sleep(10)
        await town.nodes[30].overlay.provide([KEY])
        for paths in (None, 4):
            trace = await town.nodes[50].overlay.trace(KEY, paths=paths)
            assert [provider.peer for provider in trace.providers] == [town.nodes[30].peer]
            nearest = [node for node in town.truly_nearest(KEY, 21) if node is not town.nodes[50]]
            assert trace.closest[:20] == tuple(node.protocol.own_id for node in nearest[:20])
            assert 1 <= trace.hops <= 3
            assert 2 * trace.queries <= trace.datagrams <= 3 * trace.queries
            assert trace.first_s is not None
            assert 0 < trace.first_s <= trace.elapsed_s < 2.0
        miss = await town.nodes[50].overlay.trace(bytes([9]) * 20)
        assert (miss.providers, miss.first_s) == ((), None)

    run(tale())


@pytest.mark.slow
def test_the_living_nearest_are_found_exactly_though_half_of_the_nodes_have_just_died() -> None:
    async def tale() -> None:
        town = Town(26, delay_s=(0.02, 0.1))
        await town.join(200)
        await asyncio.sleep(10)
        rng = random.Random(26)
        town.kill(rng.sample(town.nodes, 100))
        alive = [node for node in town.nodes if node.address not in town.internet.dead]
        exact = 0
        for _ in range(60):
            reader, key = rng.choice(alive), rng.randbytes(20)
            found = await nearest_nodes(reader.protocol, key, group_nodes_max=0)
            nearest = [node for node in town.truly_nearest(key, 21) if node is not reader]
            exact += [node.id for node in found[:20]] == [node.protocol.own_id for node in nearest[:20]]
        assert exact >= 59

    run(tale())


@pytest.mark.slow
def test_a_quiet_network_stays_quiet() -> None:
    """Stock full tables can ping for ever. A hundred nodes fill their tables slowly, and then send hardly anything."""

    async def tale() -> None:
        town = Town(15, profile=INTERNET)
        await town.join(100)
        await town.nodes[0].overlay.provide([KEY])
        await asyncio.sleep(30)
        met = [len(node.protocol.table) for node in town.nodes]
        assert max(met) < 75
        before, minutes = town.internet.datagrams, 24
        await asyncio.sleep(60 * minutes)
        filling = town.internet.datagrams - before
        assert min(len(node.protocol.table) for node in town.nodes) > 75, "of places for about 85"
        assert filling < 10 * minutes * len(town.nodes)
        await asyncio.sleep(60 * minutes)
        assert town.internet.datagrams - before - filling < filling / 4
        assert not any(node.protocol._outstanding for node in town.nodes)

    run(tale())


def test_the_same_seed_gives_the_same_run() -> None:
    async def tale() -> list[tuple[bytes, Address, Address]]:
        town = Town(16, loss=0.05)
        trace: list[tuple[bytes, Address, Address]] = []
        town.internet.tap = lambda *datagram: trace.append(datagram)
        await town.join(1)
        for _ in range(11):
            await (await town.node()).overlay.bootstrap([town.nodes[0].address])
        await town.nodes[3].overlay.provide([KEY])
        await town.nodes[7].find(KEY)
        return trace

    first, second = run(tale()), run(tale())
    assert len(first) > 300
    assert first == second


@pytest.mark.slow
def test_a_cancelled_lookup_leaves_no_request_open() -> None:
    async def tale() -> None:
        town = Town(17)
        await town.join(20)
        await asyncio.sleep(5)
        await town.nodes[3].overlay.provide([KEY])
        assert await first_found(town.nodes[9], KEY) is not None
        task = asyncio.create_task(town.nodes[9].find(bytes([9]) * 20))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not town.nodes[9].protocol._outstanding

    run(tale())


def test_a_port_in_use_is_an_error_of_ours() -> None:
    async def tale() -> None:
        town = Town(18)
        first = await town.node()
        overlay = Overlay(
            key=SecretKey.from_seed(bytes([4]) * 32),
            network=FakeNetwork(town.internet),
            network_id=NETWORK_ID,
            rng=random.Random(1),
        )
        with pytest.raises(NetworkError):
            await overlay.start(first.address.host, first.address.port)

    run(tale())


@pytest.mark.slow
def test_ipv6_nodes_join_and_find_each_other() -> None:
    async def tale() -> None:
        town = Town(19)
        for n in range(1, 31):
            node = await town.node(host=f"2a0{n % 10}:{n}::1")
            if n > 1:
                assert await node.overlay.bootstrap([town.nodes[0].address]) == 1
        await town.nodes[3].overlay.provide([KEY])
        assert town.holders_of(KEY) == 20
        assert await town.nodes[28].find(KEY) == {town.nodes[3].peer}

    run(tale())
