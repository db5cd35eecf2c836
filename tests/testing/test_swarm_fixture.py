"""Networks of peers as a test sees them: what the `swarm` fixture makes, and what can be done to it."""

from __future__ import annotations

import asyncio
import errno
import time

import pytest

from p2pmodel.errors import NoSpaceError, NotFoundError, UsageError
from p2pmodel.testing import CrashedError, Nat, Net, NetOptions, PeersFailedError, run

pytestmark = pytest.mark.slow
MIB = 1 << 20


async def test_everybody_gets_a_model_although_a_fifth_of_the_network_dies(swarm):
    net = await swarm(peers=15, latency_ms=(5, 80), loss=0.02, seed=7)
    model = await net[0].publish(net.random_model(size=4 * MIB))
    killed = await net.kill(fraction=0.2)
    reports = await net.fetch_all(model)
    assert len(killed) == 3
    assert len(reports) == 11
    assert all(r.verified and r.bytes_total == 4 * MIB for r in reports)
    assert len(net.holders(model)) == 12


async def test_two_networks_live_in_one_virtual_time_and_never_meet(swarm):
    one, other = await swarm(peers=2, seed=1), await swarm(peers=2, seed=2)
    model = await one[0].publish(one.random_model(1000))
    with pytest.raises(NotFoundError):
        await other[1].fetch(model)
    assert one.clock.monotonic() == other.clock.monotonic()


async def test_a_network_without_a_seed_draws_one_and_the_next_is_the_one_after(swarm):
    one, other = await swarm(peers=1), await swarm(peers=1)
    assert other.seed == one.seed + 1


async def test_options_that_do_not_exist_are_named(swarm):
    with pytest.raises(UsageError, match="perrs"):
        await swarm(perrs=3)
    with pytest.raises(UsageError, match="loss"):
        await swarm(loss=1.5)
    with pytest.raises(UsageError, match="fractions"):
        await swarm(nat={Nat.SYMMETRIC: 0.7, Nat.RESTRICTED: 0.7})


def test_a_network_can_be_had_without_pytest():
    async def story() -> int:
        async with Net.open(NetOptions(peers=3, seed=1)) as net:
            model = await net[0].publish(net.model_from({"config.json": b"{}"}))
            await net.fetch_all(model)
            return len(net.holders(model))

    assert run(story()) == 3


async def test_outside_of_virtual_time_a_network_says_what_it_needs():
    with pytest.raises(UsageError, match="VirtualLoop"):
        await Net.start(NetOptions(peers=1))


# --- models ----------------------------------------------------------------------------------------------------------


async def test_a_random_model_has_the_size_and_the_files_that_were_asked_for(swarm):
    net = await swarm(peers=2, seed=1)
    made = net.random_model(size=10 * MIB + 3, files=3)
    model = await net[0].publish(made, name="tiny", message="hello")
    detail = await net[0].show(model)
    assert made.bytes_total == model.size == 10 * MIB + 3
    assert len(detail.files) == 3
    assert all(file.path.endswith(".safetensors") and file.chunks > 1 for file in detail.files)
    assert net.random_model(1000) != net.random_model(1000)
    assert net.random_model(0, files=2).bytes_total == 0


async def test_a_peer_has_the_interface_of_the_daemon(swarm):
    net = await swarm(peers=3, seed=1)
    model = await net[0].publish(net.model_from({"a/config.json": b"{}", "b.bin": b"b" * 5000}), name="tiny")
    publisher = await net[0].peer.keyring.publisher_key()
    report = await net[1].fetch(f"{publisher.public.text}/tiny", to="/out", files=["b.bin"])
    assert report.bytes_fetched == 5000
    assert net[1].read("/out/b.bin") == b"b" * 5000
    assert not net[1].holds(model)
    await net[1].fetch(model, to="/out", signed_by=[publisher.public.text], peers=[net[0]])
    assert net[1].holds(model)
    assert (await net[1].verify(model)).ok
    assert [summary.state for summary in await net[1].models()] == ["fetched"]
    assert (await net[1].status()).neighbours == 2
    assert (await net[1].show(model)).signers[0].name == "tiny"


