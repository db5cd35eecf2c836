"""A node finds out whether it can be reached, and becomes a client where it cannot.

Now and then it asks neighbours to dial it back. What follows from their answers is `reachability`'s business; here is
who sends what. While nobody gets through, the node is a client: it asks, is never entered in a table, answers nobody.
"""

from __future__ import annotations

import asyncio
import logging

from p2pmodel.net import Address
from p2pmodel.overlay.dial_back import NO_TOKEN
from p2pmodel.overlay.lookup import nearest_nodes
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.package import Contact
from p2pmodel.overlay.profile import Profile
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.reachability import Answer, Reach, Reachability, choose_helpers
from p2pmodel.overlay.wire import BUSY, DIALLED, DialBackReply, dial_back

log = logging.getLogger(__name__)

_LOOK_S = 15.0
"""How often to look whether a check is due."""
_WAIT_S = 3.0
"""For a dial-back after its helper says that it is on its way."""
_DIALS = 3
"""Times that one helper dials before its silence counts: with every fifth datagram lost, one in 125 is bad luck."""
_ASKS_MAX = 6


class SelfCheck:
    """`run` is a background task of a node that was not told what it is."""

    def __init__(self, protocol: OverlayProtocol, profile: Profile) -> None:
        self._protocol = protocol
        self._profile = profile
        self._clock = protocol.clock
        self.reachability = Reachability(self._clock.monotonic(), protocol.rng)
        self._dialled_at: dict[int, str] = {}
        """`protocol.dialled_at` at the last check."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = self._clock.monotonic()
            if not len(self._protocol.table) or self._protocol.dialled_at != self._dialled_at:
                self.reachability.look_again(now)  # we were cut off, or have moved
            if self.reachability.due(now):
                await self._check()

    async def _check(self) -> None:
        protocol, reachability = self._protocol, self.reachability
        helpers = choose_helpers(protocol.table, protocol.rng)
        if helpers:
            answers = await asyncio.gather(*map(self._ask, helpers))
            now = self._clock.monotonic()
            reachability.judge([answer for answer in answers if answer is not None], now, protocol.rng)
            self._dialled_at = dict(protocol.dialled_at)
        else:
            reachability.nobody_to_ask(self._clock.monotonic())
        await self._follow()

    async def _follow(self) -> None:
        """Be what the state says."""
        protocol = self._protocol
        unreachable = self.reachability.state is Reach.UNREACHABLE
        if unreachable == protocol.client_only:
            return
        protocol.client_only = unreachable
        if unreachable:
            log.info("others cannot reach this node: it uses the overlay as a client")
            return
        log.info("others may reach this node again: it is a part of the overlay")
        await nearest_nodes(protocol, protocol.own_id, group_nodes_max=self._profile.group_nodes_max)

    async def _ask(self, helper: Contact) -> Answer | None:
        """What became of the dial-backs of `helper`; None where it did not say that it dialled often enough."""
        protocol, group = self._protocol, address_group(helper.address.host)
        assert group is not None
        token, dials, address = NO_TOKEN, 0, helper.address
        nonce, came = protocol.awaited.expect(protocol.rng, self._is_known)
        try:
            for _ in range(_ASKS_MAX):
                request = dial_back(protocol.network_id, protocol.sender_id, token, nonce)
                reply = await protocol.calls.ask(address, request)
                if isinstance(reply, DialBackReply):
                    token = reply.token
                    dials += reply.status == DIALLED
                    if reply.status in (DIALLED, BUSY):
                        await _within(_WAIT_S, came)
                if came.is_set():
                    return Answer(group, True)
                if dials == _DIALS:
                    return Answer(group, False)
            return None
        finally:
            protocol.awaited.forget(nonce)

    def _is_known(self, source: Address) -> bool:
        """Whether we may have sent there lately."""
        protocol = self._protocol
        return protocol.calls.knows(source) or any(contact.address == source for contact in protocol.table)


async def _within(timeout_s: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
