"""One connection and a peer at its other end that asks too much, too often, or out of turn.

The hostile end is played by hand over a real channel; what it does may cost it the connection and nobody anything else.
"""

from __future__ import annotations

import asyncio
import threading

import pytest
from swarm_town import PATIENCE_S, DictShelf, Hostile, Source, comes_true

from p2pmodel.errors import CorruptChunkError, PeerGoneError, RefusedError
from p2pmodel.limits import MODELS_PER_PEER_MAX, REQUESTS_PER_PEER_MAX
from p2pmodel.model import Digest, HaveMap, ModelId
from p2pmodel.net import Address
from p2pmodel.swarm import Swarm, questions, wire
from p2pmodel.swarm import swarm as swarm_module


def request(town, number: int, index: int = 0, length: int = 5000) -> wire.RequestChunk:
    return wire.RequestChunk(number, town.model.id.raw, town.model.layout[index].digest.raw, length)


def model_id(number: int) -> bytes:
    return Digest.of(number.to_bytes(4, "big")).raw


class CountingShelf(DictShelf):
    """Counts how often its have-map is read, and at most how many times at once."""

    reads = 0
    now = 0
    most_at_once = 0

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        with self.lock:
            self.reads += 1
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        found = super().have_map(model_id)
        with self.lock:
            self.now -= 1
        return found


async def answered(hostile: Hostile) -> None:
    """Everything said before has been dealt with."""
    before = len(hostile.of(wire.Statements))
    hostile.say(wire.RequestStatements(1 << 31, bytes(32)))
    await hostile.until(lambda: len(hostile.of(wire.Statements)) > before)


# --- subscriptions -----------------------------------------------------------------------------------------------


async def test_who_subscribes_hears_what_is_held_and_what_is_not_known(town) -> None:
    seed = await town.seed(1)
    hostile = await town.hostile_to(seed)
    hostile.say(wire.Subscribe(town.model.id.raw), wire.Subscribe(bytes(32)))
    await hostile.until(lambda: hostile.of(wire.HaveMapOf) and hostile.of(wire.Unknown))
    [held] = hostile.of(wire.HaveMapOf)
    assert HaveMap.decode(held.count, held.bits) == town.model.layout.have_map()


async def test_of_those_who_come_when_a_fetch_knows_enough_most_are_told_of_others_and_let_go(
    town, monkeypatch
) -> None:
    """One now and then may stay, so that newcomers get in where all know enough, and who wants something else too."""
    monkeypatch.setattr(swarm_module, "LINKS_PER_CROWD_MAX", 1)
    monkeypatch.setattr(swarm_module, "_LET_IN_EVERY_S", 3600.0)
    peer, other = await town.peer(1, 0b1), await town.peer(2, 0b1)
    download = peer.open_download()
    download.add_link(await peer.swarm.connect(other.address))
    lucky, late, with_another_wish = [await town.hostile_to(peer) for _ in range(3)]
    lucky.say(wire.Subscribe(town.model.id.raw))
    await lucky.until(lambda: lucky.of(wire.HaveMapOf))
    late.say(wire.Subscribe(town.model.id.raw))
    await late.until_cut_off()
    assert (other.key.public.raw, other.address.pack()) in late.of(wire.Peers)[0].peers
    with_another_wish.say(wire.Subscribe(model_id(1)), wire.Subscribe(town.model.id.raw))
    await with_another_wish.until(lambda: with_another_wish.of(wire.HaveMapOf))
    assert with_another_wish.reason is None
    assert len(download.links) == 3
    peer.swarm.close_download(download)


async def test_who_is_let_go_is_named_first_to_whoever_is_let_go_next(town, monkeypatch) -> None:
    """Those who are connected have enough and would send a newcomer on; who was sent on looks for others too."""
    monkeypatch.setattr(swarm_module, "LINKS_PER_CROWD_MAX", 1)
    monkeypatch.setattr(Swarm, "_lets_in", lambda swarm: False)
    peer, other, late = await town.peer(1, 0b1), await town.peer(2, 0b1), await town.peer(3)
    download = peer.open_download()
    download.add_link(await peer.swarm.connect(other.address))
    link = await late.swarm.connect(peer.address)
    link.follow(town.model.id, Heard())
    await link.ended()
    later = await town.hostile_to(peer)
    later.say(wire.Subscribe(town.model.id.raw))
    await later.until_cut_off()
    named = later.of(wire.Peers)[0].peers
    assert named[0] == (late.key.public.raw, late.address.pack())
    assert (other.key.public.raw, other.address.pack()) in named
    peer.swarm.close_download(download)


