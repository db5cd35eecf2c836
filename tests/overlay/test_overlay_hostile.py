"""Hostile datagrams: each fault of the stock package as a regression test, and some thousands at random.

The method: real nodes in virtual time, an attacker with a bare socket. Whatever it sends, no exception reaches the
loop (`run` fails the test if one does), nothing enters a table, and the node goes on answering.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from overlay_town import NETWORK_ID, FakeNetwork, Node, Town, run

from p2pmodel.errors import DecodeError
from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay.lookup import Lookup, nearest_nodes
from p2pmodel.overlay.node_id import challenge_for, check_proof, may_contact, node_id, prove
from p2pmodel.overlay.package import Contact
from p2pmodel.overlay.records import Batch, sign_batch
from p2pmodel.overlay.wire import NODE4_BYTES, AnnounceReply, HelloReply, HelloRequest, NodesReply, ProvidersReply

KEY = bytes(range(20))
Reply = tuple[bytes, Any]


class Attacker:
    """A socket that says what it likes, and answers every request with `answer(name, arguments, source)`."""

    def __init__(self, town: Town, host: str = "66.6.6.6") -> None:
        self.town = town
        self.host = host
        self.received: list[bytes] = []
        self.answer: Any = None
        self.key = SecretKey.from_seed(bytes([66]) * 32)
        self.id = node_id(self.key.public)

    async def open(self) -> Attacker:
        self.socket = await FakeNetwork(self.town.internet).open_datagrams(self.host, 0, self._receive)
        return self

    @property
    def address(self) -> Address:
        return self.socket.address

    def send(self, to: Node, name: Any, arguments: Any, message_id: bytes = bytes(20)) -> None:
        self.socket.send(b"\0" + message_id + msgspec.msgpack.encode([name, arguments]), to.address)

    def raw(self, to: Node, data: bytes) -> None:
        self.socket.send(data, to.address)

    async def ask(self, to: Node, name: str, arguments: list[Any]) -> Any:
        """The decoded reply, or None."""
        message_id = self.town.rng.randbytes(20)
        before = len(self.received)
        self.send(to, name, arguments, message_id)
        await asyncio.sleep(0.2)
        replies = [d for d in self.received[before:] if d[0] == 1 and d[1:21] == message_id]
        return msgspec.msgpack.decode(replies[0][21:]) if replies else None

    def _receive(self, data: bytes, source: Address) -> None:
        self.received.append(data)
        if data[0] == 0 and self.answer is not None:
            name, arguments = msgspec.msgpack.decode(data[21:])
            body = self.answer(name, arguments, source)
            if body is not None:
                self.socket.send(b"\1" + data[1:21] + body, source)

    def honest_proof(self, challenge: bytes) -> bytes:
        return prove(self.key, NETWORK_ID, challenge) if challenge else b""


def attack(story: Any, *, nodes: int = 3, **town: Any) -> None:
    """Run `story(town, attacker)`; afterwards the nodes must still find what one of them provides."""

    async def tale() -> None:
        place = Town(5, **town)
        await place.join(nodes)
        attacker = await Attacker(place).open()
        await asyncio.sleep(1)
        tables = [set(node.overlay.neighbours()) for node in place.nodes]
        assert all(tables)
        await story(place, attacker)
        attacker.answer = None
        assert [set(node.overlay.neighbours()) for node in place.nodes] == tables
        await asyncio.sleep(20)
        assert all(not node.protocol._outstanding for node in place.nodes)
        assert await place.nodes[1].overlay.provide([KEY]) == 1
        assert await place.nodes[2].find(KEY) == {place.nodes[1].peer}

    run(tale())


HEAD = [NETWORK_ID, bytes([9]) * 20]


@pytest.mark.parametrize(
    "sender",
    [b"\x01", b"\x00\x01", bytes(21), bytes(3000), b"", "text", None, 7, [], {}],
    ids=lambda value: f"{type(value).__name__}{len(value) if hasattr(value, '__len__') else ''}",
)
def test_ids_of_wrong_length_or_type_poison_no_table(sender: Any) -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        for name in ("ping", "hello", "find_node", "get_providers", "stun", "store", "find_value"):
            attacker.send(town.nodes[0], name, [NETWORK_ID, sender, b"", KEY, 0, b""])
            attacker.send(town.nodes[0], name, [sender])
        await asyncio.sleep(1)
        assert attacker.received == []

    attack(story)


def bad_node_lists() -> dict[str, bytes]:
    def reply(*fields: Any) -> bytes:
        return msgspec.msgpack.encode(fields)

    token = bytes(8)
    return {
        "port 70000 as a tuple": reply(b"", token, [[KEY, "127.0.0.1", 70000]], b""),
        "port zero": reply(b"", token, KEY + bytes([1, 2, 3, 4, 0, 0]), b""),
        "a host name": reply(b"", token, KEY + b"localhost", b""),
        "a broken entry": reply(b"", token, bytes(NODE4_BYTES + 1), b""),
        "too many nodes": reply(b"", token, bytes([7]) * NODE4_BYTES * 21, b""),
        "a bare number": msgspec.msgpack.encode(7),
        "an empty map": msgspec.msgpack.encode({}),
        "nothing": b"\xc0",
        "truncated": reply(b"", token, bytes([7]) * NODE4_BYTES, b"")[:-3],
        "nested": b"\x91" * 1300,
        "a claimed gigabyte": b"\x94\xc6\xff\xff\xff\xff",
        "not unicode": b"\x92\xa1\xff\xc0",
    }


@pytest.mark.parametrize("what", bad_node_lists())
def test_a_hostile_reply_neither_closes_the_socket_nor_fails_the_lookup(what: str) -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        attacker.answer = lambda name, arguments, source: bad_node_lists()[what]
        assert await town.nodes[0].overlay.bootstrap([attacker.address], keep=False) == 0
        seeds = [(KEY, attacker.address)]
        for report in (None, lambda *_: None):
            lookup = Lookup(town.nodes[0].protocol, KEY, group_nodes_max=0, seeds=seeds, on_providers=report)
            assert {found.id for found in await lookup.run()} == {node.protocol.own_id for node in town.nodes[1:]}

    attack(story)


def test_a_request_of_another_network_gets_no_word() -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        for network, answered in ((bytes(16), False), (NETWORK_ID[:15], False), (NETWORK_ID, True)):
            reply = await attacker.ask(town.nodes[0], "hello", [network, bytes(20), b""])
            assert (reply is not None) == answered
            reply = await attacker.ask(town.nodes[0], "find_node", [network, bytes(20), b"", KEY, bytes(200)])
            assert (reply is not None) == answered

    attack(story)


def test_a_stolen_proof_does_not_enter_the_thief() -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        honest = town.nodes[1]

        def relay(name: str, arguments: list[Any], source: Address) -> bytes | None:
            # The thief has the honest node sign whatever it can be made to sign, and hands that on.
            stolen = challenge_for(arguments[2][:16], honest.address)
            return msgspec.msgpack.encode([prove(honest.key, NETWORK_ID, stolen), bytes(8)])

        attacker.answer = relay
        assert await town.nodes[0].overlay.bootstrap([attacker.address], keep=False) == 0
        reply = await attacker.ask(honest, "hello", [*HEAD, challenge_for(bytes(16), attacker.address)])
        assert reply is None

    attack(story)


def test_a_node_that_proves_another_id_than_it_was_named_by_does_not_count() -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        def lie(name: str, arguments: list[Any], source: Address) -> bytes | None:
            near = b"".join(KEY[:18] + bytes([1, n]) + attacker.address.pack() for n in range(20))
            return msgspec.msgpack.encode([attacker.honest_proof(arguments[2]), bytes(8), near, b"", 0, []])

        attacker.answer = lie
        victim = town.nodes[0]
        crawl_seeds = [(attacker.id, attacker.address)]
        found = await nearest_nodes(victim.protocol, KEY, group_nodes_max=0, seeds=crawl_seeds)
        assert {node.id for node in found} == {n.protocol.own_id for n in town.nodes[1:]} | {attacker.id}
        contact = victim.protocol.table.get(attacker.id)
        victim.protocol.table.drop(contact)

    attack(story)


@pytest.mark.slow
def test_a_liar_that_names_ever_new_nodes_costs_a_bounded_lookup() -> None:
    async def tale() -> None:
        town = Town(6)
        await town.join(5)
        attacker = await Attacker(town).open()
        rng = random.Random(1)

        def lie(name: str, arguments: list[Any], source: Address) -> bytes | None:
            fakes = b"".join(
                KEY[:10] + rng.randbytes(10) + Address(f"77.{rng.randrange(256)}.{n}.1", 99).pack() for n in range(20)
            )
            return msgspec.msgpack.encode([attacker.honest_proof(arguments[2]), bytes(8), fakes, b"", 0, []])

        attacker.answer = lie
        assert await town.nodes[0].overlay.bootstrap([attacker.address], keep=False) == 1
        await town.nodes[2].overlay.provide([KEY])
        before, started = town.internet.datagrams, asyncio.get_running_loop().time()
        assert await town.nodes[0].find(KEY) == {town.nodes[2].peer}
        assert asyncio.get_running_loop().time() - started <= 15.1
        assert town.internet.datagrams - before < 800

    run(tale())


def requests_of_a_stranger(holder: Address) -> st.SearchStrategy[bytes]:
    """Real requests in every length: cut, padded, with and without challenge, from old and new senders."""
    sender = st.sampled_from([bytes(20), *(bytes([n]) * 20 for n in range(1, 9))])
    challenge = st.sampled_from(
        [b"", challenge_for(bytes(16), holder), challenge_for(bytes(16), Address("9.9.9.9", 9))]
    )
    key = st.sampled_from([KEY, OWN_KEY, bytes([200]) * 20])
    padding = st.one_of(st.just([]), st.integers(0, 1200).map(lambda length: [bytes(length)]))
    request = st.one_of(
        st.tuples(st.just("hello"), sender, challenge).map(lambda f: (f[0], [NETWORK_ID, *f[1:]])),
        st.tuples(st.just("find_node"), sender, challenge, key, padding).map(
            lambda f: (f[0], [NETWORK_ID, *f[1:4], *f[4]])
        ),
        st.tuples(st.just("get_providers"), sender, challenge, key, st.integers(0, 65535), padding).map(
            lambda f: (f[0], [NETWORK_ID, *f[1:5], *f[5]])
        ),
        st.tuples(st.just("announce"), sender, st.integers(0, 50), st.binary(min_size=64, max_size=64)).map(
            lambda f: (
                f[0],
                [
                    NETWORK_ID,
                    f[1],
                    bytes(8),
                    bytes(32),
                    4000,
                    60,
                    1,
                    b"".join(bytes([n]) * 20 for n in range(f[2])),
                    f[3],
                ],
            )
        ),
    )
    request = request | st.tuples(
        sender, st.sampled_from([TOKEN_OF_STRANGER, bytes(8)]), st.integers(0, 40), st.just(bytes(16))
    ).map(lambda f: ("dial_back", [NETWORK_ID, f[0], f[1], f[3], bytes(f[2])]))
    cut = st.one_of(st.just(0), st.integers(0, 200))
    return st.tuples(request, st.binary(min_size=20, max_size=20), cut).map(
        lambda f: (whole := b"\0" + f[1] + msgspec.msgpack.encode(f[0]))[: max(1, len(whole) - f[2])]
    )


OWN_KEY = bytes([99]) * 20
TOKEN_OF_STRANGER = b"token..."
"""Stands for the token that a helper would take from the stranger."""
CROWDED = Address("50.1.1.1", 4000)


async def crowded_holder() -> tuple[Town, Node]:
    """A node whose every answer is as long as it can be: full table, many providers, one of them itself."""
    town = Town(7)
    node = await town.node(host=CROWDED.host)
    protocol = node.protocol
    for n in range(1, 80):
        peer = SecretKey.from_seed(bytes([n]) * 32).public
        protocol.table.add(Contact(node_id(peer), peer, Address(f"70.{n}.1.1", 4000), 0.0), 0.0)
        for key in (KEY, OWN_KEY):
            keys = sorted([key, *(bytes([n, m]) + bytes(18) for m in range(49))])
            protocol.providers.add(Batch(peer, Address(f"70.{n}.1.1", 4000), 9999, n, keys, bytes(64), 9999.0), 0.0)
    node.overlay.provide_later([OWN_KEY])
    return town, node


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(requests_of_a_stranger(Address(CROWDED.host, 4001)), st.sampled_from([0.0, 0.01, 1.0, 6.0])),
        max_size=25,
    )
)
def test_a_stranger_never_gets_more_than_three_times_the_bytes_it_sent(story: list[tuple[bytes, float]]) -> None:
    """It may be somebody else's address. All that goes there counts at every moment, challenges and repetitions too."""

    async def tale() -> None:
        town, node = await crowded_holder()
        assert node.address == Address(CROWDED.host, 4001)
        stranger = Address("99.1.1.1", 4000)
        sent = back = 0

        def tap(data: bytes, source: Address, to: Address) -> None:
            nonlocal back
            if to == stranger:
                back += len(data)
                assert back <= 3 * sent

        town.internet.tap = tap
        dial_backs = node.protocol.dial_backs
        dial_backs._open_aside()
        await asyncio.sleep(0)
        for data, pause_s in story:
            sent += len(data)
            token = dial_backs._tokens.issue(stranger, node.protocol.clock.monotonic())
            data = data.replace(TOKEN_OF_STRANGER, token)
            node.protocol.datagram_received(data, stranger)
            await asyncio.sleep(pause_s)
        await asyncio.sleep(20)

    run(tale())


