"""tantivy through tantivy-py. It has no call for a batch; threads of Python share the queries."""

import importlib.metadata
import re
import time
from pathlib import Path
from typing import Any

import tantivy

from benchmarks.sparse.protocol import Driver, read_corpus, read_queries, serve

MEMORY = 2_000_000_000


def _register(index: Any) -> None:
    filters = tantivy.Filter
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(filters.lowercase())
    builder = builder.filter(filters.stopword("english")).filter(filters.stemmer("english"))
    index.register_tokenizer("english", builder.build())


class Tantivy(Driver):
    """BM25 with tantivy's own constants (k1=1.2, b=0.75): it has no way to set them, and the work is the same."""

    def version(self) -> str:
        return importlib.metadata.version("tantivy")

    def build(self, corpus: Path, index: Path) -> float:
        index.mkdir(parents=True)
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("body", stored=False, tokenizer_name="english", index_option="freq")
        schema.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
        made = tantivy.Index(schema.build(), path=str(index))
        _register(made)
        start = time.perf_counter()
        writer = made.writer(MEMORY, 1)
        for id_, text in read_corpus(corpus):
            writer.add_document(tantivy.Document(id=id_, body=text))
        writer.commit()
        writer.wait_merging_threads()
        return time.perf_counter() - start

    def open(self, index: Path, queries: Path) -> None:
        # Its query language would take punctuation for operators.
        self._queries = [re.sub(r"[^A-Za-z0-9]+", " ", query).lower().strip() for query in read_queries(queries)]
        self._index = tantivy.Index.open(str(index))
        _register(self._index)
        self._searcher = self._index.searcher()

    def search(self, query: int, k: int) -> Any:
        parsed = self._index.parse_query(self._queries[query], ["body"])
        return self._searcher.search(parsed, k, count=False).hits

    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        return [(self._searcher.doc(place)["id"][0], score) for score, place in self.search(query, k)]

    def count(self) -> int:
        return len(self._queries)


if __name__ == "__main__":
    serve(Tantivy())
