"""From a name to a model: what a name that is known, or a revision that nobody gave, takes to find out."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodel.errors import NotFoundError
from p2pmodel.model import Reference
from p2pmodel.peer.naming import resolve_name

pytestmark = pytest.mark.slow


async def named(swarm):
    net = await swarm(peers=6, seed=2)
    model = await net[0].publish(net.random_model(size=1 << 16), name="tiny@v1")
    namespace = model.report.name.partition("/")[0]
    return net, model, namespace


async def timed(node, text):
    """What a name means there, or the error; and how long that took."""

    async def resolve(peer):
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return (await resolve_name(peer, Reference.parse(text), ())).hex, loop.time() - began
        except NotFoundError as error:
            return str(error), loop.time() - began

    return await node.run(resolve)


async def test_a_revision_that_nobody_gave_is_told_of_as_soon_as_those_who_keep_the_name_have_answered(swarm):
    net, model, namespace = await named(swarm)
    for node in (net[1], net[1], net[0]):  # who hears of the name for the first time, who knows it, who gave it
        told, took_s = await timed(node, f"{namespace}/tiny@v9")
        assert "no peer that was asked knows" in told
        assert took_s < 1.5
    assert (await timed(net[2], f"{namespace}/tiny@v1"))[0] == model.model_id
    told, took_s = await timed(net[3], f"{namespace}/nothing")
    assert "no peer that was asked knows" in told
    assert took_s < 3.5


async def test_a_revision_that_was_given_after_another_was_heard_of_is_found(swarm):
    net, model, namespace = await named(swarm)
    assert (await timed(net[1], f"{namespace}/tiny@v1"))[0] == model.model_id
    later = await net[0].publish(net.random_model(size=1 << 15), name="tiny@v2")
    assert (await timed(net[1], f"{namespace}/tiny@v2"))[0] == later.model_id
    assert (await timed(net[1], f"{namespace}/tiny"))[0] == later.model_id
