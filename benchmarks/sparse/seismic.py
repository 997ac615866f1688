"""Seismic (arXiv:2404.18812), which is not exact: for each k its fastest setting with the recall that is asked for."""

import importlib.metadata
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import seismic

from benchmarks.sparse import matrix
from benchmarks.sparse.protocol import BUILD_THREADS, Driver, serve, time_each

POSTINGS, ENERGY = 4000, 0.5
SAMPLE = 200
# (terms of the query that are looked up, how far below the heap's least a summary may be), from fast to exact.
SETTINGS = [(cut, heap) for cut in (2, 3, 5, 10, 20, 40) for heap in (1.0, 0.9, 0.7, 0.5)]
DEPTHS = (10, 1000)


class Seismic(Driver):
    def __init__(self, recall: float) -> None:
        self._recall = recall

    def version(self) -> str:
        chosen = " ".join(f"k{k}:cut={cut},heap={heap}" for k, (cut, heap) in getattr(self, "_settings", {}).items())
        return f"{importlib.metadata.version('pyseismic-lsr')} {chosen}".strip()

    def build(self, corpus: Path, index: Path) -> float:
        documents, queries = matrix.read(corpus)
        start = time.perf_counter()
        data = seismic.SeismicDataset(matrix.width(documents, queries))
        names = [str(number) for number in range(documents.count)]
        values = documents.values.astype(np.float32)
        data.add_documents_by_id(names, documents.indices.astype(np.int64), values, documents.indptr)
        made = seismic.SeismicIndex.build_from_dataset(
            data, n_postings=POSTINGS, summary_energy=ENERGY, num_threads=BUILD_THREADS
        )
        index.mkdir(parents=True)
        made.save(str(index / "index"))
        return time.perf_counter() - start

    def open(self, index: Path, queries: Path) -> None:
        documents, rows = matrix.read(queries)
        kind = seismic.get_seismic_string()
        self._terms = [terms.astype(str).astype(kind) for terms, _ in rows]
        self._weights = [weights.astype(np.float32) for _, weights in rows]
        (stored,) = index.iterdir()
        self._index = seismic.SeismicIndex.load(str(stored))
        exact = matrix.Exact(documents, rows)
        self._settings: dict[int, tuple[int, float]] = {}
        for k in DEPTHS:
            self._settings[k] = self._tune(exact, k)

    def _tune(self, exact: matrix.Exact, k: int) -> tuple[int, float]:
        """Return the fastest setting whose recall is enough, or the one that finds the most."""
        sample = range(0, self.count(), max(1, self.count() // SAMPLE))
        tried = []
        for setting in SETTINGS:
            self._settings[k] = setting
            recalls = [exact.recall(query, [id_ for id_, _ in self.hits(query, k)], k) for query in sample]
            seconds = sum(time_each(lambda number, k: self.search(sample[number], k), len(sample), k))
            recall = float(np.mean(recalls))
            enough = recall >= self._recall
            tried.append((not enough, seconds if enough else -recall, setting))
            print(
                f"k={k} cut={setting[0]} heap={setting[1]}: recall {recall:.4f}, {seconds / len(sample) * 1e3:.3f} ms"
            )
        return min(tried)[2]

    def search(self, query: int, k: int) -> Any:
        cut, heap = self._settings[k]
        return self._index.search("q", self._terms[query], self._weights[query], k, cut, heap)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        return [(id_, score) for _, score, id_ in self.search(query, k)] if len(self._terms[query]) else []

    def batch(self, k: int, threads: int) -> None:
        cut, heap = self._settings[k]
        names = np.array([str(number) for number in range(self.count())], dtype=seismic.get_seismic_string())
        self._index.batch_search(names, self._terms, self._weights, k, cut, heap, num_threads=threads)

    def count(self) -> int:
        return len(self._terms)


if __name__ == "__main__":
    serve(Seismic(float(sys.argv[1])))
