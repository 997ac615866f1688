"""BM25 over an inverted index: the best documents with Lucene's scores."""

from kernels.bm25.cpu import bm25_search, count_allowed
from kernels.bm25.reference import bm25_reference

__all__ = ["bm25_reference", "bm25_search", "count_allowed"]
