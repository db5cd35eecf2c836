"""One connection to one peer, in both directions: it turns messages into calls and calls into messages.

A link knows what the peer holds of the models that we subscribed to, which models the peer wants to hear about, and
what each has asked of the other. Whatever breaks the protocol closes the channel, and only that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec

from p2pmodel.errors import CorruptChunkError, P2PModelError, PeerFault, PeerGoneError, ProtocolError
from p2pmodel.limits import (
    HAVES_PER_MESSAGE_MAX,
    MODELS_PER_PEER_MAX,
    OWED_ANSWERS_MAX,
    REQUESTS_PER_PEER_MAX,
)
from p2pmodel.model import Digest, HaveMap, ModelId, PublicKey
from p2pmodel.model.have_map import iter_bits
from p2pmodel.net import Address, BulkSink, Channel, ended
from p2pmodel.swarm import wire
from p2pmodel.swarm.following import Expecting, Hearing, Listening
from p2pmodel.swarm.greeting import Greeting
from p2pmodel.swarm.questions import Questions
from p2pmodel.swarm.upload import UploadQueue, Uploads

P = ParamSpec("P")

_CHUNK_REQUESTS_MAX = REQUESTS_PER_PEER_MAX // 2
"""Chunks asked of one peer at once, over all downloads: the rest of the peer's patience."""


