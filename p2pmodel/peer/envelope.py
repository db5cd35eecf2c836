"""What surrounds a report on its way between daemon and client: events of a stream, errors, lists."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from p2pmodel import errors
from p2pmodel.errors import P2PModelError
from p2pmodel.peer.inventory import ModelSummary
from p2pmodel.peer.reports import Progress
from p2pmodel.peer.status import Neighbour


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, rename={"name": "class"}):
    """An error as it travels: the name of its class in `p2pmodel.errors`, its sentence, its exit code."""

    name: str
    message: str
    exit_code: int = 1


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: ErrorInfo


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line. Which field is set follows `event`."""

    event: Literal["progress", "done", "error"]
    progress: Progress | None = None
    result: Any = None
    error: ErrorInfo | None = None


class PeerList(msgspec.Struct, frozen=True):
    peers: list[Neighbour]


class ModelList(msgspec.Struct, frozen=True):
    models: list[ModelSummary]


def describe_error(error: BaseException) -> ErrorInfo:
    """What may be told of an error. Only our own classes speak to the person; of any other just the kind is told."""
    if isinstance(error, P2PModelError):
        return ErrorInfo(name=type(error).__name__, message=str(error), exit_code=error.exit_code)
    return ErrorInfo(name="P2PModelError", message=f"internal error in the daemon: {type(error).__name__}: {error}")


def rebuild_error(info: ErrorInfo) -> P2PModelError:
    """The error that the daemon met, as the class of that name here; an unknown name keeps its exit code."""
    kind = getattr(errors, info.name, None)
    if isinstance(kind, type) and issubclass(kind, P2PModelError):
        return kind(info.message)
    error = P2PModelError(info.message)
    error.exit_code = info.exit_code
    return error