async def test_what_is_on_a_disk_can_be_published_where_it_lies(swarm):
    net = await swarm(peers=2, seed=1)
    net[0].write("/here/model.bin", b"x" * 1000)
    model = await net[0].publish("/here")
    assert (await net[1].fetch(model)).bytes_fetched == 1000


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [False, True])
async def test_the_dead_come_back_on_the_disks_they_left_and_resume(swarm, silent):
    net = await swarm(peers=6, seed=3, upload_bytes_per_s=2 * MIB)
    model = await net[0].publish(net.random_model(size=16 * MIB))
    fetch = asyncio.create_task(net.fetch_all(model, peers=net[1:]))
    await net.run_for(8)
    killed = await net.kill(peers=net[3:], silent=silent)
    assert len(await fetch) == 2
    assert [peer.alive for peer in net] == [True] * 3 + [False] * 3
    assert await net.revive() == killed
    reports = await net.fetch_all(model)
    assert len(reports) == 3
    assert all(report.bytes_reused > 0 for report in reports)


async def test_a_fraction_never_takes_the_last_whole_copy_of_a_model(swarm):
    net = await swarm(peers=5, seed=1)
    model = await net[2].publish(net.random_model(1000))
    await net.kill(fraction=1.0)
    assert net.alive == [net[2]]
    await net.kill(peers=[net[2]])
    assert not net.alive
    assert not net[2].holds(model)


async def test_who_is_spared_is_spared(swarm):
    net = await swarm(peers=5, seed=1)
    await net.kill(fraction=1.0, spare=[net[1], net[3]])
    assert net.alive == [net[1], net[3]]


async def test_a_call_to_a_peer_that_dies_meanwhile_says_so(swarm):
    net = await swarm(peers=2, seed=1, upload_bytes_per_s=MIB)
    model = await net[0].publish(net.random_model(size=8 * MIB))
    fetch = asyncio.create_task(net[1].fetch(model))
    await net.run_for(2)
    net[1].crash()
    with pytest.raises(CrashedError, match="peer 1 crashed"):
        await fetch
    with pytest.raises(UsageError, match="not running"):
        await net[1].fetch(model)


async def test_a_published_model_is_served_again_after_a_power_cut(swarm):
    net = await swarm(peers=3, seed=1)
    model = await net[0].publish(net.random_model(MIB))
    net[0].disk.sync_all()
    await net.kill(peers=[net[0]], silent=True)
    await net.revive()
    assert len(await net.fetch_all(model)) == 2


async def test_nobody_is_told_of_what_vanished_while_a_peer_was_down(swarm):
    net = await swarm(peers=3, seed=1)
    model = await net[0].publish(net.random_model(MIB))
    await net[0].stop()
    for path in net[0].disk.tree(model.path):
        net[0].disk.remove(f"{model.path}/{path}")
    await net[0].start()
    assert not net[0].holds(model)
    with pytest.raises(NotFoundError):
        await net[1].fetch(model)


async def test_a_newcomer_finds_what_was_there_before_it(swarm):
    net = await swarm(peers=4, seed=1)
    model = await net[0].publish(net.random_model(MIB))
    (newcomer,) = await net.add(download_bytes_per_s=MIB)
    report = await newcomer.fetch(model)
    assert newcomer.number == 4
    assert report.seconds > 1


# --- the network -----------------------------------------------------------------------------------------------------


async def test_a_partition_divides_and_heals(swarm):
    net = await swarm(peers=6, seed=1)
    model = await net[0].publish(net.random_model(MIB))
    net.partition(net[:3], net[3:])
    assert len(await net.fetch_all(model, peers=net[1:3])) == 2
    with pytest.raises(PeersFailedError) as caught:
        await net.fetch_all(model)
    assert sorted(caught.value.errors) == [3, 4, 5]
    net.heal()
    await net.run_for(60)
    assert len(await net.fetch_all(model)) == 3


async def test_a_fraction_of_the_network_can_be_cut_off(swarm):
    net = await swarm(peers=10, seed=1)
    net.partition(0.3, 0.2)
    sides = sorted(peer.host.side for peer in net)
    assert sides == [0] * 5 + [1] * 3 + [2] * 2


async def test_a_silent_peer_holds_nobody_up(swarm):
    net = await swarm(peers=4, seed=1)
    model = await net[0].publish(net.random_model(MIB))
    await net[1].fetch(model)
    net.silence(net[0])
    report = await net[2].fetch(model)
    assert {peer.peer_id for peer in report.peers if peer.bytes} == {net[1].peer_id.text}
    net.heal()
    assert (await net[3].fetch(model)).verified


async def test_a_liar_is_found_out_and_everybody_is_served(swarm):
    net = await swarm(peers=8, seed=1)
    model = await net[0].publish(net.random_model(8 * MIB))
    await net[1].fetch(model)
    lying = net.corrupt(net[1])
    reports = await net.fetch_all(model)
    assert len(reports) == 6
    assert lying.lies > 0
    assert sum(report.chunks_rejected for report in reports) > 0


