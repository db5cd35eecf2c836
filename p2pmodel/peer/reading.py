"""Reading a model of which only a part is here: what is wanted comes first, and is read once it is verified.

All readers of a model share one `Reading`. It asks for what any of them wants and nothing else, in the order in which
they want it; what somebody waits for goes before that. The bytes go into the model's place in the data directory, as
the cache keeps them, so that they are served, announced, resumed and let go of like all others; a file that has become
whole gets its name. While a fetch of the same model is under way it is that fetch that brings them, and is told what
to bring first; afterwards the reading goes on by itself. Where nothing is missing, no peer is asked anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

from p2pmodel.errors import InterruptedFetchError, NetworkError, P2PModelError, VerificationError
from p2pmodel.limits import READ_BEHIND_FETCH_S
from p2pmodel.model import Layout, ModelId, PublicKey
from p2pmodel.model.have_map import bits_of, bits_of_range
from p2pmodel.net import Address, cancelled
from p2pmodel.peer.fetching import Fetching, default_destination
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.open_model import READ_TRIES
from p2pmodel.peer.waits import Wait, Waits
from p2pmodel.store import FilePlace, Intake

if TYPE_CHECKING:
    from p2pmodel.peer.peer import Peer
    from p2pmodel.peer.retrieval import Retrieval

log = logging.getLogger(__name__)

_LINGER_S = 5.0
"""So long the connections are kept when nothing is missing: whoever reads a header soon reads what it describes."""
_LOOK_AGAIN_S = 5.0
"""While something is missing, what is here is looked at so often: nobody says that a chunk was lost again."""
_LATE_S = 0.02
"""A write of a chunk that came twice is given so long before its file is looked at again."""
_AHEAD_CHUNKS = 64
"""So many of the next chunks in order go before the rest: about what is under way at once, so that the order holds."""


class Wanting(Protocol):
    """A reader, as far as the reading has to know it."""

    wanted: int
    """All that it wants, as bits, what is here as well."""
    touched: dict[int, None]
    """The files that this is in."""

    def next_chunks(self, have: int, count: int) -> list[int]:
        """So many of the chunks that it wants next and that are not in `have`, in its order."""


class Reading:
    """What all readers of one model share. On the event loop only."""

    def __init__(self, peer: Peer, model_id: ModelId, on_end: Callable[[], None]) -> None:
        self.model_id = model_id
        self.layout: Layout
        self.bytes_fetched = 0
        """What came over the network for these readers."""
        self.readers: dict[Wanting, None] = {}
        self._peer, self._on_end = peer, on_end
        self._opening = asyncio.Lock()
        self._opened = 0
        self._known = self._stopped = False
        self._have = 0
        self._waits = Waits()
        self._preferred = 0
        self._direct: list[Address] = []
        self._entry_peers: Sequence[str] = ()
        self._news = asyncio.Event()
        self.work: asyncio.Task[None] | None = None
        self.session: asyncio.Task[None] | None = None
        self._search: tuple[AsyncExitStack, Fetching, Finder] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._placed: dict[int, None] = {}
        """Files that have been whole since the place was opened, and have their names."""
        peer.store.cache.expendables.reader_came(model_id)

    # --- opening and closing -------------------------------------------------------------------------------------

    async def open(self, direct: Sequence[Address], entry_peers: Sequence[str], signers: Sequence[PublicKey]) -> None:
        """Know the layout; `join` or `leave` must follow. Raises as `Peer.open_reader` does."""
        self._opened += 1
        try:
            self._direct += [address for address in direct if address not in self._direct]
            self._entry_peers = entry_peers
            if self._search is not None:
                self._search[1].ask_also(direct)
            async with self._opening:
                await self._learn(signers)
        except BaseException:
            self.leave(None)
            raise

    def join(self, reader: Wanting) -> None:
        """One more reader, after `open`."""
        self._opened -= 1
        self.readers[reader] = None
        if self._search is not None and self._ending is None:
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(_LINGER_S, lambda: self._peer.spawn(self._end_search()))

    def leave(self, reader: Wanting | None) -> None:
        """A reader has left, or whoever called `open`; what it alone wanted is asked for no more."""
        if reader is None:
            self._opened -= 1
        elif reader not in self.readers:
            return
        else:
            del self.readers[reader]
        self._news.set()
        if self.readers or self._opened:
            return
        self._peer.store.cache.expendables.reader_left(self.model_id)
        self._on_end()
        if self.work is not None:
            self.work.cancel()
        else:
            self._peer.spawn(self._end_search())

    async def _learn(self, signers: Sequence[PublicKey]) -> None:
        """What the model is made of, and that all of these have signed it."""
        store, offload = self._peer.store, self._peer.network.offload
        held = await offload(store.layout, self.model_id) if not self._known else self.layout
        signed = {one.signer for one in await offload(store.statements, self.model_id)} if signers else set()
        if held is None or not signed.issuperset(signers):
            fetching, finder = await self._searching()
            held = await fetching.metadata.layout(finder)
            await fetching.metadata.statements(finder, signers)
        self.layout, self._known = held, True
        self.look()

    async def stop(self) -> None:
        """The peer stops."""
        self._stopped = True
        if self.work is not None:
            await cancelled([self.work])
        self._opened = 0
        await self._end_search()

    # --- what is here and what is not ----------------------------------------------------------------------------

    def look(self) -> None:
        """See what is here: chunks may have gone, too."""
        held = self._peer.store.have_map(self.model_id)
        self._have = 0
        self.arrived(held.bits if held is not None else 0)

    def arrived(self, bits: int) -> None:
        """These chunks are here now, from wherever."""
        self._have |= bits
        if not self._known or not bits:
            return
        self._waits.arrived(bits)
        before = self._preferred
        self._preferred &= ~bits
        few = 2 * self._preferred.bit_count() < _AHEAD_CHUNKS and (before != self._preferred or not before)
        file = self.layout.have_map([self.layout[bits.bit_length() - 1].file_index]).bits
        if few or not file & ~self._have:
            self._news.set()

    def missing(self, chunks: range) -> int:
        """Those of these chunks that are not here, as bits."""
        return bits_of_range(chunks) & ~self._have

    @property
    def _wanted(self) -> int:
        wanted = self._waits.missing
        for reader in self.readers:
            wanted |= reader.wanted
        return wanted

    @property
    def _lacking(self) -> int:
        return self._wanted & ~self._have

    def _next(self) -> list[int]:
        """The chunks to bring first: what is waited for, then of each reader what it wants next, in turns."""
        room = max(_AHEAD_CHUNKS // max(1, len(self.readers)), 1)
        ahead = [reader.next_chunks(self._have, room) for reader in self.readers]
        in_turns = (index for each in zip_longest(*ahead) for index in each if index is not None)
        chosen = list(dict.fromkeys([*self._waits.next_chunks(_AHEAD_CHUNKS), *in_turns]))[:_AHEAD_CHUNKS]
        self._preferred = bits_of(chosen)
        return chosen

    async def ready(self, chunks: range) -> None:
        """Until these chunks are here. Raises what ends the search for them."""
        self.look()
        missing = self.missing(chunks)
        if not missing:
            return
        with self._waits.for_chunks(missing, self._peer.network.clock.monotonic()) as wait:
            self.go_on()
            await wait.done

    def go_on(self) -> None:
        """What is wanted has changed."""
        self._news.set()
        if self._stopped:
            self._waits.fail(_interrupted())
            return
        if self.work is None and self._unfinished:
            self.work = asyncio.get_running_loop().create_task(self._supervised())

    # --- getting what is wanted ----------------------------------------------------------------------------------

    async def _supervised(self) -> None:
        try:
            await self._run()
        except P2PModelError as error:
            self._waits.fail(error)
        except asyncio.CancelledError:
            self._waits.fail(_interrupted())
            raise
        except Exception as error:
            log.exception("the reading of model %s failed", self.model_id.hex)
            self._waits.fail(P2PModelError(f"internal error while reading: {type(error).__name__}: {error}"))
        finally:
            self.work = None
            await self._end_search()

    @property
    def _unfinished(self) -> bool:
        return bool(self._lacking or self._waits.names)

    async def _run(self) -> None:
        while self._unfinished:
            flights = self._peer.fetches.of(self.model_id)
            if flights:
                await self._ride(flights[0].task, flights[0].lead)
                continue
            session = self.session = asyncio.get_running_loop().create_task(self._pull())
            try:
                await asyncio.wait([session])
            finally:
                await cancelled([session])
                self.session = None
            if not session.cancelled():
                session.result()

    async def _ride(self, flight: asyncio.Task[object], fetch: Retrieval) -> None:
        """Let a fetch that is under way bring what it can, in our order."""
        behind = self._peer.network.clock.monotonic()
        try:
            while self._unfinished and not flight.done():
                fetch.fetching.prefer(self._next())
                at_rest = await self._name_behind(fetch)
                if not await self._changed(_LOOK_AGAIN_S if at_rest else _LATE_S, flight):
                    self.look()
                self._fail_stranded(fetch.fetching, behind)
        finally:
            fetch.fetching.prefer(())
        self.look()
        await self._settle_named()

    async def _name_behind(self, fetch: Retrieval) -> bool:
        """Have a fetch give wanted files their names before it ends. False where one waits for a late write."""
        at_rest = True
        for file_index in list(self._waits.names):
            try:
                at_rest &= await fetch.name_whole([file_index])
            except P2PModelError as error:
                self._waits.named(file_index, error)
        await self._settle_named()
        return at_rest

    async def _settle_named(self) -> None:
        for file_index in list(self._waits.names):
            place = await self.place(file_index, self.layout.chunks_of(file_index))
            if place is not None and place.whole:
                self._waits.named(file_index)

    def _fail_stranded(self, fetching: Fetching, behind: float) -> None:
        """Nobody waits without end, `behind` this fetch from then on, for what it, of other files, does not bring."""
        now = self._peer.network.clock.monotonic()

        def stranded(wait: Wait) -> bool:
            waited_s = now - max(wait.began, behind)
            return wait.missing != fetching.brings(wait.missing) and waited_s > READ_BEHIND_FETCH_S

        error = NetworkError("other files of this model are being fetched; ask again when that fetch has ended")
        self._waits.fail(error, stranded)

    async def give_way(self) -> None:
        """A fetch of the model begins; it finds here what has come."""
        if self.session is not None:
            await cancelled([self.session])

    async def _changed(self, timeout_s: float | None, *tasks: asyncio.Task[object]) -> bool:
        """Wait for news, or one of `tasks`. False once the time is over."""
        news = asyncio.get_running_loop().create_task(self._news.wait())
        try:
            done, _ = await asyncio.wait({news, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled([news])
        self._news.clear()
        return bool(done)

    async def _searching(self) -> tuple[Fetching, Finder]:
        if self._search is None:
            fetching = Fetching(self._peer.rooms, self.model_id, self._direct, entry_peers=self._entry_peers)
            stack = AsyncExitStack()
            finder = await stack.enter_async_context(fetching.finder())
            self._search = stack, fetching, finder
        return self._search[1:]

    async def _end_search(self) -> None:
        """Unless somebody uses it, or is about to."""
        if self._ending is not None:
            self._ending.cancel()
        self._ending = None
        if self._opened or self.work is not None:
            return
        search, self._search = self._search, None
        if search is not None:
            await search[0].aclose()

    async def _pull(self) -> None:
        """Open the model's place, and bring what is wanted, until nothing has been for a while."""
        fetching, finder = await self._searching()
        async with self._peer.only_fetch(self.model_id):
            stop, opened = threading.Event(), list[Intake]()
            try:
                asked = self._lacking
                await self._peer.until_stopped(stop, self._open, asked, opened, stop)
                self.look()
                await self._follow(fetching, finder, opened[0], asked, stop)
            finally:
                stop.set()
                for intake in opened:
                    self._peer.close_soon(intake)
                self._peer.spawn(self._peer.announcer.update(self.model_id))

    def _open(self, asked: int, opened: list[Intake], stop: threading.Event) -> None:
        store = self._peer.store
        root = default_destination(self._peer.config.data_dir, self.model_id)
        opened.append(store.open_intake(self.layout, range(len(self.layout.files)), root, sparse=True, stop=stop))
        opened[0].adopt(stop=stop, asked=asked)

    async def _follow(
        self, fetching: Fetching, finder: Finder, intake: Intake, looked_for: int, stop: threading.Event
    ) -> None:
        """`looked_for`: chunks that this disk was searched for already."""
        asked, offload = looked_for & self._lacking, self._peer.network.offload
        self._placed.clear()
        fetching.prefer(self._next())
        fetching.want(asked, ~asked)  # an earlier transfer may have been stopped before it began, with what it was told
        transfer = asyncio.get_running_loop().create_task(fetching.transfer(self.layout, intake, finder, asked=asked))
        came = 0
        try:
            while True:
                await self._gather(intake, stop)
                await self._place(intake)
                if fresh := self._lacking & ~asked:
                    borrowed = await offload(intake.borrow, fresh, stop)
                    self.arrived(borrowed)
                    fetching.came_otherwise(borrowed)
                lacking = self._lacking
                fetching.want(lacking, asked & ~lacking & ~self._have)
                fetching.prefer(self._next())
                asked = lacking
                waits_s = _LATE_S if self._waits.names else _LINGER_S
                changed = await self._changed(_LOOK_AGAIN_S if lacking else waits_s, transfer)
                if lacking and not changed:
                    self.look()
                    # Written by an answer of which nobody told, for its connection had ended.
                    fetching.came_otherwise(lacking & self._have)
                self.bytes_fetched += fetching.tally.bytes_fetched - came
                came = fetching.tally.bytes_fetched
                if transfer.done():
                    transfer.result()
                if not changed and not self._unfinished:
                    return
        finally:
            self.bytes_fetched += fetching.tally.bytes_fetched - came
            await cancelled([transfer])
            await asyncio.shield(self._place(intake))

    async def _gather(self, intake: Intake, stop: threading.Event) -> None:
        """A file gets its name in this place: what of it lies in another is copied here."""
        for index in list(self._waits.names):
            apart = self.layout.have_map([index]).bits & self._have & ~intake.have.bits
            if apart & ~await self._peer.network.offload(intake.borrow, apart, stop):
                self.look()
                self._waits.named(index)  # it is not there any more; `named` looks again

    async def _place(self, intake: Intake) -> None:
        """Give wanted files that have become whole their names."""
        touched = [index for reader in self.readers for index in reader.touched]
        wanted = {index: None for index in [*touched, *self._waits.names] if index not in self._placed}
        have = intake.have.bits
        if whole := [index for index in wanted if not self.layout.have_map([index]).bits & ~have]:
            late = await self._peer.network.offload(intake.place_whole)
            self._placed.update((index, None) for index in whole if index not in late)
        for index in [index for index in self._waits.names if index in self._placed]:
            self._waits.named(index)

    async def named(self, file_index: int) -> FilePlace:
        """Where a file is whole, under its final name; waits until it is. Raises as `ready` does."""
        chunks = self.layout.chunks_of(file_index)
        for _ in range(READ_TRIES):
            await self.ready(chunks)
            place = await self.place(file_index, chunks)
            if place is not None and place.whole:
                return place
            self._placed.pop(file_index, None)
            wait = self._waits.for_name(file_index, bits_of_range(chunks), self._peer.network.clock.monotonic())
            self.go_on()
            await asyncio.shield(wait.done)
        raise VerificationError(f"{self.layout.files[file_index].path.text!r} changes again and again")

    async def place(self, file_index: int, chunks: range) -> FilePlace | None:
        """Where these chunks lie together on this disk."""
        bits = bits_of_range(chunks)
        return await self._peer.network.offload(self._peer.store.file_place, self.model_id, file_index, bits)


def _interrupted() -> InterruptedFetchError:
    return InterruptedFetchError("the reading of this model was stopped")
