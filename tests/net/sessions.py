"""Whole sessions between two real peers with somebody in the middle, one after the other.

In each session both sides say `first`, send an answer, and say `last`. Whatever was done on the way, what a side was
told is the beginning of what the other said, byte for byte, and both sides come to an end.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from middle import Middle
from wire_pairs import Handler, Keeps, Source, comes_true, identity

from p2pmodel.errors import P2PModelError, PeerFault, PeerGoneError
from p2pmodel.net import Channel

NEAR, FAR = 1, 2
LAST = b"last"


class Side:
    """One end of a session."""

    def __init__(self, channel: Channel, answer: bytes, says: list[bytes], *, said: int = 0) -> None:
        """`said`: so many of its messages left with its hello."""
        self.channel = channel
        self.handler = Handler()
        self.says = says
        self._answer = answer
        self._said = said
        channel.start(self.handler)
        self._speaking = asyncio.ensure_future(self._speak())

    async def _speak(self) -> None:
        try:
            for text in self.says[self._said : -1]:
                self.channel.send(text)
            await self.channel.send_run([(1, Source(self._answer))])
            self.channel.send(self.says[-1])
        except PeerGoneError:
            pass

    @property
    def closed(self) -> bool:
        return bool(self.handler.of("closed"))

    def heard_all(self, answer: bytes, says: list[bytes]) -> bool:
        return self.handler.messages == says and self.answers == [answer]

    @property
    def answers(self) -> list[bytes]:
        """Those that were told to be whole."""
        sinks = self.handler.sinks
        return [bytes(sinks[number].data) for number in self.handler.of("finished") if isinstance(sinks[number], Keeps)]

    async def end(self) -> P2PModelError:
        self.channel.close(PeerGoneError("the session is over"))
        await self._speaking
        return await self.handler.until_closed()


@dataclass
class Session:
    near: Side | None = None
    far: list[Side] = field(default_factory=list)
    refused: PeerFault | None = None
    """Why the side that dialled got no channel."""
    whole: bool = False
    reasons: list[P2PModelError] = field(default_factory=list)


class Sessions:
    """Use as a context. `middle` may be told what to do before each session."""

    def __init__(
        self,
        town,
        *,
        encryption: tuple[bool, bool] = (True, True),
        answer_bytes: int = 3000,
        early: bool = False,
    ) -> None:
        """`early`: whoever dials says its first message with its hello."""
        self.town = town
        self.near_says, self.far_says = [b"first of near", LAST], [b"first of far", LAST]
        dice = random.Random(answer_bytes)
        self.near_answer, self.far_answer = dice.randbytes(answer_bytes), dice.randbytes(answer_bytes)
        self._encryption = encryption
        self._early = int(early)
        self._accepted: list[Channel] = []

    async def __aenter__(self) -> Sessions:
        self.near = self.town.network(identity(NEAR, encryption=self._encryption[0]))
        far = self.town.network(identity(FAR, encryption=self._encryption[1]))
        self.middle = Middle(await self.town.listen(far, self._accept), 16 if any(self._encryption) else 0)
        await self.middle.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.middle.__aexit__(*exc)

    def _accept(self, channel: Channel) -> None:
        self._session.far.append(Side(channel, self.far_answer, self.far_says))

    async def begin(self) -> Session:
        """A session, as far as the side that dials is told of it."""
        session = self._session = Session()
        try:
            key, first = identity(FAR).key.public, self.near_says[: self._early]
            channel = await self.near.connect(self.middle.address, key, first)
        except PeerFault as error:
            session.refused = error
        else:
            session.near = Side(channel, self.near_answer, self.near_says, said=self._early)
        return session

    async def talk(self) -> Session:
        """One session, to its end."""
        already = len(self.middle.carried)
        session = await self.begin()
        await comes_true(lambda: self._over(session, already))
        sides = [*session.far, *([session.near] if session.near else [])]
        session.whole = session.near is not None and all(not side.closed for side in sides)
        session.reasons = [await side.end() for side in sides]
        await comes_true(lambda: all(carried.ended for carried in self.middle.carried))
        self._check(session)
        return session

    def _over(self, session: Session, already: int) -> bool:
        if session.near is not None and session.far and not session.near.closed and not session.far[0].closed:
            return session.near.heard_all(self.far_answer, self.far_says) and session.far[0].heard_all(
                self.near_answer, self.near_says
            )
        gone = [carried.ended for carried in self.middle.carried[already:]]
        return bool(gone) and all(gone) and all(side.closed for side in (session.near, *session.far) if side)

    def _check(self, session: Session) -> None:
        """Nothing false was told to anybody."""
        assert len(session.far) <= 1
        if session.near is not None:
            _is_beginning(session.near, self.far_answer, self.far_says)
        for far in session.far:
            _is_beginning(far, self.near_answer, self.near_says)
            assert far.channel.peer == identity(NEAR).key.public
            assert far.channel.encrypted is any(self._encryption)
            if session.near is not None:
                assert session.near.channel.encrypted is far.channel.encrypted


def _is_beginning(side: Side, answer: bytes, says: list[bytes]) -> None:
    assert side.handler.messages == says[: len(side.handler.messages)]
    assert side.answers in ([], [answer])
