"""Time of clustering and mining, and what samplers add to a training step.

    python -m benchmarks.training.sampling [--vectors FILE.npy] [--rows 80000] [--width 384] [--no-mining]

Without a file of embeddings, unit vectors around 2,000 topics are made. Writes benchmarks/results/sampling.csv:
seconds of each clustering, of exact mining of 200 candidates a query, and milliseconds a batch of each sampler.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.topk import topk
from retriever.evaluation.records import environment
from training.batches import ClusterBatchSampler, GraphWalkBatchSampler, ShuffledBatchSampler, TopicBatchSampler
from training.candidates import Candidates
from training.clusters import balanced_clusters, topic_clusters
from training.pairs import gaussian_around_positive, margin_bins, softmax_curriculum, uniform

RESULTS = Path(__file__).parent.parent / "results" / "sampling.csv"
DEPTH = 400
BATCHES = (32, 256)
Row = tuple[str, str, float, str]


def topics(rows: int, width: int) -> NDArray[np.float32]:
    """Return unit vectors around 2,000 random directions."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((2000, width), np.float32)
    vectors = centres[generator.integers(0, 2000, rows)] + generator.standard_normal((rows, width), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def clustering(vectors: NDArray[np.float32]) -> Iterator[Row]:
    """Yield the time of each clustering that a recipe may ask for."""
    count = -(-len(vectors) // 200)
    yield "topic clusters", f"{count} clusters", seconds(lambda: topic_clusters(vectors, count)), "s"
    for size in (2, 32, 512):
        yield "balanced clusters", f"size {size}", seconds(partial(balanced_clusters, vectors, size)), "s"


def mining(vectors: NDArray[np.float32], depth: int = 200) -> Row:
    """Return the time of an exact search of every vector among all."""
    tensor = torch.from_numpy(vectors)
    return "mining", f"{depth} candidates, exact", seconds(lambda: topk(tensor, tensor, depth)), "s"


def neighbours(labels: NDArray[np.int32]) -> Candidates:
    """Return 400 neighbours of each query in order of clusters: as long as mined lists, and linked as closely."""
    order = np.argsort(labels, kind="stable").astype(np.int32)
    documents = np.empty((len(order), DEPTH), np.int32)
    for place in range(DEPTH):
        documents[order, place] = np.roll(order, -place)
    scores = np.broadcast_to(np.arange(DEPTH, 0, -1, dtype=np.float32), documents.shape)
    return Candidates(np.arange(len(order) + 1, dtype=np.int64) * DEPTH, documents.ravel(), scores.ravel())


def samplers(labels: NDArray[np.int32], candidates: Candidates) -> Iterator[Row]:
    """Yield the time a batch of each sampler over a whole epoch; clustering is not part of it, a graph's walk is."""
    count = len(labels)
    # One direction is clustered at once, and the order is drawn as from any other clusters.
    makers: dict[str, Callable[..., Any]] = {
        "shuffled": ShuffledBatchSampler,
        "topic": partial(TopicBatchSampler, labels=labels),
        "cluster": partial(
            ClusterBatchSampler, vectors=lambda epoch: np.zeros((count, 1), np.float32), size=lambda epoch: 32
        ),
        "graph walk": partial(GraphWalkBatchSampler, candidates=candidates),
    }
    for name, make in makers.items():
        for batch_size in BATCHES:
            sampler = make(range(count), batch_size=batch_size, drop_last=False, seed=0)
            if isinstance(sampler, ClusterBatchSampler):
                sampler.labels(0)
            taken = seconds(partial(list, sampler))
            yield f"{name} batches", f"batch of {batch_size}", 1000 * taken / len(sampler), "ms a batch"


def choosing(batch_size: int, candidates: int = 200) -> Iterator[Row]:
    """Yield the time in which a batch gets a negative for each query, out of 200 candidates."""
    generator = np.random.default_rng(0)
    scores = np.sort(generator.normal(0.5, 0.1, candidates).astype(np.float32))[::-1]
    choices = {
        "uniform": uniform,
        "softmax": partial(softmax_curriculum, temperature=0.05),
        "gaussian": gaussian_around_positive,
        "margin bins": margin_bins,
    }
    for name, choose in choices.items():
        taken = seconds(lambda choose=choose: [choose(scores, 0.8, 1, generator) for _ in range(20 * batch_size)])
        yield f"{name} negatives", f"batch of {batch_size}", 1000 * taken / 20, "ms a batch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, help="float32 embeddings, (rows, width)")
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--no-mining", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.vectors:
        vectors = np.load(arguments.vectors, allow_pickle=False).astype(np.float32)
    else:
        vectors = topics(arguments.rows, arguments.width)
    machine = environment()
    versions = " ".join(f"{name}={v}" for name, v in machine["packages"].items())
    date = datetime.now(UTC).isoformat(timespec="seconds")

    def measured() -> Iterator[Row]:
        yield from clustering(vectors)
        if not arguments.no_mining:
            yield mining(vectors)
        labels = balanced_clusters(vectors, 200)
        yield from samplers(labels, neighbours(labels))
        for batch_size in BATCHES:
            yield from choosing(batch_size)

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["date", "what", "setting", "value", "unit", "vectors", "rows", "width", "cpu", "cores", "versions"]
        )
        for what, setting, value, unit in measured():
            print(f"{what:20} {setting:24} {value:10.3f} {unit}", flush=True)
            source = arguments.vectors.name if arguments.vectors else "synthetic"
            writer.writerow(
                [date, what, setting, f"{value:.4g}", unit, source, *vectors.shape, machine["cpu"], machine["cores"],
                 versions]
            )  # fmt: skip


if __name__ == "__main__":
    main()
