"""Goal: a fetch says truly who gave what and why it was not faster.

Method: accounts filled by hand for the sentences; for the causes, whole peers in virtual time on lines whose limit is
known, so that what was measured can be compared with what was built.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import msgspec
import pytest

from p2pmodel.cli.explaining import explanation_lines
from p2pmodel.errors import FetchTimeoutError
from p2pmodel.model import SecretKey
from p2pmodel.peer.explaining import explain
from p2pmodel.peer.reports import Explanation, FetchReport, Progress
from p2pmodel.peer.requests import FetchRequest
from p2pmodel.peer.service import LocalService
from p2pmodel.swarm import Account, Tally
from p2pmodel.swarm.accounting import CAUSES, Cause

MIB = 1 << 20
KEYS = [SecretKey.generate().public for _ in range(8)]


def account_with(rates: list[int], cause: Cause = "sources") -> Explanation:
    """Each peer gave for ten seconds at its rate; then `cause` had a minute."""
    tally = Tally(bytes_fetched=sum(rates) * 10)
    account = Account(0.0)
    account.pull(len(rates) + 1, 0.0)
    for index, key in enumerate(KEYS[: len(rates)]):
        account.joined(key, f"10.0.0.{index}:1", encrypted=True, scope=1, now=0.0)
        account.asked(key, index, 0.0)
    for index, (key, rate) in enumerate(zip(KEYS, rates, strict=False)):
        account.settled(key, index, 0.0, 10.0)
        account.gave(key, rate * 10)
    if cause != "sources":
        account.enter(cause, 10.0)
        account.note(70.0)
    return explain(account, tally, 10.0 if cause == "sources" else 70.0)


def test_the_sources_are_named_with_what_each_gave() -> None:
    found = account_with([2 * MIB, 41 * MIB, 30 * MIB])
    assert found.summary == "100 % of the time the sources were the limit: 3 peers gave 41.0, 30.0 and 2.0 MiB/s."
    assert [part.rate_bytes_per_s for part in found.sources] == [41 * MIB, 30 * MIB, 2 * MIB]
    assert [part.share for part in found.sources] == [0.5616, 0.411, 0.0274]
    assert {part.distance for part in found.sources} == {"network"}


def test_a_second_cause_is_told_where_it_had_nearly_as_much() -> None:
    account, tally = Account(0.0), Tally(bytes_fetched=MIB)
    account.pull(2, 0.0)
    account.joined(KEYS[0], "10.0.0.1:1", encrypted=True, scope=0, now=0.0)
    account.asked(KEYS[0], 0, 0.0)
    account.settled(KEYS[0], 0, 3.5, 10.0)
    account.gave(KEYS[0], MIB)
    account.close(10.0)
    told = "65 % of the time the sources were the limit: 1 peer gave 102.4 KiB/s"
    assert explain(account, tally, 10.0).summary == f"{told}; 35 % went into its own hashing and writing."
    assert explain(account, tally, 20.0).summary == told.replace("65", "32") + "."


def test_rates_of_different_units_keep_theirs_and_many_are_cut_short() -> None:
    assert account_with([MIB, 1024]).summary.endswith("2 peers gave 1.0 MiB and 1.0 KiB/s.")
    assert account_with([MIB]).summary.endswith("1 peer gave 1.0 MiB/s.")
    many = account_with([8 * MIB] * 7).summary
    assert many.endswith("7 peers gave 8.0, 8.0, 8.0, 8.0, 8.0 MiB/s, and 2 more less than that.")


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause != "sources"])
def test_every_cause_has_its_sentence_and_its_line(cause: Cause) -> None:
    found = account_with([MIB], cause)
    assert found.limit == cause
    assert found.summary.startswith("86 % of the time ")
    assert found.summary.endswith(".")
    report = FetchReport(
        model_id="", path="", files=1, bytes_total=1, bytes_fetched=1, bytes_reused=0, bytes_wasted=0, seconds=70.0,
        chunks_rejected=0, peers=[], explain=found,
    )  # fmt: skip
    lines = list(explanation_lines(report))
    assert any("1 min" in line and "86 %" in line for line in lines)
    assert lines[-1] == found.summary
    assert not any(cause in line for line in lines if "_" in cause), "a key of JSON is no word for a person"


def test_text_from_peers_cannot_steer_a_terminal() -> None:
    account = Account(0.0)
    account.joined(KEYS[0], "10.0.0.1:1", encrypted=False, scope=0, now=0.0)
    account.left(KEYS[0], "gone\x1b[2J", 1.0)
    report = FetchReport(
        model_id="", path="", files=1, bytes_total=1, bytes_fetched=1, bytes_reused=0, bytes_wasted=0, seconds=1.0,
        chunks_rejected=0, peers=[], explain=explain(account, Tally(), 1.0),
    )  # fmt: skip
    assert not any("\x1b" in line for line in explanation_lines(report))


# --- whole peers -----------------------------------------------------------------------------------------------------


def checked(report: FetchReport) -> Explanation:
    found = report.explain
    assert found is not None
    assert set(found.seconds) == set(CAUSES)
    assert sum(found.seconds.values()) == pytest.approx(report.seconds, abs=0.01)
    assert sum(part.bytes for part in found.sources) == report.bytes_fetched
    assert sum(found.wasted.values()) == report.bytes_wasted
    assert msgspec.json.decode(msgspec.json.encode(report), type=FetchReport) == report
    return found


@pytest.mark.slow
async def test_on_slow_lines_of_the_sources_these_are_the_limit_and_their_rates_are_told(swarm):
    net = await swarm(peers=5, upload_bytes_per_s=MIB, latency_ms=(5, 20), seed=5)
    model = await net[0].publish(net.random_model(size=24 * MIB))
    await net[1].fetch(model)
    found = checked(await net[4].fetch(model))
    assert found.limit == "sources"
    assert found.seconds["sources"] > 8
    gave = [part for part in found.sources if part.chunks]
    assert len(gave) == 2
    assert all(0.6 * MIB < part.rate_bytes_per_s <= 1.05 * MIB for part in gave)
    assert all(part.encrypted for part in gave)


@pytest.mark.slow
async def test_with_a_download_limit_that_is_what_had_the_time(swarm):
    net = await swarm(peers=4, latency_ms=(5, 20), config={"download_limit_bytes_per_s": MIB}, seed=6)
    model = await net[0].publish(net.random_model(size=16 * MIB))
    found = checked(await net[3].fetch(model))
    assert found.limit == "download_limit"
    assert found.seconds["download_limit"] > 10


@pytest.mark.slow
async def test_while_the_only_holder_is_away_nobody_holds_what_is_missing(swarm):
    net = await swarm(peers=4, upload_bytes_per_s=MIB, latency_ms=(5, 20), seed=8)
    model = await net[0].publish(net.random_model(size=16 * MIB))
    fetching = asyncio.ensure_future(net[3].fetch(model))
    await asyncio.sleep(6)
    await net[0].stop()
    await asyncio.sleep(25)
    await net[0].restart()
    found = checked(await fetching)
    assert found.limit == "no_source"
    assert 20 < found.seconds["no_source"] < 60
    assert found.seconds["sources"] > 8


@pytest.mark.slow
async def test_a_fetch_that_is_not_done_in_time_says_what_the_time_went_into(swarm):
    net = await swarm(peers=4, upload_bytes_per_s=MIB, latency_ms=(5, 20), seed=10)
    model = await net[0].publish(net.random_model(size=32 * MIB))
    said = r"not done within 12 s \(9\d % of the time the sources were the limit: 1 peer gave "
    with pytest.raises(FetchTimeoutError, match=said):
        await net[3].fetch(model, timeout_s=12)


@pytest.mark.slow
async def test_progress_tells_where_it_resumed_and_a_time_left_that_does_not_jump(swarm):
    net = await swarm(peers=4, upload_bytes_per_s=MIB // 4, latency_ms=(5, 20), seed=11)
    model = await net[0].publish(net.random_model(size=40 * MIB))
    with pytest.raises(FetchTimeoutError):
        await net[3].fetch(model, timeout_s=32)
    seen: list[Progress] = []
    report = await LocalService(net[3].peer).fetch(FetchRequest(ref=model.model_id), seen.append)
    moving = [progress for progress in seen if progress.phase == "transfer"]
    assert {progress.bytes_reused for progress in moving} == {report.bytes_reused}
    assert 4 * MIB < report.bytes_reused < 10 * MIB
    assert all(progress.bytes_done >= report.bytes_reused for progress in moving)
    # A chunk comes every four seconds; between chunks the figure must neither go nor run away.
    settled = [progress.eta_s for progress in moving[len(moving) // 4 :]]
    assert len(settled) > 400
    assert all(left is not None for left in settled)
    assert max(abs(later - before) / max(before, 20) for before, later in pairwise(settled)) < 0.2


@pytest.mark.slow
async def test_a_second_fetch_has_no_sources(swarm):
    net = await swarm(peers=4, seed=9)
    model = await net[0].publish(net.random_model(size=2 * MIB))
    await net[3].fetch(model)
    again = checked(await net[3].fetch(model))
    assert again.sources == []
    assert again.seconds["sources"] == 0
