"""`pin`, `unpin`, `rm`, `gc` as a person types them, with and without a daemon, next to a peer that has the model."""

from __future__ import annotations

import asyncio
import json

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.daemon import run_daemon

pytestmark = pytest.mark.slow


@pytest.fixture
async def publisher(tmp_path):
    config = PeerConfig(
        data_dir=tmp_path / "seed", listen="127.0.0.1:0", http=None, network=NetworkConfig(name="lab"), lan=False
    )
    async with Peer(config) as peer:
        yield peer


@pytest.fixture
async def model_ids(publisher, tmp_path):
    found = []
    for number in range(2):
        (tmp_path / f"m{number}").mkdir()
        (tmp_path / f"m{number}" / "w.bin").write_bytes(bytes([number]) * 300_000)
        found.append(await publisher.publish(tmp_path / f"m{number}"))
    return found


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.toml"
    path.write_text('name = "lab"\n')
    return {"P2PMODEL_NETWORK": str(path), "P2PMODEL_LISTEN": "127.0.0.1:0", "P2PMODEL_HTTP": "off"}


async def fetched(p2pmodel, publisher, network, model_id, *options):
    result = await p2pmodel("fetch", model_id, "--peer", publisher.listen, *options, environment=network)
    assert result.code == 0, result.err
    return result.out.strip()


async def test_a_model_is_pinned_kept_unpinned_and_let_go_of(p2pmodel, publisher, model_ids, network):
    for model_id in model_ids:
        await fetched(p2pmodel, publisher, network, model_id)
    assert (await p2pmodel("pin", model_ids[0])).out == f"{model_ids[0]}\n"
    assert "pinned already" in (await p2pmodel("pin", model_ids[0])).err
    listed = {one["model_id"]: one for one in json.loads((await p2pmodel("ls", "--json")).out)["models"]}
    assert [(listed[one]["pinned"], listed[one]["cached"]) for one in model_ids] == [(True, True), (False, True)]
    assert "cached, pinned" in (await p2pmodel("ls")).out

    planned = json.loads((await p2pmodel("gc", "--keep", "0", "--dry-run", "--json")).out)
    assert [one["model_id"] for one in planned["released"]] == [model_ids[1]] and planned["dry_run"]
    assert planned["bytes_freed"] >= 300_000 and planned["bytes_pinned"] >= 300_000
    done = await p2pmodel("gc", "--keep", "0")
    assert model_ids[1] in done.out and "to be kept" in done.out and "freed" in done.err
    assert (await p2pmodel("gc", "-q")).out == ""

    refused = await p2pmodel("rm", model_ids[0])
    assert refused.code == 8 and "pinned" in refused.err
    assert (await p2pmodel("unpin", model_ids[0], "--json")).code == 0
    removed = json.loads((await p2pmodel("rm", model_ids[0], "--json")).out)
    assert removed["copies"][0]["content"] == "cached" and removed["bytes_freed"] >= 300_000
    for command in ("rm", "pin", "unpin"):
        assert (await p2pmodel(command, model_ids[0])).code == 3
    assert (await p2pmodel("rm", f"p2pmodel:{model_ids[0]}/w.bin")).code == 2


async def test_every_place_of_a_model_is_shown_and_which_of_them_the_cache_may_let_go_of(
    p2pmodel, publisher, model_ids, network, tmp_path
):
    inside = await fetched(p2pmodel, publisher, network, model_ids[0])
    mine = await fetched(p2pmodel, publisher, network, model_ids[0], "--to", tmp_path / "mine")
    (model,) = json.loads((await p2pmodel("ls", "--json")).out)["models"]
    assert {place["path"]: place["content"] for place in model["places"]} == {inside: "cached", mine: "fetched"}
    assert model["places"][0]["path"] == model["path"] == mine and not model["cached"]
    for command in (("ls",), ("show", model_ids[0])):
        shown = (await p2pmodel(*command)).out
        assert mine in shown and f"{inside} (fetched, cached)" in shown, shown
    (line,) = json.loads((await p2pmodel("du", "--json")).out)["models"]
    assert line["places"] == [mine, inside] and line["cached"], "some of it may be let go of"


