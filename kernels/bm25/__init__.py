"""BM25 over an inverted index: the best documents with Lucene's scores."""

from kernels.bm25.codes import bounds, encode, meanings
from kernels.bm25.reference import bm25_in_fields_reference, bm25_reference
from kernels.bm25.scoring import (
    Frequencies,
    bm25_search,
    bm25_search_in_fields,
    frequency_table,
    score_all,
    score_all_in_fields,
)

__all__ = [
    "Frequencies",
    "bm25_in_fields_reference",
    "bm25_reference",
    "bm25_search",
    "bm25_search_in_fields",
    "bounds",
    "encode",
    "frequency_table",
    "meanings",
    "score_all",
    "score_all_in_fields",
]
