"""Loading: tensors of a model that is not here yet, beside a download alone and a download that is loaded afterwards.

The model is one safetensors file of random bytes, served by a daemon of its own on loopback, encrypted as by default.
Each contender is a process of its own whose peer is up and has shaken hands before the clock starts, and whose
libraries are imported. "touched" reads a byte of each page of each tensor as well, for tensors that are views of a file
cost nothing before. The second table loads a model that is whole on this disk, with warm pages.

torch where it is installed, else numpy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import MIB, BenchmarkError, WarmPages, child
from tests.benchmarks.report import Line, at_most, spread, table

_SIZE_MAX_BYTES = 1 << 30
"""As the scorecard has it; a larger one would only take longer."""
_WARM_FROM_BYTES = 64 * MIB
_TENSORS = 128
_TIMEOUT_S = 300.0
_TOUCH = """
def touch(tensors):
    total = 0
    for tensor in tensors:
        total += int(tensor.reshape(-1).view(uint8)[::4096].sum())
    return total
"""
FAR = {
    "download": """
began = time.perf_counter()
p2pmodel.snapshot_download(model, peers=peers)
told["seconds"] = time.perf_counter() - began
""",
    "download, then load_file": """
began = time.perf_counter()
place = p2pmodel.snapshot_download(model, peers=peers)
state = load_file(os.path.join(place, "model.safetensors"))
told["seconds"] = time.perf_counter() - began
touch(state.values())
told["touched"] = time.perf_counter() - began
""",
    "load_state_dict": """
began = time.perf_counter()
state = p2pmodel.load_state_dict(model, framework=framework, peers=peers)
told["seconds"] = time.perf_counter() - began
touch(state.values())
told["touched"] = time.perf_counter() - began
""",
    "iter_tensors": """
began, state = time.perf_counter(), {}
for name, tensor in p2pmodel.iter_tensors(model, framework=framework, peers=peers):
    told.setdefault("first", time.perf_counter() - began)
    state[name] = tensor
told["seconds"] = time.perf_counter() - began
touch(state.values())
told["touched"] = time.perf_counter() - began
""",
}
NEAR = {
    "load_state_dict": "state = p2pmodel.load_state_dict(model, framework=framework, peers=peers)",
    "load_state_dict, mapped=False": (
        "state = p2pmodel.load_state_dict(model, framework=framework, peers=peers, mapped=False)"
    ),
    "safetensors load_file": "state = load_file(path)",
    "runai-model-streamer": "state = streamed(path)",
    "fastsafetensors": "state = opened(path)",
}
_BEFORE = {
    "runai-model-streamer": """
from runai_model_streamer import SafetensorsStreamer
def streamed(path):
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}
streamed(path + ".tiny")
""",
    "fastsafetensors": """
from fastsafetensors import fastsafe_open
kept = []
def opened(path):
    kept.append(fastsafe_open(filenames=[path], nogds=True, device="cpu"))
    kept[-1].__enter__()
    return {name: kept[-1].get_tensor(name) for name in kept[-1].keys()}
opened(path + ".tiny")
""",
}
"""What a contender does before the clock starts, with a file of a few kilobytes: its first use takes up to a minute."""
_NEEDS = {"runai-model-streamer": "runai_model_streamer", "fastsafetensors": "fastsafetensors"}
_FRAME = """
import json, os, sys, time
model, peer, path, framework = sys.argv[1:5]
peers, told = [peer], {{}}
import p2pmodel
from p2pmodel.loading.engine import engine_for
if framework == "pt":
    import torch
    from safetensors.torch import load_file
    uint8 = torch.uint8
else:
    from numpy import uint8
    from safetensors.numpy import load_file
{touch}
p2pmodel.snapshot_download, p2pmodel.load_state_dict, p2pmodel.iter_tensors  # imported, as the others are
engine = engine_for()
async def ready():
    from p2pmodel.peer.requests import ShowRequest
    async with engine.service() as service:
        return await service.show(ShowRequest(ref=model, peers=peers))