def test_a_crowded_holder_answers_a_padded_request_with_all_that_three_times_allow() -> None:
    """The property above is not true for want of answers."""

    async def tale() -> None:
        town, node = await crowded_holder()
        attacker = await Attacker(town).open()
        reply = await attacker.ask(node, "get_providers", [NETWORK_ID, bytes(20), b"", KEY, 0, bytes(400)])
        assert reply is not None
        assert len(max(attacker.received, key=len)) > 1000
        assert len(reply[2]) // NODE4_BYTES >= 15
        assert reply[4] > len(reply[5]) >= 1

    run(tale())


def announcement(attacker: Attacker, holder: Node, token: bytes, **changes: Any) -> list[Any]:
    fields: dict[str, Any] = {"ttl_s": 60, "sequence": 1, "port": 4000, "keys": [KEY], "sender": attacker.id} | changes
    signature = sign_batch(
        attacker.key,
        changes.get("network", NETWORK_ID),
        changes.get("told", holder.protocol.own_id),
        port=fields["port"],
        ttl_s=fields["ttl_s"],
        sequence=fields["sequence"],
        keys=changes.get("signed_keys", fields["keys"]),
    )
    peer = changes.get("peer", attacker.key.public.raw)
    return [
        NETWORK_ID,
        fields["sender"],
        token,
        peer,
        fields["port"],
        fields["ttl_s"],
        fields["sequence"],
        b"".join(fields["keys"]),
        changes.get("signature", signature),
    ]


