"""Reading a model that is only partly here: in a simulated network, so that what moved and what it took is exact."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2pmodel.errors import NetworkError, NoPeersError, NotFoundError, RefusedError, UsageError
from p2pmodel.model import Digest, ModelId
from p2pmodel.peer.announcing import Announcer
from p2pmodel.testing.weights import ModelFiles

pytestmark = pytest.mark.slow

MIB = 1 << 20
LINE = 5e6
"""Bytes per second of each peer."""


async def two_peers(swarm, *, size=8 * MIB, **options):
    """A network in which peer 0 has a model of one large file and a small one, and peer 1 nothing; and the bytes."""
    net = await swarm(peers=2, upload_bytes_per_s=LINE, download_bytes_per_s=LINE, seed=1, **options)
    files = {"config.json": b"{}" * 40, "weights.bin": net.rng.randbytes(size)}
    model = await net[0].publish(ModelFiles(files))
    return net, model, files


def fetched(net, number=1):
    return net[number].peer.swarm.bytes_received


async def read(peer, model, path="weights.bin", start=0, end=None, **options):
    async with await peer.open_reader(str(model), **options) as reader:
        return await reader.read(path, start, end)


async def test_a_range_of_a_model_that_is_not_here_moves_its_chunks_and_no_others(swarm):
    net, model, files = await two_peers(swarm)
    data = await net[1].run(lambda peer: read(peer, model, start=5 * MIB + 17, end=6 * MIB + 3))
    assert data == files["weights.bin"][5 * MIB + 17 : 6 * MIB + 3]
    assert fetched(net) < 3 * MIB


async def test_what_was_read_is_here_and_not_fetched_again(swarm):
    net, model, files = await two_peers(swarm)
    await net[1].run(lambda peer: read(peer, model, end=4 * MIB))
    before = fetched(net)
    assert await net[1].run(lambda peer: read(peer, model, start=3, end=3 * MIB)) == files["weights.bin"][3 : 3 * MIB]
    assert fetched(net) - before < MIB / 2
    report = await net[1].fetch(model)
    assert report.bytes_reused >= 4 * MIB
    assert report.bytes_fetched == model.size - report.bytes_reused


async def test_a_fetch_to_another_place_takes_what_was_read(swarm):
    net, model, _ = await two_peers(swarm)
    await net[1].run(lambda peer: read(peer, model, end=4 * MIB))
    report = await net[1].fetch(model, to="/elsewhere")
    assert report.bytes_fetched <= model.size - 4 * MIB
    assert net[1].read("/elsewhere/weights.bin") == net[0].read(f"{model.path}/weights.bin")


async def test_what_somebody_waits_for_comes_before_the_rest_of_a_whole_model(swarm):
    net, model, _ = await two_peers(swarm)

    async def last_first(peer):
        loop = asyncio.get_running_loop()
        async with await peer.open_reader(str(model), whole=True) as reader:
            began = loop.time()
            await reader.ready("weights.bin", 7 * MIB, 8 * MIB)
            waited_s = loop.time() - began
            await reader.ready("weights.bin")
            return waited_s, loop.time() - began

    waited_s, all_s = await net[1].run(last_first)
    assert all_s > 1
    assert waited_s < 0.35 * all_s


async def test_a_stream_gives_its_first_bytes_long_before_its_last_and_in_order(swarm):
    net, model, files = await two_peers(swarm)

    async def stream(peer):
        times, got, loop = [], [], asyncio.get_running_loop()
        async with await peer.open_reader(str(model)) as reader:
            began = loop.time()
            async for part in reader.stream("weights.bin", 11):
                got.append(bytes(part))
                times.append(loop.time() - began)
        return b"".join(got), times

    data, times = await net[1].run(stream)
    assert data == files["weights.bin"][11:]
    assert times[0] < 0.3 * times[-1]
    line_s = len(data) / LINE
    assert times[-1] < 1.3 * line_s + 0.5


async def test_a_file_that_has_been_read_whole_has_its_name_and_can_be_given_to_the_kernel(swarm):
    net, model, files = await two_peers(swarm)

    async def paths(peer):
        async with await peer.open_reader(str(model)) as reader:
            before = await reader.local_path("weights.bin")
            await reader.read("weights.bin")
            await asyncio.sleep(1)  # its name comes a moment after its bytes
            return before, await reader.local_path("weights.bin")

    before, after = await net[1].run(paths)
    assert before is None
    assert after.name == "weights.bin"
    assert net[1].read(after) == files["weights.bin"]


async def test_a_model_that_is_here_is_read_without_asking_anybody(swarm):
    net, model, files = await two_peers(swarm)
    net[1].crash()

    async def look(peer):
        async with await peer.open_reader(str(model)) as reader:
            return await reader.local_path("weights.bin"), await reader.read("config.json")

    path, config = await net[0].run(look)
    assert path == Path(model.path) / "weights.bin"
    assert config == files["config.json"]


async def test_readers_of_one_model_share_what_comes(swarm):
    net, model, files = await two_peers(swarm)

    async def many(peer):
        return await asyncio.gather(*(read(peer, model, end=4 * MIB) for _ in range(5)))

    parts = await net[1].run(many)
    assert parts == [files["weights.bin"][: 4 * MIB]] * 5
    assert fetched(net) < 5 * MIB


async def test_what_only_a_reader_that_was_closed_wanted_is_not_fetched_and_the_others_go_on(swarm):
    net, model, files = await two_peers(swarm, size=16 * MIB)

    async def one_leaves(peer):
        staying = await peer.open_reader(str(model))
        leaving = await peer.open_reader(str(model), whole=True)
        leaving.want("weights.bin", 8 * MIB)
        waiting = asyncio.get_running_loop().create_task(staying.read("weights.bin", 0, 4 * MIB))
        await leaving.ready("weights.bin", 8 * MIB, 9 * MIB)
        leaving.close()
        data = await waiting
        staying.close()
        return data

    assert await net[1].run(one_leaves) == files["weights.bin"][: 4 * MIB]
    await asyncio.sleep(30)
    assert fetched(net) < 14 * MIB


async def test_a_fetch_that_begins_while_somebody_reads_goes_first_and_serves_him_in_his_order(swarm):
    net, model, files = await two_peers(swarm, size=16 * MIB)

    async def reads_while_fetching(peer):
        loop = asyncio.get_running_loop()
        async with await peer.open_reader(str(model)) as reader:
            await reader.ready("weights.bin", 0, 2 * MIB)
            fetch = loop.create_task(peer.fetch(str(model)))
            await asyncio.sleep(0.5)
            began = loop.time()
            data = await reader.read("weights.bin", 14 * MIB, 15 * MIB)
            waited_s = loop.time() - began
            done = fetch.done()
            return data, waited_s, done, await fetch

    data, waited_s, done, report = await net[1].run(reads_while_fetching)
    assert data == files["weights.bin"][14 * MIB : 15 * MIB]
    assert not done
    assert waited_s < 1
    assert report.bytes_reused >= 2 * MIB
    assert fetched(net) < 1.05 * model.size


async def test_a_fetch_of_other_files_leaves_the_reader_what_it_does_not_bring(swarm):
    net, model, files = await two_peers(swarm)

    async def both(peer):
        fetch = asyncio.get_running_loop().create_task(peer.fetch(str(model), files=["config.json"]))
        data = await read(peer, model, end=MIB)
        await fetch
        return data

    assert await net[1].run(both) == files["weights.bin"][:MIB]


async def test_the_bytes_are_right_though_a_peer_lies(swarm):
    net = await swarm(peers=3, seed=5, upload_bytes_per_s=LINE)
    files = ModelFiles({"weights.bin": net.rng.randbytes(4 * MIB)})
    model = await net[0].publish(files)
    await net[2].fetch(model)
    net.corrupt(net[2])
    assert await net[1].run(lambda peer: read(peer, model)) == files.files["weights.bin"]


async def test_nobody_who_has_the_model_ends_the_wait_with_the_error_of_a_fetch(swarm):
    net = await swarm(peers=2, seed=3)
    with pytest.raises(NotFoundError, match="no peer has the model"):
        await net[1].run(lambda peer: read(peer, ModelId(Digest(bytes(32))).hex))


async def test_a_holder_that_goes_for_good_ends_the_wait_and_a_later_try_succeeds(swarm):
    net, model, files = await two_peers(swarm)

    async def read_and_lose(peer):
        reader = await peer.open_reader(str(model))
        await reader.ready("weights.bin", 0, MIB)
        net[0].crash()
        with pytest.raises(NoPeersError):
            await reader.ready("weights.bin", 6 * MIB, 7 * MIB)
        return reader

    reader = await net[1].run(read_and_lose)
    await net[0].restart()
    data = await net[1].run(lambda peer: reader.read("weights.bin", 6 * MIB, 7 * MIB))
    assert data == files["weights.bin"][6 * MIB : 7 * MIB]
    reader.close()


async def test_ranges_and_paths_that_are_none_are_refused_before_anything_moves(swarm):
    net, model, _ = await two_peers(swarm)

    async def wrong(peer):
        async with await peer.open_reader(str(model), files=["config.json"]) as reader:
            with pytest.raises(NotFoundError, match="no file"):
                await reader.read("missing.bin")
            with pytest.raises(UsageError, match="not among the files"):
                await reader.read("weights.bin")
            for start, end in ((-1, 2), (0, 1000), (5, 4)):
                with pytest.raises(UsageError, match="no range"):
                    await reader.read("config.json", start, end)
            assert await reader.read("config.json", 3, 3) == b""
        with pytest.raises(NotFoundError):
            await peer.open_reader(str(model), files=["missing.bin"])

    await net[1].run(wrong)
    assert fetched(net) < MIB


async def test_a_damaged_chunk_on_this_disk_is_noticed_and_fetched_again(swarm):
    net, model, files = await two_peers(swarm)
    await net[1].fetch(model, to="/out")
    net[1].write("/out/weights.bin", b"x" * 8 * MIB)
    data = await net[1].run(lambda peer: read(peer, model, end=MIB))
    assert data == files["weights.bin"][:MIB]


async def test_a_chunk_that_rots_while_the_rest_still_comes_is_never_given_out_and_comes_again(swarm):
    net, model, files = await two_peers(swarm)

    async def rot(peer):
        async with await peer.open_reader(str(model), whole=True) as reader:
            await reader.ready("weights.bin", 0, MIB)
            place = await reader.place("weights.bin", 0, MIB)
            assert not place.whole
            net[1].disk.rot(place.path, 17)
            net[1].disk_damaged = True
            return await reader.read("weights.bin", 0, MIB)

    assert await net[1].run(rot) == files["weights.bin"][:MIB]


async def test_a_reader_of_other_files_than_are_being_fetched_waits_for_a_minute_and_is_told_why(swarm):
    net, model, files = await two_peers(swarm, size=8 * MIB)
    net[0].peer.swarm.limit_upload(60_000)

    async def both(peer):
        loop = asyncio.get_running_loop()
        fetch = loop.create_task(peer.fetch(str(model), files=["weights.bin"]))
        await asyncio.sleep(5)
        began = loop.time()
        with pytest.raises(NetworkError, match="other files of this model are being fetched"):
            await read(peer, model, "config.json")
        waited_s = loop.time() - began
        assert not fetch.done()
        await fetch
        return waited_s, await read(peer, model, "config.json")

    waited_s, config = await net[1].run(both)
    assert 55 < waited_s < 75
    assert config == files["config.json"]


async def test_what_was_wanted_when_a_fetch_went_first_and_is_no_more_is_not_brought_after_it(swarm, monkeypatch):
    net, model, files = await two_peers(swarm, size=8 * MIB)
    began, begin = asyncio.Event(), Announcer.begin

    async def begin_late(self, layout):
        if not began.is_set():
            began.set()
            await asyncio.Event().wait()
        await begin(self, layout)

    async def leave(peer):
        monkeypatch.setattr(Announcer, "begin", begin_late)
        async with await peer.open_reader(str(model)) as stays, await peer.open_reader(str(model)) as leaves:
            waiting = asyncio.create_task(stays.read("weights.bin", 0, MIB))
            gone = asyncio.create_task(leaves.read("weights.bin", 7 * MIB, 8 * MIB))
            await began.wait()
            fetch = asyncio.create_task(peer.fetch(str(model), files=["config.json"]))
            await asyncio.sleep(0)
            gone.cancel()
            await fetch
            return await waiting

    assert await net[1].run(leave) == files["weights.bin"][:MIB]
    await net.run_for(5)
    assert fetched(net) < 2 * MIB


async def test_whoever_has_read_for_long_is_not_turned_away_by_a_short_fetch_of_another_file(swarm):
    net, model, files = await two_peers(swarm, size=8 * MIB)
    net[0].peer.swarm.limit_upload(60_000)

    async def both(peer):
        reading = asyncio.create_task(read(peer, model))
        await asyncio.sleep(70)
        await peer.fetch(str(model), files=["config.json"], to="/elsewhere")
        return await reading

    assert await net[1].run(both) == files["weights.bin"]


async def three_files(swarm):
    """Peer 0 has two large files, on a line that takes seconds for each, and one that is a chunk of the first."""
    net = await swarm(peers=2, upload_bytes_per_s=LINE, download_bytes_per_s=LINE, seed=1)
    long, longer, config = net.rng.randbytes(4 * MIB), net.rng.randbytes(24 * MIB), net.rng.randbytes(MIB)
    files = {"a.bin": config + long, "b.bin": longer, "config.json": config}
    return net, await net[0].publish(ModelFiles(files)), files


@pytest.mark.parametrize("to", [None, "/elsewhere"])
async def test_a_file_is_given_by_its_name_as_soon_as_it_is_whole_while_a_fetch_brings_the_others(swarm, to):
    net, model, files = await three_files(swarm)

    async def by_name(peer):
        async with await peer.open_reader(str(model)) as reader:
            fetch = asyncio.create_task(peer.fetch(str(model), to=to))
            await asyncio.sleep(0.5)
            place = await reader.whole_file("a.bin")
            done, named = fetch.done(), net[1].read(place.path)
            report = await fetch
            return place, done, named, report

    place, done, named, report = await net[1].run(by_name)
    assert named == files["a.bin"] and not done
    assert Path(place.path) == Path(report.path) / "a.bin" and report.verified
    assert {name: net[1].read(Path(report.path) / name) for name in files} == files
    assert fetched(net) < 1.05 * model.size


async def test_a_file_by_its_name_that_a_fetch_of_others_does_not_give_is_waited_for_a_minute(swarm):
    net, model, files = await three_files(swarm)

    async def by_name(peer):
        async with await peer.open_reader(str(model)) as reader:
            half = asyncio.create_task(peer.fetch(str(model), to="/elsewhere", files=["a.bin"]))
            await reader.ready("a.bin", 0, MIB)
            half.cancel()
            await asyncio.wait([half])
            await reader.ready("a.bin")  # the other half lies in another place: neither file is whole
            net[0].peer.swarm.limit_upload(200_000)
            fetch = asyncio.create_task(peer.fetch(str(model), files=["b.bin"]))
            await asyncio.sleep(1)
            began = asyncio.get_running_loop().time()
            with pytest.raises(NetworkError, match="other files of this model are being fetched"):
                await reader.whole_file("a.bin")
            waited_s = asyncio.get_running_loop().time() - began
            assert not fetch.done()
            await fetch
            return waited_s, net[1].read((await reader.whole_file("a.bin")).path)

    waited_s, named = await net[1].run(by_name)
    assert 55 < waited_s < 75
    assert named == files["a.bin"]


async def test_a_file_of_somebody_else_under_the_name_is_told_to_who_waits_for_it_and_the_fetch_goes_on(swarm):
    net, model, files = await three_files(swarm)

    async def by_name(peer):
        async with await peer.open_reader(str(model)) as reader:
            fetch = asyncio.create_task(peer.fetch(str(model), to="/elsewhere", files=["a.bin", "b.bin"]))
            await reader.ready("a.bin", 0, MIB)
            net[1].disk.write_file(Path("/elsewhere/a.bin"), b"mine")
            with pytest.raises(RefusedError, match="has appeared meanwhile"):
                await reader.whole_file("a.bin")
            assert not fetch.done()
            net[1].disk.remove(Path("/elsewhere/a.bin"))
            return await fetch

    assert (await net[1].run(by_name)).verified
    assert net[1].read("/elsewhere/a.bin") == files["a.bin"]