async def test_a_peer_that_is_only_listened_to_owes_nothing(town) -> None:
    seed, peer = await town.seed(1), await town.peer(2)
    await peer.fetch([seed])
    (link,) = seed.swarm.links.values()
    link._queue.longest_bytes = 1
    link.hear(town.model.id, lambda link, held: None)
    await comes_true(lambda: link.channel.bytes_sent > 40 * 5000)  # counted after they have left
    assert not link.owing
    link.expect(ModelId(Digest(model_id(1))))
    assert link.owing


async def test_growth_is_told_to_those_who_follow_and_a_have_map_comes_before_additions(town) -> None:
    peer = await town.peer(1, 0b1)
    hostile = await town.hostile_to(peer)
    hostile.say(wire.Subscribe(town.model.id.raw))
    await hostile.until(lambda: hostile.of(wire.HaveMapOf))
    peer.shelf.bits |= 0b110
    peer.swarm.note_have(town.model.id, 0b110)
    await hostile.until(lambda: hostile.of(wire.Have))
    assert hostile.of(wire.Have)[0].chunks == [1, 2]


async def test_what_is_lost_is_told_to_those_who_follow_and_heard_by_them(town) -> None:
    peer = await town.peer(1, 0b1111)
    hostile = await town.hostile_to(peer)
    hostile.say(wire.Subscribe(town.model.id.raw))
    await hostile.until(lambda: hostile.of(wire.HaveMapOf))
    peer.shelf.bits = 0b1001
    peer.swarm.tell_lost(town.model.id, 0b0110)
    await hostile.until(lambda: hostile.of(wire.Lost))
    assert hostile.of(wire.Lost)[0].chunks == [1, 2]


async def test_a_chunk_that_a_peer_has_lost_is_not_asked_of_it(town) -> None:
    follower = Heard()
    peer = await town.peer(1)
    hostile = await town.hostile_to(peer)
    [link] = peer.swarm.links.values()
    link.follow(town.model.id, follower)
    raw = town.model.id.raw
    hostile.say(wire.Lost(raw, [1]), wire.HaveMapOf(raw, 40, HaveMap(40, 0b111).encode()), wire.Lost(raw, [0, 2, 30]))
    hostile.say(wire.Lost(model_id(5), [1]), wire.Lost(raw, [2]))
    await answered(hostile)
    assert follower.lost == [0b101] and link.held[town.model.id].bits == 0b10
    hostile.say(wire.Lost(raw, [41]))
    await hostile.until(lambda: hostile.reason is not None)


class Heard:
    """A follower that only listens."""

    background = None

    def __init__(self) -> None:
        self.lost: list[int] = []

    def link_lost(self, link, bits) -> None:
        self.lost.append(bits)

    def link_has(self, link, held, new=0) -> None:
        pass

    link_peers = link_closed = link_has

    def link_unknown(self, link) -> None:
        pass


async def test_growth_while_the_have_map_is_read_is_never_lost(town) -> None:
    """The map is read in a thread; what is added meanwhile must be in this answer or in one that follows."""
    peer = await town.peer(1, 0b1)
    read, goes_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
    plain = peer.shelf.have_map

    def slow_have_map(model_id: ModelId) -> HaveMap | None:
        found = plain(model_id)
        loop.call_soon_threadsafe(read.set)
        goes_on.wait(PATIENCE_S)
        return found

    peer.shelf.have_map = slow_have_map
    hostile = await town.hostile_to(peer)
    hostile.say(wire.Subscribe(town.model.id.raw))
    await read.wait()
    peer.shelf.bits |= 0b10
    peer.swarm.note_have(town.model.id, 0b10)
    await comes_true(lambda: not peer.swarm._tell_timers)
    goes_on.set()

    def known() -> int:
        bits = 0
        for message in hostile.heard:
            if isinstance(message, wire.HaveMapOf):
                bits |= HaveMap.decode(message.count, message.bits).bits
            elif isinstance(message, wire.Have):
                assert bits, "additions came before the map"
                bits |= HaveMap.of(40, message.chunks).bits
        return bits

    await hostile.until(lambda: known() == 0b11)


