"""`id`, `key`, `trust`, `config`: what works with no peer at all."""

import json
import stat


async def test_the_data_directory_may_stand_before_or_after_the_command(p2pmodel, tmp_path):
    before = await p2pmodel("--data-dir", tmp_path / "x", "id")
    after = await p2pmodel("id", "--data-dir", tmp_path / "x", "--json")
    other = await p2pmodel("id")
    assert json.loads(after.out)["peer_id"] == before.out.strip() != other.out.strip()
    assert len(before.out.strip()) == 52 and before.err == ""
    assert (await p2pmodel("id", "--data-dir", tmp_path / "x", "-q")).out == before.out


async def test_keys_are_made_listed_and_exported(p2pmodel):
    made = await p2pmodel("key", "new", "work")
    assert made.code == 0 and "keep a copy" in made.err
    public = made.out.strip()
    listed = json.loads((await p2pmodel("key", "ls", "--json")).out)["keys"]
    assert [(key["name"], key["public_key"]) for key in listed] == [("work", public)]
    assert stat.S_IMODE((p2pmodel.data_dir / "keys/publisher/work.pem").stat().st_mode) == 0o600
    assert (await p2pmodel("key", "export", "work")).out.strip() == public
    assert "PRIVATE KEY" in (await p2pmodel("key", "export", "work", "--secret")).out
    assert (await p2pmodel("key", "ls", "-q")).out.strip() == public
    again = await p2pmodel("key", "new", "work")
    assert again.code == 8 and "never overwritten" in again.err
    assert (await p2pmodel("key", "export", "default")).code == 3


async def test_trust_is_added_listed_and_taken_back(p2pmodel):
    key = (await p2pmodel("key", "new", "-q")).out.strip()
    assert (await p2pmodel("trust", "add", key, "alice")).code == 0
    assert (await p2pmodel("trust", "ls")).out.split() == ["ALIAS", "KEY", "alice", key]
    assert (await p2pmodel("trust", "rm", "alice")).out.strip() == key
    assert json.loads((await p2pmodel("trust", "ls", "--json")).out) == {"keys": []}
    gone = await p2pmodel("trust", "rm", "alice")
    assert gone.code == 3 and "alice" in gone.err


async def test_config_show_says_where_each_value_comes_from(p2pmodel, tmp_path):
    p2pmodel.data_dir.mkdir()
    (p2pmodel.data_dir / "config.toml").write_text('upload_limit = "1MiB"')
    result = await p2pmodel("config", "show", "--json", environment={"P2PMODEL_LISTEN": "127.0.0.1:9"})
    shown = json.loads(result.out)
    assert shown["listen"] == {"value": "127.0.0.1:9", "origin": "environment P2PMODEL_LISTEN"}
    assert shown["upload_limit"] == {"value": 1 << 20, "origin": str(p2pmodel.data_dir / "config.toml")}
    assert shown["http"]["origin"] == "default"
    text = (await p2pmodel("config", "show")).out
    assert "1048576 bytes/s" in text and str(p2pmodel.data_dir) in text


async def test_config_show_writes_sizes_as_a_person_would_and_never_python(p2pmodel):
    shown = await p2pmodel("config", "show", environment={"P2PMODEL_CACHE_QUOTA": "3GiB"})
    values = {line.split("  ")[0]: line for line in shown.out.splitlines()}
    assert "3.0 GiB" in values["cache_quota"] and "256.0 MiB" in values["free_disk_floor"]
    assert " off " in values["cache"] and "None" not in shown.out


async def test_a_wrong_configuration_stops_every_command_with_its_place(p2pmodel):
    p2pmodel.data_dir.mkdir()
    (p2pmodel.data_dir / "config.toml").write_text("colour = 1")
    for command in ("daemon", "ls", "id", "status"):
        result = await p2pmodel(command)
        assert result.code == 2 and "config.toml: unknown key 'colour'" in result.err
