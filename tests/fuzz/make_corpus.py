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
    }


if __name__ == "__main__":
    for target, inputs in seeds().items():
        folder = Path(__file__).parent / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / f"seed-{name}").write_bytes(data)
