"""Downloads over real connections from seeds that lie, stall, vanish or hold a part: all bytes come, none is bad.

Liars and stallers are ends of a connection that the test plays by hand; everybody else is the real swarm.
"""

from __future__ import annotations

import asyncio
import threading

import pytest
from swarm_town import PATIENCE_S, Hostile, Model, comes_true

from p2pmodel.errors import HandshakeError, NoSpaceError, P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.model import Digest
from p2pmodel.net import Address
from p2pmodel.net.tcp import TcpChannel
from p2pmodel.swarm import download as download_module
from p2pmodel.swarm import source as source_module
from p2pmodel.swarm import wire
from p2pmodel.swarm.pace import Pace


def holds_all(hostile: Hostile, model: Model) -> None:
    """Make a hostile end claim every chunk to whoever subscribes."""
    everything = model.layout.have_map()

    def on_message(message) -> None:
        if isinstance(message, wire.Subscribe):
            hostile.say(wire.HaveMapOf(message.model, everything.count, everything.encode()))

    hostile.on_message = on_message


def answering(model: Model, answer) -> callable:
    """Who meets a caller: claims everything, and calls `answer(hostile, request, chunk)` for each request."""
    by_digest = {model.layout[index].digest.raw: chunk for index, chunk in enumerate(model.chunks)}

    def met(hostile: Hostile) -> None:
        holds_all(hostile, model)
        claim = hostile.on_message

        def on_message(message) -> None:
            claim(message)
            if isinstance(message, wire.RequestChunk):
                answer(hostile, message, by_digest[message.digest])

        hostile.on_message = on_message

    return met


def whole(peer) -> bool:
    return [peer.shelf.written[index] for index in sorted(peer.shelf.written)] == peer.shelf.model.chunks


