"""A synthetic trace of what a cache of models is asked for, chunk by chunk. The same seed gives the same trace.

No public trace of model downloads says which part of which file was asked for, so this one is made, from facts that are
published, each with the number that stands for it here:

- *Popularity is Zipf-like.* Of the models of the Hugging Face Hub 1 % have 99 % of the downloads, over 70 % have none
  (Osborne, Ding and Kirk, 2024); layers of container images are as skewed (Anwar et al., FAST 2018); Web proxies saw
  exponents of 0.64 to 0.83 (Breslau et al., INFOCOM 1999). Here: exponent 0.9 over the models.
- *Most of what is asked for, is asked for once*: a median of 26 % of all objects over whole traces, 72 % over a tenth
  of them (Yang et al., S3-FIFO, SOSP 2023). Here: a fifth of all requests is for a model that nobody asks for again.
- *Releases come in bursts*: a model is asked for most when it is new. Here: eleven times its later rate at first,
  falling with a time constant of 4 % of the trace.
- *A model is read from its first to its last byte*, by several readers at once. Here: 78 % of requests, six at a time.
- *Some want a part*: a tensor, the layers of one host, a header. Here: 14 % a slice of 1 to 10 %, 6 % the first chunk.
- *Somebody mirrors everything.* Here: 2 % of requests begin a walk over twelve models that happen to be next.
- *Fine-tunes share chunks with their base*: 0, 49, 85 or 99 % of them, as far as weights are left alone (the kinds of
  scorecard line E8). Here: five fine-tunes to a base on average, and chunks are known by their content.

A chunk stands for 32 MiB; sizes of models are log-normal around 3 GB, from 256 MB to 64 GB.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

BASES = 100
TUNES_MEAN = 5
EXPONENT = 0.9
BURST, BURST_TIME = 10.0, 0.04
ONCE_PART = 0.2
WHOLE_PART, SLICE_PART, HEAD_PART = 0.78, 0.14, 0.06
MIRRORED = 12
SHARED_PARTS = (0.0, 0.49, 0.85, 0.99)
CHUNKS_MEDIAN, CHUNKS_SPREAD, CHUNKS_MIN, CHUNKS_MAX = 96, 1.0, 8, 2048
AT_ONCE = 6
EPOCHS = 100
"""Popularity is reckoned anew so often."""


@dataclass(frozen=True, slots=True)
class Model:
    chunks: range | tuple[int, ...]
    """By content: numbers that other models may have as well."""
    released: float
    """As a part of the trace."""
    weight: float


@dataclass(frozen=True, slots=True)
class Trace:
    accesses: array[int]
    """Chunk numbers, in the order in which they are asked for."""
    chunks: int
    """Different ones that the models in the catalogue have."""
    unpopular: frozenset[int]
    """Chunks of the less popular half of models alone: those that no other peer is likely to hold."""


class _Numbers:
    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> range:
        taken = range(self.next, self.next + count)
        self.next += count
        return taken


def _size(rng: Random) -> int:
    size = math.exp(rng.gauss(math.log(CHUNKS_MEDIAN), CHUNKS_SPREAD))
    return round(min(max(size, CHUNKS_MIN), CHUNKS_MAX))


def _models(rng: Random, numbers: _Numbers) -> list[Model]:
    shapes: list[tuple[range | tuple[int, ...], float]] = []
    for _ in range(BASES):
        base, released = numbers.take(_size(rng)), rng.uniform(-1.0, 0.9)
        shapes.append((base, released))
        for _ in range(min(int(rng.expovariate(1 / TUNES_MEAN)), 40)):
            shared = base[: round(rng.choice(SHARED_PARTS) * len(base))]
            chunks = (*shared, *numbers.take(len(base) - len(shared)))
            shapes.append((chunks, rng.uniform(released, 1.0)))
    rng.shuffle(shapes)
    return [Model(*shape, weight=(rank + 1) ** -EXPONENT) for rank, shape in enumerate(shapes)]


def make_trace(accesses: int, seed: int) -> Trace:
    rng, numbers = Random(f"cache trace {seed}"), _Numbers()
    models = _models(rng, numbers)
    catalogued = numbers.next
    popular = {chunk for model in models[: len(models) // 2] for chunk in model.chunks}
    requests, running = _requests(rng, models, numbers, accesses), []
    found = array("Q")
    while len(found) < accesses:
        while len(running) < AT_ONCE:
            running.append(next(requests)(len(found) / accesses))
        reader = rng.randrange(AT_ONCE)
        chunk = next(running[reader], None)
        if chunk is None:
            del running[reader]
        else:
            found.append(chunk)
    return Trace(found, catalogued, frozenset(range(catalogued)) - popular)


def _requests(rng: Random, models: list[Model], numbers: _Numbers, accesses: int):  # type: ignore[no-untyped-def]
    """Functions of the time that return the chunks of one request."""
    epoch, totals = -1, []

    def pick(now: float) -> Model:
        nonlocal epoch, totals
        if int(now * EPOCHS) != epoch:
            epoch = int(now * EPOCHS)
            totals = list(accumulate(_rate(model, now) for model in models))
        return models[bisect(totals, rng.random() * totals[-1])]

    def request(now: float) -> Iterator[int]:
        if rng.random() < ONCE_PART:
            return iter(numbers.take(_size(rng)))
        chunks, kind = pick(now).chunks, rng.random()
        if kind < WHOLE_PART:
            return iter(chunks)
        if kind < WHOLE_PART + SLICE_PART:
            length = max(1, round(len(chunks) * rng.uniform(0.01, 0.1)))
            start = rng.randrange(len(chunks) - length + 1)
            return iter(chunks[start : start + length])
        if kind < WHOLE_PART + SLICE_PART + HEAD_PART:
            return iter(chunks[:1])
        first = rng.randrange(len(models))
        return (chunk for model in models[first : first + MIRRORED] for chunk in model.chunks)

    while True:
        yield request


def _rate(model: Model, now: float) -> float:
    age = now - model.released
    return model.weight * (1 + BURST * math.exp(-age / BURST_TIME)) if age >= 0 else 0.0
