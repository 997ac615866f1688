"""bm25s with its numba backend. Queries are tokenised beforehand, as its interface wants: its times lack that part."""

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import bm25s
import Stemmer

from benchmarks.sparse.protocol import K1, B, Driver, read_corpus, read_queries, serve


class Bm25s(Driver):
    def version(self) -> str:
        return importlib.metadata.version("bm25s")

    def build(self, corpus: Path, index: Path) -> float:
        start = time.perf_counter()
        texts = [text for _, text in read_corpus(corpus)]
        tokens = bm25s.tokenize(texts, stopwords="english", stemmer=Stemmer.Stemmer("english"), show_progress=False)
        engine = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numba")
        engine.index(tokens, show_progress=False)
        engine.save(str(index))
        return time.perf_counter() - start

    def open(self, index: Path, queries: Path) -> None:
        self._engine = bm25s.BM25.load(str(index))
        self._engine.backend = "numba"
        self._engine.activate_numba_scorer()
        self._queries = bm25s.tokenize(
            read_queries(queries), stopwords="english", stemmer=Stemmer.Stemmer("english"), return_ids=False,
            show_progress=False,
        )  # fmt: skip

    def search(self, query: int, k: int) -> Any:
        return self._retrieve([self._queries[query]], k, 1)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        found = self._retrieve([self._queries[query]], k, 1)
        pairs = zip(found.documents[0].tolist(), found.scores[0].tolist(), strict=True)
        return [(str(document), score) for document, score in pairs if score > 0]

    def batch(self, k: int, threads: int) -> None:
        self._retrieve(self._queries, k, threads)

    def count(self) -> int:
        return len(self._queries)

    def _retrieve(self, queries: list[list[str]], k: int, threads: int) -> Any:
        return self._engine.retrieve(queries, k=k, n_threads=threads, show_progress=False, backend_selection="numba")


if __name__ == "__main__":
    serve(Bm25s())
