"""Run by the Python that has transformers: small random models and a dataset, below the directory given."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(sys.argv[1])
WORDS = [
    "the",
    "model",
    "weights",
    "came",
    "from",
    "peers",
    "next",
    "door",
    "some",
    "of",
    "them",
    "were",
    "far",
    "away",
]

torch.manual_seed(0)
vocabulary = {word: number for number, word in enumerate(["[UNK]", *dict.fromkeys(WORDS)])}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
config = LlamaConfig(
    vocab_size=len(vocabulary), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4
)
model = LlamaForCausalLM(config)
for name, shard in (("single", "5GB"), ("sharded", "600KB")):
    model.save_pretrained(ROOT / name, max_shard_size=shard)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(ROOT / name)

(ROOT / "dataset" / "data").mkdir(parents=True)
rows = pandas.DataFrame({"number": range(5000), "text": [f"row {number}" for number in range(5000)]})
rows.to_parquet(ROOT / "dataset" / "data" / "train.parquet", index=False)
(ROOT / "dataset" / "README.md").write_text("---\nlicense: mit\n---\n")
