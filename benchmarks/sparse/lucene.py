"""Lucene through the Anserini jar of pyserini; hits stay in Java, as they would in a Java service."""

import importlib.metadata
import json
import shutil
import time
from pathlib import Path

from benchmarks.sparse.protocol import BUILD_THREADS, K1, B, Driver, read_corpus, read_queries, serve


class ExactSearcher:
    """Lucene's searcher itself: Anserini's cuts scores to four decimals and lowers the second of two equal ones."""

    def __init__(self, index: Path) -> None:
        from pyserini.pyclass import autoclass

        self._analyser = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
        self._generator = autoclass("io.anserini.search.query.BagOfWordsQueryGenerator")()
        folder = autoclass("org.apache.lucene.store.FSDirectory").open(autoclass("java.nio.file.Paths").get(str(index)))
        self._searcher = autoclass("org.apache.lucene.search.IndexSearcher")(
            autoclass("org.apache.lucene.index.DirectoryReader").open(folder).getContext()
        )
        self._searcher.setSimilarity(autoclass("org.apache.lucene.search.similarities.BM25Similarity")(K1, B))
        field, kind = autoclass("org.apache.lucene.search.SortField"), "org.apache.lucene.search.SortField$Type"
        # As Anserini does: equal scores in ascending order of id.
        ids = field("id", autoclass(kind).STRING_VAL)
        self._order = autoclass("org.apache.lucene.search.Sort")(field.FIELD_SCORE, ids)

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        return self.hits(self._generator.buildQuery("contents", self._analyser, text), k)

    def hits(self, query: object, k: int) -> list[tuple[str, float]]:
        """Return (id, score) for a query of Lucene's."""
        found = self._searcher.search(query, k, self._order, True).scoreDocs
        stored = self._searcher.storedFields()
        return [(stored.document(hit.doc).get("id"), hit.score) for hit in found]


class Lucene(Driver):
    def version(self) -> str:
        return f"pyserini {importlib.metadata.version('pyserini')}"

    def build(self, corpus: Path, index: Path) -> float:
        from pyserini.pyclass import autoclass

        # The same records under the names that JsonCollection wants; not timed.
        source = index.with_name(index.name + "-input")
        source.mkdir(parents=True, exist_ok=True)
        with (source / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for id_, text in read_corpus(corpus):
                file.write(json.dumps({"id": id_, "contents": text}) + "\n")
        start = time.perf_counter()
        options = f"-input {source} -index {index} -threads {BUILD_THREADS} -optimize".split()
        kind = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator"]
        autoclass("io.anserini.index.IndexCollection").main([*kind, *options])
        seconds = time.perf_counter() - start
        shutil.rmtree(source)
        return seconds

    def open(self, index: Path, queries: Path) -> None:
        from pyserini.pyclass import autoclass

        self._queries = read_queries(queries)
        self._searcher = autoclass("io.anserini.search.SimpleSearcher")(str(index))
        self._searcher.set_bm25(K1, B)
        self._exact = ExactSearcher(index)
        texts, names = autoclass("java.util.ArrayList")(), autoclass("java.util.ArrayList")()
        for number, query in enumerate(self._queries):
            texts.add(query)
            names.add(str(number))
        self._batch = texts, names

    def search(self, query: int, k: int) -> object:
        return self._searcher.search(self._queries[query], k)

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        return self._exact.search(self._queries[query], k)

    def batch(self, k: int, threads: int) -> None:
        self._searcher.batch_search(*self._batch, k, threads)

    def count(self) -> int:
        return len(self._queries)


if __name__ == "__main__":
    serve(Lucene())