async def test_rm_says_what_becomes_of_the_users_own_files(p2pmodel, publisher, model_ids, network, tmp_path):
    await fetched(p2pmodel, publisher, network, model_ids[0], "--to", tmp_path / "out")
    result = await p2pmodel("rm", model_ids[0])
    assert result.code == 0 and "yours and stay" in result.err
    assert (tmp_path / "out" / "w.bin").stat().st_size == 300_000
    published = (await p2pmodel("publish", tmp_path / "out", "-q")).out.strip()
    result = await p2pmodel("rm", published, "-q")
    assert (result.out, result.err) == (f"{published}\n", "")
    assert (tmp_path / "out" / "w.bin").is_file() and (await p2pmodel("ls", "-q")).out == ""


async def test_what_does_not_fit_next_to_a_pin_fails_with_exit_code_seven_and_moves_no_byte(
    p2pmodel, publisher, model_ids, network
):
    await fetched(p2pmodel, publisher, network, model_ids[0])
    await p2pmodel("pin", model_ids[0])
    sent = publisher.swarm.bytes_sent
    tight = network | {"P2PMODEL_CACHE_QUOTA": "400KB"}
    result = await p2pmodel("fetch", model_ids[1], "--peer", publisher.listen, environment=tight)
    assert result.code == 7 and "pinned" in result.err
    assert publisher.swarm.bytes_sent - sent < 100_000
    await p2pmodel("unpin", model_ids[0])
    assert (await p2pmodel("fetch", model_ids[1], "--peer", publisher.listen, environment=tight)).code == 0
    assert (await p2pmodel("ls", "-q")).out == f"{model_ids[1]}\n"


async def test_a_daemon_lets_go_of_what_it_is_told_to_and_withdraws_it(p2pmodel, publisher, model_ids, network):
    config = PeerConfig(
        data_dir=p2pmodel.data_dir,
        listen="127.0.0.1:0",
        http=None,
        bootstrap=(str(publisher.listen),),
        network=NetworkConfig(name="lab"),
        lan=False,
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(run_daemon(config, on_ready=lambda _: ready.set(), stop=stop))
    await ready.wait()
    await fetched(p2pmodel, publisher, network, model_ids[0])
    before = json.loads((await p2pmodel("status", "--json")).out)
    assert (before["models"], before["keys_announced"] > 0) == (1, True)
    assert (await p2pmodel("pin", model_ids[0], "-q")).out == f"{model_ids[0]}\n"
    assert (await p2pmodel("rm", model_ids[0])).code == 8
    assert json.loads((await p2pmodel("gc", "--keep", "0", "--json")).out)["released"] == []
    assert (await p2pmodel("rm", "--force", model_ids[0])).code == 0
    after = json.loads((await p2pmodel("status", "--json")).out)
    assert (after["models"], after["keys_announced"]) == (0, 0)
    stop.set()
    await serving


async def test_gc_names_what_readers_of_an_origin_have_left_before_any_model_also_without_an_origin(
    p2pmodel, publisher, model_ids, network
):
    await fetched(p2pmodel, publisher, network, model_ids[0])
    drafts = p2pmodel.data_dir / "origin" / "drafts"
    drafts.mkdir(parents=True)
    (drafts / "abc.part").write_bytes(b"x" * 200_000)
    (drafts / "abc.state").write_bytes(b"x" * 100)

    planned = json.loads((await p2pmodel("gc", "--keep", "400000", "--dry-run", "--json")).out)
    assert [one["path"] for one in planned["leftovers"]] == [str(drafts / "abc")] and planned["released"] == []
    assert planned["bytes_freed"] == planned["leftovers"][0]["bytes_freed"] >= 200_000
    done = await p2pmodel("gc", "--keep", "400000")
    assert str(drafts / "abc") in done.out and "to be kept" in done.out and "freed" in done.err
    assert list(drafts.iterdir()) == []
    assert json.loads((await p2pmodel("ls", "--json")).out)["models"], "no model had to go for it"
