"""From a name to a model id: what this peer has been told, and what peers that announce the name have had signed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from p2pmodel.errors import DecodeError, NotFoundError, P2PModelError, PeerFault, SignatureError
from p2pmodel.limits import FETCH_MISS_S
from p2pmodel.model import ModelId, PublicKey, Reference, SignedStatement, open_statement
from p2pmodel.net import Address
from p2pmodel.peer.announcing import name_key
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.peer import Peer
from p2pmodel.swarm import Link

_ENOUGH_ANSWERS = 3


async def resolve_name(peer: Peer, reference: Reference, direct: Sequence[Address]) -> ModelId:
    """The id that the namespace's key signed last for this name. Raises `NotFoundError`.

    The newest statement of those seen wins, so a peer that offers an old one changes nothing while anyone offers the
    new one; one that was seen here before is never undercut.
    """
    trust = await peer.trust()
    try:
        publisher = trust.resolve_key(reference.namespace)
    except P2PModelError as error:
        raise NotFoundError(
            f"{reference.namespace!r} is neither a publisher's key (52 characters) nor an alias; "
            "`p2pmodel trust add KEY ALIAS` makes one"
        ) from error
    offload, store = peer.network.offload, peer.store
    found = await offload(store.find_name, reference.name, namespace=publisher, revision=reference.revision)
    for signed in await _ask_peers(peer, publisher, reference, direct, patient=not found):
        await offload(store.add_statement, signed)
        found.append(signed)
    if not found:
        raise NotFoundError(f"no peer that was asked knows {reference}")
    return max(found, key=lambda signed: (signed.statement.issued_at, signed.envelope)).statement.model_id


async def _ask_peers(
    peer: Peer, publisher: PublicKey, reference: Reference, direct: Sequence[Address], *, patient: bool
) -> list[SignedStatement]:
    found: list[SignedStatement] = []
    asked: set[Link] = set()
    deadline = peer.network.clock.monotonic() + FETCH_MISS_S
    finder = Finder(
        name_key(publisher, reference.name),
        overlay=peer.overlay,
        swarm=peer.swarm,
        clock=peer.network.clock,
        direct=direct,
    )
    async with finder:
        while peer.network.clock.monotonic() < deadline:
            for link in [link for link in finder.links if link not in asked]:
                asked.add(link)
                found += await _ask(link, publisher, reference)
            if len(asked) >= _ENOUGH_ANSWERS or (finder.rounds and not finder.dialing and (found or not patient)):
                break
            await finder.changed(0.2)
    return found


async def _ask(link: Link, publisher: PublicKey, reference: Reference) -> list[SignedStatement]:
    """The statements of one peer that hold and mean this name."""
    try:
        async with asyncio.timeout(FETCH_MISS_S):
            envelopes = await link.questions.name(publisher, reference.name, reference.revision)
    except (PeerFault, TimeoutError):
        return []
    fitting = []
    for envelope in envelopes:
        try:
            signed = open_statement(envelope)
        except (DecodeError, SignatureError):
            continue
        said = signed.statement
        if signed.signer == publisher and said.name == reference.name and reference.revision in ("", said.revision):
            fitting.append(signed)
    return fitting
