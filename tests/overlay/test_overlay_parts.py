"""The plain parts of the overlay, driven by hand: table, crawl, records, store of records, sweep, tokens, rates."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from p2pmodel.errors import DecodeError
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay.calls import RoundTrips
from p2pmodel.overlay.crawl import Candidate, Crawl, State
from p2pmodel.overlay.neighbours import Absent, Neighbour, decode_neighbours, encode_neighbours
from p2pmodel.overlay.node_id import address_group, may_contact, node_id
from p2pmodel.overlay.package import Contact
from p2pmodel.overlay.provider_store import ProviderStore
from p2pmodel.overlay.rate import SourceRates
from p2pmodel.overlay.records import Batch, check_evidence, fold_path, merkle_levels, merkle_path, sign_batch
from p2pmodel.overlay.routing import RoutingTable
from p2pmodel.overlay.survey import SPACE, Region, enclosing, known_around
from p2pmodel.overlay.sweep import Sweep
from p2pmodel.overlay.tokens import Tokens

NETWORK, HOLDER, HOLDER_AT = bytes(16), bytes([7]) * 20, Address("9.9.9.9", 99)
PEER = SecretKey.from_seed(bytes(32)).public


def contact(rng: random.Random, *, host: str | None = None, bits: int = 160, node: bytes | None = None) -> Contact:
    place = node or rng.getrandbits(bits).to_bytes(20, "big")
    address = Address(host or f"{rng.randrange(20, 99)}.{rng.randrange(256)}.{rng.randrange(256)}.1", 4000)
    return Contact(place, PEER, address, 0.0)


def table(own: bytes = bytes(20), *, group: int = 0, stale_s: float = 900.0) -> RoutingTable:
    return RoutingTable(own, 0.0, group_nodes_max=group, stale_s=stale_s, changed=lambda: None)


# --- routing table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_exact(seed: int) -> None:
    rng = random.Random(seed)
    routes = table(rng.randbytes(20))
    for _ in range(600):
        routes.add(contact(rng, bits=rng.choice((160, 150))), 0.0)
    everybody = list(routes)
    assert len(everybody) == len(routes) > 60
    for _ in range(50):
        target = rng.getrandbits(160)
        exact = sorted(everybody, key=lambda c: c.long_id ^ target)[:20]
        assert routes.nearest(target, 20) == exact


def test_a_node_never_holds_itself_and_finds_another_by_its_very_id() -> None:
    rng = random.Random(1)
    routes = table(bytes(20))
    routes.add(contact(rng, node=bytes(20)), 0.0)
    assert len(routes) == 0
    other = contact(rng)
    routes.add(other, 0.0)
    assert routes.nearest(other.long_id, 1) == [other]


def test_a_full_bucket_asks_for_one_proof_of_life_and_the_living_eldest_stays() -> None:
    rng = random.Random(2)
    routes = table(bytes(20), stale_s=10.0)
    far = [contact(rng, node=bytes([0xFF, 0xFF]) + rng.randbytes(18)) for _ in range(40)]
    probes = [probe for each in far if (probe := routes.add(each, 100.0)) is not None]
    assert len(probes) == 1
    routes.seen(probes[0], 100.0)
    assert probes[0] in list(routes)
    assert probes[0].seen_at == 100.0


def test_three_silences_make_room_for_a_proven_replacement() -> None:
    rng = random.Random(3)
    routes = table(bytes(20))
    far = [contact(rng, node=bytes([0xFF, 0xFF]) + rng.randbytes(18)) for _ in range(25)]
    for each in far:
        routes.add(each, 0.0)
    count, silent = len(routes), next(iter(routes))
    for _ in range(2):
        routes.failed(silent)
    assert silent in list(routes)
    assert silent not in routes.nearest(silent.long_id, 5, reliable=True)
    routes.failed(silent)
    assert silent not in list(routes)
    assert len(routes) == count == len(list(routes))


def test_one_address_group_fills_no_bucket_but_loopback_and_private_networks_do() -> None:
    for host, expected in (("80.1.2.{}", 3), ("127.0.0.{}", 20), ("192.168.1.{}", 20)):
        rng = random.Random(4)
        routes = table(bytes([0xFF]) * 20, group=3)
        for n in range(20):
            routes.add(contact(rng, host=host.format(n + 1), node=bytes([0, n]) + rng.randbytes(18)), 0.0)
        assert len(routes) == expected, host


def test_a_live_contact_keeps_its_address_and_a_silent_one_may_move() -> None:
    rng = random.Random(5)
    routes = table()
    first = contact(rng)
    routes.add(first, 100.0)
    moved = Contact(first.id, PEER, Address("99.1.1.1", 1), 101.0)
    first.seen_at, old = 100.0, first.address
    routes.add(moved, 101.0)
    assert first.address == old
    routes.failed(first)
    routes.add(moved, 102.0)
    assert first.address == moved.address
    assert first.packed == first.id + moved.address.pack()


def test_the_size_estimate_is_within_a_factor_of_two() -> None:
    rng = random.Random(6)
    routes = table(rng.randbytes(20))
    for _ in range(3000):
        routes.add(contact(rng), 0.0)
    assert 1500 < routes.size_estimate() < 6000


# --- crawl ------------------------------------------------------------------------------------------------------------


def test_a_lookup_finds_the_nearest_among_the_living_and_names_no_dead_node() -> None:
    rng = random.Random(7)
    nodes = {rng.randbytes(20): Address(f"50.{n % 250}.{n // 250}.1", 4000) for n in range(400)}
    dead = set(rng.sample(sorted(nodes), 120))
    target = rng.randbytes(20)
    place = int.from_bytes(target, "big")

    def distance(node: bytes, to: int) -> int:
        return int.from_bytes(node, "big") ^ to

    crawl = Crawl(target, bytes(20))
    for node in rng.sample(sorted(nodes), 10):
        crawl.offer(node, nodes[node])
    asked: list[Candidate] = []
    while not crawl.finished:
        while (candidate := crawl.next()) is not None:
            asked.append(candidate)
            if candidate.id in dead:
                crawl.stalled(candidate)
        candidate = asked.pop(rng.randrange(len(asked)))
        if candidate.id in dead:
            crawl.failed(candidate)
            continue
        crawl.answered(candidate, bytes(8))
        known = sorted(nodes, key=lambda n: distance(n, candidate.long_id))[:60]
        for node in sorted(known, key=lambda n: distance(n, place))[:20]:
            crawl.offer(node, nodes[node])
    alive = sorted((n for n in nodes if n not in dead), key=lambda n: distance(n, place))
    found = [candidate.id for candidate in crawl.closest()]
    # Replies of 20 name six dead nodes, so 14 places are certain and the last few may be near misses.
    assert found[:14] == alive[:14]
    assert not dead & set(found)
    assert len(found) == 20


def test_one_that_is_late_is_replaced_at_once_and_still_waited_for() -> None:
    crawl = Crawl(bytes(20), bytes([1]) * 20, k=2)
    nodes = [bytes(19) + bytes([n]) for n in range(1, 5)]
    for node in nodes:
        crawl.offer(node, Address("50.1.1.1", 1))
    first, second = crawl.next(), crawl.next()
    assert first is not None
    assert second is not None
    assert crawl.next() is None
    crawl.stalled(first)
    third = crawl.next()
    assert third is not None
    crawl.answered(second, bytes(8))
    crawl.answered(third, bytes(8))
    assert crawl.next() is None
    assert not crawl.finished
    crawl.answered(first, bytes(8))
    assert crawl.finished
    assert [candidate.id for candidate in crawl.closest()] == nodes[:2]


def test_a_lookup_marks_what_it_has_shown_as_fresh_and_nothing_else() -> None:
    rng = random.Random(12)
    routes = table(rng.randbytes(20))
    for _ in range(600):
        routes.add(contact(rng), 0.0)
    target = rng.getrandbits(160)
    radius = routes.nearest(target, 60)[-1].long_id ^ target
    routes.looked_up(target, radius, 50.0)
    fresh = [bucket for bucket in routes.buckets if bucket.refreshed_at == 50.0]
    assert 1 <= len(fresh) < len(routes.buckets)
    for bucket in fresh:
        ends = [place ^ target for place in bucket.range]
        assert max(ends) <= radius or bucket is routes.bucket_of(target)
    assert routes.to_refresh(100.0, 60.0) == [bucket for bucket in routes.buckets if bucket not in fresh]


def test_a_liar_cannot_make_a_lookup_ask_without_end() -> None:
    rng = random.Random(8)
    crawl = Crawl(bytes(20), bytes([1]) * 20)
    crawl.offer(rng.randbytes(20), Address("50.1.1.1", 1))
    bits = 159
    while not crawl.finished:
        candidate = crawl.next()
        assert candidate is not None
        crawl.answered(candidate, bytes(8))
        bits = max(8, bits - 1)
        for _ in range(20):
            crawl.offer(rng.getrandbits(bits).to_bytes(20, "big"), Address("50.1.1.1", rng.randrange(1, 65536)))
    assert crawl.queries <= 160
    assert len(crawl._paths[0].ranked) <= 256


def test_a_false_address_does_not_hide_a_node_and_an_id_is_tried_at_few() -> None:
    crawl = Crawl(bytes(20), bytes([1]) * 20)
    for port in range(1, 9):
        crawl.offer(bytes([2]) * 20, Address("50.1.1.1", port))
    first, second, third = crawl.next(), crawl.next(), crawl.next()
    assert first is not None
    assert second is not None
    assert third is None
    crawl.failed(first)
    crawl.answered(second, bytes(8))
    assert crawl.finished
    assert [candidate.address for candidate in crawl.closest()] == [second.address]


def test_one_address_group_takes_few_of_the_nearest_places() -> None:
    crawl = Crawl(bytes(20), bytes([1]) * 20, group_nodes_max=3)
    for n in range(20):
        crawl.offer(bytes(19) + bytes([n + 1]), Address(f"66.1.1.{n + 1}", 5))
    honest = [bytes([9, n]) + bytes(18) for n in range(20)]
    for n, node in enumerate(honest):
        crawl.offer(node, Address(f"70.{n}.1.1", 5))
    while (candidate := crawl.next()) is not None:
        crawl.answered(candidate, bytes(8))
    closest = [candidate.id for candidate in crawl.closest()]
    assert len(closest) == 20
    assert len(set(closest) & set(honest)) == 17
    assert all(candidate.state is State.ANSWERED for candidate in crawl.closest())


# --- records ----------------------------------------------------------------------------------------------------------


def batch(
    keys: Iterable[bytes], *, seed: int = 0, sequence: int = 1, host: str = "80.1.1.1", ends: float = 100.0
) -> Batch:
    key = SecretKey.from_seed(seed.to_bytes(32, "big"))
    joined = sorted(keys)
    signature = sign_batch(key, NETWORK, HOLDER, port=4000, ttl_s=100, sequence=sequence, keys=joined)
    return Batch(key.public, Address(host, 4000), 100, sequence, joined, signature, ends)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 31, 32, 33, 49, 50])
def test_every_key_of_a_batch_leads_to_its_root_and_no_other_key_does(count: int) -> None:
    rng = random.Random(count)
    keys = sorted(rng.randbytes(20) for _ in range(count))
    levels = merkle_levels(keys)
    for index, key in enumerate(keys):
        path = merkle_path(levels, index)
        assert fold_path(key, index, count, path) == levels[-1][0]
        assert count == 1 or fold_path(rng.randbytes(20), index, count, path) != levels[-1][0]
        with pytest.raises(DecodeError):
            fold_path(key, index, count, path + bytes(20))
        if path:
            with pytest.raises(DecodeError):
                fold_path(key, index, count, path[:-1])


def test_evidence_holds_for_its_key_holder_and_network_and_for_nothing_else() -> None:
    rng = random.Random(9)
    keys = sorted(rng.randbytes(20) for _ in range(50))
    evidence = batch(keys).evidence(keys[17], 0.0)
    assert check_evidence(evidence, keys[17], NETWORK, HOLDER, HOLDER_AT) == Address("80.1.1.1", 4000)
    for key, network, holder in (
        (keys[18], NETWORK, HOLDER),
        (keys[17], bytes([1]) * 16, HOLDER),
        (keys[17], NETWORK, bytes(20)),
    ):
        with pytest.raises(DecodeError):
            check_evidence(evidence, key, network, holder, HOLDER_AT)
    for name, value in (("sequence", 2), ("ttl_s", 101), ("address", Address("80.1.1.1", 4001).pack()), ("index", 18)):
        changed = batch(keys).evidence(keys[17], 0.0)
        setattr(changed, name, value)
        with pytest.raises(DecodeError):
            check_evidence(changed, keys[17], NETWORK, HOLDER, HOLDER_AT)


def test_a_record_ends_and_a_newer_one_replaces_it() -> None:
    store, key = ProviderStore(), bytes([5]) * 20
    assert store.add(batch([key], sequence=1, ends=100.0), 0.0) == 1
    assert store.add(batch([key], sequence=2, ends=200.0), 50.0) == 1
    assert len(store) == 1
    assert store.find(key, 0, 150.0)[0] == 1
    assert store.add(batch([key], sequence=1, ends=900.0), 150.0) == 1, "the newer one stands for it"
    assert store.find(key, 0, 150.0)[0] == 1
    assert store.find(key, 0, 200.0)[0] == 0, "an older announcement prolongs nothing"
    assert len(store) == 0
    assert not store._by_key
    assert not store._by_peer
    assert not store._by_source


def test_withdrawing_takes_only_older_announcements_and_an_old_one_cannot_undo_it() -> None:
    store, keys = ProviderStore(), [bytes([n]) * 20 for n in range(1, 6)]
    store.add(batch(keys, sequence=5), 0.0)
    store.add(batch(keys, seed=1, sequence=5), 0.0)
    assert store.withdraw(PEER, [keys[0]], 6) == 1
    assert store.withdraw(PEER, [], 4) == 0
    assert store.withdraw(PEER, [], 7) == 4
    assert len(store) == 5
    assert store.is_stale(PEER, 7)
    assert store.add(batch(keys, sequence=7), 0.0) == 0
    assert store.sequence_of(PEER) == 7
    assert store.add(batch(keys, sequence=8), 0.0) == 5


def test_records_are_capped_per_key_per_group_per_source_and_in_all() -> None:
    key = bytes([5]) * 20
    store = ProviderStore()
    for n in range(100):
        store.add(batch([key], seed=n, host=f"80.{n}.1.1"), 0.0)
    assert store.find(key, 0, 0.0)[0] == 64
    store = ProviderStore()
    for n in range(20):
        store.add(batch([key], seed=n, host=f"80.1.1.{n + 1}"), 0.0)
    assert store.find(key, 0, 0.0)[0] == 8
    store = ProviderStore()
    for n in range(20):
        store.add(batch([key], seed=n, host="127.0.0.1"), 0.0)
    assert store.find(key, 0, 0.0)[0] == 20
    store = ProviderStore(keys_per_source_max=3, keys_max=5)
    assert store.add(batch([bytes([n]) * 20 for n in range(1, 9)], seed=1), 0.0) == 3
    assert store.add(batch([bytes([n]) * 20 for n in range(1, 9)], seed=2, host="90.1.1.1"), 0.0) == 2
    assert len(store) == 5


def test_readers_that_begin_at_different_places_see_different_providers_first() -> None:
    store, key = ProviderStore(), bytes([5]) * 20
    for n in range(10):
        store.add(batch([key], seed=n, host=f"80.{n}.1.1"), 0.0)
    firsts = {next(store.find(key, start, 0.0)[1]).peer for start in range(10)}
    assert len(firsts) == 10


# --- sweep ------------------------------------------------------------------------------------------------------------


def sweep_over(keys: list[bytes], nodes: list[bytes], replicas: int) -> tuple[dict[bytes, set[bytes]], int, int]:
    """Who was given which key by a sweep over a perfectly known network, and the lookups and datagrams it took."""
    given: dict[bytes, set[bytes]] = {}
    looked, sent = 0, 0
    places = {node: int.from_bytes(node, "big") for node in nodes}

    async def explore(target: bytes, *_: Sequence[Candidate]) -> list[Candidate]:
        nonlocal looked
        looked += 1
        place = int.from_bytes(target, "big")
        nearest = sorted(nodes, key=lambda node: places[node] ^ place)[:20]
        return [Candidate(node, Address("50.1.1.1", 1), place) for node in nearest]

    async def send(node: Candidate, share: list[bytes]) -> None:
        nonlocal sent
        sent += 1
        assert 0 < len(share) <= 50
        assert share == sorted(set(share))
        for key in share:
            given.setdefault(key, set()).add(node.id)

    asyncio.run(Sweep(sorted(keys), replicas, explore, send).run())
    return given, looked, sent


@pytest.mark.parametrize(("nodes", "keys", "replicas"), [(3, 60, 20), (25, 300, 20), (200, 1500, 12), (500, 40, 20)])
def test_a_sweep_gives_every_key_to_exactly_its_nearest_nodes(nodes: int, keys: int, replicas: int) -> None:
    rng = random.Random(nodes)
    ids = [rng.randbytes(20) for _ in range(nodes)]
    wanted = [rng.randbytes(20) for _ in range(keys)]
    given, looked, sent = sweep_over(wanted, ids, replicas)
    for key in wanted:
        place = int.from_bytes(key, "big")
        nearest = sorted(ids, key=lambda node: int.from_bytes(node, "big") ^ place)[:replicas]
        assert given[key] == set(nearest)
    assert looked <= keys
    assert sent <= keys * min(replicas, nodes)


@pytest.mark.slow
def test_regions_are_aligned_and_what_is_known_never_reaches_past_the_farthest_node() -> None:
    rng = random.Random(11)
    for _ in range(200):
        place = rng.getrandbits(160)
        ids = [rng.randbytes(20) for _ in range(rng.randrange(1, 300))]
        nearest = [Candidate(node, Address("50.1.1.1", 1), place) for node in ids]
        nearest = sorted(nearest, key=lambda node: node.distance)[:20]
        known = known_around(place, nearest)
        assert place in known
        if len(ids) < 20:
            assert known == Region(0, SPACE)
            continue
        size = known.end - known.low
        assert known.low % size == 0
        assert size - 1 <= nearest[-1].distance
        assert sum(node.long_id in enclosing(place, nearest, 12) for node in nearest) >= 12


# --- small parts ------------------------------------------------------------------------------------------------------


def test_a_token_is_good_for_its_address_for_five_to_ten_minutes() -> None:
    tokens, here = Tokens(bytes(32)), Address("80.1.1.1", 1)
    token = tokens.issue(here, 0.0)
    assert tokens.check(token, Address("80.1.1.1", 999), 599.0)
    assert not tokens.check(token, here, 600.0)
    assert not tokens.check(token, Address("80.1.1.2", 1), 0.0)
    assert not Tokens(bytes([1]) * 32).check(token, here, 0.0)
    assert not tokens.check(b"", here, 0.0)


def test_a_source_is_held_to_its_rate_and_sources_are_forgotten() -> None:
    rates, here = SourceRates(rate=10, sources_max=3), Address("80.1.1.1", 1)
    assert sum(rates.allow(here, 0.0) for _ in range(50)) == 10
    assert not rates.allow(Address("80.1.1.1", 2), 0.0)
    assert rates.allow(here, 0.1)
    assert rates.allow(Address("127.0.0.1", 1), 0.0)
    for n in range(10):
        rates.allow(Address(f"81.1.1.{n + 1}", 1), 0.0)
    assert len(rates) == 3


def test_the_timeout_follows_the_round_trips_within_its_limits() -> None:
    trips = RoundTrips()
    assert trips.timeout_s == 0.5
    for _ in range(50):
        trips.add(0.2)
    assert 0.2 <= trips.timeout_s < 0.25
    for _ in range(50):
        trips.add(0.0001)
    assert trips.timeout_s == 0.05
    for _ in range(50):
        trips.add(9.0)
    assert trips.timeout_s == 1.5


def test_nobody_out_there_sends_us_to_our_own_machine_or_local_network() -> None:
    public, private, loopback = Address("80.1.1.1", 1), Address("192.168.1.1", 1), Address("127.0.0.1", 1)
    assert may_contact(public, private)
    assert may_contact(loopback, loopback)
    assert not may_contact(private, public)
    assert not may_contact(loopback, private)
    for host in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.169.254", "::", "ff02::1"):
        assert not may_contact(Address(host, 1), public), host
    assert address_group("2a01:1:2:3::1") == address_group("2a01:1:2:4::9")
    assert address_group("80.1.2.3") != address_group("80.1.3.3")
    assert address_group("10.1.2.3") is None


def test_saved_neighbours_come_back_and_anything_else_is_refused() -> None:
    kept = [Neighbour(PEER, Address("80.1.1.1", 1), 17, 18), Neighbour(PEER, Address("2a01::1", 2), 1, 2)]
    assert decode_neighbours(encode_neighbours(kept)) == kept
    for content in (b"", b"{}", b"[" * 5000, b'{"version":1,"neighbours":[{"peer":"x","address":"localhost:1"}]}'):
        with pytest.raises(DecodeError):
            decode_neighbours(content)


def test_who_fell_silent_is_tried_again_ever_less_often_and_is_forgotten_at_last() -> None:
    absent, gone = Absent(), Neighbour(PEER, Address("80.1.1.1", 1), 1, 2)
    absent.add(gone, 0.0)
    tries = []
    for now in range(3600):
        if absent.due(float(now), 5):
            tries.append(now)
        absent.add(gone, float(now))
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert tries[0] == 30
    assert pauses == sorted(pauses)
    assert set(pauses[3:]) == {240}
    assert absent.due(24 * 3600.0 + 1000, 5) == [gone]
    assert len(absent) == 0
    for n in range(200):
        absent.add(Neighbour(SecretKey.from_seed(bytes([n]) * 32).public, Address("80.1.1.1", 1), 1, 2), 0.0)
    assert len(absent) == 128
    assert len(absent.due(1e4, 7)) == 7
    absent.returned(absent.all()[0].peer)
    assert len(absent) <= 127


def crowded_table(own: bytes = bytes(20), places: int = 3) -> RoutingTable:
    return RoutingTable(own, 0.0, group_nodes_max=3, group_table_nodes_max=places, stale_s=900.0, changed=lambda: None)


def of_group(routes: RoutingTable, group: str) -> list[Contact]:
    """Contacts and replacements."""
    everybody = [*routes, *(each for bucket in routes.buckets for each in bucket.waiting())]
    return [each for each in everybody if each.address.host.startswith(group)]


def test_an_address_group_holds_few_places_of_a_small_table_and_gets_them_back_when_it_leaves() -> None:
    rng = random.Random(21)
    routes = crowded_table()
    for n in range(30):
        routes.add(contact(rng, bits=160 - n % 15), 0.0)

    def press() -> int:
        for _ in range(2000):
            routes.add(contact(rng, host=f"80.1.2.{rng.randrange(1, 255)}", bits=rng.randrange(140, 161)), 0.0)
        return len(of_group(routes, "80.1.2."))

    assert press() == 3
    near = bytes(10) + rng.randbytes(10)
    assert not routes.wants(near, Address("80.1.2.9", 9))
    assert routes.wants(near, Address("80.1.3.9", 9))
    for each in of_group(routes, "80.1.2.")[:2]:
        routes.drop(each)
    assert len(of_group(routes, "80.1.2.")) == 1
    assert press() == 3


def test_a_table_of_many_address_groups_leaves_each_the_contact_known_longest() -> None:
    rng = random.Random(22)
    routes = crowded_table()
    for n in range(3):
        early = contact(rng, host=f"80.1.2.{n + 1}", bits=150 + n)
        early.since = 10.0 - n
        routes.add(early, 10.0)
    hosts = [f"{50 + n}.1.1.1" for n in range(60)]
    for n, host in enumerate(hosts):
        assert len(of_group(routes, "80.1.2.")) == (3 if n < 39 else 1), n
        routes.add(contact(rng, host=host, bits=160 - n % 12), 10.0)
    kept = of_group(routes, "80.1.2.")
    assert [each.since for each in kept] == [8.0]
    assert len(list(routes)) == len(routes)
    newcomer = contact(rng, host="80.1.2.200")
    assert not routes.wants(newcomer.id, newcomer.address)
    routes.add(newcomer, 10.0)
    assert of_group(routes, "80.1.2.") == kept
    routes.drop(kept[0])
    routes.add(newcomer, 10.0)
    assert of_group(routes, "80.1.2.") == [newcomer]


def test_machines_of_a_private_network_share_no_places() -> None:
    rng = random.Random(23)
    routes = crowded_table()
    for n in range(60):
        routes.add(contact(rng, host=f"{50 + n}.1.1.1", bits=160 - n % 12), 0.0)
    for n in range(30):
        routes.add(contact(rng, host=f"10.0.0.{n + 1}", bits=150 - n), 0.0)
    assert len(of_group(routes, "10.0.0.")) == 30


def test_a_far_bucket_splits_once_for_those_whom_we_found_and_not_for_strangers_who_ask() -> None:
    rng = random.Random(24)
    routes = table(bytes(20))
    for _ in range(21):
        routes.add(contact(rng, bits=150), 0.0)
    near = len(routes)
    far = [contact(rng, node=bytes([0x80 | rng.getrandbits(7)]) + rng.randbytes(19)) for _ in range(400)]
    for each in far:
        full = len(routes.bucket_of(each.long_id)) == 20
        if full:
            assert not routes.wants(each.id, each.address)
        routes.add(each, 0.0)
    assert len(routes) == near + 40
    assert [len(routes.bucket_of(first << 152)) for first in (0x80, 0xC0)] == [20, 20]
    stranger = contact(rng, node=bytes([0x81]) + rng.randbytes(19))
    assert not routes.has_place(stranger.id, stranger.address)
    neighbour = contact(rng, bits=150)
    assert routes.has_place(neighbour.id, neighbour.address)
    assert routes.wants(neighbour.id, neighbour.address)


def test_far_buckets_with_places_left_are_searched_the_emptiest_first() -> None:
    rng = random.Random(25)
    routes = table(bytes(20))
    for first, count in ((0x80, 20), (0xC0, 20), (0x40, 20), (0x20, 3), (0x10, 2), (0, 20)):
        for _ in range(count):
            routes.add(contact(rng, node=bytes([first | rng.getrandbits(3)]) + rng.randbytes(19)), 0.0)
    sparse = routes.sparse(0.0)
    assert [len(bucket) for bucket in sparse] == [2, 3, 20]
    assert sparse[-1] is routes.bucket_of(0x40 << 152), "it may split once more"
    sparse[0].search_at = 60.0
    assert routes.sparse(59.0) == sparse[1:]
    assert routes.sparse(60.0) == sparse


@pytest.mark.parametrize("seed", range(4))
def test_the_silent_are_found_whatever_happened_to_the_table(seed: int) -> None:
    rng = random.Random(seed)
    routes, now = table(rng.randbytes(20)), 0.0
    asked = 0
    for _ in range(3000):
        now += rng.random()
        what, known = rng.random(), list(routes)
        if what < 0.4 or not known:
            newcomer = contact(rng, bits=rng.choice((160, 155)))
            newcomer.seen_at = now
            routes.add(newcomer, now)
        elif what < 0.8:
            routes.seen(rng.choice(known), now)
        elif what < 0.82:
            routes.failed(rng.choice(known))
        elif what < 0.83:
            routes.drop(rng.choice(known))
        before = now - rng.choice((5.0, 200.0, 900.0))
        due = [each for each in routes if each.failures or each.seen_at < before]
        due.sort(key=lambda each: (not each.failures, each.seen_at, each.id))
        assert routes.silent_since(before, 8) == due[:8]
        asked += not due
    assert asked > 50, "the short way was taken too"


def test_ids_depend_on_the_key_alone() -> None:
    other = PublicKey(bytes([1]) * 32)
    assert node_id(PEER) == node_id(replace(PEER))
    assert node_id(PEER) != node_id(other)
    assert len(node_id(PEER)) == 20
