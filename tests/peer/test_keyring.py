"""Keys and trust: secret files are private and never overwritten; an alias means one key."""

import asyncio
import os
import stat

import pytest

from p2pmodel.errors import NotFoundError, RefusedError, UsageError
from p2pmodel.model import SecretKey
from p2pmodel.peer.keyring import Keyring, read_key
from p2pmodel.peer.trust import Trust, add_trusted_key, load_trust, save_trust


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_node_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    old = os.umask(0)
    try:
        first = await Keyring(tmp_path).node_key()
    finally:
        os.umask(old)
    assert (await Keyring(tmp_path).node_key()).public == first.public
    assert (mode(tmp_path / "keys"), mode(tmp_path / "keys/node.pem")) == (0o700, 0o600)
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["node.pem"]


async def test_two_that_make_the_same_key_at_once_end_with_one_key(tmp_path):
    made = await asyncio.gather(*(Keyring(tmp_path).node_key() for _ in range(8)))
    assert len({key.public for key in made}) == 1


async def test_a_publisher_key_is_never_overwritten(tmp_path):
    keyring = Keyring(tmp_path)
    made = await keyring.create("work")
    with pytest.raises(RefusedError, match="already"):
        await keyring.create("work")
    assert [key.public for key in await keyring.publishers()] == [made.public]


async def test_only_the_default_publisher_key_is_made_on_first_use(tmp_path):
    keyring = Keyring(tmp_path)
    assert (await keyring.publisher_key()).public == (await keyring.existing_publisher_key("default")).public
    with pytest.raises(NotFoundError, match="key new other"):
        await keyring.publisher_key("other")


@pytest.mark.parametrize("name", ["../node", "a/b", "", ".hidden", "a b"])
async def test_a_key_name_cannot_leave_its_directory(tmp_path, name):
    with pytest.raises(UsageError):
        await Keyring(tmp_path).create(name)


async def test_a_key_file_that_is_no_key_is_named(tmp_path):
    path = tmp_path / "bad.pem"
    path.write_text("hello")
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"bad\.pem"):
        await read_key(path)


async def test_a_key_that_others_can_read_is_used_with_a_warning(tmp_path, caplog):
    path = (await Keyring(tmp_path).create("work")).path
    path.chmod(0o644)
    await read_key(path)
    assert "can be read by others" in caplog.text


async def test_trust_survives_its_file_and_an_alias_resolves(tmp_path):
    key = SecretKey.from_seed(bytes(32)).public
    await add_trusted_key(tmp_path, key.raw.hex(), "alice")
    trust = await load_trust(tmp_path)
    assert trust.resolve_key("alice") == key == trust.resolve_key(key.text)
    assert (trust.alias(key), key in trust, mode(tmp_path / "trust.json")) == ("alice", True, 0o600)


def test_an_alias_does_not_silently_move_to_another_key():
    first, second = (SecretKey.from_seed(bytes([n]) * 32).public for n in (1, 2))
    trust = Trust().add(first, "alice", now=0)
    with pytest.raises(RefusedError, match="already means"):
        trust.add(second, "alice", now=0)
    assert trust.remove("alice").add(second, "alice", now=0).resolve_key("alice") == second


@pytest.mark.parametrize("alias", ["a/b", "a" * 52, "b" * 64, "", "-"])
def test_an_alias_is_a_name_that_cannot_be_mistaken_for_a_key(alias):
    key = SecretKey.from_seed(bytes(32)).public
    if alias:
        with pytest.raises(UsageError):
            Trust().add(key, alias, now=0)
    else:
        assert Trust().add(key, alias, now=0).alias(key) == ""


def test_an_unknown_alias_is_not_found_and_a_damaged_key_is_a_usage_error():
    with pytest.raises(NotFoundError):
        Trust().resolve_key("bob")
    with pytest.raises(UsageError):
        Trust().resolve_key("1" * 52)
    with pytest.raises(NotFoundError):
        Trust().remove(SecretKey.from_seed(bytes(32)).public.text)


@pytest.mark.parametrize("content", ["{", "{}", '{"keys": [{"key": "x"}]}', '{"keys": 1}'])
async def test_a_damaged_trust_file_is_an_error_and_never_an_empty_one(tmp_path, content):
    (tmp_path / "trust.json").write_text(content)
    with pytest.raises(UsageError, match=r"trust\.json is damaged"):
        await load_trust(tmp_path)


async def test_replacing_the_trust_file_leaves_nothing_else_behind(tmp_path):
    for _ in range(3):
        await save_trust(tmp_path, Trust())
    assert [path.name for path in tmp_path.iterdir()] == ["trust.json"]


async def test_a_key_that_is_being_written_is_written_whole_before_a_cancellation_goes_on(tmp_path):
    making = asyncio.ensure_future(Keyring(tmp_path).create("work"))
    for _ in range(2):  # the write is under way, in a thread
        await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert [path.name for path in (tmp_path / "keys/publisher").iterdir()] == ["work.pem"]
