"""Peers that take upload slots and give nothing: each asks everybody for everything, again and again.

A deaf one does not even read what it is sent: whoever sends to it waits. A greedy one takes as much as its line
carries, for nothing. Both come back when they are cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

from p2pmodel.errors import P2PModelError, PeerFault
from p2pmodel.model import HaveMap, Layout, PublicKey
from p2pmodel.net import Address
from p2pmodel.swarm import Link
from p2pmodel.swarm.requests import ChunkRequest
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.peers import PORT

_COME_BACK_S = 1.0


class Theft(Enum):
    DEAF = "deaf"
    GREEDY = "greedy"


class _Nowhere:
    """The sink of what nobody wants."""

    def consume(self, data: memoryview) -> None:
        pass


class Thief:
    """Fills `swarm.following.Listening`. Give it victims with `rob`."""

    def __init__(self, crowd: Crowd, member: Member, layout: Layout) -> None:
        self.bytes_taken = 0
        self.background = False
        self._crowd = crowd
        self._member = member
        self._layout = layout
        self._places: dict[Link, list[int]] = {}
        """What each victim has, in the order in which it is asked for next."""

    def rob(self, victim: Member) -> None:
        self._member.spawn(self._rob(victim))

    async def _rob(self, victim: Member) -> None:
        address = Address(victim.host.ip4, PORT)
        while True:
            try:
                link = await self._member.peer.swarm.connect(address, victim.key)
                link.follow(self._layout.model_id, self)
                await link.ended()
            except PeerFault:
                pass
            await asyncio.sleep(_COME_BACK_S)

    def _ask(self, link: Link) -> None:
        places = self._places[link]
        while places and link.may_ask:
            place = self._layout[places.pop(0)]

            def settled(error: P2PModelError | None, index: int = place.index, length: int = place.length) -> None:
                if error is None:
                    self.bytes_taken += length
                    places.append(index)
                    self._ask(link)

            request = ChunkRequest(place.length, _Nowhere(), settled)
            link.questions.chunk(self._layout.model_id, place.index, place.digest, request)
        link.questions.ask()

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        known = self._places.setdefault(link, [])
        known += [index for index in held if index not in known]
        self._ask(link)

    def link_lost(self, link: Link, bits: int) -> None:
        pass

    def link_unknown(self, link: Link) -> None:
        pass

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        pass

    def link_closed(self, link: Link, reason: P2PModelError) -> None:
        self._places.pop(link, None)


async def add_thief(crowd: Crowd, theft: Theft, layout: Layout) -> Thief:
    """A peer on a new host that will take from those it is told to rob."""
    host = crowd.internet.host()
    host.deaf = theft is Theft.DEAF
    return Thief(crowd, await crowd.add(host), layout)