engine.run(ready())
{work}
print(json.dumps(told), flush=True)
engine.close()
os._exit(0)
"""


@dataclass(slots=True)
class Loading:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    size_bytes: int
    repeat: int
    tell: Callable[[str], None]
    warm: bool = True
    """Pages for what is written are kept ready, as `transfer` does it."""
    samples: dict[tuple[str, str], list[dict[str, float]]] = field(default_factory=dict)
    """Seconds, by "far" or "near" and contender."""

    def __post_init__(self) -> None:
        self.size_bytes = min(self.size_bytes, _SIZE_MAX_BYTES)

    def missing(self) -> str:
        absent = [name for name in ("numpy", "safetensors") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(absent)} not installed" if absent else ""

    @property
    def framework(self) -> str:
        return "pt" if importlib.util.find_spec("torch") is not None else "np"

    def _absent(self, name: str) -> bool:
        needs = _NEEDS.get(name)
        return needs is not None and (self.framework != "pt" or importlib.util.find_spec(needs) is None)

    def run(self, work: Path) -> None:
        """Raises `BenchmarkError` where a contender fails."""
        root = work / "model"
        self.tell(f"writing {self.size_bytes:,} bytes")
        make_model(root / "model.safetensors", self.size_bytes)
        with _serving(work, root) as (peer, model):
            for number in range(self.repeat):
                for name, code in FAR.items():
                    self._sample(work, "far", name, code, (model, peer, root / "model.safetensors"), number)
            here = _data_dir(work, "near")
            argv = (model, peer, here / "models" / model / "model.safetensors")
            make_model(work / "tiny" / "model.safetensors", _TENSORS * 2048)
            _timed(_FRAME.format(touch=_TOUCH, work=FAR["download"]), here, (*argv, self.framework))
            shutil.copy(work / "tiny" / "model.safetensors", f"{argv[2]}.tiny")
            for number in range(self.repeat):
                for name, code in NEAR.items():
                    if not self._absent(name):
                        timed = f"{_BEFORE.get(name, '')}\nbegan = time.perf_counter()\n{code}\n{_MEASURED}"
                        self._sample(work, "near", name, timed, argv, number)

    def _sample(self, work: Path, where: str, name: str, code: str, argv: tuple[object, ...], number: int) -> None:
        place = work / "near" if where == "near" else _data_dir(work, "far")
        warm = WarmPages(work / "ballast", self.size_bytes)
        with ExitStack() as released:
            if self.warm and where == "far" and self.size_bytes >= _WARM_FROM_BYTES:
                warm.fill()
                released.enter_context(warm.released_ahead())
            took = _timed(_FRAME.format(touch=_TOUCH, work=code), place, (*argv, self.framework))
        self.samples.setdefault((where, name), []).append(took)
        self.tell(f"{where}, {number + 1} of {self.repeat}: {name} {took['seconds']:.2f} s")
        if where == "far":
            shutil.rmtree(place)

    def _of(self, where: str, name: str, what: str) -> list[float]:
        return [sample[what] for sample in self.samples.get((where, name), []) if what in sample]

    def tables(self) -> list[str]:
        far = [
            (name, *(spread(self._of("far", name, what)) for what in ("first", "seconds", "touched"))) for name in FAR
        ]
        near = [
            (name, *(["not installed"] * 2))
            if self._absent(name)
            else (name, *(spread(self._of("near", name, what)) for what in ("seconds", "touched")))
            for name in NEAR
        ]
        said = f"{self.size_bytes:,} bytes in {_TENSORS} tensors, {'torch' if self.framework == 'pt' else 'numpy'}"
        return [
            said,
            "",
            *table(["not here yet", "first tensor s", "all s", "all, touched s"], far),
            "",
            *table(["whole on this disk", "all s", "all, touched s"], near),
        ]

    def disturbance(self) -> str:
        return f"load average in the end: {os.getloadavg()[0]:.1f}"

    def _ratio(self, name: str, what: str, to: str, to_what: str = "seconds") -> float | None:
        """The median of the ratios within a turn."""
        ours, other = self._of("far", name, what), self._of("far", to, to_what)
        return median(a / b for a, b in zip(ours, other, strict=True)) if ours and other else None

    def lines(self) -> list[Line]:
        after = "download, then load_file"
        return [
            at_most(
                "P10", "first tensor, of a download's time", self._ratio("iter_tensors", "first", "download"), 0.1, "x"
            ),
            at_most(
                "P10",
                "load_state_dict, of a download",
                self._ratio("load_state_dict", "seconds", "download"),
                1.15,
                "x",
            ),
            at_most(
                "P10", "iter_tensors, of a download", self._ratio("iter_tensors", "seconds", "download"), 1.15, "x"
            ),
            at_most(
                "P10",
                "load_state_dict and touched, of a download that is loaded and touched",
                self._ratio("load_state_dict", "touched", after, "touched"),
                1.15,
                "x",
            ),
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "size_bytes": self.size_bytes,
            "framework": self.framework,
            "samples": [{"where": at[0], "contender": at[1], "samples": all_} for at, all_ in self.samples.items()],
            "not_installed": [name for name in NEAR if self._absent(name)],
            "lines": [line.as_json() for line in self.lines()],
        }


_MEASURED = """
told["seconds"] = time.perf_counter() - began
touch(state.values())
told["touched"] = time.perf_counter() - began
"""


def make_model(path: Path, size_bytes: int) -> None:
    """Equal tensors of random float16, one after the other."""
    path.parent.mkdir(parents=True)
    each = size_bytes // _TENSORS // 2048 * 2048
    header = {
        f"layers.{number}.weight": {
            "dtype": "F16",
            "shape": [each // 2048, 1024],
            "data_offsets": [number * each, (number + 1) * each],
        }
        for number in range(_TENSORS)
    }
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(_TENSORS):
            file.write(os.urandom(each))
        os.fsync(file.fileno())


def _data_dir(work: Path, name: str) -> Path:
    place = work / name
    place.mkdir()
    network = work / "network.toml"
    network.write_text('name = "benchmark"\nprofile = "cluster"\nbootstrap = []\n')
    (place / "config.toml").write_text(f'listen = "127.0.0.1:0"\nhttp = "off"\nlan = false\nnetwork = "{network}"\n')
    return place


@contextmanager
def _serving(work: Path, root: Path) -> Iterator[tuple[str, str]]:
    """A daemon with the model; its address and the model's id."""
    place = _data_dir(work, "seed")
    program = [sys.executable, "-m", "p2pmodel"]
    with child([*program, "daemon", "--data-dir", place, "--json"], work / "seed.log") as daemon:
        peer = str(daemon.hear()["listen"])
        done = subprocess.run(
            [*program, "publish", str(root), "-q", "--data-dir", str(place)], capture_output=True, text=True, check=True
        )
        yield peer, done.stdout.strip()


def _timed(program: str, place: Path, argv: tuple[object, ...]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, "P2PMODEL_DATA_DIR": str(place)},
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"a contender of `loading` failed: {done.stderr[-2000:]}")
    return {name: float(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