def test_only_a_provider_itself_with_a_token_announces_and_an_older_word_does_not_count() -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        holder = town.nodes[0]
        store = holder.protocol.providers
        token = (await attacker.ask(holder, "hello", [NETWORK_ID, bytes(20), b""]))[1]

        async def refused(sent_token: bytes = token, **changes: Any) -> bool:
            await attacker.ask(holder, "announce", announcement(attacker, holder, sent_token, **changes))
            return len(store) == 0

        assert await refused(bytes(8))
        assert await refused(token[:7])
        assert await refused(told=town.nodes[1].protocol.own_id)
        assert await refused(network=bytes(16))
        assert await refused(signature=bytes(64))
        assert await refused(peer=town.nodes[1].peer.raw)
        assert await refused(sender=town.nodes[1].protocol.own_id)
        assert await refused(keys=[KEY], signed_keys=[bytes(20)])
        assert await refused(keys=[bytes([2]) * 20, bytes([1]) * 20])
        assert await refused(keys=[KEY, KEY])
        assert await refused(keys=[KEY[:19]])
        assert await refused(keys=[])
        assert await refused(keys=[bytes([n]) * 20 for n in range(51)], signed_keys=[KEY])
        assert await refused(ttl_s=10**7)
        thief = await Attacker(town, "67.7.7.7").open()
        await thief.ask(holder, "announce", announcement(attacker, holder, token))
        assert len(store) == 0

        reply = await attacker.ask(holder, "announce", announcement(attacker, holder, token, sequence=5))
        assert reply[:2] == [0, 1]
        assert store.find(KEY, 0, 0.0)[0] == 1
        await attacker.ask(holder, "announce", announcement(attacker, holder, token, sequence=4, ttl_s=0))
        assert len(store) == 1
        reply = await attacker.ask(holder, "announce", announcement(attacker, holder, token, sequence=6, ttl_s=0))
        assert reply[:2] == [0, 1]
        reply = await attacker.ask(holder, "announce", announcement(attacker, holder, token, sequence=5))
        assert (reply[0], reply[3]) == (2, 6)
        assert len(store) == 0

    attack(story)