async def test_who_subscribes_again_gets_the_map_before_additions_again(town) -> None:
    peer = await town.peer(1, 0b1)
    hostile = await town.hostile_to(peer)
    hostile.say(wire.Subscribe(town.model.id.raw))
    await hostile.until(lambda: hostile.of(wire.HaveMapOf))
    hostile.say(wire.Unsubscribe(town.model.id.raw))
    await answered(hostile)
    hostile.heard.clear()
    peer.shelf.bits |= 0b10
    peer.swarm.note_have(town.model.id, 0b10)
    hostile.say(wire.Subscribe(town.model.id.raw))
    await hostile.until(lambda: hostile.of(wire.HaveMapOf))
    assert not hostile.of(wire.Have) or hostile.heard.index(hostile.of(wire.HaveMapOf)[0]) < hostile.heard.index(
        hostile.of(wire.Have)[0]
    )


async def test_who_has_unsubscribed_hears_nothing_more(town) -> None:
    peer = await town.peer(1, 0b1)
    hostile = await town.hostile_to(peer)
    hostile.say(wire.Subscribe(town.model.id.raw))
    await hostile.until(lambda: hostile.of(wire.HaveMapOf))
    hostile.say(wire.Unsubscribe(town.model.id.raw))
    await answered(hostile)
    hostile.heard.clear()
    peer.swarm.note_have(town.model.id, 0b1)
    await comes_true(lambda: not peer.swarm._tell_timers)
    await answered(hostile)
    assert not hostile.of(wire.Have) and not hostile.of(wire.HaveMapOf)


async def test_a_flood_of_subscriptions_to_one_model_is_answered_one_at_a_time(town) -> None:
    peer = await town.seed(1)
    peer.shelf = peer.swarm._uploads.shelf = CountingShelf(town.model, town.model.all_bits)
    hostile = await town.hostile_to(peer)
    await comes_true(lambda: peer.swarm.links)
    [link] = peer.swarm.links.values()
    for _ in range(5000):
        hostile.say(wire.Subscribe(town.model.id.raw))
    await answered(hostile)
    assert peer.shelf.most_at_once == 1
    assert len(link._tasks) <= 3
    assert hostile.reason is None


async def test_a_flood_of_different_models_ends_the_connection(town) -> None:
    peer = await town.seed(1)
    hostile = await town.hostile_to(peer)
    for number in range(MODELS_PER_PEER_MAX + 1):
        hostile.say(wire.Subscribe(model_id(number)))
    await hostile.until_cut_off()


async def test_following_and_leaving_models_in_turn_leaves_nothing_behind(town) -> None:
    peer = await town.seed(1)
    hostile = await town.hostile_to(peer)
    await comes_true(lambda: peer.swarm.links)
    [link] = peer.swarm.links.values()
    for number in range(2000):
        hostile.say(wire.Subscribe(model_id(number)), wire.Unsubscribe(model_id(number)))
        if number % 100 == 0:
            await answered(hostile)
    await answered(hostile)
    await comes_true(lambda: not link._telling)
    assert not link.interests and not link._told
    assert hostile.reason is None


async def test_following_and_leaving_faster_than_we_can_tell_ends_the_connection(town) -> None:
    peer = await town.seed(1)
    begun, goes_on = threading.Event(), threading.Event()
    plain = peer.shelf.have_map
    peer.shelf.have_map = lambda model_id: (begun.set(), goes_on.wait(PATIENCE_S), plain(model_id))[2]
    hostile = await town.hostile_to(peer)
    hostile.say(wire.Subscribe(model_id(999)))
    await comes_true(begun.is_set)
    for number in range(MODELS_PER_PEER_MAX + 1):
        hostile.say(wire.Subscribe(model_id(number)), wire.Unsubscribe(model_id(number)))
    await hostile.until_cut_off()
    goes_on.set()


async def test_messages_about_models_that_we_do_not_follow_are_kept_nowhere(town) -> None:
    peer = await town.seed(1)
    hostile = await town.hostile_to(peer)
    for number in range(300):
        hostile.say(
            wire.HaveMapOf(model_id(number), 8, b"\x01"), wire.Have(model_id(number), [1]), wire.Unknown(model_id(0))
        )
    await answered(hostile)
    [link] = peer.swarm.links.values()
    assert not link.held and hostile.reason is None


