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
    "SwarmRepositories",
    "Token",
    "hub_of",
]


def hub_of(peer: Peer) -> HubFront:
    """The endpoint of a peer: repositories out of the swarm, and those of its origin, where it has one."""
    sources: list[Repositories] = [SwarmRepositories(peer)]
    if peer.config.origin is not None:
        sources.append(OriginRepositories(peer, peer.config.origin))
    return HubFront(Chain(*sources))
