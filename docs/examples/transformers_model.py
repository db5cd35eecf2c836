"""A language model out of the swarm, loaded by transformers as it stands.

    p2pmodel run -- python transformers_model.py p2pmodel/MODEL_ID "some words" [--same-as DIRECTORY]

Nothing here knows of p2pmodel: `run` sets the environment that Hugging Face programs look at. With --same-as, the model
is loaded from that directory, too, and has to give the very same numbers.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def logits(source: str, text: str) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("text")
    parser.add_argument("--same-as")
    options = parser.parse_args()
    found = logits(options.repo, options.text)
    print(f"next token: {int(found[0, -1].argmax())}")
    if options.same_as:
        if not torch.equal(found, logits(options.same_as, options.text)):
            raise SystemExit("these are not the numbers of the local folder")
        print("the same as from the local folder")


if __name__ == "__main__":
    main()