async def test_a_model_comes_whole_from_one_seed(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    download = await leech.fetch([seed])
    assert whole(leech)
    assert download.tally.bytes_fetched == 40 * 5000
    assert [served.bytes for served in download.tally.served.values()] == [40 * 5000]


async def test_three_seeds_share_the_work(town) -> None:
    seeds, leech = [await town.seed(number) for number in (1, 2, 3)], await town.peer(4)
    download = await leech.fetch(seeds)
    assert whole(leech)
    assert sum(served.bytes for served in download.tally.served.values()) == 40 * 5000
    assert len(set(seeds[0].shelf.served) & set(seeds[1].shelf.served) & set(seeds[2].shelf.served)) == 0


@pytest.mark.slow
async def test_with_a_liar_a_staller_and_one_good_seed_the_model_comes_whole_and_the_liar_is_named(
    town, monkeypatch
) -> None:
    monkeypatch.setattr(source_module, "REQUEST_DEADLINE_MIN_S", 0.1)
    monkeypatch.setattr(source_module, "REQUEST_DEADLINE_MAX_S", 0.3)

    def lie(hostile, request, chunk) -> None:
        hostile.answer(request.request, bytes(len(chunk)))

    answers = []

    def stall(hostile, request, chunk) -> None:
        answers.append(request)
        if len(answers) <= 2:
            hostile.answer(request.request, chunk)

    liar = await town.hostile_seed(answering(town.model, lie))
    staller = await town.hostile_seed(answering(town.model, stall))
    seed, leech = await town.seed(1), await town.peer(2)
    download = await leech.fetch([liar, staller, seed])
    assert whole(leech)
    rejected = [served for served in download.tally.served.values() if served.rejected]
    assert [served.address for served in rejected] == [str(liar)]
    assert len(download.banned) == 1 and seed.key.public not in download.banned
    assert download.tally.chunks_rejected >= 1
    assert len(answers) > 2, "the staller was asked and did not answer"


async def test_the_one_that_delivers_among_a_crowd_that_does_not_is_told_how_much_may_come(town, monkeypatch) -> None:
    """Alone it would have been told at once, and had as many connections as it can use."""
    monkeypatch.setattr(download_module, "_CARRIES_BYTES", 10 * 5000)
    crowd = [await town.hostile_seed(answering(town.model, lambda *_: None)) for _ in range(3)]
    seed, leech = await town.seed(1), await town.peer(2)
    told: dict[object, list[int]] = {}
    expect = TcpChannel.expect
    monkeypatch.setattr(
        TcpChannel,
        "expect",
        lambda channel, size: told.setdefault(channel.peer, []).append(size) or expect(channel, size),
    )
    await leech.fetch([*crowd, seed])
    assert whole(leech)
    assert len(told) == 2 + 1, "and the two that were there first, whatever became of it"
    (later,) = told[seed.key.public]
    assert 0 < later <= 31 * 5000, "once, when it had brought ten of forty chunks"


@pytest.mark.slow
async def test_what_has_come_from_elsewhere_is_cancelled_at_the_peer_that_stalls(town, monkeypatch) -> None:
    monkeypatch.setattr(source_module, "REQUEST_DEADLINE_MIN_S", 0.05)
    monkeypatch.setattr(source_module, "REQUEST_DEADLINE_MAX_S", 0.05)
    ends = []
    staller = await town.hostile_seed(answering(town.model, lambda hostile, request, chunk: ends.append(hostile)))
    seed, leech = await town.seed(1), await town.peer(2)
    goes_on = threading.Event()
    seed.shelf.serving = lambda index: goes_on.wait(PATIENCE_S) if len(seed.shelf.served) == 39 else None
    running = asyncio.get_running_loop().create_task(leech.fetch([staller, seed]))
    await comes_true(lambda: ends and len(ends[0].of(wire.Cancel)) >= 3)
    assert not running.done()
    goes_on.set()
    await running
    assert whole(leech)


async def test_a_liar_is_cut_off_and_not_asked_again_when_it_comes_back(town) -> None:
    asked = []

    def lie(hostile, request, chunk) -> None:
        asked.append(hostile)
        hostile.answer(request.request, bytes(len(chunk)))

    liar = await town.hostile_seed(answering(town.model, lie))
    leech = await town.peer(2)
    download = leech.open_download()
    running = asyncio.get_running_loop().create_task(leech.fetch([liar], download))
    await comes_true(lambda: download.banned and not leech.swarm.links)
    again = await leech.swarm.connect(liar)
    download.add_link(again)
    assert again.peer not in download.links
    assert len(set(asked)) == 1
    running.cancel()
    await asyncio.wait([running])


async def test_a_seed_that_vanishes_in_the_middle_costs_only_what_was_on_its_way(town) -> None:
    count = 0

    def vanish(hostile, request, chunk) -> None:
        nonlocal count
        count += 1
        if count == 5:
            hostile.channel.close(PeerGoneError("pulled the plug"))
        else:
            hostile.answer(request.request, chunk)

    vanishing = await town.hostile_seed(answering(town.model, vanish))
    seed, leech = await town.seed(1), await town.peer(2)
    await leech.fetch([vanishing, seed])
    assert whole(leech)


async def test_a_seed_that_refuses_everything_costs_nothing_but_its_place(town) -> None:
    refuse = await town.hostile_seed(
        answering(town.model, lambda hostile, request, _: hostile.say(wire.Reject(request.request, "no")))
    )
    seed, leech = await town.seed(1), await town.peer(2)
    download = await leech.fetch([refuse, seed])
    assert whole(leech)
    assert not download.banned


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hostile, request, chunk: hostile.answer(request.request, chunk + b"x"),
        lambda hostile, request, chunk: hostile.answer(request.request, chunk[:-1]),
        lambda hostile, request, chunk: hostile.answer(request.request + 1000, chunk),
        lambda hostile, request, chunk: hostile.say(wire.Statements(request.request, [])),
        lambda hostile, request, chunk: hostile.channel.send(b"\xff\xff"),
        lambda hostile, request, chunk: hostile.say(wire.HaveMapOf(request.model, 3, b"\x07")),
        lambda hostile, request, chunk: hostile.say(wire.HaveMapOf(request.model, 40, b"\x07")),
        lambda hostile, request, chunk: hostile.say(wire.HaveMapOf(request.model, 33, b"\xff" * 5)),
        lambda hostile, request, chunk: hostile.say(wire.Have(request.model, [40])),
        lambda hostile, request, chunk: hostile.say(wire.Peers(request.model, [(bytes(32), b"five5")])),
    ],
    ids=[
        "too long",
        "too short",
        "unasked",
        "statements",
        "noise",
        "map of another count",
        "map of another length",
        "map with spare bits",
        "a chunk past the end",
        "an address of five bytes",
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_cut_off_and_the_download_goes_on(town, spoil) -> None:
    ends = []

    def answer(hostile, request, chunk) -> None:
        ends.append(hostile)
        spoil(hostile, request, chunk)

    bad = await town.hostile_seed(answering(town.model, answer))
    leech = await town.peer(2)
    download = leech.open_download()
    running = asyncio.get_running_loop().create_task(leech.fetch([bad], download))
    await comes_true(lambda: ends)
    await ends[0].until_cut_off()
    await comes_true(lambda: not download.links)
    seed = await town.seed(1)
    download.add_link(await leech.swarm.connect(seed.address))
    await running
    assert whole(leech)


async def test_additions_before_a_have_map_are_not_held_against_a_peer(town) -> None:
    """They may be on their way from an earlier subscription."""
    heard = []

    def met(hostile: Hostile) -> None:
        heard.append(hostile)

        def on_message(message) -> None:
            if isinstance(message, wire.Subscribe):
                hostile.say(wire.Have(message.model, [1]), wire.Unknown(message.model), wire.Have(message.model, [2]))
                hostile.say(wire.HaveMapOf(message.model, 40, bytes([0b100]) + bytes(4)))

        hostile.on_message = on_message

    other = await town.hostile_seed(met)
    leech = await town.peer(2)
    download = leech.open_download()
    download.add_link(await leech.swarm.connect(other))
    await comes_true(lambda: heard and heard[0].of(wire.RequestChunk))
    assert [request.digest for request in heard[0].of(wire.RequestChunk)] == [town.model.layout[2].digest.raw]
    assert heard[0].reason is None
    leech.swarm.close_download(download)


async def test_who_holds_nothing_any_more_is_not_asked(town) -> None:
    ends = []

    def answer(hostile, request, chunk) -> None:
        ends.append(hostile)
        hostile.say(wire.Unknown(request.model))

    address = await town.hostile_seed(answering(town.model, answer))
    leech = await town.peer(2)
    download = leech.open_download()
    download.add_link(await leech.swarm.connect(address))
    await comes_true(lambda: download.unheld == town.model.all_bits)
    assert not leech.swarm.links[next(iter(download.links))].held
    leech.swarm.close_download(download)


async def test_partial_holders_serve_each_other_while_they_download(town) -> None:
    half = (1 << 20) - 1
    left, right = await town.peer(1, half), await town.peer(2, town.model.all_bits & ~half)
    await asyncio.gather(left.fetch([right]), right.fetch([left]))
    assert left.shelf.bits == right.shelf.bits == town.model.all_bits
    assert sorted(left.shelf.served) == list(range(20))
    assert sorted(right.shelf.served) == list(range(20, 40))


async def test_what_a_downloader_has_just_got_it_tells_and_serves(town) -> None:
    """Only the first talks to the seed; the second gets everything through the first while that is still pulling."""
    seed, first, second = await town.seed(1), await town.peer(2), await town.peer(3)
    goes_on = threading.Event()
    seed.shelf.serving = lambda index: goes_on.wait(PATIENCE_S) if len(seed.shelf.served) == 20 else None
    pulling = asyncio.get_running_loop().create_task(first.fetch([seed]))
    await comes_true(lambda: first.shelf.bits.bit_count() >= 16)
    relayed = asyncio.get_running_loop().create_task(second.fetch([first]))
    await comes_true(lambda: second.shelf.bits.bit_count() >= 16)
    assert first.shelf.bits.bit_count() <= 21
    goes_on.set()
    await asyncio.gather(pulling, relayed)
    assert whole(first) and whole(second)


async def test_peers_that_dial_each_other_at_once_keep_one_connection_and_both_downloads_end(town) -> None:
    half = (1 << 20) - 1
    left, right = await town.peer(1, half), await town.peer(2, town.model.all_bits & ~half)
    downloads = [left.open_download(), right.open_download()]

    async def pull(peer, other, download) -> None:
        download.add_link(await peer.swarm.connect(other.address, other.key.public))

    await asyncio.gather(pull(left, right, downloads[0]), pull(right, left, downloads[1]))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(download.run() for download in downloads))
    assert left.shelf.bits == right.shelf.bits == town.model.all_bits
    [one], [other] = left.swarm.links.values(), right.swarm.links.values()
    assert one.channel.outgoing != other.channel.outgoing
    for peer, download in zip((left, right), downloads, strict=True):
        peer.swarm.close_download(download)


