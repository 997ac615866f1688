"""This engine through its public interface: the command that builds, and one call a query."""

import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.sparse.protocol import K1, B, Driver, read_queries, serve


class Ours(Driver):
    def version(self) -> str:
        return importlib.metadata.version("retriever-engine")

    def build(self, corpus: Path, index: Path) -> float:
        command = [sys.executable, "-m", "retriever.cli", "index", "build", str(corpus), str(index)]
        settings = ["--parts", "bm25", "--k1", str(K1), "--b", str(B), "--quiet"]
        start = time.perf_counter()
        subprocess.run([*command, *settings], check=True)
        return time.perf_counter() - start

    def disk(self, index: Path) -> int:
        # The peers keep no texts; ours are what snippets, reranking and a later rebuild read.
        files = [*index.glob("segments/*/inverted.*"), *index.glob("segments/*/documents.*")]
        return sum(file.stat().st_size for file in files)

    def open(self, index: Path, queries: Path) -> None:
        from retriever.index.sealed import open_index

        self._queries = read_queries(queries)
        self._index = open_index(index, offline=True)
        self._index.warm()

    def search(self, query: int, k: int) -> Any:
        return self._index.search_bm25(self._queries[query], k, None)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        found, _ = self._index.search_bm25(self._queries[query], k, None)
        return [(id_, float(score)) for id_, score in found.ranking()]

    def count(self) -> int:
        return len(self._queries)


if __name__ == "__main__":
    serve(Ours())
