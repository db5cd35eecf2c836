"""All connections of one peer: whom we know, who follows what, and the downloads that are running.

At most one connection to each peer: where two cross, both sides keep the one that the smaller key opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

from p2pmodel.errors import CorruptChunkError, HandshakeError, P2PModelError, PeerFault, PeerGoneError, ProtocolError
from p2pmodel.limits import (
    CONNECTION_IDLE_BYTES,
    CONNECTION_IDLE_S,
    CONNECTIONS_INCOMING_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_GROUP_MAX,
    CONNECTIONS_PER_HOST_MAX,
    IDLE_TIMEOUT_S,
    KEEPALIVE_S,
    LINKS_PER_CROWD_MAX,
    OBJECT_BYTES_MAX,
    PEERS_PER_MESSAGE_MAX,
)
from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey
from p2pmodel.model.have_map import bits_of
from p2pmodel.net import Address, Channel, Crowd, Network, cancelled
from p2pmodel.swarm.accounting import Account
from p2pmodel.swarm.choker import Choker
from p2pmodel.swarm.download import Download
from p2pmodel.swarm.greeting import Greeting
from p2pmodel.swarm.link import Link
from p2pmodel.swarm.pace import Pace
from p2pmodel.swarm.seeding import Seeding
from p2pmodel.swarm.shelf import Intake, Shelf
from p2pmodel.swarm.telling import TELL_S, Telling
from p2pmodel.swarm.turns import Turns
from p2pmodel.swarm.upload import Uploads

_OBJECT_HEDGE_S = 1.0
"""After this long without an answer the next peer is asked too."""
_LET_IN_EVERY_S = 0.1
"""Beyond `LINKS_PER_CROWD_MAX`: so slow that a crowd at the door is sent on, so fast that nobody stays outside."""
_FAREWELL_S = 0.1
"""Closed at once, a connection would take with it what was said last."""


class Swarm:
    """Opens and accepts connections over `network`, serves from `shelf`, and downloads."""

    def __init__(
        self,
        *,
        key: PublicKey,
        network: Network,
        shelf: Shelf,
        rng: Random,
        upload_limit_bytes_per_s: float | None = None,
        download_limit_bytes_per_s: float | None = None,
        upload_slots: int | None = None,
        background: bool = False,
    ) -> None:
        """`upload_slots`: answers that leave at once; None: as the measured capacity asks for.

        `background`: all connections take only what others leave of the line.
        """
        self.links: dict[PublicKey, Link] = {}
        self.downloads: dict[ModelId, Download] = {}
        self._incoming: Crowd[Link] = Crowd(
            total_max=CONNECTIONS_INCOMING_MAX,
            per_host_max=CONNECTIONS_PER_HOST_MAX,
            per_group_max=CONNECTIONS_PER_GROUP_MAX,
        )
        self._key = key
        self._network = network
        self._rng = rng
        turns = Turns(Choker(rng, upload_slots), Pace(upload_limit_bytes_per_s), network.clock)
        self._uploads = Uploads(shelf, network, turns, Seeding(shelf, network, rng))
        self._background = background
        self._download_pace = Pace(download_limit_bytes_per_s)
        self._dialing: dict[Address, asyncio.Task[Link]] = {}
        self._dialing_peers: dict[PublicKey, asyncio.Task[Link]] = {}
        self._tellings: dict[ModelId, Telling[Link]] = {}
        self._tell_timers: dict[ModelId, asyncio.TimerHandle] = {}
        self._closed_bytes = [0, 0]
        self._let_in_at = float("-inf")
        self._sent_on: dict[ModelId, dict[PublicKey, Address]] = {}
        """For each model that is pulled, who was sent on last: they look for peers as whoever is sent on next does."""
        self.on_interest: Callable[[Link, ModelId], None] = lambda link, model_id: None
        """Told of each peer that begins to follow a model here."""
        self.on_arrival: Callable[[ModelId, int], None] = lambda model_id, bits: None
        """Told of chunks that have just been verified and written, as bits."""
        self.connected_from_outside = False
        """Somebody with a public address has opened a connection to us."""
        self._housekeeping = asyncio.get_running_loop().create_task(self._keep_house())

    async def stop(self) -> None:
        await cancelled([self._housekeeping, *self._dialing.values()])
        links = list(self.links.values())
        for link in links:
            link.close(PeerGoneError("this peer is stopping"))
        await asyncio.gather(*(link.ended() for link in links))

    @property
    def upload_limit_bytes_per_s(self) -> float | None:
        return self._uploads.turns.limit_bytes_per_s

    @property
    def upload_slots(self) -> int:
        """Answers that may leave at once at present."""
        return self._uploads.turns.slots

    @property
    def download_limit_bytes_per_s(self) -> float | None:
        return self._download_pace.rate_bytes_per_s

    def limit_upload(self, rate_bytes_per_s: float | None) -> None:
        """From now on; None is no limit."""
        self._uploads.turns.limit(rate_bytes_per_s)

    def limit_download(self, rate_bytes_per_s: float | None) -> None:
        """From now on, for all downloads together; None is no limit."""
        if self._download_pace.change(rate_bytes_per_s):
            for download in list(self.downloads.values()):
                download.limit_raised()

    @property
    def bytes_sent(self) -> int:
        return self._closed_bytes[0] + sum(link.channel.bytes_sent for link in self.links.values())

    @property
    def bytes_received(self) -> int:
        return self._closed_bytes[1] + sum(link.channel.bytes_received for link in self.links.values())

    # --- connections ---------------------------------------------------------------------------------------------

    def accept(self, channel: Channel) -> None:
        """Take an incoming channel, or close it where there are too many."""
        self.connected_from_outside |= channel.address.scope == 0
        knows = channel.peer in self.links
        if not knows and (self._incoming.neighbours(channel.address) or not self._make_room(channel.address)):
            channel.close(PeerGoneError("this peer has enough connections"))
            return
        self._adopt(channel)

    def _make_room(self, address: Address) -> bool:
        if not self._incoming.full:
            return True
        now = self._network.clock.monotonic()
        leaves = self._incoming.gives_way(
            address,
            worth=lambda link: link.bytes_moved,
            idle=lambda link: now - link.connected_at > CONNECTION_IDLE_S and link.bytes_moved <= CONNECTION_IDLE_BYTES,
        )
        if leaves is None:
            return False
        self._incoming.remove(leaves)
        leaves.close(PeerGoneError("it made room for another peer"))
        return True

    async def connect(
        self,
        address: Address,
        expected: PublicKey | None = None,
        greeting: Callable[[], Greeting | None] = lambda: None,
    ) -> Link:
        """The connection to this peer. Raises `PeerGoneError` or `HandshakeError`.

        `greeting`: what to ask at once, where it has to be opened first.
        """
        while expected is not None:
            if expected in self.links:
                return self.links[expected]
            running = self._dialing_peers.get(expected)
            if running is None:
                break
            # Two connections to one peer would replace each other, maybe in another order at the other end.
            await asyncio.wait([running])
        task, asks = self._dialing.get(address), None
        if task is None:
            asks = greeting()
            task = asyncio.get_running_loop().create_task(self._dial(address, expected, asks))
            self._dialing[address] = task
            if expected is not None:
                self._dialing_peers[expected] = task
            task.add_done_callback(lambda task: self._dialed(task, address, expected))
        try:
            link = await asyncio.shield(task)
        except asyncio.CancelledError:
            if asks is not None:
                task.add_done_callback(partial(_forget, asks))
            raise
        if expected is not None and link.peer != expected:
            raise HandshakeError(f"expected peer {expected.text}, met {link.peer.text}")
        return link

    def _dialed(self, task: asyncio.Task[Link], address: Address, expected: PublicKey | None) -> None:
        if not task.cancelled():
            task.exception()  # whoever asked may have given up meanwhile, and then nobody looks
        del self._dialing[address]
        if expected is not None:
            del self._dialing_peers[expected]

    async def _dial(self, address: Address, expected: PublicKey | None, greeting: Greeting | None) -> Link:
        if len(self.links) >= CONNECTIONS_MAX:
            raise PeerGoneError("this peer has enough connections")
        channel = await self._network.connect(address, expected, () if greeting is None else greeting.messages)
        return self._adopt(channel, greeting)

    def _adopt(self, channel: Channel, greeting: Greeting | None = None) -> Link:
        known = self.links.get(channel.peer)
        if known is not None and not self._replaces(channel, known):
            channel.close(PeerGoneError("already connected"))
            return known
        on_closed, on_interest = self._link_closed, self._interest
        link = Link(
            channel,
            self._uploads,
            on_closed=on_closed,
            on_interest=on_interest,
            greeting=greeting,
            background=self._background,
        )
        self.links[channel.peer] = link
        if not channel.outgoing:
            self._incoming.add(link, channel.address)
        if known is not None:
            known.close(PeerGoneError("connected again"))
        link.start()
        self._resume(link)
        return link

    def _resume(self, link: Link) -> None:
        """Pull again from a peer that a download pulled from before: connections cross, and peers come back."""
        for download in self.downloads.values():
            if link.peer in download.tally.served:
                download.add_link(link)

    def _replaces(self, channel: Channel, known: Link) -> bool:
        if channel.outgoing == known.channel.outgoing:
            # The same side opened both: it has given up the older one, or lost it without our noticing.
            return True
        return channel.outgoing == (self._key < channel.peer)

    def _link_closed(self, link: Link, reason: P2PModelError) -> None:
        self._incoming.remove(link)
        self._closed_bytes[0] += link.channel.bytes_sent
        self._closed_bytes[1] += link.channel.bytes_received
        successor = self.links.get(link.peer)
        if successor is link:
            del self.links[link.peer]
        elif successor is not None:
            self._resume(successor)

    def _interest(self, link: Link, model_id: ModelId) -> None:
        # Who wants a model that we are pulling has, or will have, chunks of it too.
        download = self.downloads.get(model_id)
        self.on_interest(link, model_id)
        others = self._followers(model_id, link)
        if others:
            link.tell_peers(model_id, others)
        if download is None or link.peer in download.links:
            return
        crowded = len(download.links) >= LINKS_PER_CROWD_MAX and others
        if crowded and not link.channel.outgoing and link.interests == {model_id} and not self._lets_in():
            # In a crowd those who came first are known to everybody; all would ask them, and them alone.
            link.interests.clear()
            self._remember(model_id, link)
            farewell = PeerGoneError("enough peers share this model here, others were named")
            asyncio.get_running_loop().call_later(_FAREWELL_S, link.close, farewell)
            return
        download.add_link(link)

    def _remember(self, model_id: ModelId, link: Link) -> None:
        sent_on = self._sent_on.setdefault(model_id, {})
        if link.listens_at is not None:
            sent_on.pop(link.peer, None)
            sent_on[link.peer] = link.listens_at
        while len(sent_on) > PEERS_PER_MESSAGE_MAX // 2:
            del sent_on[next(iter(sent_on))]

    def _lets_in(self) -> bool:
        """Whether another one may come although there are enough: where all have enough, newcomers must get in too."""
        now = self._network.clock.monotonic()
        if now - self._let_in_at < _LET_IN_EVERY_S:
            return False
        self._let_in_at = now
        return True

    def _followers(self, model_id: ModelId, newcomer: Link) -> list[tuple[PublicKey, Address]]:
        """Peers to tell a newcomer of, so that those who start together find each other before the overlay knows.

        Those first who were sent on: who is connected here has enough, and would send it on as well.
        """
        scope = newcomer.channel.address.scope
        followers = [
            link
            for link in self.links.values()
            if link is not newcomer
            and link.listens_at is not None
            and (model_id in link.interests or model_id in link.held)
        ]
        # Twice as many as are told: to look at the address of everybody would cost more than the message is worth.
        some = self._rng.sample(followers, min(len(followers), 2 * PEERS_PER_MESSAGE_MAX))
        sent_on = self._sent_on.get(model_id, {})
        told = {peer: at for peer, at in reversed(sent_on.items()) if peer != newcomer.peer}
        told |= {link.peer: at for link in some if (at := link.listens_at) is not None}
        others = [(peer, at) for peer, at in told.items() if at.scope <= scope]
        return others[:PEERS_PER_MESSAGE_MAX]

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            now = self._network.clock.monotonic()
            for link in list(self.links.values()):
                if link.silent_s(now) > IDLE_TIMEOUT_S:
                    link.close(PeerGoneError("it has been silent for too long"))
                else:
                    link.ping()

    # --- telling -------------------------------------------------------------------------------------------------

    def note_have(self, model_id: ModelId, bits: int) -> None:
        """Chunks of this model are here now: peers that follow it will hear."""
        self.on_arrival(model_id, bits)
        download = self.downloads.get(model_id)
        telling = self._tellings.setdefault(model_id, Telling(self._rng))
        telling.add(bits, rare=bits if download is None else download.rare(bits))
        self._tell_later(model_id, telling)

    def _tell_later(self, model_id: ModelId, telling: Telling[Link]) -> None:
        loop, timer = asyncio.get_running_loop(), self._tell_timers.get(model_id)
        if timer is not None and (not telling.rare or timer.when() - loop.time() <= TELL_S):
            return
        if timer is not None:
            timer.cancel()
        wait_s = telling.wait_s(len(self._interested(model_id)), self._network.clock.monotonic())
        self._tell_timers[model_id] = loop.call_later(wait_s, self._tell, model_id, telling)

    def _interested(self, model_id: ModelId) -> list[Link]:
        return [link for link in self.links.values() if model_id in link.interests]

    def _tell(self, model_id: ModelId, telling: Telling[Link]) -> None:
        del self._tell_timers[model_id]
        for link, bits in telling.due(self._interested(model_id), self._network.clock.monotonic()):
            held = link.held.get(model_id)
            if fresh := bits if held is None else bits & ~held.bits:
                link.tell_have(model_id, fresh)
        if telling.waiting:
            self._tell_later(model_id, telling)

    def tell_lost(self, model_id: ModelId, bits: int) -> None:
        """Some of what we held of this model is here no more: tell everybody who follows it."""
        for link in self._interested(model_id):
            link.tell_lost(model_id, bits)

    async def tell_state(self, model_id: ModelId) -> None:
        """What we hold of this model has changed otherwise than by growing: tell everybody who follows it."""
        for link in list(self.links.values()):
            if model_id in link.interests:
                await link.tell_state(model_id)

    # --- getting -------------------------------------------------------------------------------------------------

    async def fetch_object(
        self, digest: Digest, links: Iterable[Link], *, size_bytes_max: int = OBJECT_BYTES_MAX, lists_bytes: int = 0
    ) -> bytes:
        """A manifest or chunk list from the first of these peers that has it; verified by its hash.

        With `lists_bytes` a bundle, all of which is verified: that of a manifest, and as much of chunk lists.

        Peers are asked in turn, the next one as soon as one fails or is slow. Raises `PeerGoneError` where none has it,
        `CorruptChunkError` where one of them sent something else.
        """
        waiting = list(links)
        asked: dict[asyncio.Task[bytes], None] = {}
        corrupt: CorruptChunkError | None = None
        try:
            while waiting or asked:
                if waiting:
                    request = waiting.pop(0).questions.object(digest, size_bytes_max, lists_bytes=lists_bytes)
                    asked[asyncio.get_running_loop().create_task(request)] = None
                pause_s = _OBJECT_HEDGE_S if waiting else None
                await asyncio.wait(asked, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in asked if task.done()]:
                    del asked[task]
                    try:
                        return task.result()
                    except CorruptChunkError as error:
                        corrupt = error
                    except PeerFault:
                        continue
        finally:
            await cancelled(asked)
        raise corrupt or PeerGoneError("no connected peer has this object")

    def open_download(
        self,
        layout: Layout,
        wanted: HaveMap,
        have: HaveMap,
        intake: Intake,
        *,
        links: Iterable[Link] = (),
        account: Account[PublicKey] | None = None,
        on_peers: Callable[[Sequence[tuple[PublicKey, Address]]], None] = lambda peers: None,
        background: bool = False,
        asked: int | None = None,
        first: Sequence[int] = (),
    ) -> Download:
        """Begin to pull a model; `close_download` must follow. One at a time for each model.

        `first`: chunks to ask for before the others, in that order, as `Download.prefer` has it.
        `asked`: not all that is wanted, but these chunks and what `Download.want` adds to them; it does not end then.
        `background`: it takes only what others leave of the line.
        `on_peers` is told of peers that others name, those too that were named before it began.
        Raises `ProtocolError` where it is being pulled already.
        """
        model_id = layout.model_id
        if model_id in self.downloads:
            raise ProtocolError("this model is being pulled already")
        download = Download(
            layout,
            wanted,
            have,
            intake,
            clock=self._network.clock,
            rng=self._rng,
            pace=self._download_pace,
            on_have=lambda bits: self.note_have(model_id, bits),
            account=account,
            background=background,
            asked=asked,
        )
        download.on_peers = on_peers
        if first:
            download.prefer(bits_of(first), first)
        self.downloads[model_id] = download
        for link in [*links, *(link for link in self.links.values() if model_id in link.interests)]:
            if self.links.get(link.peer) is link:
                download.add_link(link)
        return download

    def close_download(self, download: Download) -> None:
        download.leave()
        self.downloads.pop(download.layout.model_id, None)
        self._sent_on.pop(download.layout.model_id, None)
        self._tellings.pop(download.layout.model_id, None)  # what waits there is told of all the same


def _forget(asks: Greeting, dialled: asyncio.Task[Link]) -> None:
    """Whoever wanted this link has gone meanwhile: the peer need not tell of the model any more."""
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().expect_no_more(asks.model_id)
