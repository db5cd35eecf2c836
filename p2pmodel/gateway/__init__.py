"""What machine-learning tools speak to: the Hugging Face endpoint of the daemon."""

from p2pmodel.gateway.hub import HubFront
from p2pmodel.gateway.origin_repositories import OriginRepositories
from p2pmodel.gateway.repositories import (
    Chain,
    Kind,
    RepoAddress,
    RepoFile,
    Repositories,
    Repository,
    Token,
)
from p2pmodel.gateway.seeded_repositories import SeededRepositories
from p2pmodel.gateway.swarm_repositories import SwarmRepositories
from p2pmodel.peer import Peer

__all__ = [
    "Chain",
    "HubFront",
    "Kind",
    "OriginRepositories",
    "RepoAddress",
    "RepoFile",
    "Repositories",
    "Repository",
    "SeededRepositories",
    "SwarmRepositories",
    "Token",
    "hub_of",
]


def hub_of(peer: Peer) -> HubFront:
    """The endpoint of a peer: repositories out of the swarm, those of its origin, where it has one, and those of caches
    that are seeded here."""
    swarm = SwarmRepositories(peer)
    seeded = SeededRepositories(peer, swarm, beyond_doubt=False)
    if peer.config.origin is None:
        return HubFront(Chain(swarm, seeded))
    origin = Chain(OriginRepositories(peer, peer.config.origin), seeded, now=peer.network.clock.monotonic)
    return HubFront(Chain(swarm, SeededRepositories(peer, swarm, beyond_doubt=True), origin))
