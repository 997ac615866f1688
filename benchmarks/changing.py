"""Search over many segments, under filters, and right after an addition: what a changing index costs.

    python -m benchmarks.changing --corpus CORPUS.jsonl[.zst] --queries QUERIES.jsonl [--segments 10] [--added 1000]

Builds the corpus as one segment and as several, and times the same queries on both in turns; then filters of several
shares; then adds documents and measures until a search finds them. Adds lines to benchmarks/results/changing.csv.
"""

import argparse
import contextlib
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sparse.protocol import read_queries
from benchmarks.table import RESULTS, add_rows
from indexing.build import add_documents, build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.index.bm25 import Bm25
from retriever.index.sealed import Index, open_index

ROUNDS = 3
SHARES = (0.5, 0.1, 0.01, 0.001)


class Timed:
    """One index, and the queries as its analyser gives them."""

    def __init__(self, index: Index, queries: Sequence[str]) -> None:
        assert index.analyser is not None
        readers = [segment.inverted for segment in index.segments if segment.inverted]
        self.bm25 = Bm25(readers, [segment.id_rank for segment in index.segments], 0.9, 0.4)
        self.sizes = [segment.documents for segment in index.segments]
        self.queries = [Counter(index.analyser.terms(query)) for query in queries]

    def masks(self, share: float) -> list[Any]:
        generator = np.random.default_rng(0)
        return [generator.random(size) < share for size in self.sizes]

    def round(self, k: int, masks: list[Any] | None) -> np.ndarray:
        times = np.empty(len(self.queries))
        for number, query in enumerate(self.queries):
            started = time.perf_counter()
            self.bm25.search(query, k, masks)
            times[number] = time.perf_counter() - started
        return times * 1e3


def measure(cases: dict[str, tuple[Timed, list[Any] | None]], k: int) -> dict[str, np.ndarray]:
    """Return each query's median over the rounds; the cases take turns."""
    for timed, masks in cases.values():
        timed.round(k, masks)
    rounds = [{name: timed.round(k, masks) for name, (timed, masks) in cases.items()} for _ in range(ROUNDS)]
    return {name: np.median([found[name] for found in rounds], axis=0) for name in cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=800_000)
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--added", type=int, default=1000)
    arguments = parser.parse_args()
    queries = read_queries(arguments.queries)
    rows: list[dict[str, Any]] = []

    def note(what: str, k: int, segments: int, times: np.ndarray) -> None:
        p50, p99 = np.percentile(times, [50, 99])
        rows.append(
            {"what": what, "k": k, "segments": segments, "documents": arguments.documents,
             "mean_ms": round(float(times.mean()), 4), "p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)}
        )  # fmt: skip
        print(
            f"{what}, k={k}, {segments} segments: mean {times.mean():.3f}, p50 {p50:.3f}, p99 {p99:.3f} ms", flush=True
        )

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        with (work / "corpus.jsonl").open("w") as file:
            for document in itertools.islice(open_corpus(str(arguments.corpus)), arguments.documents):
                file.write(json.dumps({"_id": document.id, "text": document.content}) + "\n")
        each = -(-arguments.documents // arguments.segments)
        for name, segment in (("one", arguments.documents), ("many", each)):
            # Segments end with a shard, so that a shard must fit in them evenly.
            settings = BuildSettings(
                parts=("bm25",), segment_documents=segment, shard_documents=-(-each // -(-each // 4096))
            )
            build_index(open_corpus(str(work / "corpus.jsonl")), work / name, settings, processes=2)
        one = Timed(stack.enter_context(open_index(work / "one")), queries)
        many = Timed(stack.enter_context(open_index(work / "many")), queries)
        for k in (10, 1000):
            cases: dict[str, tuple[Timed, list[Any] | None]] = {
                "one segment": (one, None),
                "many segments": (many, None),
            }
            cases |= {f"filter {share:g}": (one, one.masks(share)) for share in SHARES}
            for name, times in measure(cases, k).items():
                note(name, k, len((many if name.startswith("many") else one).sizes), times)
        with (work / "added.jsonl").open("w") as file:
            for number in range(arguments.added):
                text = f"{queries[number % len(queries)]} addedword"
                file.write(json.dumps({"_id": f"added-{number}", "text": text}) + "\n")
        served = stack.enter_context(open_index(work / "one"))
        served.warm()
        started = time.perf_counter()
        add_documents(open_corpus(str(work / "added.jsonl")), work / "one")
        served = served.latest()
        assert len(served.search("addedword", 10, pipeline="bm25").hits) == 10
        note(
            f"{arguments.added} documents added and found",
            10,
            len(served.segments),
            np.array([time.perf_counter() - started]) * 1e3,
        )
    add_rows(RESULTS / "changing.csv", rows, ("retriever-engine", "numba", "numpy"))


if __name__ == "__main__":
    main()
