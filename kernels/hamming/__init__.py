"""The nearest sign codes of each query by Hamming distance, exact, and scores of float queries against codes."""

from kernels.hamming.codes import (
    SignCodes,
    laid_out,
    packed,
    plus_and_minus,
    rows_at,
    rows_of,
    signs,
    unpacked,
    words_of,
)
from kernels.hamming.reference import nearest_codes_reference, sign_scores_reference
from kernels.hamming.scan import nearest_codes, sign_scores

__all__ = [
    "SignCodes",
    "laid_out",
    "nearest_codes",
    "nearest_codes_reference",
    "packed",
    "plus_and_minus",
    "rows_at",
    "rows_of",
    "sign_scores",
    "sign_scores_reference",
    "signs",
    "unpacked",
    "words_of",
]
