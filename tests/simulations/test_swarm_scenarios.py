"""The scenarios of the swarm in small: they repeat, their figures are plausible, and they fire where code is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pmodel.errors import UsageError
from p2pmodel.swarm import Schedule, seeding
from p2pmodel.swarm.download import Download
from p2pmodel.testing.condensed import CondensedIntake, CondensedStore
from p2pmodel.testing.events import EventLog
from p2pmodel.testing.report import Line, Result
from simulations import byzantine, figures, flash_crowd, seed_leaves, short_lives, slot_thieves, slow_tail
from simulations.byzantine import ByzantineOptions
from simulations.flash_crowd import FlashCrowdOptions
from simulations.seed_leaves import SeedLeavesOptions
from simulations.short_lives import ShortLivesOptions
from simulations.slot_thieves import SlotThievesOptions
from simulations.slow_tail import SlowTailOptions

pytestmark = pytest.mark.slow

CROWD = FlashCrowdOptions(peers=5, size="64MiB")
LIARS = ByzantineOptions(peers=7, size="24MiB")
LIVES = ShortLivesOptions(peers=3, seeds=2, size="32MiB", up="2MB/s", life_low=4, life_high=8, pause=1)


class Watcher:
    """An `Observer` that listens to nobody."""

    def __init__(self) -> None:
        self.log = EventLog()

    def progress(self, text: str) -> None: ...


def line(result: Result, what: str) -> Line:
    (found,) = [one for one in result.lines if one.what.startswith(what)]
    return found


def value(result: Result, what: str) -> float:
    return line(result, what).value


@pytest.fixture(scope="module")
def crowd() -> Result:
    return flash_crowd.run(CROWD, Watcher())


@pytest.fixture(scope="module")
def lied() -> Result:
    return byzantine.run(LIARS, Watcher())


def test_every_host_of_a_flash_crowd_gets_all_of_it_and_none_sooner_than_its_line_allows(crowd: Result) -> None:
    assert value(crowd, "hosts that have all of it") == 1
    assert 1 < value(crowd, "time over size / bandwidth, p50") <= value(crowd, "time over size / bandwidth, p99") < 10
    assert value(crowd, "copies that the seed sent") > 1
    assert value(crowd, "connections of a host, p50") == 5
    assert crowd.series["copies"] == sorted(crowd.series["copies"])


def test_the_same_seed_gives_the_same_events_and_another_one_does_not(crowd: Result) -> None:
    again = flash_crowd.run(CROWD, Watcher())
    assert again.event_log_sha256 == crowd.event_log_sha256
    assert [one.value for one in again.lines] == [one.value for one in crowd.lines]
    other = flash_crowd.run(FlashCrowdOptions(peers=5, size="64MiB", seed=2), Watcher())
    assert other.event_log_sha256 != crowd.event_log_sha256


def test_a_crowd_whose_hosts_do_not_help_each_other_has_the_seed_send_several_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = FlashCrowdOptions(peers=5, size="64MiB", spread=0)
    together = flash_crowd.run(at_once, Watcher())
    monkeypatch.setattr(Download, "link_has", _only_from_the_whole(Download.link_has))
    alone = flash_crowd.run(at_once, Watcher())
    assert value(alone, "copies that the seed sent") > 2 > 1.7 > value(together, "copies that the seed sent")
    assert value(alone, "time over size / bandwidth, p50") > value(together, "time over size / bandwidth, p50")
    assert not line(alone, "copies that the seed sent").ok


def _only_from_the_whole(link_has):
    def deaf(download, link, held, new) -> None:
        if held.whole:
            link_has(download, link, held, held.bits)

    return deaf


def test_peers_behind_translators_get_it_from_those_who_can_be_reached() -> None:
    result = flash_crowd.run(FlashCrowdOptions(peers=5, size="16MiB", nat=0.6), Watcher())
    assert value(result, "hosts that have all of it") == 1


def test_a_seed_that_leaves_too_soon_takes_chunks_with_it_and_the_trial_says_so() -> None:
    result = seed_leaves.run(SeedLeavesOptions(peers=5, size="12MiB", spread=0.1, copies=0.5), Watcher())
    assert value(result, "trials in which all 5 completed") == 0
    assert value(result, "chunks that nobody had when it left, most") >= 6
    assert value(result, "peers that completed") == 0
    assert not result.ok


def test_a_seed_that_stays_long_enough_is_not_missed() -> None:
    result = seed_leaves.run(SeedLeavesOptions(peers=5, size="12MiB", spread=0.1, copies=4), Watcher())
    assert value(result, "trials in which all 5 completed") == 1
    assert result.ok


def test_a_seed_spreads_distinct_chunks_so_that_little_more_than_one_copy_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = SeedLeavesOptions(peers=8, size="32MiB", spread=0.1, copies=1.2)
    assert seed_leaves.run(options, Watcher()).ok
    monkeypatch.setattr(seeding, "CROWD_MIN", 1000)
    lost = seed_leaves.run(options, Watcher())
    assert value(lost, "chunks that nobody had when it left, most") > 0
    assert value(lost, "trials in which all 8 completed") == 0


@pytest.mark.parametrize("kind", ["deaf", "greedy"])
def test_peers_that_take_slots_and_give_nothing_do_not_keep_others_from_it(kind: str) -> None:
    options = SlotThievesOptions(peers=8, size="16MiB", kind=kind)
    result = slot_thieves.run(options, Watcher())
    assert value(result, "honest peers that completed") == 1
    assert value(result, "mean time over the same without thieves") < 2
    assert (value(result, "copies that a thief took") > 0) == (kind == "greedy")


def test_trials_have_seeds_of_their_own_and_all_count() -> None:
    result = seed_leaves.run(SeedLeavesOptions(peers=3, size="4MiB", copies=100, trials=2), Watcher())
    assert value(result, "trials in which the seed left") == 0
    assert value(result, "trials in which all 3 completed") == 1
    assert result.virtual_seconds > 20


def test_liars_cost_one_chunk_each_and_nothing_that_they_send_is_kept(lied: Result) -> None:
    assert lied.options["liars"] == pytest.approx(2 / 7)
    assert value(lied, "honest peers that completed") == 1
    assert value(lied, "chunks kept that are not the model's") == 0
    assert value(lied, "corrupt chunks that a liar got through") == 1
    assert value(lied, "honest peers banned") == 0
    assert 0 < value(lied, "corrupt chunks for each honest peer") <= 2


def test_a_peer_that_believes_what_it_is_sent_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gullible(intake: CondensedIntake, index: int, data: memoryview) -> int:
        intake._held[index] = bytes(data)
        intake._bits |= 1 << index
        return 1 << index

    monkeypatch.setattr(CondensedIntake, "write", gullible)
    result = byzantine.run(LIARS, Watcher())
    assert value(result, "chunks kept that are not the model's") > 0
    assert not line(result, "chunks kept that are not the model's").ok


def test_half_the_peers_may_lie_in_every_way() -> None:
    result = byzantine.run(ByzantineOptions(peers=9, size="16MiB", kind="mixed"), Watcher())
    assert value(result, "honest peers that completed") == 1
    assert value(result, "chunks kept that are not the model's") == 0
    assert value(result, "honest peers banned") == 0


def test_with_nine_of_ten_lying_one_honest_seed_is_enough() -> None:
    result = byzantine.run(ByzantineOptions(peers=12, size="64MiB", kind="most"), Watcher())
    assert result.options["liars"] == pytest.approx(10 / 12)
    assert value(result, "honest peers that completed") == 1
    assert line(result, "time of the last").ok


def test_the_last_chunks_do_not_wait_for_a_peer_that_nearly_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SlowTailOptions(peers=4, size="256MiB", when=0.95, slow=0.002, trials=4)
    result = slow_tail.run(options, Watcher())
    assert value(result, "trials that completed") == 1
    assert value(result, "extra bytes, the worst trial") <= 2 / 256
    monkeypatch.setattr(Schedule, "_take_over", lambda *args: None)
    waiting = slow_tail.run(options, Watcher())
    assert value(waiting, "time of the last 1 %") > 1.5 * value(result, "time of the last 1 %")


def test_everybody_gets_all_of_it_though_nobody_lives_for_a_minute() -> None:
    result = short_lives.run(LIVES, Watcher())
    assert value(result, "machines that got all of it") == 1
    assert value(result, "peers killed") > 4
    assert value(result, "machines whose progress ever fell") == 0


def test_a_disk_that_is_lost_with_its_peer_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = CondensedStore.open_intake

    def forgetful(store: CondensedStore, layout, *args, **options):
        store.know(layout).held.clear()
        return keep(store, layout, *args, **options)

    monkeypatch.setattr(CondensedStore, "open_intake", forgetful)
    monkeypatch.setattr(short_lives, "_PATIENCE_S", 30.0)
    result = short_lives.run(LIVES, Watcher())
    assert value(result, "machines whose progress ever fell") > 0
    assert not result.ok


@pytest.mark.parametrize(
    "options",
    [
        FlashCrowdOptions(peers=2, size="1 banana"),
        FlashCrowdOptions(peers=2, chunk="8MiB"),
        FlashCrowdOptions(peers=2, up="unlimited"),
        FlashCrowdOptions(peers=2, size="0"),
    ],
)
def test_options_that_no_network_has_are_refused_with_a_sentence(options: FlashCrowdOptions) -> None:
    with pytest.raises(UsageError):
        flash_crowd.run(options, Watcher())


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_what_was_measured_can_be_drawn(crowd: Result, lied: Result, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    left = seed_leaves.run(SeedLeavesOptions(peers=3, size="4MiB", copies=0.5), Watcher())
    tail = SlowTailOptions(peers=2, size="16MiB")
    for scenario, result, options in (
        (flash_crowd.SCENARIO, crowd, CROWD),
        (byzantine.SCENARIO, lied, LIARS),
        (seed_leaves.SCENARIO, left, SeedLeavesOptions(peers=3, size="4MiB", copies=0.5)),
        (slow_tail.SCENARIO, slow_tail.run(tail, Watcher()), tail),
        (short_lives.SCENARIO, short_lives.run(LIVES, Watcher()), LIVES),
    ):
        path = tmp_path / f"{scenario.name}.{suffix}"
        figures.draw(scenario, result, options, path)
        assert path.stat().st_size > 10_000
