"""BMP (arXiv:2405.01117), exact: alpha and beta 1, blocks of 8 documents."""

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import bmp
import numpy as np

from benchmarks.sparse import matrix
from benchmarks.sparse.protocol import Driver, serve

BLOCK = 8


class Bmp(Driver):
    def version(self) -> str:
        return importlib.metadata.version("bmp")

    def build(self, corpus: Path, index: Path) -> float:
        documents, _ = matrix.read(corpus)
        start = time.perf_counter()
        indexer = bmp.Indexer(str(index), BLOCK, False)
        for number, (terms, impacts) in enumerate(documents):
            indexer.add_document(str(number), dict(zip(map(str, terms.tolist()), impacts.tolist(), strict=True)))
        indexer.finish()
        return time.perf_counter() - start

    def open(self, index: Path, queries: Path) -> None:
        _, rows = matrix.read(queries)
        self._queries = [
            dict(zip(map(str, terms.tolist()), weights.astype(np.float64).tolist(), strict=True))
            for terms, weights in rows
        ]
        self._searcher = bmp.Searcher(str(index))

    def search(self, query: int, k: int) -> Any:
        return self._searcher.search(self._queries[query], k, 1.0, 1.0)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        ids, scores = self.search(query, k)
        return list(zip(ids, scores, strict=True))

    def count(self) -> int:
        return len(self._queries)


if __name__ == "__main__":
    serve(Bmp())
