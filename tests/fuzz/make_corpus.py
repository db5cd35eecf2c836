"""Writes the seeds of the corpus: one good message of each kind and the shapes that have once done harm elsewhere.

`python tests/fuzz/make_corpus.py` after a change of the wire format. Inputs that fuzzing found stay beside the seeds.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
from fuzz_targets import (
    AWAITED_SEED,
    CHALLENGE,
    KEY,
    NETWORK_ID,
    NODE,
    NODE_AT,
    REQUESTS,
    STRANGER,
    STRANGER_AT,
    Wire,
    make_node,
    pack_story,
)
from peer_targets import CLIENT, MODEL, pack_conversation

from p2pmodel.net import Hello
from p2pmodel.net.handshake import Handshake, tls_context
from p2pmodel.net.identity import encode_hello
from p2pmodel.net.outbox import make_record
from p2pmodel.net.records import DirectionKeys, Kind
from p2pmodel.overlay.announcements import Announcements
from p2pmodel.overlay.node_id import challenge_for, node_id, prove
from p2pmodel.overlay.records import sign_batch
from p2pmodel.overlay.wire import (
    AnnounceReply,
    AnnounceRequest,
    DialBackReply,
    DialledRequest,
    HelloReply,
    HelloRequest,
    NodesReply,
    ProvidersReply,
    WireEvidence,
    dial_back,
    encode_reply,
    encode_request,
    get_providers,
)
from p2pmodel.swarm import wire

HARM = {
    "nested": b"\x91" * 1300,
    "gigabyte": b"\x94\xc6\xff\xff\xff\xff",
    "not-unicode": b"\x92\xa1\xff\xc0",
    "nothing": b"\xc0",
}

REQUEST_KIND = len(REQUESTS)
"""In stories: a datagram that is a request."""

NEIGHBOURS = (
    b'{"version":1,"neighbours":[{"peer":"%s","address":"60.1.1.1:4000","since":1,"seen_at":2}]}'
    % STRANGER.public.text.encode()
)


def seeds() -> dict[str, dict[str, bytes]]:
    own, other = node_id(NODE.public), node_id(STRANGER.public)
    example = make_node(Wire())
    token = example._tokens.issue(STRANGER_AT, 1000.0)
    dial_token = example.dial_backs._tokens.issue(STRANGER_AT, 1000.0)
    awaited = random.Random(AWAITED_SEED).randbytes(16)
    proof = prove(STRANGER, NETWORK_ID, CHALLENGE)
    listed = other + STRANGER_AT.pack()
    signature = sign_batch(STRANGER, NETWORK_ID, own, port=4000, ttl_s=60, sequence=1, keys=[KEY])
    told = WireEvidence(STRANGER.public.raw, STRANGER_AT.pack(), 60, 50, 1, 0, 1, b"", signature)
    announce = AnnounceRequest(NETWORK_ID, other, token, STRANGER.public.raw, 4000, 60, 1, KEY, signature)
    hello = HelloRequest(NETWORK_ID, other, challenge_for(bytes(16), NODE_AT))
    ask = get_providers(NETWORK_ID, other, b"", KEY, 0)
    replies = {
        "hello": encode_reply(HelloReply(proof, token)),
        "find_node": encode_reply(NodesReply(proof, token, listed, b"")),
        "get_providers": encode_reply(ProvidersReply(proof, token, listed, b"", 1, [told])),
        "announce": encode_reply(AnnounceReply(0, 1, token, 1)),
        "dial_back": encode_reply(DialBackReply(0, token)),
    }
    kept = Announcements(600.0, 0.0)
    kept.add([KEY])
    kept.announced([KEY], 0.0, 5.0)
    stories = {
        "announced-and-asked": pack_story(
            (REQUEST_KIND, encode_request(announce)), (REQUEST_KIND, encode_request(ask))
        ),
        "hello": pack_story((REQUEST_KIND, encode_request(hello)), (REQUEST_KIND, encode_request(hello))),
        "dialled-back": pack_story(
            (REQUEST_KIND, encode_request(dial_back(NETWORK_ID, other, bytes(8), KEY[:16]))),
            (REQUEST_KIND, encode_request(dial_back(NETWORK_ID, other, dial_token, KEY[:16]))),
            (REQUEST_KIND, encode_request(DialledRequest(NETWORK_ID, awaited))),
        ),
        "answers": pack_story(*enumerate(replies.values())),
        "two-ids": pack_story(
            *((REQUEST_KIND, msgspec.msgpack.encode(["hello", [NETWORK_ID, i, b""]])) for i in (b"\1", b"\0\1"))
        ),
        "harm": pack_story(*((kind, data) for kind in range(REQUEST_KIND + 1) for data in list(HARM.values())[:3])),
    }
    return {
        "request": {name: encode_request(sent) for name, sent in REQUESTS.items()}
        | {"dialled": encode_request(DialledRequest(NETWORK_ID, awaited))}
        | HARM,
        **{f"reply_{name}": {"good": data} | HARM for name, data in replies.items()},
        "nodes": {"one": b"\1" + listed, "six": b"\0" + other + bytes(16) + b"\1\1", "broken": b"\1" + listed[:-1]},
        "address": {"four": STRANGER_AT.pack(), "six": bytes(15) + b"\1\x10\0", "port-zero": bytes(6)},
        "keys": {"one": KEY, "two": bytes(20) + KEY, "twice": KEY + KEY, "broken": KEY[:-1]},
        "evidence": {"good": msgspec.msgpack.encode(told)} | HARM,
        "neighbours": {"good": NEIGHBOURS, "nested": b"[" * 5000},
        "announce_state": {"good": kept.state(1.0, 1e9)} | HARM,
        "node": stories,
        **peer_seeds(),
    }


def peer_seeds() -> dict[str, dict[str, bytes]]:
    model, digest = MODEL.model_id.raw, MODEL[3].digest.raw
    messages = {
        "subscribe": wire.Subscribe(model),
        "unsubscribe": wire.Unsubscribe(model),
        "have-map": wire.HaveMapOf(model, 12, b"\xff\x0f"),
        "unknown": wire.Unknown(model),
        "have": wire.Have(model, [3, 11]),
        "lost": wire.Lost(model, [3, 11]),
        "request-chunk": wire.RequestChunk(7, model, digest, 1000),
        "request-chunks": wire.RequestChunks(model, [wire.Asked(7, digest, 1000, 3), wire.Asked(8, model, 9, 4)]),
        "request-object": wire.RequestObject(8, digest),
        "cancel": wire.Cancel(7),
        "reject": wire.Reject(1, "no"),
        "request-statements": wire.RequestStatements(9, model),
        "request-name": wire.RequestName(10, STRANGER.public.raw, "name", "1"),
        "statements": wire.Statements(1, [b"x"]),
        "ping": wire.Ping(),
        "request-models": wire.RequestModels(11, [digest, bytes(32)]),
        "models": wire.Models(1, [model]),
        "peers": wire.Peers(model, [(STRANGER.public.raw, STRANGER_AT.pack())]),
    }
    said = {name: wire.encode(message) for name, message in messages.items()}
    begin = (7).to_bytes(4, "big") + (20).to_bytes(4, "big")
    stream = (b"\x01\x00\x00\x02\x91\x0d" + b"\x02\x00\x00\x08" + begin) + b"\x03\x00\x00\x14" + bytes(20)
    sealed = make_record(DirectionKeys(bytes(32)), Kind.MESSAGE, b"\x91\x0d")
    first = Handshake(CLIENT, tls_context(CLIENT), outgoing=True).to_send()
    answer = b"\0\0" + (1).to_bytes(4, "big") + (1000).to_bytes(4, "big")
    stories = {
        "everything": pack_conversation(*said.values()),
        "answered": pack_conversation(said["have-map"]) + answer * 2,
        "rejected": pack_conversation(said["have-map"], said["reject"], said["reject"], said["unknown"], said["have"]),
        "lost": pack_conversation(said["have-map"], said["lost"], said["have"], said["lost"]),
        "again": pack_conversation(
            *[said["subscribe"], said["unsubscribe"]] * 3, said["request-chunk"], said["cancel"]
        ),
        "harm": pack_conversation(*HARM.values()),
    }
    return {
        "handshake": {"hello": b"\xff" + first, "pieces": b"\x10" + first, "http": b"\xffGET / HTTP/1.1\r\n\r\n"},
        "hello": {"good": encode_hello(Hello(1, NETWORK_ID, True, 4000, "agent"))} | HARM,
        "records": {"good": stream, "cut": stream[:-3], "twice": stream * 2, "long": b"\x01\xff\xff\xff"},
        "sealed_records": {"other-key": bytes(sealed), "clear": stream},
        "message": said | HARM,
        "manifest": {"good": MODEL.manifest.encode(), "nested": b"[" * 5000},
        "chunk_list": {"good": MODEL[0].digest.raw + b"\0\0\3\xe8", "broken": bytes(35), "empty-chunk": bytes(36)},
        "have_map": {"good": b"\0\x0c\xff\x0f", "spare": b"\0\x0c\xff\xff"},
        "schedule": {"story": bytes(range(90)), "all": bytes([0, 255, 255, 3, 0, 0, 5, 0, 0, 2, 0, 0] * 5)},
        "link": stories,
    }


if __name__ == "__main__":
    for target, inputs in seeds().items():
        folder = Path(__file__).parent / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / f"seed-{name}").write_bytes(data)
