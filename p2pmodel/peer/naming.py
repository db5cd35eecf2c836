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
from p2pmodel.peer.hub_snapshots import seeded_snapshot
from p2pmodel.peer.peer import Peer
from p2pmodel.swarm import Link

_ENOUGH_ANSWERS = 3
_LOOKS = 2
"""Where only this peer knows the name, and not the revision: a peer that has just started knows nobody at its first."""


async def resolve_name(peer: Peer, reference: Reference, direct: Sequence[Address]) -> ModelId:
    """The id that the namespace's key signed last for this name; where the namespace is no key of anybody's, the model
    that a Hugging Face cache which is seeded here has by this name. Raises `NotFoundError`.

    The newest statement of those seen wins, so a peer that offers an old one changes nothing while anyone offers the
    new one; one that was seen here before is never undercut.
    """
    trust = await peer.trust()
    try:
        publisher = trust.resolve_key(reference.namespace)
    except P2PModelError as error:
        repo_id = f"{reference.namespace}/{reference.name}"
        if (seeded := await seeded_snapshot(peer, repo_id, reference.revision or "main")) is not None:
            return seeded.model_id
        hub = f"; what a Hugging Face hub has comes by `p2pmodel run -- hf download {repo_id}`"
        raise NotFoundError(
            f"{reference.namespace!r} is neither a publisher's key (52 characters) nor an alias; "
            f"`p2pmodel trust add KEY ALIAS` makes one{hub if peer.config.origin is not None else ''}"
        ) from error
    offload, store = peer.network.offload, peer.store
    known = await offload(store.find_name, reference.name, namespace=publisher)
    for signed in await _ask_peers(peer, publisher, reference, direct, known):
        await offload(store.add_statement, signed)
        known.append(signed)
    found = [signed for signed in known if _means(signed, reference)]
    if not found:
        raise NotFoundError(f"no peer that was asked knows {reference}")
    return max(found, key=lambda signed: (signed.statement.issued_at, signed.envelope)).statement.model_id


def _means(signed: SignedStatement, reference: Reference) -> bool:
    return reference.revision in ("", signed.statement.revision)


async def _ask_peers(
    peer: Peer,
    publisher: PublicKey,
    reference: Reference,
    direct: Sequence[Address],
    known: Sequence[SignedStatement],
) -> list[SignedStatement]:
    """What peers say of the name: of the revision that is meant, or of others where they do not know that one."""
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
            said = [*known, *found]
            # Whoever keeps a name keeps all its revisions: where one was asked, a second look would bring no more.
            looks = 1 if asked or any(_means(signed, reference) for signed in said) else _LOOKS
            if len(asked) >= _ENOUGH_ANSWERS or (said and finder.rounds >= looks and not finder.dialing):
                break
            await finder.changed(0.2)
    return found


async def _ask(link: Link, publisher: PublicKey, reference: Reference) -> list[SignedStatement]:
    """The statements of one peer that hold and mean this name."""
    try:
        async with asyncio.timeout(FETCH_MISS_S):
            envelopes = await link.questions.name(publisher, reference.name, reference.revision)
            if reference.revision and not envelopes:
                envelopes = await link.questions.name(publisher, reference.name, "")
    except (PeerFault, TimeoutError):
        return []
    fitting = []
    for envelope in envelopes:
        try:
            signed = open_statement(envelope)
        except (DecodeError, SignatureError):
            continue
        if signed.signer == publisher and signed.statement.name == reference.name:
            fitting.append(signed)
    return fitting
