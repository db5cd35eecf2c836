"""What others may make a node keep: every cap, who gets a place when there is none left, and what a record weighs."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_town import NETWORK_ID, Town, run

from p2pmodel.limits import PROVIDERS_PER_KEY_MAX, RECORD_TTL_MAX_S
from p2pmodel.model import PublicKey
from p2pmodel.net import Address
from p2pmodel.overlay.package import REQUEST, frame
from p2pmodel.overlay.provider_store import ProviderStore
from p2pmodel.overlay.records import Batch
from p2pmodel.overlay.wire import AnnounceRequest, encode_request

KEY = bytes(range(20))


def batch(keys: list[bytes], host: str, *, peer: int = 0, sequence: int = 1, ends: float = 1000.0) -> Batch:
    """As if its signature had been checked."""
    who = PublicKey(peer.to_bytes(32, "big"))
    return Batch(who, Address(host, 4000), 1000, sequence, sorted(keys), bytes(64), ends)


def keys_of(rng: random.Random, count: int) -> list[bytes]:
    return [rng.randbytes(20) for _ in range(count)]


def test_who_fills_a_key_first_from_few_address_groups_makes_room_for_every_other_group() -> None:
    store = ProviderStore()
    for n in range(200):
        store.add(batch([KEY], f"80.1.{n % 8}.{n + 1}", peer=n), 0.0)
    assert store.find(KEY, 0, 0.0)[0] == PROVIDERS_PER_KEY_MAX
    honest = [batch([KEY], f"90.{n}.1.1", peer=1000 + n) for n in range(50)]
    assert all(store.add(each, 0.0) == 1 for each in honest)
    total, held = store.find(KEY, 0, 0.0)
    assert total == PROVIDERS_PER_KEY_MAX
    assert set(honest) <= set(held)


def test_a_group_that_has_its_share_gets_no_more_of_a_full_key() -> None:
    store = ProviderStore()
    for n in range(64):
        store.add(batch([KEY], f"80.{n // 2}.1.{n + 1}", peer=n), 0.0)
    assert store.add(batch([KEY], "80.3.1.200", peer=900), 0.0) == 0
    assert store.add(batch([KEY], "99.3.1.200", peer=901), 0.0) == 1
    assert store.find(KEY, 0, 0.0)[0] == 64


def test_a_full_store_makes_room_for_the_groups_that_have_less() -> None:
    rng = random.Random(1)
    store = ProviderStore(keys_max=5000, keys_per_source_max=2000, keys_per_group_max=4000)
    for n in range(200):
        store.add(batch(keys_of(rng, 50), f"80.1.1.{n % 3 + 1}", peer=n), 0.0)
    assert len(store) == 4000
    for n in range(40):
        store.add(batch(keys_of(rng, 50), f"80.2.{n}.1", peer=300 + n), 0.0)
    assert len(store) <= 5000
    honest = keys_of(rng, 50)
    assert store.add(batch(honest, "90.1.1.1", peer=999), 0.0) == 50
    assert all(key in store for key in honest)
    assert len(store) <= 5000
    assert store._group_records[bytes([80, 1, 1])] < 4000


def test_announcements_of_one_key_each_are_bounded_in_number() -> None:
    rng = random.Random(2)
    store = ProviderStore(batches_max=100)
    for n in range(300):
        store.add(batch(keys_of(rng, 1), f"80.1.{n % 2}.1", peer=n), 0.0)
    assert store.batches == len(store) == 100
    assert store.add(batch(keys_of(rng, 1), "90.1.1.1", peer=999), 0.0) == 1
    assert store.batches == 100


def test_a_source_and_a_group_have_caps_of_their_own_and_loopback_has_not() -> None:
    rng = random.Random(3)
    store = ProviderStore(keys_per_source_max=70, keys_per_group_max=120)
    assert [store.add(batch(keys_of(rng, 50), "80.1.1.1", peer=n), 0.0) for n in range(3)] == [50, 20, 0]
    assert [store.add(batch(keys_of(rng, 50), "80.1.1.2", peer=n), 0.0) for n in range(3, 6)] == [50, 0, 0]
    assert [store.add(batch(keys_of(rng, 50), "127.0.0.1", peer=n), 0.0) for n in range(6, 10)] == [50] * 4


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_books_agree_after_any_story(data: st.DataObject) -> None:
    keys = [bytes([n]) * 20 for n in range(6)]
    store = ProviderStore(
        keys_max=12, keys_per_source_max=8, keys_per_group_max=9, batches_max=7, providers_per_key_max=4
    )
    now = 0.0
    for sequence in range(1, data.draw(st.integers(1, 30)) + 1):
        chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
        peer = data.draw(st.integers(0, 5))
        match data.draw(st.sampled_from(["add", "add", "add", "withdraw", "expire"])):
            case "add":
                host = data.draw(st.sampled_from(["80.1.1.1", "80.1.1.2", "90.1.1.1", "91.1.1.1", "127.0.0.1"]))
                ends = now + data.draw(st.integers(1, 20))
                added = batch(chosen, host, peer=peer, sequence=sequence, ends=ends)
                assert 0 <= store.add(added, now) <= len(chosen)
            case "withdraw":
                store.withdraw(PublicKey(peer.to_bytes(32, "big")), chosen, sequence)
            case _:
                now += 5.0
                store.expire(now)
        held = [(key, each) for key in keys for each in store.find(key, 0, now)[1]]
        assert len(held) == len(store) <= 12
        assert len({each for _, each in held}) == store.batches <= 7
        assert all(each.expires_at > now for _, each in held)
        for key in keys:
            providers = [each.peer for other, each in held if other == key]
            assert len(providers) == len(set(providers)) <= 4
        for host in ("80.1.1.1", "80.1.1.2", "90.1.1.1"):
            assert sum(each.source.host == host for _, each in held) == store._by_source[host] <= 8
        assert sum(each.group == bytes([80, 1, 1]) for _, each in held) == store._group_records[bytes([80, 1, 1])] <= 9
    store.expire(now + 100)
    assert len(store) == store.batches == 0
    assert not (store._by_key or store._by_peer or store._by_group or store._by_source or store._group_records)


@pytest.mark.slow
def test_a_record_weighs_what_the_module_says() -> None:
    rng = random.Random(4)

    def bytes_each(keys: int) -> float:
        count = 20_000
        gc.collect()
        tracemalloc.start()
        store = ProviderStore()
        for n in range(count // keys):
            peer = PublicKey(rng.randbytes(32))
            added = Batch(peer, Address(f"80.1.{n % 250}.1", 4000), 9, 1, keys_of(rng, keys), rng.randbytes(64), 9.0)
            assert store.add(added, 0.0) == keys
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return held / count

    assert bytes_each(50) <= 220
    assert bytes_each(1) <= 2200


def forged(rng: random.Random, told: bytes) -> bytes:
    """An announcement right in all its forms, with a token and a signature that were made up."""
    request = AnnounceRequest(
        network=NETWORK_ID,
        sender=bytes(20),
        token=rng.randbytes(8),
        peer=rng.randbytes(32),
        port=4000,
        ttl_s=rng.randrange(RECORD_TTL_MAX_S),
        sequence=rng.randrange(1 << 40),
        keys=b"".join(sorted(keys_of(rng, rng.randrange(1, 50)))),
        signature=rng.randbytes(64),
    )
    return frame(REQUEST, rng.randbytes(20), encode_request(request))


@pytest.mark.parametrize(
    "count", [pytest.param(20_000, marks=pytest.mark.slow), pytest.param(1_000_000, marks=pytest.mark.long)]
)
def test_forged_announcements_are_never_stored(count: int) -> None:
    async def tale() -> None:
        town, rng = Town(1), random.Random(5)
        holder = await town.node()
        datagrams = [forged(rng, holder.protocol.own_id) for _ in range(500)]
        sources = [Address(f"77.{n % 250}.{n // 250}.1", 4000) for n in range(5000)]
        for n in range(count):
            # From ever other addresses, so that the rate of none of them hides what becomes of the rest.
            holder.protocol.datagram_received(datagrams[n % 500], sources[n % 5000])
        assert len(holder.protocol.providers) == 0
        assert holder.protocol.traffic.datagrams_in == count
        assert holder.protocol.traffic.datagrams_out >= 5000

    run(tale())
