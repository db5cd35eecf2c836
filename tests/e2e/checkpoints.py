"""Real checkpoints of a small transformer and the five ways in which a model on the hubs descends from another.

The shapes are those of SmolLM2-135M (hidden 576, three key-value heads of 64, feed-forward 1536, tied embeddings), with
fewer layers and a shorter vocabulary whose length is no multiple of anything; written by the `safetensors` package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, KEYS, FEED_FORWARD, LAYERS, VOCABULARY = 576, 192, 1536, 4, 5_003
SHARDS = 4
Tensors = dict[str, "np.ndarray"]


def base() -> Tensors:
    """The tensors in the order of the network, as `state_dict` gives them."""
    dice = np.random.default_rng(1)
    tensors = {"model.embed_tokens.weight": _weight(dice, VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.self_attn.q_proj.weight": _weight(dice, HIDDEN, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": _weight(dice, KEYS, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": _weight(dice, KEYS, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": _weight(dice, HIDDEN, HIDDEN),
            f"{prefix}.mlp.gate_proj.weight": _weight(dice, FEED_FORWARD, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": _weight(dice, FEED_FORWARD, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": _weight(dice, HIDDEN, FEED_FORWARD),
            f"{prefix}.input_layernorm.weight": _weight(dice, HIDDEN),
            f"{prefix}.post_attention_layernorm.weight": _weight(dice, HIDDEN),
        }
    return tensors | {"model.norm.weight": _weight(dice, HIDDEN)}


def trained(tensors: Tensors, moves: Callable[[str], bool]) -> Tensors:
    """The same network after training: every number of the tensors that move is another one."""
    dice = np.random.default_rng(2)
    return {name: _weight(dice, *data.shape) if moves(name) else data for name, data in tensors.items()}


def upper_half(name: str) -> bool:
    """What is trained where embeddings and the lower half of the layers are frozen."""
    return name == "model.norm.weight" or (".layers." in name and int(name.split(".")[2]) >= LAYERS // 2)


def adapted(name: str) -> bool:
    """What a LoRA with peft's targets for this architecture changes once it is merged."""
    return "q_proj" in name or "v_proj" in name


def more_words(tensors: Tensors, rows: int = 64) -> Tensors:
    """Rows appended to the vocabulary, as `resize_token_embeddings` does."""
    name = "model.embed_tokens.weight"
    return tensors | {name: np.concatenate([tensors[name], _weight(np.random.default_rng(3), rows, HIDDEN)])}


def _weight(dice: np.random.Generator, *shape: int) -> np.ndarray:
    return dice.standard_normal(shape, dtype=np.float32).astype(np.float16)


def save(directory: Path, tensors: Tensors, *, shards: int = 1, note: str = "") -> Path:
    """A model's directory as `save_pretrained` leaves it."""
    directory.mkdir(parents=True)
    metadata = {"format": "pt"} | ({"note": note} if note else {})
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": HIDDEN}))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata)
        return directory
    limit = -(-sum(data.nbytes for data in tensors.values()) // shards)
    parts: list[Tensors] = [{}]
    for name, data in tensors.items():
        if sum(held.nbytes for held in parts[-1].values()) + data.nbytes > limit and len(parts) < shards:
            parts.append({})
        parts[-1][name] = data
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, directory / name, metadata)
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def descendants(root: Path) -> dict[str, Path]:
    """The five cases of E8, each in a directory of its own."""
    tensors = base()
    return {
        "frozen layers": save(root / "frozen", trained(tensors, upper_half)),
        "merged LoRA": save(root / "lora", trained(tensors, adapted)),
        "only metadata changed": save(root / "metadata", tensors, note="the same weights under another description"),
        "rows added to the vocabulary": save(root / "words", more_words(tensors)),
        "re-sharded 1 -> 4": save(root / "shards", tensors, shards=SHARDS),
    }
