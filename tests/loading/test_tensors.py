"""Tensors of models that are not here when they are asked for, in numpy; torch has its tests in `tests/clients`."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loading_models import MIB, safetensors_file, sharded, weights

import p2pmodel
from p2pmodel.errors import FetchTimeoutError, MalformedModelError, NotFoundError, UsageError
from p2pmodel.loading.opened import open_model

pytestmark = pytest.mark.slow


def test_all_tensors_of_a_file_are_those_that_were_saved(publisher, here, tmp_path):
    made = weights(6) | {"scalar": np.array(3.5), "empty": np.zeros((0, 4), np.int64), "bits": np.array([True, False])}
    model = publisher.publish({"model.safetensors": safetensors_file(made, tmp_path)})
    found = p2pmodel.load_state_dict(model, framework="np")
    assert found.keys() == made.keys()
    for name, array in made.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def test_a_sharded_model_is_one_model(publisher, here, tmp_path):
    made = weights(8, rows=64)
    model = publisher.publish(sharded(made, 3, tmp_path))
    found = dict(p2pmodel.iter_tensors(model, framework="np"))
    assert found.keys() == made.keys()
    assert all(np.array_equal(found[name], array) for name, array in made.items())
    with p2pmodel.safe_open(model, framework="np") as opened:
        assert set(opened.keys()) == set(made)
        assert np.array_equal(opened.get_tensor("layers.4.weight"), made["layers.4.weight"])


def test_only_the_tensors_that_were_named_are_fetched(publisher, here, tmp_path):
    made = weights(12)
    model = publisher.publish({"model.safetensors": safetensors_file(made, tmp_path)})
    before = publisher.bytes_sent
    found = p2pmodel.load_state_dict(model, names=["layers.3.weight", "layers.7.weight"], framework="np")
    assert list(found) == ["layers.3.weight", "layers.7.weight"]
    assert np.array_equal(found["layers.7.weight"], made["layers.7.weight"])
    assert publisher.bytes_sent - before < 3 * MIB
    assert list(p2pmodel.load_state_dict(model, names="layers.1*", framework="np")) == [
        "layers.1.weight",
        "layers.10.weight",
        "layers.11.weight",
    ]


def test_each_of_two_ranks_fetches_its_half_of_every_matrix(publisher, here, tmp_path):
    made = {f"w{n}": array for n, array in enumerate(weights(3, rows=2048).values())}
    data = safetensors_file(made, tmp_path)
    model = publisher.publish({"model.safetensors": data})
    before = publisher.bytes_sent
    with p2pmodel.safe_open(f"{model}/model.safetensors", framework="np") as opened:
        for name, array in made.items():
            part = opened.get_slice(name)
            assert (part.get_shape(), part.get_dtype()) == ([2048, 1024], "F32")
            assert np.array_equal(part[1024:], array[1024:])
    assert publisher.bytes_sent - before < len(data) / 2 + MIB


def test_any_index_gives_what_numpy_gives(publisher, here, tmp_path):
    array = np.arange(7 * 5 * 6 * 4, dtype=np.int32).reshape(7, 5, 6, 4)
    model = publisher.publish({"model.safetensors": safetensors_file({"x": array}, tmp_path)})
    with p2pmodel.safe_open(model, framework="np") as opened:
        x = opened.get_slice("x")
        for index in np.index_exp[2:5], np.index_exp[:, 1:4], np.index_exp[..., 2], np.index_exp[3, ..., 1:3]:
            assert np.array_equal(x[index], array[index])
        for index in np.index_exp[1:6:2, :, ::3], np.index_exp[-1], np.index_exp[:, :, 5:2], np.index_exp[...]:
            assert np.array_equal(x[index], array[index])
        for wrong in np.index_exp[7], np.index_exp[0, 0, 0, 0, 0], np.index_exp[::-1], np.index_exp[[1, 2]]:
            with pytest.raises(UsageError):
                x[wrong]


def test_columns_of_a_wide_matrix_are_the_right_ones(publisher, here, tmp_path):
    array = weights(1, rows=300, columns=40_000)["layers.0.weight"]
    model = publisher.publish({"model.safetensors": safetensors_file({"x": array}, tmp_path)})
    with p2pmodel.safe_open(model, framework="np") as opened:
        assert np.array_equal(opened.get_slice("x")[:, 10_000:10_007], array[:, 10_000:10_007])
        assert np.array_equal(opened.get_slice("x")[3:200, 0:39_990], array[3:200, 0:39_990])


def test_in_file_order_tensors_come_as_they_lie_and_memory_is_bounded(publisher, here, tmp_path):
    made = weights(10)
    model = publisher.publish({"model.safetensors": safetensors_file(made, tmp_path)})
    came = [name for name, _ in p2pmodel.iter_tensors(model, framework="np", order="file", max_buffer=MIB)]
    with p2pmodel.safe_open(model, framework="np") as opened:
        assert came == opened.offset_keys()


def test_what_was_located_elsewhere_in_a_file_is_not_taken_for_what_is_read(publisher, here, tmp_path):
    model = publisher.publish({"weights.bin": bytes(range(256)) * 4096 + bytes(MIB)})
    with open_model(model) as opened:
        (place,) = opened.locate("weights.bin", 0, MIB).result()
        buffer = memoryview(bytearray(16))
        assert opened.fill([place], 16, buffer) and bytes(buffer) == bytes(range(16, 32))
        assert not opened.fill([place], MIB, buffer)
        assert not opened.fill([place], MIB - 8, buffer)


def test_whoever_stops_in_the_middle_leaves_the_rest_where_it_is(publisher, here, tmp_path):
    made = weights(16)
    model = publisher.publish({"model.safetensors": safetensors_file(made, tmp_path)})
    tensors = p2pmodel.iter_tensors(model, framework="np")
    name, array = next(tensors)
    tensors.close()
    assert np.array_equal(array, made[name])
    assert p2pmodel.load_state_dict(model, framework="np").keys() == made.keys()


def test_a_snapshot_after_the_tensors_were_read_moves_nothing_more(publisher, here, tmp_path):
    made = weights(6)
    model = publisher.publish({"model.safetensors": safetensors_file(made, tmp_path), "config.json": b"{}"})
    p2pmodel.load_state_dict(model, framework="np")
    before = publisher.bytes_sent
    place = p2pmodel.snapshot_download(model, allow_patterns="*.safetensors")
    assert publisher.bytes_sent - before < MIB
    assert (here / "models" / model / "model.safetensors").is_file() and place == str(here / "models" / model)


def test_what_the_hub_calls_metadata_is_told_without_the_tensors(publisher, here, tmp_path):
    made = weights(4)
    model = publisher.publish(sharded(made, 2, tmp_path))
    before = publisher.bytes_sent
    told = p2pmodel.get_safetensors_metadata(model)
    assert publisher.bytes_sent - before < MIB
    assert told.sharded and told.parameter_count == {"F32": 4 * 256 * 1024}
    assert told.weight_map["layers.1.weight"] == "model-00002-of-00002.safetensors"
    file = told.files_metadata["model-00001-of-00002.safetensors"]
    assert file.tensors["layers.0.weight"].shape == [256, 1024]
    assert file.tensors["layers.0.weight"].data_offsets == (0, MIB)


def test_a_tensor_that_is_none_is_told_with_those_that_are_like_it(publisher, here, tmp_path):
    model = publisher.publish({"model.safetensors": safetensors_file(weights(3, rows=2), tmp_path)})
    with p2pmodel.safe_open(model, framework="np") as opened, pytest.raises(NotFoundError, match=r"layers\.1\.weight"):
        opened.get_tensor("layer.1.weight")
    with pytest.raises(NotFoundError, match=r"no tensor 'layer\.\*'; there is"):
        p2pmodel.load_state_dict(model, names="layer.*", framework="np")
    with pytest.raises(NotFoundError, match="no tensor 'nothing'"):
        p2pmodel.load_state_dict(model, names=["nothing"], framework="np")
    with pytest.raises(UsageError, match="framework"):
        p2pmodel.safe_open(model, framework="jax")


def test_it_works_from_within_a_running_event_loop_and_from_threads(publisher, here, tmp_path):
    made = weights(2)
    model = publisher.publish({"model.safetensors": safetensors_file(made, tmp_path)})

    async def notebook():
        here_and_now = p2pmodel.load_state_dict(model, framework="np")
        in_a_thread = await asyncio.to_thread(p2pmodel.load_state_dict, model, framework="np")
        return here_and_now.keys() == in_a_thread.keys() == made.keys()

    assert asyncio.run(notebook())


def test_numpy_says_what_it_needs_for_types_that_it_does_not_have(publisher, here):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode().ljust(72)
    data = struct.pack("<Q", len(header)) + header + b"\x80\x3f\x00\x40"
    model = publisher.publish({"model.safetensors": data})
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="ml_dtypes"):
            p2pmodel.load_state_dict(model, framework="np")
    else:
        assert p2pmodel.load_state_dict(model, framework="np")["x"].tolist() == [1.0, 2.0]


def header_of(**fields) -> bytes:
    text = json.dumps(fields).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("model.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
        ("model.safetensors", b"tiny"),
        (
            "model.safetensors",
            header_of(x={"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}) + b"aaaa",
        ),
        ("model.safetensors", header_of(x={"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}) + b"aaaa"),
        ("model.safetensors", header_of(x={"dtype": "WHAT", "shape": [1], "data_offsets": [0, 4]}) + b"aaaa"),
        ("model.safetensors", header_of(x={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}) + b"aaaabbbb"),
        ("model.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0)),
        ("model.safetensors.index.json", b'{"weight_map": {"x": "../../etc/passwd"}}'),
        ("model.safetensors.index.json", b'{"weight_map": {"x": 7}}'),
        ("model.safetensors.index.json", b"[" * 100_000),
    ],
)
def test_a_file_that_lies_about_itself_is_refused_with_its_name(publisher, here, path, data):
    model = publisher.publish({path: data})
    with pytest.raises(MalformedModelError):
        p2pmodel.load_state_dict(model, framework="np")


def test_gguf_tensors_are_as_the_gguf_package_reads_them(publisher, here, tmp_path):
    import gguf

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    plain, quantised = weights(1, rows=6, columns=64)["layers.0.weight"], np.arange(2 * 34, dtype=np.uint8)
    writer.add_tensor("plain", plain)
    writer.add_tensor("half", plain.astype(np.float16))
    writer.add_tensor("blocks", quantised.reshape(2, 34), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = publisher.publish({"m.gguf": path.read_bytes()})
    found = p2pmodel.load_state_dict(model, framework="np")
    theirs = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert found.keys() == theirs.keys()
    for name, array in theirs.items():
        assert found[name].shape == array.shape and np.array_equal(found[name], array)


def test_a_snapshot_takes_the_arguments_of_the_hub(publisher, here, tmp_path):
    files = {"config.json": b"{}", "model.bin": b"x" * 1000, "sub/notes.txt": b"notes"}
    model = publisher.publish(files)
    out = tmp_path / "out"
    report = p2pmodel.snapshot_download(model, dry_run=True)
    assert report.bytes_total == 1007
    with pytest.raises(NotFoundError, match="local_files_only"):
        p2pmodel.snapshot_download(model, local_files_only=True)
    place = p2pmodel.snapshot_download(model, local_dir=out, ignore_patterns=["*.bin"], token="hf_x", max_workers=4)
    assert place == str(out)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["config.json", "notes.txt"]
    again = p2pmodel.snapshot_download(model, local_files_only=True, allow_patterns="*.json", cache_dir=tmp_path / "c")
    assert again == str(tmp_path / "c" / model)
    for wrong in {"repo_type": "film"}, {"no_such": 1}:
        with pytest.raises(UsageError):
            p2pmodel.snapshot_download(model, **wrong)


def test_a_model_that_is_published_here_is_not_copied_but_where_it_lies(here, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    (source / "config.json").write_bytes(b"{}")
    command = [sys.executable, "-m", "p2pmodel", "publish", source, "-q", "--data-dir", here]
    model = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert p2pmodel.snapshot_download(model) == str(source)
    assert not (here / "models").exists()
    copied = Path(p2pmodel.snapshot_download(model, local_dir=tmp_path / "copy"))
    assert (copied / "config.json").read_bytes() == b"{}" and copied != source
    (source / "config.json").write_bytes(b"[]")  # it is the model no longer; the copy is
    assert Path(p2pmodel.snapshot_download(model)) not in (source, copied)


def test_a_snapshot_of_what_nobody_has_takes_no_longer_than_it_may(publisher, here):
    with pytest.raises(FetchTimeoutError):
        p2pmodel.snapshot_download("ab" * 32, timeout=0.2)


def test_importing_it_brings_neither_torch_nor_numpy_nor_an_http_client():
    import subprocess
    import sys

    code = "import sys, p2pmodel; p2pmodel.load_state_dict, p2pmodel.safe_open, p2pmodel.snapshot_download;"
    code += "print([name for name in ('torch', 'numpy', 'aiohttp', 'sqlite3') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
