"""Configuration: each value comes from the nearest layer, keeps its origin, and a wrong one names its place."""

from pathlib import Path

import pytest

from p2pmodel.errors import NotFoundError, UsageError
from p2pmodel.peer.config import DEFAULT_LISTEN, NetworkConfig, PeerConfig, load_network
from p2pmodel.peer.settings import load_settings


@pytest.fixture(autouse=True)
def person(tmp_path, monkeypatch):
    """A person without any configuration of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config-home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


async def test_a_value_comes_from_flag_then_environment_then_files_then_default(tmp_path):
    directory = tmp_path / "data"
    write(tmp_path / "config-home/p2pmodel/config.toml", 'listen = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\nlan = false')
    write(directory / "config.toml", 'listen = "127.0.0.1:2"\nhttp = "127.0.0.1:2"')
    environ = {"P2PMODEL_LISTEN": "127.0.0.1:3", "P2PMODEL_DATA_DIR": str(directory)}

    values = (await load_settings({"listen": "127.0.0.1:4"}, environ=environ)).values
    assert (values["listen"].value, values["listen"].origin) == ("127.0.0.1:4", "flag --listen")
    assert (values["http"].value, values["http"].origin) == ("127.0.0.1:2", str(directory / "config.toml"))
    assert (values["lan"].value, values["encryption"].origin) == (False, "default")
    assert values["data_dir"].origin == "environment P2PMODEL_DATA_DIR"

    values = (await load_settings({}, environ=environ)).values
    assert (values["listen"].value, values["listen"].origin) == ("127.0.0.1:3", "environment P2PMODEL_LISTEN")


async def test_a_flag_that_was_not_given_hides_nothing(tmp_path):
    settings = await load_settings({"data_dir": tmp_path, "listen": None}, environ={"P2PMODEL_LISTEN": "[::1]:0"})
    assert settings.peer_config().listen == "[::1]:0"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("lan = 3", "lan: expected text"),
        ('listen = "nowhere"', "listen: 'nowhere' is not HOST:PORT"),
        ('upload_limit = "fast"', "upload_limit: 'fast' is not a rate"),
        ("bootstrap = [1]", "bootstrap: expected a list of HOST:PORT"),
        ('encryption = "maybe"', "encryption: expected 'required' or 'off'"),
        ("listen = [", "not TOML"),
    ],
)
async def test_a_wrong_value_in_a_file_names_the_file_and_the_key(tmp_path, content, said):
    path = write(tmp_path / "config.toml", content)
    with pytest.raises(UsageError) as caught:
        await load_settings({"data_dir": tmp_path}, environ={})
    assert str(path) in str(caught.value) and said in str(caught.value)


async def test_a_wrong_value_in_the_environment_names_the_variable(tmp_path):
    with pytest.raises(UsageError, match="P2PMODEL_DOWNLOAD_LIMIT: '-1' is not a rate"):
        await load_settings({"data_dir": tmp_path}, environ={"P2PMODEL_DOWNLOAD_LIMIT": "-1"})


async def test_a_default_port_may_give_way_and_one_that_was_asked_for_may_not(tmp_path):
    plain = (await load_settings({"data_dir": tmp_path}, environ={})).peer_config()
    assert not plain.listen_explicit and not plain.http_explicit
    asked = (await load_settings({"data_dir": tmp_path, "listen": DEFAULT_LISTEN}, environ={})).peer_config()
    assert asked.listen_explicit and not asked.http_explicit
    assert PeerConfig(data_dir=tmp_path, listen="127.0.0.1:0").listen_explicit


async def test_bootstrap_peers_in_the_environment_are_separated_by_commas_or_spaces(tmp_path):
    settings = await load_settings({"data_dir": tmp_path}, environ={"P2PMODEL_BOOTSTRAP": "a.example:1, 10.0.0.1:2"})
    assert settings.peer_config().bootstrap == ("a.example:1", "10.0.0.1:2")


async def test_a_network_file_is_found_from_the_file_that_names_it(tmp_path):
    write(tmp_path / "networks/lab.toml", 'name = "lab"\nbootstrap = ["10.0.0.1:1"]\nprofile = "cluster"')
    write(tmp_path / "config.toml", 'network = "networks/lab.toml"')
    config = (await load_settings({"data_dir": tmp_path}, environ={})).peer_config()
    assert config.network == NetworkConfig(name="lab", bootstrap=("10.0.0.1:1",), profile="cluster")
    assert config.entry_peers == ("10.0.0.1:1",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("bootstrap = []", "name is missing"),
        ('name = "a"\nseeds = []', "unknown key 'seeds'"),
        ('name = "A b"', "is not a network's name"),
        ('name = "a"\nprofile = "moon"', "'cluster' or 'internet'"),
        ('name = "a"\nbootstrap = ["x"]', "is not HOST:PORT"),
        ('name = "a"\nbootstrap = ["10.0.0.1:0"]', "a port from 1 to 65535"),
        ("name = 3", "name: expected text"),
    ],
)
async def test_a_wrong_network_file_is_refused_with_its_name(tmp_path, content, said):
    path = write(tmp_path / "network.toml", content)
    with pytest.raises(UsageError) as caught:
        await load_network(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


async def test_a_network_file_that_is_missing_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match=r"network\.toml"):
        await load_network(tmp_path / "network.toml")


def test_a_command_takes_a_free_port_and_offline_enters_no_network(tmp_path):
    network = NetworkConfig(name="lab", bootstrap=("10.0.0.1:1",))
    config = PeerConfig(data_dir=tmp_path, listen="[::1]:8764", bootstrap=("10.0.0.2:1",), network=network)
    online, offline = config.for_one_command(offline=False), config.for_one_command(offline=True)
    assert (online.listen, online.http, len(online.entry_peers)) == ("[::1]:0", None, 2)
    assert (offline.listen, offline.http, offline.entry_peers) == ("127.0.0.1:0", None, ())
    assert offline.network.name == "lab"


@pytest.mark.parametrize(
    "wrong",
    [{"listen": "x"}, {"http": "x"}, {"bootstrap": ("x",)}, {"encryption": "no"}, {"upload_limit_bytes_per_s": 0}],
)
def test_a_configuration_is_valid_or_does_not_exist(tmp_path, wrong):
    with pytest.raises(UsageError):
        PeerConfig(data_dir=tmp_path, **wrong)


async def test_upload_slots_are_a_number_from_anywhere_or_left_to_be_measured(tmp_path):
    for flags, environ, wanted in (
        ({}, {}, None),
        ({"upload_slots": "auto"}, {"P2PMODEL_UPLOAD_SLOTS": "3"}, None),
        ({}, {"P2PMODEL_UPLOAD_SLOTS": "3"}, 3),
        ({"upload_slots": "12"}, {"P2PMODEL_UPLOAD_SLOTS": "3"}, 12),
    ):
        settings = await load_settings({"data_dir": tmp_path, **flags}, environ=environ)
        assert settings.peer_config().upload_slots == wanted
    (tmp_path / "config.toml").write_text("upload_slots = 5\n")
    assert (await load_settings({"data_dir": tmp_path}, environ={})).peer_config().upload_slots == 5
    for wrong in ("0", "-1", "65", "many", "9" * 400):
        with pytest.raises(UsageError, match="--upload-slots: expected 'auto' or a number"):
            await load_settings({"data_dir": tmp_path, "upload_slots": wrong}, environ={})


async def test_whether_to_be_a_client_only_is_found_out_unless_somebody_says(tmp_path):
    assert (await load_settings({"data_dir": tmp_path}, environ={})).peer_config().client_only is None
    for flags, environ, wanted in (
        ({"client_only": True}, {}, True),
        ({}, {"P2PMODEL_CLIENT_ONLY": "1"}, True),
        ({}, {"P2PMODEL_CLIENT_ONLY": "no"}, False),
    ):
        settings = await load_settings({"data_dir": tmp_path, **flags}, environ=environ)
        assert settings.peer_config().client_only is wanted
