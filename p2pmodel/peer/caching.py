"""A peer that is a cache: it joins the swarms of models that its neighbours ask it for, and keeps what fits its quota.

Whoever follows a model here asks for it. The models that most ask for are pulled, a few at a time, rarest chunks first,
into files without names and without reserved space (`Store.open_intake(sparse=True)`), in the background as long as
somebody follows, for he has the line first. What is here is served and announced at once, as any fetch does it.
`Admission` says what is taken up and how much may be fetched for whom. A fetch by this peer's own user goes before: it
ends the pull of the same model, and none begins while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Hashable

from p2pmodel.errors import InterruptedFetchError, NoSpaceError, P2PModelError
from p2pmodel.limits import CACHE_MODELS_AT_ONCE, CACHE_MODELS_WATCHED_MAX
from p2pmodel.model import HaveMap, Layout, ModelId, PublicKey
from p2pmodel.net import Address, Network, cancelled
from p2pmodel.peer.admission import Admission
from p2pmodel.peer.fetching import Fetching, default_destination
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.rooms import Rooms
from p2pmodel.store import Intake
from p2pmodel.swarm import Link

log = logging.getLogger(__name__)

_LOOK_S = 0.25
_DESERTED_S = 600.0
"""A pull that nobody has followed for so long ends; what has come stays. It yields the line to those who asked, so that
most of it comes when the first of them has gone, and before the next asks."""
_LOOK_AGAIN_S = 30.0
_FULL_PART = 0.95
"""Of the quota: from here on a model has to be worth more than one that is here."""


class Caching:
    """Made by a peer whose configuration says that it is a cache. `run` is its work, until it is cancelled."""

    def __init__(self, rooms: Rooms, network: Network, quota_bytes: int) -> None:
        self._rooms, self._network, self._quota_bytes = rooms, network, quota_bytes
        self._admission: Admission[ModelId, Hashable] = Admission(quota_bytes, self._now())
        self._pulls: dict[ModelId, asyncio.Task[None]] = {}
        self._held_off: dict[ModelId, int] = {}
        """Models that this peer's own user fetches, and how often at once."""
        self._elsewhere: dict[ModelId, int] = {}
        """What others held of a model when its pull ended, as bits."""
        self._news = asyncio.Event()

    def _now(self) -> float:
        return self._network.clock.monotonic()

    # --- what happens

    def asked(self, link: Link, model_id: ModelId) -> None:
        """A peer follows a model here."""
        self._admission.asked(model_id, _asker(link.peer, link.channel.address), self._now())
        self._news.set()

    def known_elsewhere(self, model_id: ModelId) -> int:
        """What others were seen to hold, as bits; -1 where that is not known. From any thread."""
        return self._elsewhere.get(model_id, -1)

    async def give_way(self, model_id: ModelId) -> None:
        """This peer's own user fetches the model now; `resume` must follow."""
        self._held_off[model_id] = self._held_off.get(model_id, 0) + 1
        if (pull := self._pulls.get(model_id)) is not None:
            await cancelled([pull])

    def resume(self, model_id: ModelId) -> None:
        self._held_off[model_id] -= 1
        if not self._held_off[model_id]:
            del self._held_off[model_id]
        self._news.set()

    # --- its work

    async def run(self) -> None:
        try:
            while True:
                self._news.clear()
                while len(self._pulls) < CACHE_MODELS_AT_ONCE and not self._held_off:
                    followed = {one for link in self._rooms.swarm.links.values() for one in link.interests}
                    model_id = self._admission.next(followed, self._pulls, self._now())
                    if model_id is None:
                        break
                    self._pulls[model_id] = asyncio.get_running_loop().create_task(self._pull(model_id))
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            await cancelled(self._pulls.values())

    async def _pull(self, model_id: ModelId) -> None:
        try:
            whole = await self._bring(model_id)
            if whole:
                self._admission.done(model_id)
            else:
                self._admission.put_off(model_id, self._now())
        except P2PModelError as error:
            log.info("the cache could not have model %s: %s", model_id.hex, error)
            self._admission.put_off(model_id, self._now())
        except Exception:
            log.exception("the pull of model %s failed", model_id.hex)
            self._admission.put_off(model_id, self._now())
        finally:
            del self._pulls[model_id]
            self._news.set()

    async def _bring(self, model_id: ModelId) -> bool:
        """Whether all of the model is here then."""
        rooms, offload = self._rooms, self._network.offload
        if await offload(self._is_kept, model_id):
            return True
        if not await offload(self._worth_it, model_id):
            return False
        try:
            return await self._fetch(model_id)
        finally:
            await asyncio.shield(offload(rooms.store.forget_unused, model_id))

    async def _fetch(self, model_id: ModelId) -> bool:
        rooms, offload = self._rooms, self._network.offload
        fetching = Fetching(rooms, model_id, background=True)
        async with fetching.finder() as finder:
            layout = await fetching.metadata.layout(finder)
            await fetching.metadata.statements(finder, [])  # whoever fetches from here may want to know who signed it
            stop, opened = threading.Event(), list[Intake]()
            try:
                await self._opened(layout, opened, stop)
                intake = opened[0]
                if intake.missing.held:
                    await self._transfer(fetching, layout, intake, finder)
                return not intake.missing.held
            finally:
                stop.set()
                self._remember(layout)
                for intake in opened:
                    await asyncio.shield(offload(intake.close))
                await rooms.announcer.update(model_id)

    def _is_kept(self, model_id: ModelId) -> bool:
        """Whether the model is here, whole, whoever brought it."""
        have = self._rooms.store.have_map(model_id)
        return have is not None and have.whole

    def _worth_it(self, model_id: ModelId) -> bool:
        cache = self._rooms.store.cache
        if cache.use().used_bytes < self._quota_bytes * _FULL_PART:
            return True
        stored = [model.model_id for model in self._rooms.store.models() if model.cached and not model.pinned]
        return self._admission.admits(model_id, stored, self._now())

    async def _opened(self, layout: Layout, opened: list[Intake], stop: threading.Event) -> None:
        opening = asyncio.ensure_future(self._network.offload(self._open, layout, opened, stop))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([opening])  # what it has opened by then is closed by the caller
            opening.exception()
            raise

    def _open(self, layout: Layout, opened: list[Intake], stop: threading.Event) -> None:
        store = self._rooms.store
        destination = default_destination(store.directory, layout.model_id)
        opened.append(store.open_intake(layout, range(len(layout.files)), destination, sparse=True, stop=stop))
        opened[0].adopt(stop=stop)

    async def _transfer(self, fetching: Fetching, layout: Layout, intake: Intake, finder: Finder) -> None:
        """Until all is here, the cache is full, the allowance is used up, or nobody wants the model any more."""
        pulling = asyncio.get_running_loop().create_task(fetching.transfer(layout, intake, finder))
        spent, wanted_at = 0, self._now()
        try:
            while not pulling.done():
                await asyncio.wait({pulling}, timeout=_LOOK_S)
                now, came = self._now(), fetching.tally.bytes_fetched
                self._admission.spend(layout.model_id, came - spent, now)
                spent = came
                if any(layout.model_id in link.interests for link in self._rooms.swarm.links.values()):
                    wanted_at = now
                elif fetching.background:
                    fetching.hurry()  # those who asked have what they wanted, and the line is free for the next
                if self._admission.allowance(layout.model_id, now) <= 0 or now - wanted_at > _DESERTED_S:
                    return
            try:
                pulling.result()
            except (NoSpaceError, InterruptedFetchError) as full:
                log.debug("the cache has no more room for model %s: %s", layout.model_id.hex, full)
        finally:
            await cancelled([pulling])

    def _remember(self, layout: Layout) -> None:
        bits = 0
        for link in self._rooms.swarm.links.values():
            held = link.held.get(layout.model_id)
            if isinstance(held, HaveMap) and held.count == len(layout):
                bits |= held.bits
        self._elsewhere[layout.model_id] = bits
        while len(self._elsewhere) > CACHE_MODELS_WATCHED_MAX:
            del self._elsewhere[next(iter(self._elsewhere))]


def _asker(peer: PublicKey, address: Address) -> Hashable:
    """By what an asker is known that it cannot have many of."""
    if address.scope == 0:
        return address.group
    return address.ip.packed if address.scope == 1 else peer
