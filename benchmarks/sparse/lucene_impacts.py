"""Lucene on learned impacts, as LuceneImpactSearcher of pyserini asks it: Anserini's impact index, exact weights."""

import importlib.metadata
import json
import shutil
import time
from pathlib import Path
from typing import Any

from pyserini.pyclass import JArrayList, JHashMap, JInt, autoclass

from benchmarks.sparse import matrix
from benchmarks.sparse.protocol import BUILD_THREADS, Driver, serve


class LuceneImpacts(Driver):
    def version(self) -> str:
        return f"pyserini {importlib.metadata.version('pyserini')}"

    def build(self, corpus: Path, index: Path) -> float:
        documents, _ = matrix.read(corpus)
        # Vectors under the names that JsonVectorCollection wants; not timed.
        source = index.with_name(index.name + "-input")
        source.mkdir(parents=True, exist_ok=True)
        with (source / "corpus.jsonl").open("w") as file:
            for number, (terms, impacts) in enumerate(documents):
                vector = dict(zip(map(str, terms.tolist()), impacts.tolist(), strict=True))
                file.write(json.dumps({"id": str(number), "contents": "", "vector": vector}) + "\n")
        start = time.perf_counter()
        options = f"-input {source} -index {index} -threads {BUILD_THREADS} -impact -pretokenized -optimize".split()
        kind = ["-collection", "JsonVectorCollection", "-generator", "DefaultLuceneDocumentGenerator"]
        autoclass("io.anserini.index.IndexCollection").main([*kind, *options])
        seconds = time.perf_counter() - start
        shutil.rmtree(source)
        return seconds

    def open(self, index: Path, queries: Path) -> None:
        _, rows = matrix.read(queries)
        self._searcher = autoclass("io.anserini.search.SimpleImpactSearcher")(str(index))
        self._queries, self._names = JArrayList(), JArrayList()
        for number, (terms, weights) in enumerate(rows):
            query = JHashMap()
            for term, weight in zip(terms.tolist(), weights.tolist(), strict=True):
                query.put(str(term), JInt(weight))
            self._queries.add(query)
            self._names.add(str(number))
        # Kept as objects of their own, so that no look-up in a Java list is timed.
        self._each = [self._queries.get(number) for number in range(self.count())]

    def search(self, query: int, k: int) -> Any:
        return self._searcher.search(self._each[query], k)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        return [(hit.docid, hit.score) for hit in self.search(query, k)]

    def batch(self, k: int, threads: int) -> None:
        self._searcher.batch_search(self._queries, self._names, k, threads)

    def count(self) -> int:
        return int(self._queries.size())


if __name__ == "__main__":
    serve(LuceneImpacts())
