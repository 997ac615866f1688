"""BiDR's two granularities: codes that find candidates, and a local encoder that only has to put them in order.

    python -m benchmarks.training.bidr --data nl2bash --threads 1

The base is the body of splade-tiny (BERT-tiny, width 128) with mean pooling, warmed up as in star_adore. "global" goes
on from there on random negatives, "local" on those of the walk over what the codes find, as many batches of as many
pairs; "codes" are the documents in 16 bytes. Each searches all documents alone. "codes + global" and "codes + local"
put the 200 best by codes in the order of that encoder's cosine plus .3 times the codes' score, as the original does.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from retriever.encoder import load_encoder
from retriever.evaluation.collections import Collection
from retriever.types import Run
from training.encoders import as_encoder, open_base
from training.evaluation import DEPTH, measured, nearest
from training.recipe import measure_splits
from training.recipes.bidr import LOCAL
from training.settings import EncoderSettings

COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32}
WARM_STEPS, STEPS, PARTS = 210, 105, 16
CANDIDATES, CODES_WEIGHT = 200, 0.3
ARMS = ("warm-up", "global", "local", "codes", "codes + global", "codes + local")
CLAIMS = (
    Claim("codes + local", "codes + global"),
    Claim("codes + local", "codes"),
    Claim("global", "local"),
    Claim("codes + local", "codes + global", "R@100"),
    Claim("global", "local", "R@100"),
)
Matrix = NDArray[np.float32]


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm of a seed."""
    quick = {"batch_size": 64, "save_steps": 0, "steps": STEPS, "learning_rate": 1e-4}
    warm = experiment.arm("warm-up", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": quick | {"learning_rate": 3e-4, "steps": WARM_STEPS}})  # fmt: skip
    begun = COMMON | {"base": str(warm)}
    whole = experiment.arm("global", seed, "contrastive", begun | {"hard": "random", "count": 1, "fit": quick})
    codes = experiment.arm("codes", seed, "bidr", begun | {
        "parts": PARTS, "train_global": False, "centroid_rate": 5e-4, "quantise_fit": quick, "local_fit": quick,
    })  # fmt: skip
    local = codes / LOCAL
    if not experiment.kept("local", seed):
        opened = open_base(EncoderSettings(), base=local, offline=True)
        experiment.keep("local", seed, measure_splits(opened, experiment.corpus, experiment.held_out), {})
    for name, model in (("global", whole), ("local", local)):
        if not experiment.kept(f"codes + {name}", seed):
            keep_reranked(experiment, f"codes + {name}", seed, codes, model)


def keep_reranked(experiment: Experiment, name: str, seed: int, codes: Path, model: Path) -> None:
    """Measure what the codes find in a model's order and write its record."""
    light, full = as_encoder(open_base(EncoderSettings(), base=codes, offline=True)), load_encoder(model)
    decoded, vectors = (encoder.encode_documents(experiment.corpus.documents) for encoder in (light, full))
    found = {}
    for split in experiment.held_out:
        texts = list(split.judged.values())
        scores, rows = nearest(light.encode_queries(texts), decoded, CANDIDATES + 1)
        cosines = np.einsum("qh,qkh->qk", full.encode_queries(texts), vectors[rows])
        run = ordered(experiment, split, rows, cosines + CODES_WEIGHT * scores)
        found[split.split] = measured(run, split)
    experiment.keep(name, seed, found, {"model": model.name})


def ordered(experiment: Experiment, split: Collection, rows: NDArray[np.int64], scores: Matrix) -> Run:
    """Return the best documents of each query by new scores, without the query's own document."""
    documents = experiment.corpus.documents
    run: Run = {}
    for query, found, values in zip(split.judged, rows, scores, strict=True):
        ranked = [(documents[found[i]].id, float(values[i])) for i in np.argsort(-values, kind="stable")]
        run[query] = [pair for pair in ranked if pair[0] != query][:DEPTH]
    return run


def main() -> None:
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/bidr"))
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "bidr.csv", experiment, ARMS, given.seeds)
    write_section(given.results / "bidr.md", f"## BiDR\n\n{__doc__}", experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