def test_a_false_provider_record_is_not_reported() -> None:
    async def tale() -> None:
        town = Town(8)
        await town.join(4)
        attacker = await Attacker(town).open()
        somebody = town.nodes[3]

        def lie(name: str, arguments: list[Any], source: Address) -> bytes | None:
            forged = [somebody.peer.raw, somebody.address.pack(), 60, 60, 1, 0, 1, b"", bytes(64)]
            return msgspec.msgpack.encode([attacker.honest_proof(arguments[2]), bytes(8), b"", b"", 1, [forged]])

        attacker.answer = lie
        assert await town.nodes[0].overlay.bootstrap([attacker.address], keep=False) == 1
        assert await town.nodes[0].find(KEY) == set()

    run(tale())


def test_a_node_out_there_cannot_send_us_to_our_own_machine_or_network() -> None:
    async def tale() -> None:
        town = Town(8)
        (first,) = await town.join(1)
        attacker = await Attacker(town).open()
        inner = [Address(host, 22) for host in ("127.0.0.1", "192.168.1.1", "10.0.0.1", "169.254.169.254", "224.0.0.1")]
        outer = Address("77.7.7.7", 22)

        def lie(name: str, arguments: list[Any], source: Address) -> bytes | None:
            nodes = b"".join(bytes([n]) * 20 + address.pack() for n, address in enumerate([*inner, outer]))
            records = []
            for address in [*inner, outer]:
                signature = sign_batch(attacker.key, NETWORK_ID, attacker.id, port=22, ttl_s=60, sequence=1, keys=[KEY])
                records.append([attacker.key.public.raw, address.pack(), 60, 60, 1, 0, 1, b"", signature])
            reply = [attacker.honest_proof(arguments[2]), bytes(8), nodes, b"", len(records), records]
            return msgspec.msgpack.encode(reply[: 2 if name == "hello" else 6])

        attacker.answer = lie
        contacted: set[Address] = set()
        town.internet.tap = lambda data, source, to: contacted.add(to)
        assert await first.overlay.bootstrap([attacker.address], keep=False) == 1
        found = {provider.address async for provider in first.overlay.providers(KEY)}
        assert found == {outer}
        assert contacted == {first.address, attacker.address, outer}

    run(tale())


