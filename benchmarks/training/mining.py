"""Time of clustering queries and of mining their negatives from cached embeddings, exact.

    python -m benchmarks.training.mining [--queries 80000] [--documents 80000] [--depth 200] [--vectors FOLDER]

FOLDER holds queries.npy and documents.npy, float32 (N, H); without it, vectors are drawn around topics: an exact
search takes as long whatever they are. Prints a CSV line; with --output it is appended to that file too.
Goal: topic clusters, balanced clusters and mining within 5 minutes on two cores, when nothing else runs on them; cpu_s
is the processor time of all threads, which other work on the machine changes less.
"""

import argparse
import csv
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from retriever.evaluation.records import environment
from training.clusters import balanced_clusters, topic_clusters
from training.judgments import Judgments
from training.nearest import nearest_candidates

COLUMNS = [
    "date", "vectors", "queries", "documents", "width", "depth", "threads", "topic_clusters_s", "balanced_clusters_s",
    "mining_s", "total_s", "cpu_s", "queries_per_s", "peak_mb", "cpu", "cores", "versions",
]  # fmt: skip


def drawn(queries: int, documents: int, width: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors around topics; the document of a query's row is near it."""
    generator = np.random.default_rng(seed)
    topics = generator.standard_normal((max(1, documents // 200), width), np.float32)
    own = topics[generator.integers(0, len(topics), documents)]
    found = own + 0.7 * generator.standard_normal((documents, width), np.float32)
    asked = found[np.arange(queries) % documents] + 0.5 * generator.standard_normal((queries, width), np.float32)
    for vectors in (asked, found):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return asked, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=80_000)
    parser.add_argument("--documents", type=int, default=80_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    import torch

    if arguments.vectors is None:
        queries, documents = drawn(arguments.queries, arguments.documents, arguments.width)
    else:
        names = (("queries", arguments.queries), ("documents", arguments.documents))
        queries, documents = (
            np.load(arguments.vectors / f"{name}.npy", allow_pickle=False)[:count] for name, count in names
        )
    # One relevant document a query, as in most training collections.
    relevant = Judgments(np.arange(len(queries) + 1), (np.arange(len(queries)) % len(documents)).astype(np.int32))
    clock, started = [time.perf_counter()], time.process_time()
    topic_clusters(queries, -(-len(queries) // 200))
    clock.append(time.perf_counter())
    balanced_clusters(queries, 64)
    clock.append(time.perf_counter())
    found = nearest_candidates(queries, documents, arguments.depth, relevant, device=arguments.device, quiet=False)
    clock.append(time.perf_counter())
    assert (np.diff(found.offsets) == min(arguments.depth, len(documents) - 1)).all()
    topics, balanced, mining = np.diff(clock).tolist()
    machine = environment()
    row = [
        datetime.now(UTC).isoformat(timespec="seconds"),
        "drawn" if arguments.vectors is None else arguments.vectors.name,
        len(queries), len(documents), queries.shape[1], arguments.depth, torch.get_num_threads(),
        round(topics, 1), round(balanced, 1), round(mining, 1), round(topics + balanced + mining, 1),
        round(time.process_time() - started, 1),
        round(len(queries) / mining), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        machine["cpu"], machine["cores"], " ".join(f"{name}={v}" for name, v in machine["packages"].items()),
    ]  # fmt: skip
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow(row)
    if arguments.output is not None:
        fresh = not arguments.output.exists()
        with arguments.output.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, row] if fresh else [row])


if __name__ == "__main__":
    main()
