"""S8 and R6 in whole peers: what changed is withdrawn within a minute, what rots is found, told and mended.

Goal: nobody is ever given a byte that is not what was published, and whoever owns the bytes hears of it.
Method: simulated networks of real peers in virtual time; the pace of the scrub by hand.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from p2pmodel.errors import NoPeersError, NoSpaceError, UsageError
from p2pmodel.limits import MIB, SCRUB_PERIOD_S, SCRUB_RECHECK_BYTES_PER_S, SCRUB_STEP_BYTES
from p2pmodel.model import Digest, ModelId
from p2pmodel.overlay import overlay_key
from p2pmodel.peer import PeerConfig
from p2pmodel.peer.settings import load_settings
from p2pmodel.peer.watching import ScrubPace

TIB = 1 << 40


# --- the pace


def test_everything_is_read_once_in_four_weeks():
    pace, now, read = ScrubPace("auto", 0.0), 0.0, 0
    while read < TIB // 1024:
        wait_s = pace.wait_s(TIB // 1024, in_doubt=False, busy=False, now=now)
        now += wait_s
        if not wait_s:
            read += SCRUB_STEP_BYTES
            pace.read(SCRUB_STEP_BYTES, now)
    assert now == pytest.approx(SCRUB_PERIOD_S, rel=0.001)


def test_a_pace_that_was_asked_for_is_kept_and_off_is_off():
    pace = ScrubPace(SCRUB_STEP_BYTES, 0.0)
    assert pace.wait_s(TIB, in_doubt=False, busy=False, now=0.0) == 1.0, "not in the first moment of a start"
    assert pace.wait_s(TIB, in_doubt=False, busy=False, now=1.0) == 0.0
    pace.read(2 * SCRUB_STEP_BYTES, 1.0)
    assert pace.wait_s(TIB, in_doubt=False, busy=False, now=1.0) == 2.0
    assert ScrubPace("off", 0.0).wait_s(TIB, in_doubt=True, busy=False, now=1e9) > 0
    assert ScrubPace("auto", 0.0).wait_s(0, in_doubt=False, busy=False, now=1e9) > 0


def test_more_to_read_makes_it_faster_at_once():
    pace = ScrubPace("auto", 0.0)
    assert pace.wait_s(1000, in_doubt=False, busy=False, now=100.0) > 0
    assert pace.wait_s(TIB, in_doubt=False, busy=False, now=100.0) == 0


def test_it_yields_to_serving_and_is_never_put_off_for_ever():
    pace, now, yields = ScrubPace(SCRUB_STEP_BYTES, 0.0), 10.0, 0
    while wait_s := pace.wait_s(TIB, in_doubt=False, busy=True, now=now):
        now += wait_s
        yields += 1
    assert yields == 60
    pace.read(SCRUB_STEP_BYTES, now)


def test_a_file_in_doubt_comes_first_and_faster():
    pace = ScrubPace("auto", 0.0)
    assert pace.wait_s(TIB, in_doubt=True, busy=False, now=0.0) == 0.0
    pace.rechecked(SCRUB_STEP_BYTES, 0.0)
    assert pace.wait_s(TIB, in_doubt=True, busy=False, now=0.0) == SCRUB_STEP_BYTES / SCRUB_RECHECK_BYTES_PER_S


async def test_the_rate_is_a_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("P2PMODEL_DATA_DIR", str(tmp_path))
    for text, rate in (("8MiB", 8 * MIB), ("off", "off"), ("auto", "auto")):
        settings = await load_settings(environ={"P2PMODEL_DATA_DIR": str(tmp_path), "P2PMODEL_SCRUB_RATE": text})
        assert settings.peer_config().scrub_rate == rate
    with pytest.raises(UsageError, match="SCRUB_RATE"):
        await load_settings(environ={"P2PMODEL_DATA_DIR": str(tmp_path), "P2PMODEL_SCRUB_RATE": "often"})
    with pytest.raises(UsageError, match="scrub rate"):
        PeerConfig(data_dir=Path(tmp_path), scrub_rate=0)


# --- whole peers


def providers(net, model):
    """Who would be named to a peer that looks for the model: every peer's records of it."""
    key, now = overlay_key(ModelId(Digest.from_hex(str(model)))), net.clock.monotonic()
    return {batch.peer for peer in net.alive for batch in peer.peer.overlay._protocol.providers.find(key, 0, now)[1]}


async def test_a_file_that_changes_is_withdrawn_within_a_minute_and_never_served(swarm, caplog):
    net = await swarm(peers=4, seed=1)
    net[0].write("/here/model.bin", b"x" * 1000)
    model = await net[0].publish("/here")
    await net.run_for(5)
    assert (await net[1].fetch(model)).verified
    await net.run_for(5)
    assert providers(net, model) == {net[0].peer_id, net[1].peer_id}
    net[0].write("/here/model.bin", b"y" * 1000)
    with caplog.at_level(logging.WARNING):
        await net.run_for(30)
    assert not net[0].holds(model) and providers(net, model) == {net[1].peer_id}
    status = await net[0].status()
    assert any("changed since it was hashed" in warning for warning in status.warnings)
    assert "is withdrawn" in caplog.text
    assert (await net[2].fetch(model)).peers[0].peer_id == net[1].peer_id.text


