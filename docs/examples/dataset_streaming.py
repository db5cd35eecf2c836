"""A dataset out of the swarm: row by row while it comes, as a whole, and as a data frame.

    p2pmodel run -- python dataset_streaming.py p2pmodel/MODEL_ID data/train.parquet

A repository is found under `datasets/` as well as among the models: to the swarm both are files.
"""

from __future__ import annotations

import argparse
from itertools import islice

import pandas
from datasets import load_dataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("parquet", help="a file of it, for pandas")
    options = parser.parse_args()
    streamed = load_dataset(options.repo, split="train", streaming=True)
    first = list(islice(streamed, 3))
    print(f"first rows: {first}")
    whole = load_dataset(options.repo, split="train")
    frame = pandas.read_parquet(f"hf://datasets/{options.repo}/{options.parquet}")
    print(f"{len(whole)} rows, {len(frame)} in the data frame, {sum(1 for _ in streamed)} streamed")
    if not (list(whole.select(range(3))) == first == frame.head(3).to_dict("records") and len(whole) == len(frame)):
        raise SystemExit("these are not the same rows")


if __name__ == "__main__":
    main()
