"""Whether a node finds out that others cannot reach it, and lets nobody persuade it.

The method: the decision alone, driven by hand; then real nodes in virtual time on hosts behind translators, with
losses, liars and cuts; and a helper that is asked by strangers with a bare socket.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest
from overlay_town import NETWORK_ID, Town, run
from test_overlay_hostile import HEAD, Attacker

from p2pmodel.errors import DecodeError
from p2pmodel.limits import DIAL_BACK_HELPERS, DIAL_BACKS_PER_GROUP_AT_ONCE, DIAL_BACKS_PER_SOURCE_AT_ONCE
from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay import CLUSTER, Reach, node_id
from p2pmodel.overlay.dial_back import NO_TOKEN, DialBacks, SendAside
from p2pmodel.overlay.node_id import NO_ID, challenge_for
from p2pmodel.overlay.package import FRAME_BYTES, REPLY, REQUEST, Contact, frame
from p2pmodel.overlay.reachability import Answer, Reachability, choose_helpers
from p2pmodel.overlay.wire import (
    BUSY,
    DIAL_BACK_BYTES,
    DIALLED,
    WRONG_TOKEN,
    DialledRequest,
    HelloRequest,
    decode_request,
    dial_back,
    encode_reply,
    encode_request,
)
from p2pmodel.testing.conditions import Conditions, Nat
from p2pmodel.testing.inside import protocol_of
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.overlays import Member, OverlayTown

UNKNOWN, REACHABLE, UNREACHABLE = Reach.UNKNOWN, Reach.REACHABLE, Reach.UNREACHABLE

# --- the decision -----------------------------------------------------------------------------------------------------


def said(came: int, silent: int) -> list[Answer]:
    return [Answer(bytes([n]), n < came) for n in range(came + silent)]


def after(*checks: Sequence[Answer], apart_s: float = 60.0) -> Reachability:
    rng, now = random.Random(1), 0.0
    reachability = Reachability(now, rng)
    for answers in checks:
        now += apart_s
        reachability.judge(answers, now, rng)
    return reachability


NOBODY, TWO_CAME, ONE_CAME, TWO_SILENT, SILENT = said(0, 0), said(2, 3), said(1, 4), said(0, 2), said(0, 3)


@pytest.mark.parametrize(
    ("checks", "state"),
    [
        ([], UNKNOWN),
        ([TWO_CAME], REACHABLE),
        ([ONE_CAME] * 9, UNKNOWN),
        ([SILENT], UNKNOWN),
        ([SILENT, SILENT], UNREACHABLE),
        ([SILENT, ONE_CAME, SILENT], UNKNOWN),
        ([SILENT, NOBODY, SILENT], UNREACHABLE),
        ([NOBODY] * 9, UNKNOWN),
        ([TWO_SILENT] * 9, UNKNOWN),
        ([[Answer(b"one", False)] * 5] * 9, UNKNOWN),
        ([[Answer(b"one", True)] * 5] * 9, UNKNOWN),
        ([TWO_CAME, SILENT], REACHABLE),
        ([TWO_CAME, SILENT, TWO_CAME, SILENT], REACHABLE),
        ([TWO_CAME, SILENT, SILENT], UNREACHABLE),
        ([SILENT, SILENT, TWO_CAME], UNREACHABLE),
        ([SILENT, SILENT, TWO_CAME, TWO_CAME], REACHABLE),
        ([SILENT, SILENT, NOBODY, NOBODY], UNREACHABLE),
    ],
)
def test_several_have_to_agree_and_a_turn_has_to_be_confirmed(checks: list[list[Answer]], state: Reach) -> None:
    assert after(*checks).state is state


def test_what_nobody_has_confirmed_for_an_hour_is_not_known_any_more() -> None:
    cut_off = after(SILENT, SILENT)
    cut_off.nobody_to_ask(120.0 + 3599.0)
    assert cut_off.state is UNREACHABLE
    cut_off.nobody_to_ask(120.0 + 3600.0)
    assert cut_off.state is UNKNOWN


def test_checks_are_soon_while_in_doubt_and_seldom_when_sure() -> None:
    def pause_s(reachability: Reachability, now: float) -> float:
        return next(s for s in range(10_000) if reachability.due(now + s))

    assert 10 <= pause_s(after(), 0.0) <= 30
    assert 48 <= pause_s(after(SILENT), 60.0) <= 72
    assert 480 <= pause_s(after(SILENT, SILENT), 120.0) <= 720
    assert 1440 <= pause_s(after(TWO_CAME), 60.0) <= 2160
    assert 480 <= pause_s(after(*[NOBODY] * 9), 540.0) <= 720


def test_a_hint_brings_the_next_check_forward_but_no_flood_of_hints_makes_a_flood_of_checks() -> None:
    sure = after(TWO_CAME)
    for now in range(61, 360):
        sure.look_again(float(now))
        assert not sure.due(float(now))
    sure.look_again(360.0)
    assert sure.due(360.0)


def contact(n: int, host: str) -> Contact:
    peer = SecretKey.from_seed(bytes([n]) * 32).public
    return Contact(node_id(peer), peer, Address(host, 4000), 0.0)


def test_helpers_are_of_different_public_groups_and_of_both_families() -> None:
    rng = random.Random(1)
    private = [contact(n, f"192.168.{n}.1") for n in range(1, 9)] + [contact(9, "127.0.0.1")]
    crowd = [contact(n, f"60.1.1.{n}") for n in range(10, 40)]
    assert choose_helpers([*private, *crowd], rng) == []
    assert choose_helpers([*private, *crowd, contact(50, "61.1.1.1")], rng) == []
    spread = [contact(60 + n, f"70.{n}.1.1") for n in range(20)]
    six = [contact(90 + n, f"2a00:{n + 1}::1") for n in range(2)]
    spread[0].failures = 1
    for _ in range(20):
        chosen = choose_helpers([*private, *crowd, *spread, *six], rng)
        hosts = [each.address.host for each in chosen]
        assert len(chosen) == len(set(hosts)) == DIAL_BACK_HELPERS
        assert sum(":" in host for host in hosts) == 2
        assert sum(host.startswith("60.1.1.") for host in hosts) <= 1
        assert "70.0.1.1" not in hosts
        assert not any(each.address.scope for each in chosen)


# --- whole nodes ------------------------------------------------------------------------------------------------------


def state(member: Member) -> tuple[Reach | None, bool]:
    stats = member.overlay.stats()
    return stats.reachability, stats.client_only


async def town_with(
    behind: Sequence[Nat], *, open_nodes: int = 12, loss: float = 0.0, seed: int = 1
) -> tuple[OverlayTown, list[Member]]:
    """A town of open nodes, and one more behind each of these translators."""
    town = OverlayTown(Internet(seed, Conditions(loss=loss)), profile=CLUSTER, client_only=None)
    await town.grow(open_nodes)
    hidden = [await town.start(host=town.internet.host(nat=nat)) for nat in behind]
    await asyncio.gather(*(town.join(member, town.entry_addresses()) for member in hidden))
    return town, hidden


def never_dials(members: Sequence[Member]) -> None:
    """They say that they dial back, and do not."""
    for member in members:
        protocol_of(member.overlay).dial_backs._send_aside = lambda datagram, to: True


def known_to(town: OverlayTown, who: Member) -> int:
    return sum(who.id in [node_id(peer) for peer, _ in other.overlay.neighbours()] for other in town.alive)


async def watched(town: OverlayTown, minutes: int, look: Callable[[], None]) -> None:
    for _ in range(minutes * 6):
        await asyncio.sleep(10)
        look()


@pytest.mark.parametrize(("loss", "seed"), [(0.0, 1), (0.2, 2), (0.2, 3)])
def test_who_is_behind_a_translator_finds_out_within_minutes_and_open_nodes_never_doubt(loss: float, seed: int) -> None:
    """A liar among twelve says that it dials back and never does."""

    async def tale() -> None:
        kinds = [Nat.SYMMETRIC, Nat.RESTRICTED, Nat.FULL_CONE]
        town, (symmetric, restricted, full_cone) = await town_with(kinds, loss=loss, seed=seed)
        never_dials(town.entries[:1])
        reached = [member for member in town.alive if member not in (symmetric, restricted)]

        def look() -> None:
            assert not any(member.overlay.stats().client_only for member in reached)

        await watched(town, 6, look)
        assert [state(member) for member in (symmetric, restricted)] == [(UNREACHABLE, True)] * 2
        assert [state(member) for member in reached] == [(REACHABLE, False)] * len(reached)
        await watched(town, 40, look)
        assert [state(member) for member in (symmetric, restricted)] == [(UNREACHABLE, True)] * 2
        assert known_to(town, symmetric) == known_to(town, restricted) == 0
        assert known_to(town, full_cone) > 0

    run(tale())


def test_who_cannot_be_reached_uses_the_overlay_and_is_back_in_it_once_it_can() -> None:
    async def tale() -> None:
        town, (hidden,) = await town_with([Nat.RESTRICTED])
        await asyncio.sleep(300)
        assert state(hidden) == (UNREACHABLE, True)
        assert protocol_of(hidden.overlay).sender_id == NO_ID
        (other,) = town.new_keys(1)
        assert await town.provide(town.entries[1], [other]) == 1
        trace = await town.find(hidden, other)
        assert trace is not None and town.found(trace)
        await asyncio.sleep(1800)
        assert known_to(town, hidden) == 0
        hidden.host.nat = Nat.OPEN
        for _ in range(1200):
            await asyncio.sleep(1)
            if state(hidden) == (REACHABLE, False):
                break
        assert protocol_of(hidden.overlay).sender_id == hidden.id
        await asyncio.sleep(5)
        assert known_to(town, hidden) == len(town.alive) - 1

    run(tale())


def test_who_cannot_be_reached_takes_its_records_back_announces_nothing_and_all_of_it_once_it_can() -> None:
    async def tale() -> None:
        town, (moving,) = await town_with([Nat.OPEN])
        early, late = town.new_keys(2)
        stats = moving.overlay.stats

        async def found(key: bytes) -> bool:
            trace = await town.find(town.entries[1], key)
            return trace is not None and bool(trace.providers)

        assert await town.provide(moving, [early]) == 1
        assert await found(early)
        moving.host.nat = Nat.SYMMETRIC
        await asyncio.sleep(45 * 60)
        assert state(moving) == (UNREACHABLE, True)
        assert not await found(early), "it would be dialled in vain"
        assert await town.provide(moving, [late]) == 0
        await asyncio.sleep(60)
        assert not await found(late)
        assert (stats().keys_provided, stats().keys_pending, stats().announce_behind_s) == (2, 2, 0.0)
        moving.host.nat = Nat.OPEN
        await asyncio.sleep(20 * 60)
        assert state(moving) == (REACHABLE, False)
        assert await found(early) and await found(late)
        assert stats().keys_pending == 0

    run(tale())


def test_a_node_that_moves_behind_a_translator_notices() -> None:
    async def tale() -> None:
        _, (moving,) = await town_with([Nat.OPEN])
        await asyncio.sleep(300)
        assert state(moving) == (REACHABLE, False)
        moving.host.nat = Nat.SYMMETRIC
        await asyncio.sleep(45 * 60)
        assert state(moving) == (UNREACHABLE, True)

    run(tale())


def test_a_node_that_is_dialled_at_another_address_looks_within_minutes() -> None:
    async def tale() -> None:
        town, (moving,) = await town_with([Nat.OPEN])
        await asyncio.sleep(100)
        assert state(moving) == (REACHABLE, False)
        asker = protocol_of(town.entries[0].overlay)
        challenge = challenge_for(bytes(16), Address("99.1.1.1", 4000))
        await asker.calls.ask(moving.address, HelloRequest(asker.network_id, NO_ID, challenge))
        moving.host.nat = Nat.SYMMETRIC
        await asyncio.sleep(480)
        assert state(moving) == (UNREACHABLE, True)

    run(tale())


def test_helpers_dial_more_than_once_before_their_silence_counts() -> None:
    async def tale() -> None:
        town, _ = await town_with([])
        for member in town.alive:
            dial_backs = protocol_of(member.overlay).dial_backs
            dial_backs._send_aside = every_third(dial_backs._send_aside)
        await asyncio.sleep(100)
        assert [state(member) for member in town.alive] == [(REACHABLE, False)] * len(town.alive)

    run(tale())


def every_third(send: SendAside) -> SendAside:
    """What the way to each address lets through."""
    sent: dict[Address, int] = {}

    def send_some(datagram: bytes, to: Address) -> bool:
        sent[to] = sent.get(to, 0) + 1
        return send(datagram, to) if sent[to] % 3 == 0 else True

    return send_some


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_node_in_a_tiny_network_goes_on_as_a_part_of_it(others: int) -> None:
    async def tale() -> None:
        town, (hidden,) = await town_with([Nat.RESTRICTED], open_nodes=max(1, others))
        if not others:
            town.kill(town.entries[0])
        await watched(town, 60, lambda: None)
        assert state(hidden) == (UNKNOWN, False)

    run(tale())


def test_silence_and_partitions_make_nobody_a_client() -> None:
    async def tale() -> None:
        town, (lonely,) = await town_with([Nat.OPEN])
        await asyncio.sleep(20)  # before or in the middle of its first check
        town.internet.partition([lonely.host])

        def look() -> None:
            assert not any(member.overlay.stats().client_only for member in town.alive)

        await watched(town, 60, look)
        town.internet.heal()
        await watched(town, 60, look)
        assert [state(member) for member in town.alive] == [(REACHABLE, False)] * len(town.alive)

    run(tale())


def test_liars_that_are_a_fifth_neither_shut_an_open_node_out_nor_let_a_hidden_one_in() -> None:
    """Some never dial back; others answer from the port that was asked, which every translator lets through."""

    async def tale() -> None:
        town, (hidden,) = await town_with([Nat.RESTRICTED], open_nodes=15)
        never_dials(town.entries[:2])
        for helper in town.alive[3:6]:
            protocol = protocol_of(helper.overlay)
            protocol.dial_backs._send_aside = lambda datagram, to, send=protocol.send: send(datagram, to) or True

        def look() -> None:
            assert not any(member.overlay.stats().client_only for member in town.alive if member is not hidden)

        await watched(town, 90, look)
        assert state(hidden) == (UNREACHABLE, True)

    run(tale())


@pytest.mark.parametrize("told", [True, False, None])
def test_who_is_told_what_it_is_does_not_ask(told: bool | None) -> None:
    async def tale() -> None:
        town, _ = await town_with([])
        town.client_only = told
        member = await town.start(host=town.internet.host(nat=Nat.SYMMETRIC))
        await town.join(member, town.entry_addresses())
        asked = 0

        def look() -> None:
            nonlocal asked
            asked += len(protocol_of(member.overlay).awaited)

        for _ in range(300):
            await asyncio.sleep(1)
            look()
        assert (asked > 0) == (told is None)
        assert state(member) == ((None, told) if told is not None else (UNREACHABLE, True))

    run(tale())


# --- the helper -------------------------------------------------------------------------------------------------------

ASKER = Address("80.1.1.1", 4000)


class Helper:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.opened = 0
        self.dial_backs = DialBacks(NETWORK_ID, random.Random(1), self._send, self._open)

    def _send(self, datagram: bytes, to: Address) -> bool:
        self.sent.append((datagram, to))
        return True

    def _open(self) -> None:
        self.opened += 1

    def ask(self, source: Address, token: bytes, now: float = 0.0, asked_bytes: int = DIAL_BACK_BYTES) -> int:
        return self.dial_backs.answer(request(token), source, asked_bytes, now).status

    def token(self, source: Address, now: float = 0.0) -> bytes:
        return self.dial_backs.answer(request(NO_TOKEN), source, DIAL_BACK_BYTES, now).token


def request(token: bytes):
    return dial_back(NETWORK_ID, NO_ID, token, bytes(range(16)))


def test_a_helper_dials_the_address_that_showed_its_token_and_no_other() -> None:
    helper = Helper()
    token = helper.token(ASKER)
    assert (helper.sent, helper.opened) == ([], 1)
    for other in (Address(ASKER.host, 4001), Address("80.1.1.2", 4000)):
        assert helper.ask(other, token) == WRONG_TOKEN
    assert helper.ask(ASKER, token, now=1200.0) == WRONG_TOKEN
    assert helper.sent == []
    assert helper.ask(ASKER, token) == DIALLED
    ((datagram, to),) = helper.sent
    assert to == ASKER
    assert datagram[0] == REQUEST
    assert decode_request(datagram[FRAME_BYTES:]) == DialledRequest(NETWORK_ID, bytes(range(16)))


def test_answer_and_dial_back_together_are_no_longer_than_the_request() -> None:
    helper = Helper()
    token = helper.token(ASKER)
    asked = len(frame(REQUEST, bytes(20), encode_request(request(token))))
    assert asked == DIAL_BACK_BYTES
    reply = helper.dial_backs.answer(request(token), ASKER, asked, 0.0)
    answered = len(frame(REPLY, bytes(20), encode_reply(reply))) + len(helper.sent[0][0])
    assert answered <= asked
    with pytest.raises(DecodeError):
        helper.ask(ASKER, token, asked_bytes=answered - 1)
    assert len(helper.sent) == 1


def test_a_helper_has_enough_of_one_address_of_one_group_and_of_all() -> None:
    helper = Helper()
    assert [helper.ask(ASKER, helper.token(ASKER)) for _ in range(DIAL_BACKS_PER_SOURCE_AT_ONCE + 1)][-2:] == [
        DIALLED,
        BUSY,
    ]
    assert helper.ask(Address(ASKER.host, 9), helper.token(Address(ASKER.host, 9))) == BUSY
    neighbours = [Address(f"80.1.1.{n}", 4000) for n in range(2, 100)]
    dialled = [helper.ask(each, helper.token(each)) for each in neighbours].count(DIALLED)
    assert dialled == DIAL_BACKS_PER_GROUP_AT_ONCE - DIAL_BACKS_PER_SOURCE_AT_ONCE
    others = [Address(f"81.{n}.1.1", 4000) for n in range(200)]
    assert [helper.ask(each, helper.token(each)) for each in others].count(DIALLED) < 100
    assert helper.ask(ASKER, helper.token(ASKER, 20.0), 20.0) == DIALLED


def test_a_dial_back_that_nobody_asked_for_is_ignored() -> None:
    async def tale() -> None:
        town = Town(5)
        (node,) = await town.join(1)
        attacker = await Attacker(town).open()
        attacker.send(node, "dialled", [NETWORK_ID, bytes(16)])
        nonce, came = node.protocol.awaited.expect(random.Random(1), lambda source: source == attacker.address)
        attacker.send(node, "dialled", [NETWORK_ID, bytes(16)])
        attacker.send(node, "dialled", [bytes(16), nonce])
        attacker.send(node, "dialled", [NETWORK_ID, nonce])
        await asyncio.sleep(1)
        assert not came.is_set()
        assert attacker.received == []
        second = await Attacker(town, "66.6.6.7").open()
        second.send(node, "dialled", [NETWORK_ID, nonce])
        await asyncio.sleep(1)
        assert came.is_set()
        assert second.received == []

    run(tale())


def test_a_dial_back_comes_from_another_port_of_the_helper() -> None:
    async def tale() -> None:
        town = Town(5)
        (node,) = await town.join(1)
        attacker = await Attacker(town).open()
        sources: list[Address] = []
        town.internet.tap = lambda data, source, to: sources.append(source) if b"dialled" in data else None
        ask = [*HEAD, NO_TOKEN, bytes(16), bytes(20)]
        status, token = await attacker.ask(node, "dial_back", ask)
        assert status == WRONG_TOKEN
        assert await attacker.ask(node, "dial_back", [*HEAD, token, bytes(16), bytes(20)]) == [DIALLED, token]
        assert [source.host for source in sources] == [node.address.host]
        assert sources[0] != node.address
        await node.overlay.stop()
        assert not town.internet.sockets.keys() - {attacker.address}

    run(tale())
