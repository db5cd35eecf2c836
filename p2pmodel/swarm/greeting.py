"""What is asked of a peer in one breath with our hello, so that its first answers come with its own.

It will be asked of every peer of the model anyway: what it holds, what publishers have said, and, of the first ones,
the manifest. Whoever asks the link for one of these afterwards is given what is under way already.
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pmodel.limits import BUNDLED_LISTS_BYTES_MAX, MANIFEST_BYTES_MAX
from p2pmodel.model import Digest, ModelId
from p2pmodel.swarm import wire
from p2pmodel.swarm.requests import ObjectRequest, OpenRequests, StatementsRequest


class Greeting:
    """The first messages of one new link, and the requests that they open there."""

    def __init__(self, model_id: ModelId, *, manifest: bool) -> None:
        self.model_id = model_id
        self.requests = OpenRequests()
        self.messages = [wire.encode(wire.Subscribe(model_id.raw))]
        self._statements: tuple[int, StatementsRequest] | None = None
        self._object: tuple[int, ObjectRequest] | None = None
        loop = asyncio.get_running_loop()
        if manifest:
            wanted = ObjectRequest(model_id, MANIFEST_BYTES_MAX, _quiet(loop.create_future()), BUNDLED_LISTS_BYTES_MAX)
            number = self.requests.add(wanted)
            self._object = number, wanted
            self.messages.append(wire.encode(wire.RequestObject(number, model_id.raw, BUNDLED_LISTS_BYTES_MAX)))
        statements = StatementsRequest(_quiet(loop.create_future()))
        number = self.requests.add(statements)
        self._statements = number, statements
        self.messages.append(wire.encode(wire.RequestStatements(number, model_id.raw)))

    def take_statements(self, model_id: ModelId) -> tuple[int, StatementsRequest] | None:
        """The request for them, once, if it was made."""
        if model_id != self.model_id:
            return None
        taken, self._statements = self._statements, None
        return taken

    def take_object(self, digest: Digest, lists_bytes: int) -> tuple[int, ObjectRequest] | None:
        """The same for an object."""
        if self._object is None or (digest, lists_bytes) != (self._object[1].digest, self._object[1].lists_bytes):
            return None
        taken, self._object = self._object, None
        return taken


def _quiet(answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """One whose failure is nobody's news where nobody waits for it."""
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return answer