async def test_rot_at_one_peer_is_found_by_its_scrub_told_and_mended_from_another(swarm, caplog):
    net = await swarm(peers=3, seed=1, config={"scrub_rate": 4 * MIB})
    model = await net[0].publish(net.random_model(8 * MIB))
    report = await net[1].fetch(model)
    await net.run_for(30)
    path = next(path for path in net[1].disk.tree(report.path))
    net[1].disk_damaged = True
    net[1].disk.rot(f"{report.path}/{path}", 3 * MIB + 17)
    with caplog.at_level(logging.WARNING):
        await net.run_for(120)
    assert "1 damaged chunk" in caplog.text and "are right again" in caplog.text
    assert net[1].holds(model)
    assert net[1].disk.tree(report.path) == net[0].disk.tree(model.path)
    assert (await net[1].verify(model)).ok


async def test_a_look_or_a_step_that_fails_is_not_the_last(swarm, monkeypatch):
    net = await swarm(peers=2, seed=1, config={"scrub_rate": 4 * MIB})
    model = await net[0].publish(net.random_model(8 * MIB))
    report = await net[1].fetch(model)
    store, failed = net[1].peer.store, []

    def failing(call):
        def fail(*args):
            if call not in failed:
                failed.append(call)
                raise NoSpaceError("the disk is full")
            return call(*args)

        return fail

    monkeypatch.setattr(store, "check_files", failing(store.check_files))
    monkeypatch.setattr(store.scrubber, "step", failing(store.scrubber.step))
    await net.run_for(90)
    assert len(failed) == 2
    path = next(path for path in net[1].disk.tree(report.path))
    net[1].disk_damaged = True
    net[1].disk.rot(f"{report.path}/{path}", 3 * MIB + 17)
    await net.run_for(120)
    assert net[1].disk.tree(report.path) == net[0].disk.tree(model.path), "it was found and mended"


async def test_rot_in_a_published_file_is_told_and_the_file_is_left_to_its_owner(swarm):
    net = await swarm(peers=2, seed=1, config={"scrub_rate": 4 * MIB})
    model = await net[0].publish(net.random_model(4 * MIB))
    await net[1].fetch(model)
    path = next(path for path in net[0].disk.tree(model.path))
    net[0].disk_damaged = True
    net[0].disk.rot(f"{model.path}/{path}", 17)
    before = net[0].disk.tree(model.path)
    await net.run_for(120)
    assert net[0].disk.tree(model.path) == before
    (line,) = await net[0].models()
    assert line.state == "broken" and "--repair" in line.fault
    report = await net[0].verify(model, repair=True)
    (bad,) = report.bad
    assert report.ok and report.repaired and report.bytes_fetched == bad.length <= MIB
    assert net[0].disk.tree(model.path) != before
    (line,) = await net[0].models()
    assert line.state == "published" and not line.fault


async def test_files_of_a_fetched_model_that_are_gone_or_short_are_fetched_again(swarm):
    net = await swarm(peers=2, seed=1)
    source = {"a.bin": b"a" * 100_000, "b.bin": b"b" * 100_000, "c.bin": b"c" * 100_000}
    for name, data in source.items():
        net[0].write(f"/here/{name}", data)
    model = await net[0].publish("/here")
    report = await net[1].fetch(model)
    net[1].disk_damaged = True
    net[1].disk.remove(f"{report.path}/a.bin")
    net[1].disk.write_file(f"{report.path}/b.bin", b"b")
    checked = await net[1].verify(model, repair=True)
    assert checked.repaired and {bad.file for bad in checked.bad} == {"a.bin", "b.bin"}
    assert net[1].disk.tree(report.path) == source


async def test_nobody_who_has_it_is_said_with_what_is_missing(swarm):
    net = await swarm(peers=2, seed=1)
    model = await net[0].publish(net.random_model(2 * MIB))
    path = next(path for path in net[0].disk.tree(model.path))
    net[0].disk_damaged = True
    net[0].disk.rot(f"{model.path}/{path}", 17)
    began = net.clock.monotonic()
    with pytest.raises(NoPeersError, match=rf"{path} bytes 0-\d+ cannot be repaired: no other peer has the model"):
        await net[0].verify(model, repair=True)
    assert net.clock.monotonic() - began < 10


async def test_the_scrub_goes_on_after_a_restart_where_it_was(swarm):
    net = await swarm(peers=1, seed=1, config={"scrub_rate": MIB})
    await net[0].publish(net.random_model(64 * MIB))
    await net.run_for(30)
    before = net[0].peer.watch.position
    assert before.chunk
    await net[0].stop()
    await net[0].restart()
    assert net[0].peer.watch.position == before


RATES = [
    pytest.param(1, 0.1, id="one in ten", marks=pytest.mark.slow),
    *(pytest.param(seed, 1e-4, id=f"R6-{seed}", marks=pytest.mark.long) for seed in range(20)),
]


@pytest.mark.parametrize(("seed", "flip_rate"), RATES)
async def test_bits_that_flip_at_a_seed_never_leave_it_and_are_counted(swarm, seed, flip_rate):
    """R6: reads of every peer's disk come back wrong. Nothing wrong leaves, so nobody is taken for a liar."""
    net = await swarm(peers=6, seed=seed, config={"scrub_rate": 4 * MIB})
    model = await net[0].publish(net.random_model(32 * MIB if flip_rate > 0.01 else 64 * MIB))
    for peer in net:
        net.fail_disk(peer, flip_rate=flip_rate if flip_rate < 0.01 or peer is net[0] else 0.0)
    reports = await net.fetch_all(model)
    assert all(report.verified and not report.chunks_rejected for report in reports)
    if flip_rate > 0.01:
        assert net[0].peer.store.wrong_reads
    net.heal()
    await net.run_for(60)
    assert all(peer.holds(model) for peer in net), "what was lost to two wrong reads in a row has come back"
