"""Goal: a fine-tune costs its difference, also where those who have the rest know nothing of it. Method: whole peers on
simulated lines; one with a narrow uplink holds the fine-tune, the others only the base that it was made from.
"""

from __future__ import annotations

import json
import random

import pytest

from p2pmodel.model import Digest, ModelId
from p2pmodel.overlay import Overlay
from p2pmodel.peer.requests import FetchRequest
from p2pmodel.peer.service import LocalService
from p2pmodel.testing import Net

pytestmark = pytest.mark.slow
MIB = 1 << 20
UPLINK_BYTES_PER_S = 500_000
LAYERS = 24


def checkpoint(changed: int = 0, note: str = "") -> bytes:
    """A safetensors file of as many tensors as there are layers, of one mebibyte; of the last ones other numbers."""
    data, header = [], {"__metadata__": {"note": note}} if note else {}
    for layer in range(LAYERS):
        header[f"layers.{layer:02}"] = {"dtype": "U8", "shape": [MIB], "data_offsets": [layer * MIB, (layer + 1) * MIB]}
        data.append(random.Random(f"{layer} {layer >= LAYERS - changed}").randbytes(MIB))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data)


async def town(swarm, **tuner) -> tuple[Net, str, str]:
    """Four peers hold the base, a fifth only the fine-tune, with a third of the layers trained; and the two ids."""
    net = await swarm(peers=4, seed=11, latency_ms=(10, 40), upload_bytes_per_s=4_000_000)
    base = await net[0].publish(net.model_from({"model.safetensors": checkpoint()}))
    await net.fetch_all(base, peers=net.peers[1:4])
    (trainer,) = await net.add(upload_bytes_per_s=UPLINK_BYTES_PER_S, **tuner)
    tuned = await trainer.publish(net.model_from({"model.safetensors": checkpoint(changed=8, note="fine-tuned " * 9)}))
    await net.run_for(60)
    return net, base.model_id, tuned.model_id


async def test_a_fine_tune_takes_from_its_only_holder_what_differs_and_the_rest_from_those_who_have_the_base(swarm):
    net, base, tuned = await town(swarm)
    (newcomer,) = await net.add()
    report = await newcomer.fetch(tuned)
    given = {peer.peer_id: peer.bytes for peer in report.peers}
    trainer = net[4].peer.peer_id.text
    from_base = sum(size for peer, size in given.items() if peer != trainer)
    assert report.bytes_fetched == report.bytes_total and report.chunks_rejected == 0
    assert from_base >= 14 * MIB, given
    assert len([peer for peer, size in given.items() if size and peer != trainer]) >= 2
    assert report.seconds < 1.5 * 8 * MIB / UPLINK_BYTES_PER_S, report.seconds
    assert len(net.holders(base)) == 4


async def test_models_that_a_peer_invents_cost_a_look_and_the_true_ones_of_others_are_found_all_the_same(swarm):
    net, _, tuned = await town(swarm)
    asked = []

    class Inventive:
        """Everything as the shelf has it, and names of models that nobody can describe."""

        def __init__(self, shelf) -> None:
            self._shelf = shelf

        def __getattr__(self, name: str):
            return getattr(self._shelf, name)

        def models(self, digests) -> list[ModelId]:
            asked.append(len(digests))
            return [ModelId(Digest.of(bytes([number]))) for number in range(8)]

    for peer in net.peers[:3]:
        peer.peer.swarm._uploads.shelf = Inventive(peer.peer.swarm._uploads.shelf)
    (newcomer,) = await net.add()
    report = await newcomer.fetch(tuned)
    given = {peer.peer_id: peer.bytes for peer in report.peers}
    assert report.bytes_fetched == report.bytes_total and report.chunks_rejected == 0
    assert sum(given.values()) - given[net[4].peer.peer_id.text] >= 13 * MIB, given
    assert asked and max(asked) <= 16 and len(asked) <= 3


async def test_a_fetch_with_no_relatives_looks_up_a_few_chunks_and_no_more(swarm, monkeypatch):
    net = await swarm(peers=4, seed=3, upload_bytes_per_s=UPLINK_BYTES_PER_S)
    model = await net[0].publish(net.model_from({"model.safetensors": checkpoint()}))
    await net.run_for(60)
    looked_up = []
    providers = Overlay.providers

    def counted(self, key: bytes):
        looked_up.append(key)
        return providers(self, key)

    monkeypatch.setattr(Overlay, "providers", counted)
    report = await net[3].fetch(model)
    assert report.seconds > 40
    assert len(set(looked_up)) <= 1 + 16


async def test_what_another_model_has_on_this_disk_is_not_fetched_and_the_report_says_how_it_came(swarm):
    net, base, tuned = await town(swarm)
    holder = net[1]
    asked = await LocalService(holder.peer).fetch(FetchRequest(ref=tuned, dry_run=True))
    report = await holder.fetch(tuned)
    assert report.bytes_fetched == asked.bytes_fetched == report.bytes_total - 16 * MIB
    assert report.reused == {
        "in_place": 0, "resumed": 0, "linked": 0, "reflinked": 0, "copied": 16 * MIB, "repeated": 0,
    }  # fmt: skip
    assert (await holder.fetch(tuned)).reused["in_place"] == report.bytes_total
    elsewhere = await holder.fetch(tuned, to="/out", link=True)
    assert elsewhere.reused["linked"] == report.bytes_total == elsewhere.bytes_reused
    assert base != tuned
