"""Signed statements and references: what was signed comes back, and nothing else passes."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.errors import DecodeError, SignatureError, UsageError
from p2pmodel.model import Digest, ModelId, Reference, SecretKey, Statement, open_statement, sign_statement

KEY = SecretKey.from_seed(bytes(range(32)))
MODEL = ModelId(Digest.of(b"a model"))
digests = st.binary(min_size=32, max_size=32).map(Digest)
name_parts = st.from_regex(r"[A-Za-z0-9_]{1,20}(?:[.\-_][A-Za-z0-9_]{1,10}){0,2}", fullmatch=True).filter(
    lambda text: not text.endswith(".git")
)
messages = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" \n"), max_size=100)
statements = st.builds(
    Statement,
    model_id=digests.map(ModelId),
    issued_at=st.integers(0, (1 << 40) - 1),
    name=st.just("") | name_parts,
    revision=st.just("") | name_parts,
    message=messages,
)


@pytest.mark.slow
@given(statements, st.binary(min_size=32, max_size=32))
def test_a_signed_statement_opens_to_what_was_signed(statement, seed):
    key = SecretKey.from_seed(seed)
    signed = sign_statement(statement, key)
    opened = open_statement(signed.envelope)
    assert opened == signed and opened.statement == statement and opened.signer == key.public


@pytest.mark.parametrize("message", ["hello", "hello!", "hello!!"])
def test_a_statement_with_one_bit_changed_never_opens(message):
    """Each bit: the last digit of base64 may hold some that say nothing, whatever the length."""
    envelope = sign_statement(Statement(MODEL, 1, "tiny", "v1", message), KEY).envelope
    for bit in range(8 * len(envelope)):
        changed = bytearray(envelope)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises((DecodeError, SignatureError)):
            open_statement(bytes(changed))


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_no_statement_but_a_decode_error(envelope):
    with pytest.raises(DecodeError):
        open_statement(envelope)


def test_a_statement_is_refused_in_the_name_of_another_signer():
    document = json.loads(sign_statement(Statement(MODEL, 1), KEY).envelope)
    document["signatures"][0]["keyid"] = SecretKey.from_seed(bytes(32)).public.text
    with pytest.raises(SignatureError):
        open_statement(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def test_the_golden_statement_keeps_its_bytes():
    envelope = sign_statement(Statement(MODEL, 1_700_000_000, "tiny", "v1", "first"), KEY).envelope
    assert Digest.of(envelope).hex == "c5e01bdcebb2ab2d0c8b0b0f83c4ddca9eeff048acefea37c5130a13792bc2f8"
    payload = base64.b64decode(json.loads(envelope)["payload"])
    assert json.loads(payload)["model_id"] == MODEL.hex


@pytest.mark.parametrize(
    "fields",
    [
        {"issued_at": -1}, {"issued_at": 1 << 40}, {"name": "a/b"}, {"name": "-x"}, {"name": "a..b"}, {"name": "x.git"},
        {"revision": "a b"}, {"message": "\x1b[31m"}, {"message": "x" * 2001}, {"message": "\u202e"},
    ],
)  # fmt: skip
def test_a_statement_that_breaks_a_rule_cannot_be_made(fields):
    with pytest.raises(DecodeError):
        Statement(**{"model_id": MODEL, "issued_at": 1, **fields})


def test_an_id_is_read_in_all_its_spellings():
    plain = Reference.parse(MODEL.hex)
    assert plain == Reference.parse(f"p2pmodel:{MODEL.hex}") == Reference.parse(f"p2pmodel://{MODEL.hex}")
    assert plain.model_id == MODEL and plain.path is None and str(plain) == MODEL.hex
    inside = Reference.parse(f"p2pmodel:{MODEL.hex}/a/b.bin")
    assert inside.model_id == MODEL and str(inside.path) == "a/b.bin"
    assert Reference.parse(str(inside)) == inside


@pytest.mark.slow
@given(name_parts, name_parts, st.just("") | name_parts)
def test_a_name_survives_its_text(namespace, name, revision):
    text = f"{namespace}/{name}" + (f"@{revision}" if revision else "")
    try:
        parsed = Reference.parse(text)
    except UsageError:
        assert len(namespace) >= 40 or "--" in text
        return
    assert (parsed.namespace, parsed.name, parsed.revision) == (namespace, name, revision) and str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["", "x", "/", "a/", "/b", "a/b/c", "a/b@", "a/b@@c", "a b/c", "a--b/c", f"{'0' * 63}", f"{'A' * 64}", "p2pmodel:x",
     f"p2pmodel:{'0' * 64}/", f"p2pmodel:{'0' * 64}/../x", "a/..", "../a", "a/b.git"],
)  # fmt: skip
def test_what_is_no_reference_is_a_usage_error_that_says_how_one_looks(text):
    with pytest.raises(UsageError, match="Expected 64 hex digits"):
        Reference.parse(text)


@given(st.text(max_size=100))
def test_any_text_is_a_reference_or_a_usage_error(text):
    try:
        Reference.parse(text)
    except UsageError:
        pass
