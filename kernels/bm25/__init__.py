"""BM25 over an inverted index: the best documents with Lucene's scores."""

from kernels.bm25.codes import bounds, encode, meanings
from kernels.bm25.reference import bm25_reference
from kernels.bm25.scoring import (
    Frequencies,
    bm25_search,
    frequency_table,
    score_all,
)

__all__ = [
    "Frequencies",
    "bm25_reference",
    "bm25_search",
    "bounds",
    "encode",
    "frequency_table",
    "meanings",
    "score_all",
]