async def test_kinds_of_peers_come_in_the_fractions_that_were_asked_for(swarm):
    net = await swarm(peers=13, seed=1, nat={Nat.SYMMETRIC: 0.3, Nat.RESTRICTED: 0.2}, client_only=0.4)
    kinds = [peer.host.nat for peer in net]
    assert kinds[:3] == [Nat.OPEN] * 3
    assert (kinds.count(Nat.SYMMETRIC), kinds.count(Nat.RESTRICTED)) == (3, 2)
    assert sum(bool(peer.config.client_only) for peer in net) == 4
    model = await net[0].publish(net.random_model(MIB))
    assert len(await net.fetch_all(model)) == 12


async def test_a_peer_behind_a_translator_says_so_in_its_status_and_still_fetches_and_is_not_part_of_the_overlay(swarm):
    net = await swarm(peers=8, seed=1)
    (hidden,) = await net.add(nat=Nat.RESTRICTED)
    (told,) = await net.add(client_only=True)
    status = await hidden.status()
    assert (status.client_only, status.reachability) == (False, "unknown")
    await net.run_for(300)
    status = await hidden.status()
    assert (status.client_only, status.reachability) == (True, "unreachable")
    assert not status.connected_from_outside
    status = await told.status()
    assert (status.client_only, status.reachability) == (True, None)
    model = await net[0].publish(net.random_model(MIB))
    assert len(await net.fetch_all(model)) == 9
    status = await net[0].status()
    assert (status.client_only, status.reachability) == (False, "reachable")
    assert status.connected_from_outside


async def test_a_line_has_the_speed_it_was_given(swarm):
    net = await swarm(peers=2, seed=1, upload_bytes_per_s=4 * MIB, latency_ms=(1, 1))
    model = await net[0].publish(net.random_model(16 * MIB))
    assert 4 < (await net[1].fetch(model)).seconds < 5


async def test_the_fields_of_a_peers_configuration_can_be_set(swarm):
    net = await swarm(peers=2, seed=1, profile="internet", config={"upload_limit_bytes_per_s": 2 * MIB})
    model = await net[0].publish(net.random_model(16 * MIB))
    assert net[0].config.network.profile == "internet"
    assert (await net[1].fetch(model)).seconds > 3


# --- disks -----------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_said_and_a_larger_one_resumes(swarm):
    net = await swarm(peers=3, seed=1)
    model = await net[0].publish(net.random_model(8 * MIB))
    (small,) = await net.add(disk_bytes=4 * MIB)
    with pytest.raises(NoSpaceError):
        await small.fetch(model)
    small.disk.capacity_bytes = 100 * MIB
    assert (await small.fetch(model)).verified


async def test_a_disk_that_fails_for_a_while_costs_one_fetch(swarm):
    net = await swarm(peers=2, seed=1)
    model = await net[0].publish(net.random_model(4 * MIB))
    net.fail_disk(net[1], calls=1, code=errno.ENOSPC, only={"write"}, times=None)
    with pytest.raises(NoSpaceError):
        await net[1].fetch(model)
    net.heal()
    assert (await net[1].fetch(model)).verified


async def test_bits_that_flip_at_the_source_never_arrive(swarm):
    net = await swarm(peers=3, seed=1)
    model = await net[0].publish(net.random_model(8 * MIB))
    await net[1].fetch(model)
    net.fail_disk(net[0], flip_rate=0.5)
    assert (await net[2].fetch(model)).verified


async def test_a_file_that_is_changed_where_it_lies_is_withdrawn(swarm):
    net = await swarm(peers=3, seed=1)
    net[0].write("/here/model.bin", b"x" * 1000)
    model = await net[0].publish("/here")
    await net.run_for(1)
    net[0].write("/here/model.bin", b"y" * 1000)
    with pytest.raises(PeersFailedError):
        await net.fetch_all(model, timeout_s=60)


# --- time ------------------------------------------------------------------------------------------------------------


async def test_an_hour_passes_at_once(swarm):
    net = await swarm(peers=5, seed=1)
    began, at = time.perf_counter(), net.clock.monotonic()
    await net.run_for(3600)
    assert net.clock.monotonic() == at + 3600
    assert time.perf_counter() - began < 60
    assert net.checks.looks > 600


async def test_events_of_a_scenario_stand_in_the_log(swarm):
    net = await swarm(peers=1, seed=1)
    before = net.event_log.sha256
    net.log("lunch", 1, "soup")
    assert "lunch (1, 'soup')" in net.event_log.tail(1)
    assert net.event_log.sha256 != before
