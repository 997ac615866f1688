"""Learned compression of documents against compression after training, from one warmed-up model per seed.

    python -m benchmarks.training.hashing --data nl2bash --threads 1

The base is the body of splade-tiny (BERT-tiny, width 128) with mean pooling, warmed up as in star_adore. A float vector
takes 512 bytes, a sign code 16, a product code as many as its arm says. "sign" and "opq" are compressions of an arm
named in brackets, without training; "softmax" is the warm-up trained on without compression, as long as BPR, RepCONC
and contrastive quantisation. All arms but "hamming" score by the float query. "gap" stands for the gain of JPQ over
its OPQ start.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from retriever.encoder import DenseEncoder, load_encoder
from training.evaluation import dense_run, measured

COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32}
PAIRS = 210 * 64
ARMS = ("warm-up", "softmax", "sign(warm-up)", "sign(softmax)", "bpr", "bpr hamming")
CLAIMS = (
    Claim("bpr", "sign(softmax)"),
    Claim("bpr", "bpr hamming"),
)

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Changed:
    """An encoder whose vectors of queries are changed."""

    def __init__(self, encoder: DenseEncoder, change: Change) -> None:
        self.encoder = encoder
        self.change = change

    def encode_queries(self, texts: list[str]) -> NDArray[np.float32]:
        return self.change(self.encoder.encode_queries(texts))


def signs(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(vectors >= 0, 1, -1).astype(np.float32)


def same(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors


def keep(
    experiment: Experiment, name: str, seed: int, model: Path, queries: Change, documents: Callable[..., Any]
) -> None:
    """Measure a form of a trained model's vectors and write its record; equal inner products stand in any order.

    documents  of document vectors what they become, or with it what queries become first
    """
    if (experiment.records / f"{name}-{seed}.json").is_file():
        return
    encoder = load_encoder(model)
    vectors = documents(encoder.encode_documents(experiment.corpus.documents))
    found = {
        split.split: measured(dense_run(Changed(encoder, queries), experiment.corpus, split, vectors), split)
        for split in experiment.held_out
    }
    experiment.keep(name, seed, found, {"model": model.name})


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm of a seed."""
    quick = {"batch_size": 64, "learning_rate": 3e-4, "save_steps": 0}
    steps = PAIRS // 64
    warm = experiment.arm("warm-up", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": quick | {"steps": steps}})  # fmt: skip
    further = COMMON | {"base": str(warm), "fit": quick | {"learning_rate": 1e-4, "steps": steps}}
    softmax = experiment.arm("softmax", seed, "contrastive", further)
    keep(experiment, "sign(warm-up)", seed, warm, same, signs)
    keep(experiment, "sign(softmax)", seed, softmax, same, signs)
    bpr = experiment.arm("bpr", seed, "bpr", further | {"hard": "none"})
    keep(experiment, "bpr hamming", seed, bpr, signs, same)


def main() -> None:
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/hashing"))
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "hashing.csv", experiment, ARMS, given.seeds)
    text = f"## Learned compression of documents\n\n{__doc__}"
    write_section(given.results / "hashing.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
