"""The OpenAPI 3.1 description of the control API, made from the very types that decode and encode it."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from p2pmodel.peer.envelope import ErrorBody, ModelList, PeerList, StreamEvent
from p2pmodel.peer.inventory import CollectReport, DiskUsage, ModelDetail, PinReport, RemoveReport
from p2pmodel.peer.reports import DoctorReport, FetchReport, PublishReport, SeedReport, VerifyReport
from p2pmodel.peer.requests import (
    CollectRequest,
    DoctorRequest,
    FetchRequest,
    KeepRequest,
    LimitsChange,
    PublishRequest,
    RemoveRequest,
    SeedRequest,
    ShowRequest,
    VerifyRequest,
)
from p2pmodel.peer.status import Limits, PeerStatus
from p2pmodel.version import __version__

_READS: dict[str, tuple[str, type | None]] = {
    "/healthz": ("Whether the process answers.", None),
    "/readyz": ("Whether the peer can serve: 200, or 503 with a reason.", None),
    "/api/v1/status": ("This peer.", PeerStatus),
    "/api/v1/peers": ("Its connections and the entries of its routing table.", PeerList),
    "/api/v1/models": ("The models that are here.", ModelList),
    "/api/v1/usage": ("What the models take on this disk, and what they have in common.", DiskUsage),
    "/api/v1/limits": ("What this peer may use of its line.", Limits),
}
_CHANGES: dict[str, tuple[str, type, type]] = {
    "/api/v1/limits": ("Limit it otherwise until it stops; what is left out stays.", LimitsChange, Limits),
}
_OPERATIONS: dict[str, tuple[str, type, type]] = {
    "/api/v1/show": ("A model's manifest, files and signers.", ShowRequest, ModelDetail),
    "/api/v1/publish": ("Chunk, hash and sign files in place, and announce them.", PublishRequest, PublishReport),
    "/api/v1/seed": ("Serve models of other programs from where they lie.", SeedRequest, SeedReport),
    "/api/v1/doctor": ("What is wrong and what to do about it.", DoctorRequest, DoctorReport),
    "/api/v1/fetch": ("Find, pull, verify and place a model.", FetchRequest, FetchReport),
    "/api/v1/verify": ("Hash a model's files again.", VerifyRequest, VerifyReport),
    "/api/v1/pin": ("Never let go of a model to make room.", KeepRequest, PinReport),
    "/api/v1/unpin": ("Let the cache decide about a model again.", KeepRequest, PinReport),
    "/api/v1/rm": ("Let go of a model; what the user owns stays where it is.", RemoveRequest, RemoveReport),
    "/api/v1/gc": ("Bring the cache within its limits, or say what that would take.", CollectRequest, CollectReport),
}


@cache
def openapi_document() -> dict[str, Any]:
    types = [kind for _, kind in _READS.values() if kind is not None]
    types += [kind for _, request, result in (_OPERATIONS | _CHANGES).values() for kind in (request, result)]
    _, schemas = msgspec.json.schema_components(
        [*types, StreamEvent, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    paths = {path: {"get": _read(summary, kind)} for path, (summary, kind) in _READS.items()}
    paths |= {path: {"post": _operation(*entry)} for path, entry in _OPERATIONS.items()}
    for path, entry in _CHANGES.items():
        paths[path]["put"] = _change(*entry)
    return {
        "openapi": "3.1.0",
        "info": {"title": "p2pmodel", "version": __version__, "description": __doc__.splitlines()[0]},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(ErrorBody)}}
    return {"description": "What was wrong, with the exit code of the command line.", "content": content}


def _read(summary: str, kind: type | None) -> dict[str, Any]:
    schema: dict[str, Any] = _reference(kind) if kind else {"type": "object"}
    done = {"description": summary, "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {"200": done, "default": _errors()}}


def _change(summary: str, request: type, result: type) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(request)}}
    return {
        **_read(summary, result),
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": content},
    }


def _operation(summary: str, request: type, result: type) -> dict[str, Any]:
    stream = {
        "description": f"JSON Lines: `progress` events, then `done` whose `result` is a {result.__name__}, or `error`.",
        "content": {"application/x-ndjson": {"schema": _reference(StreamEvent)}},
    }
    return {
        "summary": summary,
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(request)}}},
        "responses": {"200": stream, "default": _errors()},
    }
