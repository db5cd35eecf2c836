"""Sentence embeddings out of the swarm, by sentence-transformers as it stands.

    p2pmodel run -- python sentence_embeddings.py p2pmodel/MODEL_ID [--same-as DIRECTORY]

With --same-as, the vectors have to be the very same as those of the model in that directory.
"""

from __future__ import annotations

import argparse

import numpy as np
from sentence_transformers import SentenceTransformer

SENTENCES = ["The weights came from the neighbours.", "Peers next door sent the model.", "A recipe for bread."]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("--same-as")
    options = parser.parse_args()
    vectors = SentenceTransformer(options.repo).encode(SENTENCES, normalize_embeddings=True)
    alike, unlike = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    print(f"{len(vectors)} vectors of {vectors.shape[1]}; alike {alike:.2f}, unlike {unlike:.2f}")
    if options.same_as:
        local = SentenceTransformer(options.same_as).encode(SENTENCES, normalize_embeddings=True)
        if not np.array_equal(vectors, local):
            raise SystemExit("these are not the vectors of the local folder")
        print("the same as from the local folder")


if __name__ == "__main__":
    main()
