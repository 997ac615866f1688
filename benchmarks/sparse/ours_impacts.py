"""Our kernel on learned impacts; left out as long as there is no `kernels.impact`.

What it needs of that package stands in `_prepare` and `_best` alone:
    impact_index(indptr, documents, impacts, count)     postings by term -> what is searched
    impact_search(index, terms, weights, k)             -> scores and documents, best first, ties by number
"""

import importlib.metadata
import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sparse import matrix
from benchmarks.sparse.protocol import Driver, serve


def _prepare(postings: matrix.Rows, count: int) -> Any:
    from kernels.impact import impact_index

    return impact_index(postings.indptr, postings.indices, postings.values, count)


def _best(index: Any, terms: Any, weights: Any, k: int) -> Any:
    from kernels.impact import impact_search

    return impact_search(index, terms, weights, k)


class OursImpacts(Driver):
    def version(self) -> str:
        return importlib.metadata.version("retriever-engine")

    def build(self, corpus: Path, index: Path) -> float:
        if importlib.util.find_spec("kernels.impact") is None:
            raise NotImplementedError("there is no kernels.impact yet")
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
            self._index = _prepare(postings, int(file["count"]))

    def search(self, query: int, k: int) -> Any:
        return _best(self._index, *self._queries.row(query), k)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        scores, documents = self.search(query, k)
        return [(str(document), float(score)) for score, document in zip(scores, documents, strict=True)]

    def batch(self, k: int, threads: int) -> bool:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda query: self.search(query, k), range(self.count())))
        return True

    def count(self) -> int:
        return self._queries.count


if __name__ == "__main__":
    serve(OursImpacts())
