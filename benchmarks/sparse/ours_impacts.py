"""Our kernel on learned impacts, without the index around it: candidates from the kernel, scored by their codes."""

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sparse import matrix
from benchmarks.sparse.protocol import Driver, serve
from kernels.impact import Segments, candidates, lay_out, locate
from kernels.impact.postings import BLOCK


class Impacts:
    """The postings of one segment; a code is its own value."""

    def __init__(self, postings: matrix.Rows, documents: int) -> None:
        lengths = np.diff(postings.indptr)
        # The kernel numbers only terms that occur.
        self._numbers = np.where(lengths > 0, np.cumsum(lengths > 0) - 1, -1)
        offsets = np.append(postings.indptr[:-1][lengths > 0], postings.indptr[-1])
        self._segments = Segments([lay_out(offsets, postings.indices, postings.values, documents)])
        self._values = np.arange(256, dtype=np.float64)[None]

    def search(
        self, terms: NDArray[np.int32], weights: NDArray[np.uint8], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return scores and documents of the best k, ties by number."""
        table, _ = self._segments.restricted(None)
        numbers = self._numbers[terms][None].astype(np.int64)
        if not (numbers >= 0).any():
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        fields = np.zeros(len(terms), np.int64)
        bounds = self._values[None]
        segments, documents = candidates(table[:, None], fields, numbers, weights.astype(np.float64), bounds, bounds, k)
        positions = np.empty((len(terms), len(documents)), np.int64)
        locate(table[:, None], fields, numbers, segments, documents, positions, np.zeros(BLOCK, np.uint16))
        codes = self._segments.parts[0].codes[positions]
        codes[positions < 0] = 0
        scores = weights.astype(np.int64) @ codes.astype(np.int64)
        order = np.lexsort((documents, -scores))[:k]
        return scores[order], documents[order]


class OursImpacts(Driver):
    def version(self) -> str:
        return importlib.metadata.version("retriever-engine")

    def build(self, corpus: Path, index: Path) -> float:
        documents, queries = matrix.read(corpus)
        start = time.perf_counter()
        postings = documents.transposed(matrix.width(documents, queries))
        index.mkdir(parents=True)
        np.savez(index / "postings.npz", count=documents.count, **postings.arrays())
        return time.perf_counter() - start

    def open(self, index: Path, queries: Path) -> None:
        _, self._queries = matrix.read(queries)
        with np.load(index / "postings.npz", allow_pickle=False) as file:
            postings = matrix.Rows(file["indptr"], file["indices"], file["values"])
            self._index = Impacts(postings, int(file["count"]))

    def search(self, query: int, k: int) -> Any:
        return self._index.search(*self._queries.row(query), k)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        scores, documents = self.search(query, k)
        return [(str(document), float(score)) for score, document in zip(scores, documents, strict=True)]

    def count(self) -> int:
        return self._queries.count


if __name__ == "__main__":
    serve(OursImpacts())