class Link:
    """Fills `net.ChannelHandler`. `on_closed` is called once, when the connection has ended."""

    def __init__(
        self,
        channel: Channel,
        uploads: Uploads,
        *,
        on_closed: Callable[[Link, P2PModelError], None],
        on_interest: Callable[[Link, ModelId], None],
        greeting: Greeting | None = None,
        background: bool = False,
    ) -> None:
        """`greeting`: what has been sent to this peer already. `background`: both directions yield, whatever for."""
        self.channel = channel
        self.peer: PublicKey = channel.peer
        port = channel.hello.port
        self.listens_at = Address(channel.address.host, port) if port else None
        """Where the peer can be reached by others; None where it said that it cannot."""
        self.connected_at = uploads.network.clock.monotonic()
        self._heard_at = self.connected_at
        self._heard_bytes = 0
        self.followers: dict[ModelId, Listening] = {}
        """Models that we follow here."""
        self.held: dict[ModelId, HaveMap] = {}
        self.interests: set[ModelId] = set()
        """Models that the peer follows."""
        self._told: set[ModelId] = set()
        """Those of which the peer has our have-map, so that additions to it make sense."""
        self._uploads = uploads
        self._on_closed = on_closed
        self._on_interest = on_interest
        self._telling: dict[ModelId, bool] = {}
        """Models whose state is being read for the peer; True where it has to be read (once more)."""
        self._background = background
        self.questions = Questions(channel, greeting)
        """What we ask of the peer."""
        self._requests = self.questions.requests
        if greeting is not None:
            self.followers[greeting.model_id] = Expecting()
        self._ended = asyncio.Event()
        self._queue = UploadQueue(uploads, channel, self, self._spawn)
        channel.on_wider = self._queue.widened
        self._tasks: dict[asyncio.Task[None], None] = {}

    @property
    def bytes_moved(self) -> int:
        """In both directions, since the connection was opened."""
        return self.channel.bytes_received + self.channel.bytes_sent

    def silent_s(self, now: float) -> float:
        """How long ago bytes of any kind were last seen to have come in; as exact as this is called often."""
        if self.channel.bytes_received != self._heard_bytes:
            self._heard_bytes, self._heard_at = self.channel.bytes_received, now
        return now - self._heard_at

    @property
    def wasted_bytes(self) -> int:
        return self._requests.wasted_bytes

    @property
    def answer_begun(self) -> bool:
        """Whether the bytes that come in belong to an answer, as far as is known."""
        return self._requests.answer_begun

    @property
    def asks(self) -> bool:
        """Whether requests of the peer are waiting here."""
        return self._queue.waiting

    @property
    def owing(self) -> bool:
        """Whether the peer has had far more of us than we of it, while we fetch ourselves."""
        owed_bytes = self.channel.bytes_sent - 2 * self.channel.bytes_received
        if owed_bytes <= OWED_ANSWERS_MAX * self._queue.longest_bytes:
            return False
        return any(not isinstance(follower, Hearing) for follower in self.followers.values())

    @property
    def requests_out(self) -> int:
        """What we have asked for and not got yet."""
        return len(self._requests)

    @property
    def requests_in(self) -> int:
        """What the peer has asked for and not got yet."""
        return self._queue.pending

    @property
    def in_upload_slot(self) -> bool:
        return self._uploads.turns.sends_to(self)

    @property
    def may_ask(self) -> bool:
        """Whether another chunk may be asked for now."""
        return len(self._requests) < _CHUNK_REQUESTS_MAX

    def start(self) -> None:
        self.channel.start(self)
        self.yield_line()

    def yield_line(self) -> None:
        """What we pull here yields where all who pull do; called again where one of them has changed.

        Not to a peer on this machine: between us is no line, and a round trip tells only how busy the processors are.
        Where they are, the window sank to its least and stayed there.
        """
        if self.channel.address.is_loopback:
            return
        pulls = [follower.background for follower in self.followers.values() if follower.background is not None]
        yields = self._background or (bool(pulls) and all(pulls))
        self.channel.yield_line(sending=self._background, receiving=yields)

    def _spawn(self, work: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> None:
        task = asyncio.get_running_loop().create_task(self._supervise(work, *args, **kwargs))
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _supervise(self, work: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """A task that fails takes the link with it: a peer that hears nothing more must be able to ask elsewhere."""
        try:
            await work(*args, **kwargs)
        except P2PModelError as error:
            self.close(PeerGoneError(f"this side could not go on: {error}"))
        except Exception as error:  # noqa: BLE001  (a supervisor: the loop reports it)
            self.close(PeerGoneError("an unexpected error on this side"))
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"serving peer {self.peer.text} failed", "exception": error}
            )

    def close(self, reason: P2PModelError) -> None:
        self.channel.close(reason)

    async def ended(self) -> None:
        """Until the connection has closed and nothing that belongs to it runs any more."""
        await self._ended.wait()
        await ended(self._tasks)

    # --- what we follow ---------------------------------------------------------------------------------------------

    def expect(self, model_id: ModelId) -> None:
        """Follow a model whose download begins as soon as more is known of it: what is said is kept until then."""
        if isinstance(self.followers.get(model_id), Hearing | None):
            self.follow(model_id, Expecting())

    def expect_no_more(self, model_id: ModelId) -> None:
        if isinstance(self.followers.get(model_id), Expecting):
            self.unfollow(model_id)

    def follow(self, model_id: ModelId, follower: Listening) -> None:
        before = self.followers.get(model_id)
        self.followers[model_id] = follower
        self.yield_line()
        if not isinstance(before, Expecting):
            self._send(wire.Subscribe(model_id.raw))
            return
        try:
            before.pass_on(self, self.held.get(model_id), follower)
        except PeerFault as fault:
            self.close(fault)

    def hear(self, model_id: ModelId, on_held: Callable[[Link, HaveMap], None]) -> None:
        """Tell `on_held` what the peer holds of this model, until `hear_no_more` or a download follows it."""
        if model_id not in self.followers:
            self.follow(model_id, Hearing(on_held))

    def hear_no_more(self, model_id: ModelId) -> None:
        if isinstance(self.followers.get(model_id), Hearing):
            self.unfollow(model_id)

    def unfollow(self, model_id: ModelId) -> None:
        if self.followers.pop(model_id, None) is not None:
            self.yield_line()
            self.held.pop(model_id, None)
            self._send(wire.Unsubscribe(model_id.raw))

    # --- what we tell --------------------------------------------------------------------------------------------

    def tell_have(self, model_id: ModelId, bits: int) -> None:
        """Tell a peer that follows this model of chunks that we hold now."""
        if model_id not in self._told:
            self._tell_soon(model_id)
            return
        indices = list(iter_bits(bits))
        for start in range(0, len(indices), HAVES_PER_MESSAGE_MAX):
            self._send(wire.Have(model_id.raw, indices[start : start + HAVES_PER_MESSAGE_MAX]))

    def tell_lost(self, model_id: ModelId, bits: int) -> None:
        """Tell a peer that follows this model of chunks that we no longer hold."""
        if model_id not in self._told:
            self._tell_soon(model_id)
            return
        indices = list(iter_bits(bits))
        for start in range(0, len(indices), HAVES_PER_MESSAGE_MAX):
            self._send(wire.Lost(model_id.raw, indices[start : start + HAVES_PER_MESSAGE_MAX]))

    def _tell_soon(self, model_id: ModelId) -> None:
        # One after the other: a peer that subscribes to much, again and again, costs no more than one that reads.
        running = bool(self._telling)
        self._telling[model_id] = True
        if not running:
            self._spawn(self._keep_telling)

    async def _keep_telling(self) -> None:
        while self._telling:
            model_id = next(iter(self._telling))
            self._telling[model_id] = False
            if model_id in self.interests:
                await self.tell_state(model_id)
            if self._telling.pop(model_id) and model_id in self.interests:
                self._telling[model_id] = True

    async def tell_state(self, model_id: ModelId) -> None:
        """Tell what we hold of this model, in full."""
        held = await self._uploads.network.offload(self._uploads.shelf.have_map, model_id)
        if held is None or not held.bits:
            self._told.discard(model_id)
            self._send(wire.Unknown(model_id.raw))
        else:
            seen = await self._uploads.seeding.view(self, model_id, held)
            if model_id in self.interests:
                self._told.add(model_id)
                self._send(wire.HaveMapOf(model_id.raw, seen.count, seen.encode()))
            else:
                self._uploads.seeding.left(self, model_id, gone=False)

    def show(self, model_id: ModelId, held: HaveMap, *, forget: bool) -> None:
        """Tell a follower that we hold this, and where it is to `forget`, no more than this."""
        if model_id not in self.interests:
            return
        if forget:
            self._send(wire.Unknown(model_id.raw))
        self._told.add(model_id)
        self._send(wire.HaveMapOf(model_id.raw, held.count, held.encode()))

    def tell_peers(self, model_id: ModelId, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        self._send(wire.Peers(model_id.raw, [(peer.raw, address.pack()) for peer, address in peers]))

    def ping(self) -> None:
        self._send(wire.Ping())

    def _send(self, message: wire.AnyMessage) -> None:
        self.channel.send(wire.encode(message))

    # --- net.ChannelHandler --------------------------------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        match wire.decode(message):
            case wire.Have(model, chunks):
                self._have(ModelId(Digest(model)), chunks)
            case wire.HaveMapOf(model, count, bits):
                self._have_map(ModelId(Digest(model)), count, bits)
            case wire.Lost(model, chunks):
                self._lost(ModelId(Digest(model)), chunks)
            case wire.Unknown(model):
                self._unknown(ModelId(Digest(model)))
            case wire.Subscribe(model):
                self._subscribed(ModelId(Digest(model)))
            case wire.Unsubscribe(model):
                self._unsubscribed(ModelId(Digest(model)))
            case wire.Cancel(request):
                self._queue.cancel(request)
            case wire.Reject(request, reason):
                self._requests.rejected(request, reason)
            case wire.Statements(request, envelopes):
                self._requests.statements(request, envelopes)
            case wire.Models(request, models):
                self._requests.statements(request, models)
            case wire.RequestChunk() | wire.RequestObject() | wire.RequestStatements() | wire.RequestName() as asked:
                self._queue.add(asked)
            case wire.RequestModels() as asked:
                self._queue.add(asked)
            case wire.RequestChunks() as several:
                self._queue.add(*several.each())
            case wire.Peers(model, peers):
                self._peers(ModelId(Digest(model)), peers)
            case wire.Ping():
                pass

    def bulk_begins(self, request_id: int, length: int) -> BulkSink:
        return self._requests.sink(request_id, length)

    def bulk_finished(self, request_id: int, error: P2PModelError | None) -> None:
        self._requests.finished(request_id, error)

    def closed(self, reason: P2PModelError) -> None:
        self.questions.end()
        for task in list(self._tasks):
            task.cancel()
        self._uploads.seeding.closed(self)
        self._uploads.turns.left(self)
        # Followers first: what then fails is not asked again here.
        followers, self.followers = self.followers, {}
        for follower in followers.values():
            follower.link_closed(self, reason)
        # One corrupt chunk ends a connection; whatever else was asked for has not come, and proves nothing.
        self._requests.fail_all(PeerGoneError(str(reason)) if isinstance(reason, CorruptChunkError) else reason)
        self._on_closed(self, reason)
        self._queue.let_go()
        self._ended.set()

    # --- what the peer tells -------------------------------------------------------------------------------------

    def _have_map(self, model_id: ModelId, count: int, bits: bytes) -> None:
        follower = self.followers.get(model_id)
        if follower is not None:
            held = self.held[model_id] = HaveMap.decode(count, bits)
            follower.link_has(self, held, held.bits)

    def _have(self, model_id: ModelId, chunks: list[int]) -> None:
        follower = self.followers.get(model_id)
        if follower is None:
            return
        before = self.held.get(model_id)
        if before is None:
            # Sent before our last subscription was read; the have-map that answers it is newer.
            return
        new = HaveMap.of(before.count, chunks).bits
        held = self.held[model_id] = HaveMap(before.count, before.bits | new)
        follower.link_has(self, held, new)

    def _lost(self, model_id: ModelId, chunks: list[int]) -> None:
        follower, before = self.followers.get(model_id), self.held.get(model_id)
        if follower is None or before is None:
            return
        gone = HaveMap.of(before.count, chunks).bits & before.bits
        self.held[model_id] = HaveMap(before.count, before.bits & ~gone)
        if gone:
            follower.link_lost(self, gone)

    def _unknown(self, model_id: ModelId) -> None:
        self.held.pop(model_id, None)
        follower = self.followers.get(model_id)
        if follower is not None:
            follower.link_unknown(self)

    def _peers(self, model_id: ModelId, peers: list[tuple[bytes, bytes]]) -> None:
        follower = self.followers.get(model_id)
        if follower is None:
            return
        told = [(PublicKey(key), Address.unpack(packed)) for key, packed in peers]
        # A peer on the internet must not make us knock at the doors of our own network.
        scope = self.channel.address.scope
        follower.link_peers(self, [(key, address) for key, address in told if address.scope <= scope])

    def _subscribed(self, model_id: ModelId) -> None:
        if model_id not in self.interests and len(self.interests) >= MODELS_PER_PEER_MAX:
            raise ProtocolError(f"more than {MODELS_PER_PEER_MAX} models followed on one connection")
        if model_id not in self._telling and len(self._telling) >= MODELS_PER_PEER_MAX:
            raise ProtocolError("models are followed and left faster than they can be told of")
        new = model_id not in self.interests
        self.interests.add(model_id)
        # Until the whole have-map is on its way, additions to it would mean nothing.
        self._told.discard(model_id)
        self._tell_soon(model_id)
        if new:
            self._on_interest(self, model_id)

    def _unsubscribed(self, model_id: ModelId) -> None:
        self.interests.discard(model_id)
        self._told.discard(model_id)
        self._uploads.seeding.left(self, model_id, gone=False)
