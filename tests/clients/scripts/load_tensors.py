"""Run by a Python with torch, pandas and datasets: models out of the swarm beside the same in a local folder.

`make ROOT` writes the model, `check ID ROOT` compares; the second prints how many comparisons held, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import p2pmodel
from p2pmodel.errors import UsageError

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


class Net(torch.nn.Module):
    """With tied weights, which a file has once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(64, 32)
        self.inner = torch.nn.Linear(32, 32)
        self.head = torch.nn.Linear(32, 64, bias=False)
        self.head.weight = self.embed.weight


def make(root: Path) -> None:
    torch.manual_seed(7)
    one = {
        "bf16": torch.randn(512, 1024).to(torch.bfloat16),
        "fp8": torch.randn(64, 64).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.5),
        "flags": torch.tensor([True, False, True]),
    }
    other = {"half": torch.randn(300, 700).half(), "numbers": torch.arange(1000), "none": torch.empty(0, 3)}
    root.mkdir(parents=True, exist_ok=True)
    for shard, tensors in zip(SHARDS, (one, other), strict=True):
        save_file(tensors, root / shard)
    weight_map = dict.fromkeys(one, SHARDS[0]) | dict.fromkeys(other, SHARDS[1])
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (root / "net").mkdir()
    state = {name: tensor for name, tensor in Net().state_dict().items() if name != "head.weight"}
    save_file(state, root / "net" / "net.safetensors")
    (root / "data").mkdir()
    table = pandas.DataFrame({"text": [f"line {n}" for n in range(5000)], "number": range(5000)})
    table.to_parquet(root / "data" / "train.parquet")
    table.to_csv(root / "data" / "train.csv", index=False)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    bytes_ = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (ours, theirs)]
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(*bytes_)


def check_tensors(model: str, root: Path) -> int:
    local = {name: tensor for shard in SHARDS for name, tensor in load_file(root / shard).items()}
    came = dict(p2pmodel.iter_tensors(model, mapped=False))
    assert came.keys() == local.keys()
    state = p2pmodel.load_state_dict(model)
    read = p2pmodel.load_state_dict(model, mapped=False)
    for name, tensor in local.items():
        assert same(came[name], tensor) and same(state[name], tensor) and same(read[name], tensor), name
    state["bf16"].zero_()  # a private view: the file stays as it is
    assert same(p2pmodel.load_state_dict(model, names=["bf16"])["bf16"], local["bf16"])
    with p2pmodel.safe_open(f"{model}/{SHARDS[0]}") as ours, safe_open(root / SHARDS[0], "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())
        for index in (slice(10, 20), (slice(None), slice(256, 512)), (Ellipsis, slice(5)), 3):
            assert same(ours.get_slice("bf16")[index], theirs.get_slice("bf16")[index]), index
    return 3 * len(local) + 5


def check_modules(model: str) -> int:
    net = Net()
    before = net.inner.weight.data_ptr()
    assert p2pmodel.load_into(net, f"{model}/net/net.safetensors") == ([], [])
    torch.manual_seed(7)
    wanted = p2pmodel.load_state_dict(f"{model}/net/net.safetensors")
    assert all(same(net.state_dict()[name], tensor) for name, tensor in wanted.items())
    assert net.head.weight is net.embed.weight and net.inner.weight.data_ptr() == before
    half = Net().half()
    p2pmodel.load_into(half, f"{model}/net/net.safetensors")
    assert same(half.inner.weight.data, wanted["inner.weight"].half())
    for wrong in (torch.nn.Linear(32, 32), torch.nn.Sequential()):
        try:
            p2pmodel.load_into(wrong, f"{model}/net/net.safetensors")
        except UsageError:
            continue
        raise AssertionError("it was loaded into a module that it does not fit")
    return 5


def check_data(model: str, root: Path) -> int:
    import datasets
    import pyarrow.parquet
    from fsspec import filesystem

    local = pandas.read_parquet(root / "data" / "train.parquet")
    where = f"p2pmodel://{model}/data/train"
    assert pandas.read_parquet(f"{where}.parquet").equals(local)
    assert pandas.read_csv(f"{where}.csv").equals(local)
    table = pyarrow.parquet.read_table(f"{model}/data/train.parquet", filesystem=filesystem("p2pmodel"))
    assert table.to_pandas().equals(local)
    loaded = datasets.load_dataset("parquet", data_files=f"{where}.parquet", split="train")
    assert loaded[4999] == {"text": "line 4999", "number": 4999}
    streamed = datasets.load_dataset("parquet", data_files=f"{where}.parquet", split="train", streaming=True)
    assert [row["number"] for row in streamed.take(3)] == [0, 1, 2]
    return 5


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        model, root = sys.argv[2], Path(sys.argv[3])
        held = check_tensors(model, root) + check_modules(model) + check_data(model, root)
        print(json.dumps({"held": held}))  # noqa: T201