async def test_followers_of_a_model_are_told_of_each_other_but_not_of_whom_they_cannot_reach(town) -> None:
    peer = await town.seed(1)
    other = await town.peer(2)
    await other.swarm.connect(peer.address)
    download = other.open_download()
    download.add_link(other.swarm.links[peer.key.public])
    hostile = await town.hostile_to(peer)
    await comes_true(lambda: other.key.public in peer.swarm.links)
    await comes_true(lambda: peer.swarm.links[other.key.public].interests)
    for _ in range(3):
        hostile.say(wire.Subscribe(town.model.id.raw))
    await hostile.until(lambda: hostile.of(wire.Peers) and hostile.of(wire.HaveMapOf))
    await answered(hostile)
    assert [message.peers for message in hostile.of(wire.Peers)] == [[(other.key.public.raw, other.address.pack())]]
    other.swarm.close_download(download)


async def test_a_peer_on_the_internet_cannot_send_us_to_addresses_of_our_own_network(town) -> None:
    seed = await town.seed(1)
    leech = await town.peer(2)
    told = []
    download = leech.open_download()
    download.on_peers = told.append
    link = await leech.swarm.connect(seed.address)
    download.add_link(link)
    link.channel.address = Address("203.0.113.1", 4000) if Address("8.8.8.8", 1).scope else Address("8.8.8.8", 4000)
    key = seed.key.public.raw
    inner = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"]
    link._peers(town.model.id, [(key, Address(host, 80).pack()) for host in [*inner, "8.8.4.4"]])
    assert [[str(address) for _, address in peers] for peers in told] == [["8.8.4.4:80"]]
    leech.swarm.close_download(download)


# --- requests ----------------------------------------------------------------------------------------------------


async def test_a_flood_of_requests_ends_the_connection_and_gives_everything_back(town) -> None:
    seed = await town.seed(1)
    goes_on = threading.Event()
    seed.shelf.serving = lambda index: goes_on.wait(PATIENCE_S)
    hostile = await town.hostile_to(seed)
    for number in range(REQUESTS_PER_PEER_MAX + 8):
        hostile.say(request(town, number))
    await hostile.until_cut_off()
    goes_on.set()
    await comes_true(lambda: not seed.swarm.links and Source.open_sources == 0)


async def test_a_request_id_that_is_in_use_ends_the_connection(town) -> None:
    seed = await town.seed(1)
    goes_on = threading.Event()
    seed.shelf.serving = lambda index: goes_on.wait(PATIENCE_S)
    hostile = await town.hostile_to(seed)
    hostile.say(request(town, 1), request(town, 2), request(town, 2))
    await hostile.until_cut_off()
    goes_on.set()


async def test_a_cancelled_request_is_not_answered(town) -> None:
    seed = await town.seed(1)
    goes_on = threading.Event()
    seed.shelf.serving = lambda index: goes_on.wait(PATIENCE_S) if index < 2 else None
    hostile = await town.hostile_to(seed)
    asked = [request(town, index, index) for index in range(4)]
    hostile.say(*asked, wire.Cancel(2), wire.Cancel(99))
    [link] = [*await _links(seed)]
    await comes_true(lambda: list(link._queue._chunks) == [3])
    goes_on.set()
    await answered(hostile)
    await comes_true(lambda: len(seed.shelf.served) == 3)
    assert seed.shelf.served == [0, 1, 3]


async def _links(peer) -> list:
    await comes_true(lambda: peer.swarm.links)
    return list(peer.swarm.links.values())


@pytest.mark.parametrize(
    "ask",
    [
        lambda town: wire.RequestChunk(1, town.model.id.raw, bytes(32), 5000),
        lambda town: request(town, 1, 0, 4999),
        lambda town: wire.RequestObject(1, bytes(32)),
    ],
    ids=["unknown chunk", "another length", "unknown object"],
)
async def test_what_is_not_held_is_rejected_and_the_connection_goes_on(town, ask) -> None:
    seed = await town.seed(1)
    hostile = await town.hostile_to(seed)
    hostile.say(ask(town))
    await hostile.until(lambda: hostile.of(wire.Reject))
    await answered(hostile)


def requests(town, *numbers: int) -> wire.RequestChunks:
    asked = [wire.Asked(number, town.model.layout[0].digest.raw, 5000, 0) for number in numbers]
    return wire.RequestChunks(town.model.id.raw, asked)


async def test_each_of_several_chunks_that_one_message_asks_for_is_answered_by_itself(town) -> None:
    seed = await town.seed(1)
    hostile = await town.hostile_to(seed)
    unknown = wire.RequestChunks(town.model.id.raw, [wire.Asked(9, bytes(32), 5000, 0), wire.Asked(8, bytes(32), 1, 0)])
    hostile.say(unknown)
    await hostile.until(lambda: len(hostile.of(wire.Reject)) == 2)
    assert {message.request for message in hostile.of(wire.Reject)} == {8, 9}
    await answered(hostile)


