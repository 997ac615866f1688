"""The nearest sign codes of each query by Hamming distance, exact, and scores of float queries against codes."""

from kernels.hamming.codes import SignCodes, packed, unpacked
from kernels.hamming.reference import nearest_codes_reference, sign_scores_reference
from kernels.hamming.scan import nearest_codes, sign_scores

__all__ = [
    "SignCodes",
    "nearest_codes",
    "nearest_codes_reference",
    "packed",
    "sign_scores",
    "sign_scores_reference",
    "unpacked",
]
