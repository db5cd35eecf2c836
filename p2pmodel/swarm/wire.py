"""The messages that peers exchange on a channel: MessagePack arrays, the first element the number of the kind.

A type that decodes is valid in form; what it may mean now is for `link.py`. Elements that a later version appends to an
array are ignored. `docs/protocol.md` has the table.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    CHUNKS_ASKED_PER_MESSAGE_MAX,
    CHUNKS_PER_MODEL_MAX,
    CONTROL_BYTES_MAX,
    HAVES_PER_MESSAGE_MAX,
    MODELS_PER_ANSWER_MAX,
    OBJECT_BYTES_MAX,
    PEERS_PER_MESSAGE_MAX,
    PROBES_PER_MESSAGE_MAX,
    SHORT_MESSAGE_BYTES_MAX,
    STATEMENT_BYTES_MAX,
    STATEMENTS_PER_MODEL_MAX,
)

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
RequestId = Annotated[int, Meta(ge=0, lt=1 << 32)]
ChunkIndex = Annotated[int, Meta(ge=0, lt=CHUNKS_PER_MODEL_MAX)]
Text = Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(max_length=96, pattern=r"\A[A-Za-z0-9_\-.]*\Z")]
"""Characters as in `model.reference`; `check_name_part` has the rest of the rules."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    pass


class Subscribe(Message, frozen=True, tag=1):
    """Tell me what you hold of this model, now (`HaveMapOf` or `Unknown`) and as it grows (`Have`)."""

    model: Hash


class Unsubscribe(Message, frozen=True, tag=2):
    model: Hash


class HaveMapOf(Message, frozen=True, tag=3):
    """The answer to `Subscribe`: which of the `count` chunks the sender holds, as `model.HaveMap` encodes it."""

    model: Hash
    count: Annotated[int, Meta(ge=0, le=CHUNKS_PER_MODEL_MAX)]
    bits: Annotated[bytes, Meta(max_length=CHUNKS_PER_MODEL_MAX // 8)]


class Unknown(Message, frozen=True, tag=4):
    """The sender holds nothing of this model, or no longer does."""

    model: Hash


class Have(Message, frozen=True, tag=5):
    """More chunks of a model that the receiver has subscribed to."""

    model: Hash
    chunks: Annotated[list[ChunkIndex], Meta(min_length=1, max_length=HAVES_PER_MESSAGE_MAX)]


class Lost(Message, frozen=True, tag=17):
    """The sender held these chunks and no longer does: a cache has let go of them."""

    model: Hash
    chunks: Annotated[list[ChunkIndex], Meta(min_length=1, max_length=HAVES_PER_MESSAGE_MAX)]


class RequestChunk(Message, frozen=True, tag=6):
    """Send the chunk with this hash and length (bulk, under `request`); `model` and `index` say where it may be found.

    The hash decides: a peer that holds it in another model looks it up.
    """

    request: RequestId
    model: Hash
    digest: Hash
    length: Annotated[int, Meta(gt=0, le=OBJECT_BYTES_MAX)]
    index: ChunkIndex = 0


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """One of several chunks that are asked for at once."""

    request: RequestId
    digest: Hash
    length: Annotated[int, Meta(gt=0, le=OBJECT_BYTES_MAX)]
    index: ChunkIndex


class RequestChunks(Message, frozen=True, tag=18):
    """The same as a `RequestChunk` for each of them, in this order."""

    model: Hash
    chunks: Annotated[list[Asked], Meta(min_length=1, max_length=CHUNKS_ASKED_PER_MESSAGE_MAX)]

    def each(self) -> list[RequestChunk]:
        model = self.model
        return [RequestChunk(one.request, model, one.digest, one.length, one.index) for one in self.chunks]


class RequestObject(Message, frozen=True, tag=7):
    """Send the object with this hash (bulk): a manifest or a chunk list; behind a manifest, chunk lists of its files.

    `lists_bytes`: how much of those may come in the same answer (`model.bundle`); 0, as from older peers, for none.
    """

    request: RequestId
    digest: Hash
    lists_bytes: Annotated[int, Meta(ge=0, le=OBJECT_BYTES_MAX)] = 0


class Cancel(Message, frozen=True, tag=8):
    """No longer wanted. The answer may come all the same, when it was under way."""

    request: RequestId


class Reject(Message, frozen=True, tag=9):
    """The request will not be answered: the sender does not hold it, or has too much to do."""

    request: RequestId
    reason: Text


class RequestStatements(Message, frozen=True, tag=10):
    """Send the signed statements about a model (`Statements`)."""

    request: RequestId
    model: Hash


class RequestName(Message, frozen=True, tag=11):
    """Send the statements by which the publisher with this key (32 bytes) has given out this name."""

    request: RequestId
    publisher: Hash
    name: Name
    revision: Name


class Statements(Message, frozen=True, tag=12):
    request: RequestId
    envelopes: Annotated[
        list[Annotated[bytes, Meta(max_length=STATEMENT_BYTES_MAX)]], Meta(max_length=STATEMENTS_PER_MODEL_MAX)
    ]


class Ping(Message, frozen=True, tag=13):
    """Keeps an idle connection from being cut. No answer."""


class Peers(Message, frozen=True, tag=14):
    """Others who follow this model: key (32 bytes) and compact address of each. Sent to who has just subscribed."""

    model: Hash
    peers: Annotated[list[tuple[Hash, Annotated[bytes, Meta(max_length=18)]]], Meta(max_length=PEERS_PER_MESSAGE_MAX)]


class RequestModels(Message, frozen=True, tag=15):
    """Name models in which you hold chunks with any of these hashes (`Models`)."""

    request: RequestId
    digests: Annotated[list[Hash], Meta(min_length=1, max_length=PROBES_PER_MESSAGE_MAX)]


class Models(Message, frozen=True, tag=16):
    """The answer: ids of models, those that hold most of what was asked for first."""

    request: RequestId
    models: Annotated[list[Hash], Meta(max_length=MODELS_PER_ANSWER_MAX)]


AnyMessage = (
    Subscribe
    | Unsubscribe
    | HaveMapOf
    | Unknown
    | Have
    | Lost
    | RequestChunk
    | RequestChunks
    | RequestObject
    | Cancel
    | Reject
    | RequestStatements
    | RequestName
    | Statements
    | Ping
    | Peers
    | RequestModels
    | Models
)

_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_encoder = msgspec.msgpack.Encoder()


def encode(message: AnyMessage) -> bytes:
    encoded = _encoder.encode(message)
    assert len(encoded) <= CONTROL_BYTES_MAX, type(message).__name__
    return encoded


_LONG = (b"\x94\x03", b"\x93\x0c")
"""How `HaveMapOf` and `Statements` begin, which may be long: without fields of a later version, because to skip 320 KiB
of those takes longer than anything that is meant."""


def decode(encoded: bytes) -> AnyMessage:
    """Raises `DecodeError` for anything that is not one message within its limits."""
    if len(encoded) > SHORT_MESSAGE_BYTES_MAX and not encoded.startswith(_LONG):
        raise DecodeError(f"{len(encoded)} bytes are too long for a message of this kind")
    try:
        return _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a message: {error}") from error