async def test_a_download_goes_over_to_the_connection_that_replaces_its_own(town) -> None:
    """The seed's connection to us replaces ours to it, or the other way round; the download never loses the seed."""
    seed, leech = await town.seed(1), await town.peer(2)
    reached = threading.Event()
    seed.shelf.serving = lambda index: reached.wait(PATIENCE_S) if len(seed.shelf.served) == 10 else None
    download = leech.open_download()
    running = asyncio.get_running_loop().create_task(leech.fetch([seed], download))
    await comes_true(lambda: len(seed.shelf.served) == 10)
    [first] = leech.swarm.links.values()
    # A second channel of the same direction: the older one is taken for lost.
    leech.swarm._adopt(await leech.network.connect(seed.address, seed.key.public))
    assert leech.swarm.links[seed.key.public] is not first
    reached.set()
    await running
    assert whole(leech)


async def test_a_seed_that_comes_back_is_pulled_from_again(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    cut = asyncio.Event()
    loop = asyncio.get_running_loop()

    def serving(index: int) -> None:
        if len(seed.shelf.served) == 10:
            loop.call_soon_threadsafe(cut.set)

    seed.shelf.serving = serving
    download = leech.open_download()
    running = loop.create_task(leech.fetch([seed], download))
    await cut.wait()
    for link in list(leech.swarm.links.values()):
        link.close(PeerGoneError("the cable"))
    await comes_true(lambda: not leech.swarm.links and not seed.swarm.links)
    # It is the seed that calls again.
    await seed.swarm.connect(leech.address)
    await running
    assert whole(leech)


async def test_two_dials_of_one_peer_make_one_connection(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    listener = await seed.network.listen("127.0.0.1", 0, seed.swarm.accept)
    links = await asyncio.gather(
        *(leech.swarm.connect(address, seed.key.public) for address in (seed.address, listener.address, seed.address))
    )
    assert len(set(links)) == 1
    assert len(seed.swarm.links) == len(leech.swarm.links) == 1
    listener.close()


async def test_a_second_address_is_dialled_when_the_first_fails(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    nowhere = Address("127.0.0.1", 1)
    results = await asyncio.gather(
        leech.swarm.connect(nowhere, seed.key.public),
        leech.swarm.connect(seed.address, seed.key.public),
        return_exceptions=True,
    )
    assert isinstance(results[0], PeerGoneError)
    assert results[1].peer == seed.key.public


async def test_who_asks_for_another_peer_at_an_address_being_dialled_does_not_get_this_one(town) -> None:
    seed, other, leech = await town.seed(1), await town.seed(3), await town.peer(2)
    results = await asyncio.gather(
        leech.swarm.connect(seed.address),
        leech.swarm.connect(seed.address, other.key.public),
        return_exceptions=True,
    )
    assert results[0].peer == seed.key.public
    assert isinstance(results[1], HandshakeError)


# --- our own trouble ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NoSpaceError("full"), ZeroDivisionError("a bug")])
async def test_trouble_of_our_own_ends_the_download_with_its_reason(town, error) -> None:
    seed, leech = await town.seed(1), await town.peer(2)

    def writing(index: int) -> None:
        raise error

    leech.shelf.writing = writing
    with pytest.raises(P2PModelError) as caught:
        await leech.fetch([seed])
    assert caught.value is error or caught.value.__cause__ is error


async def test_a_download_that_is_cancelled_stops_asking(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    blocked = threading.Event()
    seed.shelf.serving = lambda index: blocked.wait(PATIENCE_S) if len(seed.shelf.served) == 10 else None
    download = leech.open_download()
    running = asyncio.get_running_loop().create_task(leech.fetch([seed], download))
    await comes_true(lambda: len(seed.shelf.served) == 10)
    running.cancel()
    await asyncio.wait([running])
    blocked.set()
    [link] = leech.swarm.links.values()
    await comes_true(lambda: len(seed.swarm.links) == 1 and not seed.swarm.links[leech.key.public].interests)
    assert not link.followers and len(link._requests) == 0
    assert (await leech.fetch([seed])).complete, "the same connection serves the next try"


async def test_a_model_is_pulled_once_at_a_time(town) -> None:
    leech = await town.peer(2)
    download = leech.open_download()
    with pytest.raises(ProtocolError):
        leech.open_download()
    leech.swarm.close_download(download)


@pytest.mark.slow
async def test_a_download_of_many_models_from_one_seed_asks_for_no_more_than_it_tolerates(town) -> None:
    """Many windows of 64 chunks would be more requests than the seed takes from one peer."""
    town.model = Model(600, 100)
    seed, leech = await town.seed(1), await town.peer(2)
    blocked = threading.Event()
    seed.shelf.serving = lambda index: blocked.wait(PATIENCE_S)
    download = leech.open_download()
    download._schedule._may_ask = lambda source, now: True
    running = asyncio.get_running_loop().create_task(leech.fetch([seed], download))
    await comes_true(lambda: seed.swarm.links and len(seed.swarm.links[leech.key.public]._queue._chunks) > 100)
    blocked.set()
    await running
    assert whole(leech)


@pytest.mark.slow
async def test_hundreds_of_objects_are_fetched_from_one_peer_at_once(town) -> None:
    """A model of many files: the chunk list of each is an object of its own."""
    seed, leech = await town.seed(1), await town.peer(2)
    objects = [bytes([number % 256, number // 256]) * 50 for number in range(600)]
    seed.shelf.objects = {Digest.of(data): data for data in objects}
    link = await leech.swarm.connect(seed.address)
    fetched = await asyncio.gather(*(leech.swarm.fetch_object(Digest.of(data), [link]) for data in objects))
    assert fetched == objects


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("side", ["upload", "download"])
async def test_a_limit_holds_roughly(town, side: str) -> None:
    limit = {f"{side}_limit_bytes_per_s": 400_000}
    seed = await town.seed(1, **(limit if side == "upload" else {}))
    leech = await town.peer(2, **(limit if side == "download" else {}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await leech.fetch([seed])
    took = loop.time() - began
    # 200 kB, a quarter of a second's worth of which may leave at once.
    assert 0.15 < took < 5


async def test_a_limit_is_kept_while_peers_come_and_go(town) -> None:
    """What was reserved for an answer that is never sent is free again."""
    seed = await town.seed(1, upload_limit_bytes_per_s=10_000)
    pace = seed.swarm._uploads.turns._pace
    spend, spent = pace.spend, []
    pace.spend = lambda size_bytes: (spent.append(size_bytes), spend(size_bytes))[1]
    for number in range(6):
        hostile = await town.hostile_to(seed)
        for index in range(3):
            hostile.say(wire.RequestChunk(index, town.model.id.raw, town.model.layout[index].digest.raw, 5000))
        # The very first answer leaves at once; after it, whoever asks has to wait for its time.
        await comes_true(lambda number=number: len(spent) >= 1 and seed.swarm._uploads.turns._choker.waiting)
        hostile.channel.close(PeerGoneError("changed its mind"))
        await comes_true(lambda: not seed.swarm.links)
    assert pace._credit_bytes > -8_000


async def test_the_only_holder_is_asked_again_after_a_refusal(town, monkeypatch) -> None:
    monkeypatch.setattr("p2pmodel.swarm.download._ASK_AGAIN_S", 0.05)
    refused_once: set[int] = set()

    def refuse_once(index: int) -> None:
        if index not in refused_once:
            refused_once.add(index)
            raise P2PModelError("the disk is busy")

    seed, leech = await town.seed(1), await town.peer(2)
    seed.shelf.serving = refuse_once
    await leech.fetch([seed])
    assert whole(leech)
    assert len(refused_once) == 40


async def test_a_download_counts_what_was_wasted_in_its_own_time_only(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    link = await leech.swarm.connect(seed.address)
    link._requests.wasted_bytes = 1000  # by an earlier download over the same connection
    download = leech.open_download()
    download.add_link(link)
    await leech.fetch([], download)
    assert (download.tally.bytes_fetched, download.tally.bytes_wasted) == (40 * 5000, 0)


async def test_a_chunk_that_stands_at_many_places_is_asked_for_once(town) -> None:
    town.model = Model(count=40, different=4)
    seed, partial, leech = await town.seed(1), await town.peer(2, 0b10000), await town.peer(3)
    download = await leech.fetch([seed, partial])
    assert whole(leech)
    assert len(seed.shelf.served) + len(partial.shelf.served) == 4
    assert download.tally.bytes_fetched == 4 * 5000
    assert download.tally.bytes_repeated == 36 * 5000
    assert download.tally.bytes_wasted == 0


async def test_what_is_preferred_comes_first_from_wherever_the_same_bytes_stand(town) -> None:
    town.model = Model(count=60, different=50)
    seed, leech = await town.seed(1), await town.peer(2)
    download = leech.open_download()
    # 55 holds the bytes of 5, which is what is asked for.
    download.prefer(1 << 30 | 1 << 31 | 1 << 55)
    await leech.fetch([seed], download)
    assert whole(leech)
    assert set(seed.shelf.served[:3]) == {30, 31, 5}


async def test_a_peer_that_holds_only_another_place_of_a_repeated_chunk_serves_it(town) -> None:
    town.model = Model(count=8, different=4)
    first, second, leech = await town.peer(1, 0b11110000), await town.peer(2, 0b00000000), await town.peer(3)
    await leech.fetch([first, second])
    assert whole(leech)


async def test_connections_are_enough_only_where_each_chunk_has_a_holder_and_the_holders_deliver(
    town, monkeypatch
) -> None:
    monkeypatch.setattr("p2pmodel.swarm.download.LINKS_PER_FETCH_ENOUGH", 1)
    monkeypatch.setattr("p2pmodel.swarm.download._STILL_S", -1.0)
    seed, leech = await town.seed(1), await town.peer(2)
    download = leech.open_download()
    download.add_link(await leech.swarm.connect(seed.address))
    assert not download.links_enough, "nobody has said yet that he holds anything"
    await comes_true(lambda: not download.unheld)
    assert download.links_enough
    download._schedule._sources[download.links[seed.key.public]].snubbed = True
    assert not download.links_enough, "one that promises and does not deliver keeps nobody else away"
    leech.swarm.close_download(download)


async def test_everything_that_is_asked_for_counts_against_the_download_limit(town, monkeypatch) -> None:
    spent: list[int] = []
    spend = Pace.spend
    monkeypatch.setattr(Pace, "spend", lambda pace, size: (spent.append(size), spend(pace, size)))
    seed = await town.seed(1)
    leech = await town.peer(2, download_limit_bytes_per_s=100_000_000)
    seed.swarm._uploads.turns._pace.spend = lambda size: None
    await leech.fetch([seed])
    assert sum(spent) >= sum(map(len, town.model.chunks))


async def test_who_comes_and_goes_under_ever_new_keys_is_not_remembered_for_ever(town, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "IDLERS_REMEMBERED_MAX", 2)
    leech = await town.peer(2)
    download = leech.open_download()
    for _ in range(5):
        hostile = await town.hostile_to(leech)
        holds_all(hostile, town.model)
        hostile.say(wire.Subscribe(town.model.id.raw))
        await hostile.until(lambda hostile=hostile: hostile.of(wire.RequestChunk))
        hostile.channel.close(PeerGoneError("and again"))
        await comes_true(lambda: not leech.swarm.links)
    assert len(download.tally.served) == len(download.account.sources) == len(download._gave_nothing) == 2
    seed = await town.seed(1)
    await leech.fetch([seed], download)
    assert whole(leech)
