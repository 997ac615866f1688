"""The best product codes of each query by inner product with what they stand for, exact."""

from kernels.pq.codes import ProductCodes, laid_out, rows_at, rows_of
from kernels.pq.reference import best_codes_reference, code_scores_reference
from kernels.pq.scan import best_codes, code_scores, tables

__all__ = [
    "ProductCodes",
    "best_codes",
    "best_codes_reference",
    "code_scores",
    "code_scores_reference",
    "laid_out",
    "rows_at",
    "rows_of",
    "tables",
]
