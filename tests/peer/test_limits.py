"""Goal: limits that are changed while a peer runs hold at once, for transfers that have begun too.

Method: whole peers in virtual time, where a rate is a fact; rates between two looks by hand.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from p2pmodel.errors import UsageError
from p2pmodel.peer.config import NetworkConfig, PeerConfig
from p2pmodel.peer.kept_limits import LIMITS_NAME, keep_limits
from p2pmodel.peer.meter import Meter
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.requests import FetchRequest, LimitsChange
from p2pmodel.peer.service import LocalService
from p2pmodel.peer.settings import load_settings
from p2pmodel.store import OS_FILES
from p2pmodel.testing.channel import SimChannel

MIB = 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("which", ["upload", "download"])
async def test_a_limit_that_is_lifted_or_lowered_counts_for_what_runs(swarm, which):
    side = f"{which}_limit_bytes_per_s"
    net = await swarm(peers=4, latency_ms=(5, 10), config={side: 64 * 1024}, seed=3)
    limited = net[0] if which == "upload" else net[3]
    service = LocalService(limited.peer)
    model = await net[0].publish(net.random_model(size=24 * MIB))
    fetching = asyncio.ensure_future(net[3].fetch(model))
    await asyncio.sleep(20)
    assert not fetching.done()
    assert net[3].peer.swarm.bytes_received < 4 * MIB
    raised = LimitsChange(**{f"{which}_bytes_per_s": 2 * MIB})
    found = await service.set_limits(raised)
    assert getattr(found, f"{which}_bytes_per_s") == 2 * MIB
    assert (await service.status()).limits == found
    await asyncio.sleep(4)
    assert 6 * MIB < net[3].peer.swarm.bytes_received < 14 * MIB
    await service.set_limits(LimitsChange(**{f"{which}_bytes_per_s": MIB // 2}))
    before = net[3].peer.swarm.bytes_received
    await asyncio.sleep(8)
    assert net[3].peer.swarm.bytes_received - before < 8 * MIB
    await service.set_limits(LimitsChange(**{f"{which}_bytes_per_s": None}))
    began = net.clock.monotonic()
    assert (await fetching).verified
    assert net.clock.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("which", ["upload", "download"])
async def test_what_moved_before_there_was_a_limit_is_no_debt(swarm, which):
    net = await swarm(peers=4, latency_ms=(5, 10), seed=12)
    first = await net[0].publish(net.random_model(size=32 * MIB))
    await net[3].fetch(first)
    service = LocalService((net[0] if which == "upload" else net[3]).peer)
    second = await net[0].publish(net.random_model(size=4 * MIB))
    await service.set_limits(LimitsChange(**{f"{which}_bytes_per_s": MIB}))
    began = net.clock.monotonic()
    await net[3].fetch(second)
    assert 2 < net.clock.monotonic() - began < 8


@pytest.mark.slow
async def test_who_is_being_served_and_what_is_due_is_seen_while_it_lasts(swarm):
    net = await swarm(peers=4, latency_ms=(5, 10), upload_bytes_per_s=MIB, config={"upload_slots": 1}, seed=4)
    model = await net[0].publish(net.random_model(size=12 * MIB))
    fetching = asyncio.ensure_future(net[3].fetch(model))
    await asyncio.sleep(3)
    seed, leech = LocalService(net[0].peer), LocalService(net[3].peer)
    (upload,) = [each for each in await seed.neighbours() if each.requests_in]
    (download,) = [each for each in await leech.neighbours() if each.requests_out]
    assert (upload.peer_id, download.peer_id) == (net[3].peer_id.text, net[0].peer_id.text)
    assert upload.in_upload_slot
    assert not download.in_upload_slot
    assert 0.3 * MIB < upload.send_rate_bytes_per_s < 2.5 * MIB
    assert (await seed.status()).upload_slots == 1
    await fetching
    assert not any(each.in_upload_slot or each.requests_in for each in await seed.neighbours())


@dataclass(eq=False)
class Line:
    """What the meter looks at: its own channel."""

    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def channel(self) -> Line:
        return self


def test_a_rate_is_what_moved_between_two_looks() -> None:
    meter: Meter[Line] = Meter()
    old = Line(1_000_000, 5)
    assert meter.stale(0.0)
    meter.look([old], 0.0)
    assert meter.rates(old) == (0.0, 0.0)
    old.bytes_sent += 300
    new = Line(0, 50)
    meter.look([old, new], 0.1)  # too soon to say anything
    assert meter.rates(old) == (0.0, 0.0)
    meter.look([old, new], 2.0)
    assert meter.rates(old) == (150.0, 0.0)
    assert meter.rates(new) == (0.0, 25.0)
    meter.look([old], 4.0)
    assert meter.rates(old) == (0.0, 0.0)
    assert meter.rates(new) == (0.0, 0.0)  # it has gone
    assert not meter.stale(14.0)
    assert meter.stale(14.1)
    meter.look([old], 60.0)
    old.bytes_sent += 10
    meter.look([old], 61.0)
    assert meter.rates(old) == (10.0, 0.0)


async def test_limits_that_are_set_hold_after_a_restart_and_give_way_to_what_is_said_for_one_start(tmp_path):
    config = PeerConfig(data_dir=tmp_path, listen="127.0.0.1:0", network=NetworkConfig(name="limits"))
    async with Peer(config) as peer:
        service = LocalService(peer)
        await service.set_limits(LimitsChange(upload_bytes_per_s=MIB))
        await asyncio.gather(
            service.set_limits(LimitsChange(download_bytes_per_s=7)),
            service.set_limits(LimitsChange(upload_bytes_per_s=None)),
        )
    (tmp_path / "config.toml").write_text('upload_limit = "1MiB"\ndownload_limit = "1MiB"\nupload_slots = 3\n')
    kept = str(tmp_path / LIMITS_NAME)
    values = (await load_settings({"data_dir": tmp_path}, environ={})).values
    assert (values["upload_limit"].value, values["upload_limit"].origin) == (None, kept)
    assert (values["download_limit"].value, values["download_limit"].origin) == (7, kept)
    assert values["upload_slots"].value == 3
    values = (await load_settings({"data_dir": tmp_path, "upload_limit": "5"}, environ={})).values
    assert values["upload_limit"].value == 5
    values = (await load_settings({"data_dir": tmp_path}, environ={"P2PMODEL_DOWNLOAD_LIMIT": "9"})).values
    assert values["download_limit"].value == 9


async def test_a_peer_for_one_command_keeps_no_limits(tmp_path):
    config = PeerConfig(data_dir=tmp_path, listen="127.0.0.1:0", network=NetworkConfig(name="limits"))
    async with Peer(config.for_one_command(offline=True)) as peer:
        await LocalService(peer).set_limits(LimitsChange(upload_bytes_per_s=MIB))
    assert not (tmp_path / LIMITS_NAME).exists()


@pytest.mark.parametrize("content", ["[]", "{", '{"colour": 1}', '{"upload_limit": 0}', '{"upload_limit": "fast"}'])
async def test_kept_limits_that_make_no_sense_are_named_and_replaced_by_the_next(tmp_path, content):
    (tmp_path / LIMITS_NAME).write_text(content)
    with pytest.raises(UsageError, match=r"limits\.json"):
        await load_settings({"data_dir": tmp_path}, environ={})
    keep_limits(OS_FILES, tmp_path, LimitsChange(upload_bytes_per_s=5))
    assert (await load_settings({"data_dir": tmp_path}, environ={})).values["upload_limit"].value == 5


@pytest.mark.parametrize(("background", "of_all"), [(True, False), (False, True), (False, False)])
async def test_a_fetch_in_the_background_lets_what_it_receives_yield_and_nothing_else(
    swarm, monkeypatch, background, of_all
):
    told = []
    monkeypatch.setattr(SimChannel, "yield_line", lambda channel, **what: told.append((channel, what)))
    net = await swarm(peers=2, config={"background": of_all}, seed=4)
    model = await net[0].publish(net.random_model(size=4 * MIB))
    request = FetchRequest(ref=str(model), to="/to", background=background)
    told.clear()
    assert (await LocalService(net[1].peer).fetch(request)).bytes_fetched >= 4 * MIB
    ours = [what for channel, what in told if channel.host is net[1].host]
    assert ({"sending": of_all, "receiving": True} in ours) == (background or of_all)
    assert all(what["sending"] == of_all for _, what in told)
    assert ours[-1] == {"sending": of_all, "receiving": of_all}


async def test_who_waits_for_a_model_that_comes_in_the_background_makes_it_hurry(swarm, monkeypatch):
    told = []
    monkeypatch.setattr(SimChannel, "yield_line", lambda channel, **what: told.append((channel.host, what)))
    net = await swarm(peers=2, upload_bytes_per_s=MIB, seed=4)
    model = await net[0].publish(net.random_model(size=16 * MIB))
    service = LocalService(net[1].peer)
    request = FetchRequest(ref=str(model), to="/to", background=True)
    slow = asyncio.ensure_future(service.fetch(request))
    await asyncio.sleep(5)
    assert (net[1].host, {"sending": False, "receiving": True}) in told
    told.clear()
    await asyncio.gather(slow, service.fetch(FetchRequest(ref=str(model), to="/to")))
    assert told and all(not what["receiving"] for _, what in told)


async def test_what_is_pulled_from_a_peer_yields_only_while_all_of_it_is_in_the_background(swarm, monkeypatch):
    told = []
    net = await swarm(peers=2, upload_bytes_per_s=MIB, seed=6)
    monkeypatch.setattr(SimChannel, "yield_line", lambda channel, **what: told.append((channel.host, what)))
    long, short = [await net[0].publish(net.random_model(size=size * MIB)) for size in (16, 4)]
    service = LocalService(net[1].peer)
    slow = asyncio.ensure_future(service.fetch(FetchRequest(ref=str(long), to="/long", background=True)))
    await asyncio.sleep(5)
    yields = {"sending": False, "receiving": True}
    assert told[-1] == (net[1].host, yields)
    quick = asyncio.ensure_future(service.fetch(FetchRequest(ref=str(short), to="/short")))
    await asyncio.sleep(2)
    assert not quick.done() and told[-1] == (net[1].host, {"sending": False, "receiving": False})
    await quick
    assert not slow.done() and told[-1] == (net[1].host, yields)
    await slow