async def test_an_id_that_comes_twice_in_one_message_ends_the_connection(town) -> None:
    seed = await town.seed(1)
    hostile = await town.hostile_to(seed)
    hostile.say(requests(town, 1, 2, 1))
    await hostile.until(lambda: hostile.reason)


async def test_trouble_with_our_own_disk_is_a_rejection(town) -> None:
    seed = await town.seed(1)

    def serving(index: int) -> None:
        raise RefusedError("permission denied: /home/somebody/secret")

    seed.shelf.serving = serving
    hostile = await town.hostile_to(seed)
    hostile.say(request(town, 1))
    await hostile.until(lambda: hostile.of(wire.Reject))
    assert "home" not in hostile.of(wire.Reject)[0].reason
    await answered(hostile)


@pytest.mark.parametrize("method", ["statements", "have_map"])
async def test_trouble_of_our_own_where_nothing_can_be_said_ends_the_connection(town, method: str) -> None:
    seed = await town.seed(1)

    def fail(*_: object) -> None:
        raise RefusedError("no permission")

    setattr(seed.shelf, method, fail)
    hostile = await town.hostile_to(seed)
    hostile.say(wire.RequestStatements(1, bytes(32)), wire.Subscribe(bytes(32)))
    await hostile.until_cut_off()


async def test_a_bug_while_answering_ends_the_connection_and_is_reported(town) -> None:
    seed = await town.seed(1)

    def serving(index: int) -> None:
        raise ZeroDivisionError

    seed.shelf.serving = serving
    hostile = await town.hostile_to(seed)
    hostile.say(request(town, 1))
    await hostile.until_cut_off()
    await comes_true(lambda: town.unexpected)
    assert all(isinstance(context["exception"], ZeroDivisionError) for context in town.unexpected)
    town.unexpected.clear()


async def test_a_chunk_found_after_its_asker_has_gone_is_given_back(town) -> None:
    seed = await town.seed(1)
    asked, goes_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def serving(index: int) -> None:
        loop.call_soon_threadsafe(asked.set)
        goes_on.wait(PATIENCE_S)

    seed.shelf.serving = serving
    hostile = await town.hostile_to(seed)
    hostile.say(request(town, 1))
    await asked.wait()
    hostile.channel.close(PeerGoneError("gone"))
    await comes_true(lambda: not seed.swarm.links)
    goes_on.set()
    await comes_true(lambda: seed.shelf.served and Source.open_sources == 0)


# --- asking ------------------------------------------------------------------------------------------------------


async def hears_nothing(town):
    """A link to a peer that never answers."""
    ends = []
    address = await town.hostile_seed(ends.append)
    leech = await town.peer(9)
    link = await leech.swarm.connect(address)
    await comes_true(lambda: ends)
    return leech, link, ends[0]


async def test_a_peer_that_does_not_answer_a_request_for_an_object_is_given_up(town, monkeypatch) -> None:
    monkeypatch.setattr(questions, "REQUEST_DEADLINE_MAX_S", 0.05)
    leech, link, hostile = await hears_nothing(town)
    hostile.say(wire.Ping())
    with pytest.raises(PeerGoneError):
        await leech.swarm.fetch_object(Digest.of(b"x"), [link])
    with pytest.raises(PeerGoneError, match="in time"):
        await link.questions.statements(town.model.id)
    await hostile.until(lambda: len(hostile.of(wire.Cancel)) == 2)


async def test_an_object_with_another_hash_names_the_fault_and_ends_the_connection(town) -> None:
    leech, link, hostile = await hears_nothing(town)
    hostile.on_message = lambda message: hostile.answer(message.request, b"something else")
    with pytest.raises(CorruptChunkError):
        await leech.swarm.fetch_object(Digest.of(b"x"), [link])
    await hostile.until_cut_off()


async def test_the_next_peer_is_asked_for_an_object_when_one_refuses_or_lies(town) -> None:
    leech, refusing, hostile = await hears_nothing(town)
    hostile.on_message = lambda message: hostile.say(wire.Reject(message.request, "no"))
    lies = []
    liar = await leech.swarm.connect(await town.hostile_seed(lies.append))
    await comes_true(lambda: lies)
    lies[0].on_message = lambda message: lies[0].answer(message.request, b"y")
    seed = await town.seed(1)
    seed.shelf.objects[Digest.of(b"x")] = b"x"
    good = await leech.swarm.connect(seed.address)
    assert await leech.swarm.fetch_object(Digest.of(b"x"), [refusing, liar, good]) == b"x"


