"""Which model a repository's name and revision mean, where no hub is asked.

`p2pmodel/<model id>`, or the id alone, is a model by its content. `<namespace>/<model>` is what that publisher (a key,
or an alias of `trust add`) signed; `<model>` alone is what was published under this name on this very peer. A commit is
the first 40 digits of a model id, so that it can be found in any list.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from p2pmodel.errors import NotFoundError, RepositoryNotFoundError, RevisionNotFoundError, UsageError
from p2pmodel.gateway.repositories import RepoAddress
from p2pmodel.model import Digest, ModelId, PublicKey, Reference, SignedStatement
from p2pmodel.peer import Peer
from p2pmodel.peer.hub_snapshots import is_published_as_itself
from p2pmodel.peer.naming import resolve_name

OWN_NAMESPACE = "p2pmodel"
_MODEL_ID = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BRANCH = "refs/heads/"


@dataclass(frozen=True, slots=True)
class Meant:
    """`said_at` is when a publisher said so, in Unix time; 0 where nobody has to say it."""

    model_id: ModelId
    said_at: float = 0.0


def commit_of(model_id: ModelId) -> str:
    return model_id.hex[:40]


async def find_model(peer: Peer, address: RepoAddress) -> Meant:
    """Raises `RepositoryNotFoundError`, `RevisionNotFoundError`."""
    namespace, _, name = address.repo_id.rpartition("/")
    revision = address.revision.removeprefix(_BRANCH)
    if namespace in ("", OWN_NAMESPACE) and _MODEL_ID.fullmatch(name):
        model_id = ModelId(Digest.from_hex(name))
        if revision not in ("main", commit_of(model_id), model_id.hex):
            raise _no_revision(address)
        return Meant(model_id)
    if namespace == OWN_NAMESPACE:
        raise RepositoryNotFoundError(
            f"{address.repo_id!r}: in this namespace a repository is a model id, 64 hex digits"
        )
    return await (_of_publisher if namespace else _of_this_peer)(peer, address, revision)


async def _of_this_peer(peer: Peer, address: RepoAddress, revision: str) -> Meant:
    offload, store = peer.network.offload, peer.store

    def published() -> list[SignedStatement]:
        found = store.find_name(address.repo_id)
        models = {one: store.model(one) for one in {each.statement.model_id: None for each in found}}
        here = {one for one, model in models.items() if model and is_published_as_itself(model, address.repo_id)}
        return [each for each in found if each.statement.model_id in here]

    said = await offload(published)
    if not said:
        raise RepositoryNotFoundError(f"nothing is published here under the name {address.repo_id!r}")
    if (known := meant(said, revision)) is None:
        raise _no_revision(address)
    return known


async def _of_publisher(peer: Peer, address: RepoAddress, revision: str) -> Meant:
    """What this peer knows answers for a commit: it was told of before anybody could ask for it."""
    namespace, _, name = address.repo_id.partition("/")
    try:
        key = (await peer.trust()).resolve_key(namespace)
        reference = Reference.parse(address.repo_id)
    except (NotFoundError, UsageError) as error:
        raise RepositoryNotFoundError(
            f"{namespace!r} is neither a publisher's key nor an alias; `p2pmodel trust add KEY ALIAS` makes one"
        ) from error
    if _COMMIT.fullmatch(revision) and (known := meant(await _said(peer, key, name), revision)):
        return known
    if revision != "main" and not _COMMIT.fullmatch(revision):
        with suppress(UsageError):  # else nobody can have called it so; that there is such a name is to be seen first
            reference = Reference.parse(f"{address.repo_id}@{revision}")
    try:
        await resolve_name(peer, reference, ())
    except NotFoundError as error:
        if await _said(peer, key, name):
            raise _no_revision(address) from error
        raise RepositoryNotFoundError(f"no peer that was asked knows {address.repo_id}") from error
    if (known := meant(await _said(peer, key, name), revision)) is None:
        raise _no_revision(address)
    return known


async def _said(peer: Peer, key: PublicKey, name: str) -> list[SignedStatement]:
    return await peer.network.offload(peer.store.find_name, name, namespace=key)


def meant(said: list[SignedStatement], revision: str) -> Meant | None:
    """Of what was said of a name, what says the most of a revision: newest first."""
    newest = sorted(said, key=lambda one: (one.statement.issued_at, one.envelope), reverse=True)
    fits = [one for one in newest if one.statement.revision == revision]
    if not fits and revision == "main":
        fits = newest
    if not fits and _COMMIT.fullmatch(revision):
        fits = [one for one in newest if commit_of(one.statement.model_id) == revision]
    return Meant(fits[0].statement.model_id, fits[0].statement.issued_at) if fits else None


def _no_revision(address: RepoAddress) -> RevisionNotFoundError:
    return RevisionNotFoundError(f"{address.repo_id} has no revision {address.revision[:100]!r}")