def test_a_reply_from_another_address_is_ignored() -> None:
    async def tale() -> None:
        town = Town(9)
        (first,) = await town.join(1)
        silent = Address("88.8.8.8", 1)
        attacker = await Attacker(town).open()
        seen: list[bytes] = []

        def tap(data: bytes, source: Address, to: Address) -> None:
            if to == silent:
                seen.append(data)
                challenge = msgspec.msgpack.decode(data[21:])[1][2]
                body = msgspec.msgpack.encode([attacker.honest_proof(challenge), bytes(8)])
                attacker.raw(first, b"\1" + data[1:21] + body)

        town.internet.tap = tap
        assert await first.overlay.bootstrap([silent], keep=False) == 0
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert first.overlay.neighbours() == []

    run(tale())


def test_a_flood_of_forged_senders_causes_few_challenges_and_leaves_nothing_behind() -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        rng = random.Random(3)
        for _ in range(3000):
            attacker.send(town.nodes[0], "hello", [NETWORK_ID, rng.randbytes(20), b""], rng.randbytes(20))
        await asyncio.sleep(0.06)
        assert len(town.nodes[0].protocol._outstanding) <= 70
        await asyncio.sleep(5)
        replies = sum(data[0] == 1 for data in attacker.received)
        challenges = sum(data[0] == 0 for data in attacker.received)
        assert replies <= 2150
        assert challenges <= 64

    attack(story)


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    choice = rng.randrange(5)
    if choice == 0:
        return rng.randbytes(rng.randrange(0, 200))
    if choice == 1:
        return bytes([rng.randrange(3)]) + rng.randbytes(20) + rng.randbytes(rng.randrange(80))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        if choice == 2:
            data[at] = rng.randrange(256)
        elif choice == 3:
            del data[at : at + rng.randrange(1, 20)]
        else:
            data[at:at] = rng.choice((b"\xc1", b"\x91" * 40, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x80"))
        if not data:
            break
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_datagram_at_random_harms_a_node(seed: int) -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        rng = random.Random(seed)
        seeds: list[bytes] = []
        town.internet.tap = lambda data, source, to: seeds.append(data)
        await town.nodes[1].overlay.provide([bytes([3]) * 20])
        await town.nodes[2].find(bytes([3]) * 20)
        town.internet.tap = None
        assert {data[0] for data in seeds} == {0, 1}
        for n in range(4000):
            attacker.raw(town.nodes[0], mutated(rng, seeds))
            if n % 100 == 0:
                await asyncio.sleep(0.1)
        await asyncio.sleep(5)

    attack(story)


@pytest.mark.slow
def test_no_reply_at_random_harms_a_node_that_asks() -> None:
    async def story(town: Town, attacker: Attacker) -> None:
        rng = random.Random(4)
        proof, token = bytes(96), bytes(8)
        node = bytes([7]) * NODE4_BYTES
        evidence = [bytes(32), bytes(6), 60, 60, 1, 0, 1, b"", bytes(64)]
        seeds = [
            msgspec.msgpack.encode(reply)
            for reply in (
                HelloReply(proof, token),
                NodesReply(proof, token, node * 3, b""),
                [proof, token, node, b"", 1, [evidence]],
                AnnounceReply(0, 1, token, 5),
            )
        ]
        attacker.answer = lambda name, arguments, source: mutated(rng, seeds)
        protocol = town.nodes[0].protocol
        for _ in range(400):
            lookup = Lookup(
                protocol,
                rng.randbytes(20),
                group_nodes_max=0,
                seeds=[(rng.randbytes(20), attacker.address) for _ in range(3)],
                on_providers=rng.choice((None, lambda *_: None)),
                deadline_s=2.0,
            )
            await lookup.run()

    attack(story)


def test_a_newcomer_nearer_to_the_keys_than_we_are_is_handed_none_of_them() -> None:
    """The package sends every key to whoever claims an id near it: 50 bytes to a node with 100 keys cost 98,992."""

    async def tale() -> None:
        town, node = await crowded_holder()
        attacker = await Attacker(town).open()
        for n in range(40):
            sender = KEY[:19] + bytes([n])
            attacker.send(node, "hello", [NETWORK_ID, sender, b""], bytes([n]) * 20)
        await asyncio.sleep(10)
        names = [msgspec.msgpack.decode(data[21:])[0] for data in attacker.received if data[0] == 0]
        assert set(names) <= {"hello"}
        assert len(attacker.received) <= 80

    run(tale())


def test_a_datagram_that_is_too_long_is_not_read_and_none_is_sent() -> None:
    async def tale() -> None:
        town, node = await crowded_holder()
        attacker = await Attacker(town).open()
        for length, answered in ((1400, True), (1401, False), (60_000, False)):
            before = len(attacker.received)
            head = b"\0" + bytes(20) + msgspec.msgpack.encode(["get_providers", [NETWORK_ID, bytes(20), b"", KEY, 0]])
            # The same request, with a padding that brings it to `length`.
            body = bytearray(head)
            body[36] += 1
            padding = length - len(head) - 3
            attacker.raw(node, bytes(body) + b"\xc5" + padding.to_bytes(2, "big") + bytes(padding))
            await asyncio.sleep(0.2)
            assert (len(attacker.received) > before) == answered, length
        assert max(map(len, attacker.received)) <= 1400

    run(tale())


def test_requests_on_their_way_are_bounded_and_all_of_them_end() -> None:
    async def tale() -> None:
        town = Town(9)
        node = await town.node()
        silent, ended = Address("88.8.8.8", 1), []
        request = HelloRequest(NETWORK_ID, bytes(20), b"")
        town.internet.datagrams = 0
        calls = node.protocol.calls
        for n in range(6000):
            calls.start(silent, request, on_reply=ended.append, on_failed=lambda n=n: ended.append(n), repeat=False)
        assert town.internet.datagrams == 4096
        await asyncio.sleep(10)
        assert len(ended) == 6000
        assert len(calls) == 0

    run(tale())


def test_an_address_has_one_spelling_and_no_scope() -> None:
    assert Address.unpack(bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]) + b"\1\1") == Address("127.0.0.1", 257)
    assert not may_contact(Address("::ffff:127.0.0.1", 22), Address("66.6.6.6", 1))
    for host in ("fe80::1%eth0", "localhost", "1.2.3.4.5", "1.2.3.04"):
        with pytest.raises(DecodeError):
            Address(host, 22)


def test_types_of_replies_are_those_of_their_requests() -> None:
    """What the tests above send as good replies is what the code itself would send."""
    assert ProvidersReply.__struct_fields__[:4] == NodesReply.__struct_fields__
    key = SecretKey.from_seed(bytes(32))
    challenge = challenge_for(bytes(16), Address("1.2.3.4", 5))
    assert check_proof(prove(key, NETWORK_ID, challenge), NETWORK_ID, challenge) == key.public
    assert check_proof(prove(key, NETWORK_ID, challenge), bytes(16), challenge) is None
