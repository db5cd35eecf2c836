"""What a model is made of, and who has signed it: manifest, chunk lists and statements, from this disk or from peers.

Whatever a peer sends of these is checked here: objects by their hash, a chunk list against the manifest, statements by
their signature. Peers are asked as they are found, all at the same time, so that one who is slow holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from p2pmodel.errors import CorruptChunkError, DecodeError, PeerFault, SignatureError, VerificationError
from p2pmodel.limits import BUNDLED_LISTS_BYTES_MAX, FETCH_MISS_S, MANIFEST_BYTES_MAX
from p2pmodel.model import (
    Bundle,
    ChunkList,
    Digest,
    FileEntry,
    Layout,
    Manifest,
    ModelId,
    PublicKey,
    SignedStatement,
    check_chunk_list,
    open_statement,
)
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.net import cancelled
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.rooms import Rooms
from p2pmodel.swarm import Greeting, Link

log = logging.getLogger(__name__)

_WAIT_S = 0.5
_MANIFEST_ASKS = 2
"""Peers of whom the manifest is asked before they have said hello; where they have none, it costs the others a round
trip more, and where many were asked, it would come many times."""


class Metadata:
    """Of one model, for one fetch. `searching` is told in which phase it is, whenever it waits for peers."""

    def __init__(
        self,
        rooms: Rooms,
        model_id: ModelId,
        *,
        entry_peers: Sequence[str],
        searching: Callable[[Finder, str], None],
    ) -> None:
        self._rooms, self._model_id, self._entry_peers, self._searching = rooms, model_id, entry_peers, searching
        self._began = self._now()
        self._corrupt_from: set[PublicKey] = set()
        self._statements: dict[Link, asyncio.Task[list[SignedStatement]]] = {}
        """Asked for as soon as there is a connection: an answer costs a round trip, and nobody should wait for two."""
        self._manifest_asks = 0
        """Of how many more peers the manifest is asked for with the greeting."""

    def _now(self) -> float:
        return self._rooms.network.clock.monotonic()

    # --- what is asked of every peer at once ---------------------------------------------------------------------

    async def begin(self) -> None:
        """Before peers are dialled: see what is asked of them with the greeting."""
        if await self._rooms.network.offload(self._rooms.store.object, self._model_id) is None:
            self._manifest_asks = _MANIFEST_ASKS

    def greeting(self) -> Greeting:
        """What goes out with our hello."""
        self._manifest_asks -= 1
        return Greeting(self._model_id, manifest=self._manifest_asks >= 0)

    def greet(self, link: Link) -> None:
        """What will be asked of every peer goes out with the first question."""
        link.expect(self._model_id)
        if link not in self._statements:
            self._statements[link] = asyncio.get_running_loop().create_task(self._statements_of(link))

    async def end(self) -> None:
        """Nobody is asked any more."""
        await cancelled(self._statements.values())

    # --- what it is made of --------------------------------------------------------------------------------

    async def layout(self, finder: Finder) -> Layout:
        """The model's manifest and chunk lists, from this disk or from peers.

        Raises `NotFoundError` or `NoPeersError` after `FETCH_MISS_S` without anybody, `VerificationError` where every
        answer was corrupt or the id is not that of a manifest.
        """
        held = await self._rooms.network.offload(self._rooms.store.layout, self._model_id)
        if held is not None:
            return held
        manifest, lists = await self._manifest(finder)
        of_each = await asyncio.gather(*(self._chunk_list(file, finder, lists) for file in manifest.files))
        return Layout(manifest, of_each)

    async def manifest(self, finder: Finder) -> Manifest:
        """Raises as `layout` does."""
        return (await self._manifest(finder))[0]

    async def _manifest(self, finder: Finder) -> tuple[Manifest, Mapping[Digest, bytes]]:
        """With the chunk lists that came with it."""
        offload, store = self._rooms.network.offload, self._rooms.store
        encoded = await offload(store.object, self._model_id)
        lists: Mapping[Digest, bytes] = {}
        if encoded is None:
            data = await self._from_peers(
                self._model_id, finder, MANIFEST_BYTES_MAX, "lookup", lists_bytes=BUNDLED_LISTS_BYTES_MAX
            )
            bundle = Bundle.decode(data, self._model_id)
            encoded, lists = bundle.manifest, bundle.lists
            await offload(store.put_object, encoded)
        try:
            return Manifest.decode(encoded), lists
        except DecodeError as error:
            raise VerificationError(f"the object {self._model_id.hex} is not a manifest: {error}") from error

    async def _chunk_list(self, file: FileEntry, finder: Finder, came: Mapping[Digest, bytes]) -> ChunkList:
        size = file.chunk_count * ENTRY_BYTES
        if not size:
            return ChunkList(b"")
        # Kept with the intake, all lists in one transaction: thousands of files would be as many commits.
        encoded = came.get(file.chunk_list)
        if encoded is None:
            encoded = await self._rooms.network.offload(self._rooms.store.object, file.chunk_list)
        if encoded is None:
            encoded = await self._from_peers(file.chunk_list, finder, size, "manifest")
        try:
            chunks = ChunkList(encoded)
            check_chunk_list(file, chunks)
        except DecodeError as error:
            raise VerificationError(f"the publisher's manifest contradicts itself: {error}") from error
        return chunks

    async def _from_peers(
        self, digest: Digest, finder: Finder, size_bytes_max: int, phase: str, *, lists_bytes: int = 0
    ) -> bytes:
        """From any peer that the finder brings, until one has it.

        Whoever is found later is asked at once, so that one who answers by drops holds nobody up.
        """
        asked: set[Link] = set()
        asking: dict[asyncio.Task[bytes], list[Link]] = {}
        try:
            while True:
                if fresh := [link for link in finder.links if link not in asked]:
                    asked.update(fresh)
                    work = self._rooms.swarm.fetch_object(
                        digest, fresh, size_bytes_max=size_bytes_max, lists_bytes=lists_bytes
                    )
                    asking[asyncio.get_running_loop().create_task(work)] = fresh
                for task in [task for task in asking if task.done()]:
                    links = asking.pop(task)
                    try:
                        return task.result()
                    except CorruptChunkError:
                        self._corrupt_from.update(link.peer for link in links)
                    except PeerFault:
                        continue
                if not asking:
                    self._give_up_early(finder)
                self._searching(finder, phase)
                await finder.changed(_WAIT_S, *asking)
        finally:
            await cancelled(asking)

    def _give_up_early(self, finder: Finder) -> None:
        """Raise where there was time enough to find a holder, and none was found."""
        if self._now() - self._began < FETCH_MISS_S or finder.rounds == 0:
            return
        if self._corrupt_from:
            names = ", ".join(sorted(peer.text[:12] for peer in self._corrupt_from))
            raise VerificationError(
                f"the manifest that peers sent does not have the hash {self._model_id.hex}; refused ({names})"
            )
        raise finder.nobody(f"no peer has the model {self._model_id.hex}", self._entry_peers)

    # --- signatures ----------------------------------------------------------------------------------------------

    async def statements(self, finder: Finder, wanted: Sequence[PublicKey]) -> list[SignedStatement]:
        """What publishers have signed about the model, verified; asks peers until every `wanted` key is among them.

        Raises `SignatureError` where one is not.
        """
        store, offload = self._rooms.store, self._rooms.network.offload
        held = {one.signer: one for one in await offload(store.statements, self._model_id)}
        asked: set[Link] = set()
        while True:
            fresh = [link for link in finder.links if link not in asked]
            missing = [key for key in wanted if key not in held]
            if not fresh and (not missing or self._settled(finder)):
                break
            self._searching(finder, "")
            asked.update(fresh)
            # All at once: peers that do not answer must not make a fetch wait for each of them in turn.
            for link in fresh:
                self.greet(link)
            for one in chain.from_iterable([await self._statements[link] for link in fresh]):
                held.setdefault(one.signer, one)
                await offload(store.add_statement, one, durable=False)
            if not fresh:
                await finder.changed(_WAIT_S)
        if missing:
            by = ", ".join(key.text for key in held) or "nobody"
            raise SignatureError(f"the model is not signed by {missing[0].text}; it is signed by {by}")
        return list(held.values())

    def _settled(self, finder: Finder) -> bool:
        return self._now() - self._began > FETCH_MISS_S and finder.rounds > 0

    async def _statements_of(self, link: Link) -> list[SignedStatement]:
        try:
            async with asyncio.timeout(FETCH_MISS_S):
                envelopes = await link.questions.statements(self._model_id)
        except (PeerFault, TimeoutError):
            return []
        signed = []
        for envelope in envelopes:
            try:
                one = open_statement(envelope)
            except (DecodeError, SignatureError) as error:
                log.warning("peer %s sent a statement that does not hold: %s", link.peer.text, error)
                continue
            if one.statement.model_id == self._model_id:
                signed.append(one)
        return signed
