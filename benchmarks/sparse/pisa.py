"""PISA through pyterrier-pisa: MaxScore over precomputed 8-bit BM25 impacts, its fastest setting here.

Two threads index whatever is asked: with one, pyterrier-pisa 0.4.9 waits for ever.
"""

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier_pisa
from pyterrier_pisa import _pisathon

from benchmarks.sparse.protocol import BUILD_THREADS, K1, B, Driver, read_corpus, read_queries, serve

ALGORITHM = "maxscore"
BATCH = 100_000
# What only building needs.
PARTS_OF_BUILDING = {"fwd", "fwd.terms", "fwd.documents", "fwd.urls", "inv.docs", "inv.freqs"}
META = {"type": "sparse_index", "format": "pisa", "package_hint": "pyterrier-pisa"}


class PisaRetrieval:
    """The compiled query loop of PISA without the data frames that pyterrier puts around it."""

    def __init__(self, context: object, algorithm: str, *, weighted: float = 0, pretokenised: bool = False) -> None:
        self._context = context
        self._algorithm = algorithm
        self._options = {"query_weighted": weighted, "pretokenised": pretokenised}
        self._buffers: dict[int, tuple[Any, ...]] = {}

    def run(self, queries: list[tuple[int, Any]], k: int, threads: int) -> tuple[int, Any, Any]:
        """Return how many hits there are, then their ids and scores, query after query."""
        size = len(queries) * k
        if size not in self._buffers:
            self._buffers[size] = (
                np.empty(size, np.int32), np.empty(size, object), np.empty(size, np.int32), np.empty(size, np.float32),
            )  # fmt: skip
        numbers, ids, ranks, scores = self._buffers[size]
        found = _pisathon.retrieve(
            self._context, self._algorithm, queries, k=k, threads=threads, **self._options,
            result_qidxs=numbers, result_docnos=ids, result_ranks=ranks, result_scores=scores,
        )  # fmt: skip
        return found, ids, scores


class Pisa(Driver):
    def version(self) -> str:
        return importlib.metadata.version("pyterrier-pisa")

    def build(self, corpus: Path, index: Path) -> float:
        index.mkdir(parents=True)
        plain = index / "plain.txt"
        start = time.perf_counter()
        with plain.open("w", encoding="utf-8") as file:
            for id_, text in read_corpus(corpus):
                file.write(f"{id_} {' '.join(text.splitlines())}\n")
        _pisathon.index(str(plain), str(index), "porter2", BATCH, BUILD_THREADS)
        (index / "pt_meta.json").write_text(json.dumps({**META, "stemmer": "porter2"}))
        # The first retriever over an index makes its compressed and its block-max form.
        self._retrieval(index).run([(0, "warm")], 10, 1)
        seconds = time.perf_counter() - start
        plain.unlink()
        return seconds

    def disk(self, index: Path) -> int:
        return sum(file.stat().st_size for file in index.iterdir() if file.name not in PARTS_OF_BUILDING)

    def open(self, index: Path, queries: Path) -> None:
        self._queries = list(enumerate(read_queries(queries)))
        self._pisa = self._retrieval(index)

    def search(self, query: int, k: int) -> object:
        return self._pisa.run([(0, self._queries[query][1])], k, 1)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        found, ids, scores = self._pisa.run([(0, self._queries[query][1])], k, 1)
        return list(zip(ids[:found].tolist(), scores[:found].tolist(), strict=True))

    def batch(self, k: int, threads: int) -> None:
        self._pisa.run(self._queries, k, threads)

    def count(self) -> int:
        return len(self._queries)

    def _retrieval(self, index: Path) -> PisaRetrieval:
        pisa = pyterrier_pisa.PisaIndex(
            str(index), text_field="text", stemmer="porter2", stops="lucene", threads=1, index_encoding="block_simdbp"
        )
        self._holder = pisa.bm25(k1=K1, b=B, num_results=10, query_algorithm=ALGORITHM, precompute_impact=True)
        return PisaRetrieval(self._holder._ctxt, ALGORITHM)


if __name__ == "__main__":
    serve(Pisa())
