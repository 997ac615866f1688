"""Learned compression of documents against compression after training, from one warmed-up model per seed.

    python -m benchmarks.training.hashing --data nl2bash --threads 1

The base is the body of splade-tiny (BERT-tiny, width 128) with mean pooling, warmed up as in star_adore. A float vector
takes 512 bytes, a sign code 16, a product code the number in the arm's name. "sign" and "opq" compress the arm in
brackets without training; "float" is the warm-up trained on without compression, for as many pairs and at the rate of
bpr, repconc and quantised (contrastive quantisation, BiDR's). jpq starts from opq(warm-up), "repconc+jpq" from repconc,
as that paper ends. All arms but "bpr hamming" score by the float query; "bpr two-stage" rescores the 1,000 nearest
codes. A gain is jpq minus its start, query by query.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.claims import MEASURES, Claim, Experiment, arguments, write_csv, write_section
from kernels.hamming import nearest_codes, packed, sign_scores
from retriever.codebook import Codebook, train_codebook
from retriever.encoder import DenseEncoder, load_encoder
from retriever.types import Run
from training.evaluation import DEPTH, measured, vector_run
from training.quantisation import CODEBOOK

COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32}
WARM_STEPS = 210
STEPS = 105
BATCH = 64
CANDIDATES = 1000
SIZES = (16, 4)
SMALLEST = SIZES[-1]
ARMS = (
    "warm-up", "float", "sign(warm-up)", "sign(float)", "bpr", "bpr two-stage", "bpr hamming",
    *(f"{form} {size}" for size in SIZES for form in ("opq(warm-up)", "jpq")),
    f"opq(float) {SMALLEST}", f"repconc {SMALLEST}", f"repconc+jpq {SMALLEST}", f"quantised {SMALLEST}",
)  # fmt: skip
GAINS = tuple(f"gain at {size}" for size in SIZES)
CLAIMS = (
    Claim("bpr", "sign(float)"),
    Claim("bpr two-stage", "bpr hamming"),
    *(Claim(f"jpq {size}", f"opq(warm-up) {size}") for size in SIZES),
    *(Claim(f"gain at {SMALLEST}", f"gain at {size}") for size in SIZES[:-1]),
    Claim(f"repconc {SMALLEST}", f"jpq {SMALLEST}"),
    Claim(f"repconc+jpq {SMALLEST}", f"jpq {SMALLEST}"),
    Claim(f"repconc {SMALLEST}", f"opq(float) {SMALLEST}"),
    Claim(f"quantised {SMALLEST}", f"opq(float) {SMALLEST}"),
    Claim(f"quantised {SMALLEST}", f"opq(float) {SMALLEST}", "R@100"),
)

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def signs(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(vectors >= 0, 1, -1).astype(np.float32)


def same(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors


@cache
def encoded(experiment: Experiment, model: Path) -> tuple[DenseEncoder, NDArray[np.float32]]:
    """Return a trained model and its vectors of all documents."""
    encoder = load_encoder(model)
    return encoder, encoder.encode_documents(experiment.corpus.documents)


def keep(
    experiment: Experiment, name: str, seed: int, model: Path, queries: Callable[..., Any], documents: Change
) -> None:
    """Measure a form of a trained model's vectors and write its record.

    queries, documents  what becomes of the vectors of each
    """
    if experiment.kept(name, seed):
        return
    encoder, vectors = encoded(experiment, model)
    vectors = documents(vectors)
    found = {}
    for split in experiment.held_out:
        asked = queries(encoder.encode_queries(list(split.judged.values())))
        found[split.split] = measured(vector_run(asked, vectors, experiment.corpus, split), split)
    experiment.keep(name, seed, found, {"model": model.name})


def keep_two_stage(experiment: Experiment, name: str, seed: int, model: Path) -> None:
    """Measure what search by an index of sign codes gives: the nearest by Hamming distance, rescored."""
    if experiment.kept(name, seed):
        return
    encoder, vectors = encoded(experiment, model)
    documents = experiment.corpus.documents
    codes = packed(vectors)
    found = {}
    for split in experiment.held_out:
        run: Run = {}
        queries = encoder.encode_queries(list(split.judged.values()))
        for query, vector in zip(split.judged, queries, strict=True):
            ((_, nearest),) = nearest_codes(codes, vector[None], CANDIDATES)
            scores = sign_scores(codes, vector, nearest)
            ranked = [(documents[nearest[i]].id, float(scores[i])) for i in np.argsort(-scores, kind="stable")]
            run[query] = [pair for pair in ranked if pair[0] != query][:DEPTH]
        found[split.split] = measured(run, split)
    experiment.keep(name, seed, found, {"model": model.name})


def keep_opq(experiment: Experiment, name: str, seed: int, model: Path, codebook: Codebook) -> None:
    """Measure a model whose documents are compressed by a codebook."""
    keep(experiment, name, seed, model, codebook.rotated, lambda v: codebook.decode(codebook.encode(v)))


def keep_gain(experiment: Experiment, size: int, seed: int) -> None:
    """Write, query by query, what JPQ adds to its start."""
    start, end = (experiment.read(f"{form} {size}", seed)["per_query"] for form in ("opq(warm-up)", "jpq"))
    gains = {
        split: {
            measure: {query: end[split][measure][query] - value for query, value in start[split][measure].items()}
            for measure in MEASURES
        }
        for split in start
    }
    experiment.keep(f"gain at {size}", seed, gains, {})


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm of a seed."""
    quick = {"batch_size": BATCH, "save_steps": 0, "steps": STEPS}
    warm = experiment.arm("warm-up", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": quick | {"learning_rate": 3e-4, "steps": WARM_STEPS}})  # fmt: skip
    begun = COMMON | {"base": str(warm)}
    further = quick | {"learning_rate": 1e-4}
    free = experiment.arm("float", seed, "contrastive", begun | {"fit": further})
    keep(experiment, "sign(warm-up)", seed, warm, same, signs)
    keep(experiment, "sign(float)", seed, free, same, signs)
    jpq = {"centroid_rate": 1e-3, "depth": 100, "fit": quick | {"learning_rate": 5e-5}}
    for size in SIZES:
        experiment.arm(
            f"jpq {size}", seed, "jpq", begun | jpq | {"parts": size}, shared={"codebook": f"opq-{size}-{seed}"}
        )
        codebook = Codebook.load(experiment.stage(f"opq-{size}-{seed}") / CODEBOOK)
        keep_opq(experiment, f"opq(warm-up) {size}", seed, warm, codebook)
        keep_gain(experiment, size, seed)
    codes = {"parts": SMALLEST, "centroid_rate": 5e-4}
    # Four batches in one: so few documents cannot use 256 centroids alike. As many pairs as the others.
    large = {"batch_size": 4 * BATCH, "steps": STEPS // 4}
    even = experiment.arm(f"repconc {SMALLEST}", seed, "repconc", begun | codes | {
        "fit": further | large, "hard": "none"}, shared={"codebook": f"opq-{SMALLEST}-{seed}"})  # fmt: skip
    experiment.arm(f"repconc+jpq {SMALLEST}", seed, "jpq", COMMON | jpq | {"base": str(even)})
    if not experiment.kept(f"opq(float) {SMALLEST}", seed):
        codebook = train_codebook(encoded(experiment, free)[1], SMALLEST, seed=seed)
        keep_opq(experiment, f"opq(float) {SMALLEST}", seed, free, codebook)
    experiment.arm(f"quantised {SMALLEST}", seed, "bidr", begun | codes | {
        "train_global": False, "quantise_fit": further, "local_fit": quick | {"steps": 1},
    }, shared={"codebook": f"opq-{SMALLEST}-{seed}"})  # fmt: skip
    bpr = experiment.arm("bpr", seed, "bpr", begun | {"fit": further, "hard": "none"})
    keep(experiment, "bpr hamming", seed, bpr, signs, same)
    keep_two_stage(experiment, "bpr two-stage", seed, bpr)


def main() -> None:
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/hashing"))
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "hashing.csv", experiment, ARMS, given.seeds)
    text = f"## Learned compression of documents\n\n{__doc__}"
    write_section(given.results / "hashing.md", text, experiment, ARMS + GAINS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