async def test_requests_fail_when_the_connection_ends_and_later_ones_at_once(town) -> None:
    _, link, hostile = await hears_nothing(town)
    waiting = [asyncio.get_running_loop().create_task(link.questions.statements(town.model.id)) for _ in range(100)]
    await hostile.until(lambda: hostile.of(wire.RequestStatements))
    hostile.channel.close(PeerGoneError("gone"))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, PeerGoneError) for result in results)
    with pytest.raises(PeerGoneError):
        await link.questions.object(Digest.of(b"x"))


async def test_a_request_that_is_cancelled_is_cancelled_at_the_peer(town) -> None:
    _, link, hostile = await hears_nothing(town)
    waiting = asyncio.get_running_loop().create_task(link.questions.object(Digest.of(b"x")))
    await hostile.until(lambda: hostile.of(wire.RequestObject))
    waiting.cancel()
    await asyncio.wait([waiting])
    await hostile.until(lambda: hostile.of(wire.Cancel))
    # Its answer may be under way; it is thrown away.
    hostile.answer(hostile.of(wire.RequestObject)[0].request, b"late")
    await comes_true(lambda: link.wasted_bytes == 4)
    assert hostile.reason is None


# --- the end -----------------------------------------------------------------------------------------------------


async def test_stopping_in_the_middle_of_everything_leaves_no_task(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    goes_on = threading.Event()
    seed.shelf.serving = lambda index: goes_on.wait(0.05)
    running = asyncio.get_running_loop().create_task(leech.fetch([seed]))
    await comes_true(lambda: leech.shelf.written)
    before = asyncio.all_tasks()
    await asyncio.gather(leech.swarm.stop(), seed.swarm.stop())
    running.cancel()
    await asyncio.wait([running])
    goes_on.set()
    left = {task for task in asyncio.all_tasks() & before if not task.done()} - {asyncio.current_task()}
    assert not left


async def test_a_peer_that_stops_is_noticed_by_the_others(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    await leech.swarm.connect(seed.address)
    await seed.swarm.stop()
    await comes_true(lambda: not leech.swarm.links)


# --- following before the download -----------------------------------------------------------------------------------


async def test_what_is_said_before_the_download_begins_is_kept_for_it(town) -> None:
    """One question where two were: a round trip less before the first chunk is asked for."""
    peer = await town.peer(1)
    hostile = await town.hostile_to(peer)
    await comes_true(lambda: peer.swarm.links)
    [link] = peer.swarm.links.values()
    link.expect(town.model.id)
    link.expect(town.model.id)
    await hostile.until(lambda: hostile.of(wire.Subscribe))
    hostile.say(wire.HaveMapOf(town.model.id.raw, 40, HaveMap(40, 0b101).encode()), wire.Have(town.model.id.raw, [5]))
    await comes_true(lambda: link.held.get(town.model.id, HaveMap(40, 0)).bits == 0b100101)
    download = peer.open_download()
    download.add_link(link)
    await hostile.until(lambda: hostile.of(wire.RequestChunk))
    assert hostile.of(wire.RequestChunk)[0].index in (0, 2, 5)
    assert len(hostile.of(wire.Subscribe)) == 1
    peer.swarm.close_download(download)


async def test_nobody_is_followed_when_no_download_came(town) -> None:
    peer = await town.peer(1)
    hostile = await town.hostile_to(peer)
    await comes_true(lambda: peer.swarm.links)
    [link] = peer.swarm.links.values()
    link.expect(town.model.id)
    link.expect_no_more(town.model.id)
    await hostile.until(lambda: hostile.of(wire.Unsubscribe))
    assert not link.followers


async def test_a_map_that_does_not_fit_the_model_costs_its_sender_the_connection_when_the_download_begins(town) -> None:
    peer = await town.peer(1)
    hostile = await town.hostile_to(peer)
    await comes_true(lambda: peer.swarm.links)
    [link] = peer.swarm.links.values()
    link.expect(town.model.id)
    hostile.say(wire.HaveMapOf(town.model.id.raw, 39, HaveMap(39, 0b101).encode()))
    await comes_true(lambda: town.model.id in link.held)
    download = peer.open_download()
    download.add_link(link)
    await hostile.until_cut_off()
    peer.swarm.close_download(download)
