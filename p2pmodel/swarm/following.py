"""Who hears what a peer says of a model: a running download, or, until there is one, a placeholder that remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from p2pmodel.errors import P2PModelError
from p2pmodel.model import HaveMap, PublicKey
from p2pmodel.net import Address

if TYPE_CHECKING:
    from p2pmodel.swarm.link import Link


class Listening(Protocol):
    """Who follows a model on a link: a running download."""

    @property
    def background(self) -> bool | None:
        """Whether it takes only what others leave of the line; None: it pulls nothing."""

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        """The peer holds these chunks; it has just told of the `new` ones among them, as bits."""

    def link_lost(self, link: Link, bits: int) -> None:
        """The peer no longer holds these chunks, of those that it held."""

    def link_unknown(self, link: Link) -> None: ...

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        """The peer names others who follow the model. Addresses of a narrower scope than its own are left out."""

    def link_closed(self, link: Link, reason: P2PModelError) -> None: ...


class Hearing:
    """A follower that pulls nothing and wants to know who holds what: that of a seed."""

    background = None

    def __init__(self, on_held: Callable[[Link, HaveMap], None]) -> None:
        self._on_held = on_held

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        self._on_held(link, held)

    def link_lost(self, link: Link, bits: int) -> None:
        """It was heard of all the same."""

    def link_unknown(self, link: Link) -> None:
        """Nothing yet, or no longer."""

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        """A seed dials nobody."""

    def link_closed(self, link: Link, reason: P2PModelError) -> None:
        """The link tells whom it concerns."""


class Expecting:
    """A follower for the time until the download begins."""

    background = None

    def __init__(self) -> None:
        self._unknown = False
        self._peers: list[tuple[PublicKey, Address]] = []

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        self._unknown = False

    def link_lost(self, link: Link, bits: int) -> None:
        """The link keeps what is left."""

    def link_unknown(self, link: Link) -> None:
        self._unknown = True

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        self._peers = list(peers)

    def link_closed(self, link: Link, reason: P2PModelError) -> None:
        """Whoever found the link sees that it has gone."""

    def pass_on(self, link: Link, held: HaveMap | None, follower: Listening) -> None:
        """Raises `PeerFault` where what the peer said does not fit the model."""
        if held is not None:
            follower.link_has(link, held, held.bits)
        elif self._unknown:
            follower.link_unknown(link)
        if self._peers:
            follower.link_peers(link, self._peers)
