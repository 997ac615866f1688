"""BM25 impacts as bytes, from which the exact frequency can be told again.

The part of BM25 that belongs to a posting, tf / (tf + n) with n = k1 * (1 - b + b * length / mean length), lies
between 0 and 1; its code is that times 255, rounded up. Together with the document's length byte a code
stands for one frequency or, where BM25 hardly tells frequencies apart, for several; the smallest is then meant
unless the posting is listed as an exception.

The code belongs to the k1, b and mean length of the time it was made. Other values at query time only move the
bounds of what a code can stand for (`bounds`), so the same index serves any k1 and b exactly.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled

LEVELS = 255
# Wider than the rounding of Lucene's float32 arithmetic.
MARGIN = 1e-6
LARGEST_FREQUENCY = 2**31 - 1


@compiled
def _code(frequency, norm):
    return min(LEVELS, max(1, np.int64(np.ceil(LEVELS * (frequency / (frequency + norm))))))


@compiled
def _encode(documents, frequencies, length_bytes, norms, codes):
    for posting in range(len(documents)):
        codes[posting] = _code(np.float64(frequencies[posting]), norms[length_bytes[documents[posting]]])


def encode(
    documents: NDArray[np.int32],
    frequencies: NDArray[np.unsignedinteger],
    length_bytes: NDArray[np.uint8],
    norms: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Return (P,) codes of postings.

    documents, frequencies  (P,) of the postings
    length_bytes            (N,) of the documents
    norms                   (256,) n of each length byte, 0 or above
    """
    codes = np.empty(len(documents), np.uint8)
    _encode(documents, frequencies, length_bytes, norms, codes)
    return codes


@compiled
def _meanings(norms, smallest, several):
    for byte in range(256):
        norm = norms[byte]
        for code in range(1, LEVELS + 1):
            share = (code - 1) / LEVELS
            frequency = max(1, np.int64(norm * share / (1 - share)) - 1)
            while frequency < LARGEST_FREQUENCY and _code(np.float64(frequency), norm) < code:
                frequency += 1
            smallest[byte, code] = frequency
            if _code(np.float64(frequency), norm) == code and frequency < LARGEST_FREQUENCY:
                several[byte, code] = _code(np.float64(frequency + 1), norm) == code


def meanings(norms: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return (256, 256) smallest frequency of each length byte and code, and whether there are more."""
    smallest = np.zeros((256, 256), np.int64)
    several = np.zeros((256, 256), np.bool_)
    _meanings(np.minimum(norms, float(LARGEST_FREQUENCY)), smallest, several)
    return smallest, several


def bounds(
    built: NDArray[np.float64], asked: NDArray[np.float64], occurring: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (256,) the most and the least that each code can stand for at query time.

    built, asked  (256,) n of each length byte when the codes were made, and now
    occurring     (256,) the length bytes that documents have

    A code says that tf / n lies between two values; the same tf over another n lies between those times the
    largest and the smallest ratio of the two.
    """
    code = np.arange(256) / LEVELS
    if not occurring.any():
        return code + MARGIN, np.maximum(0.0, code - 1 / LEVELS - MARGIN)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = built[occurring] / asked[occurring]
    # With k1 = 0 both are 0 and every frequency counts the same, whatever the code.
    if not np.isfinite(ratios).all() or (ratios == 0).any():
        return np.full(256, 1 + MARGIN), np.zeros(256)
    upper = _over(ratios.max(), code)
    upper[LEVELS] = 1.0
    lower = _over(ratios.min(), np.maximum(0.0, code - 1 / LEVELS))
    return upper + MARGIN, np.maximum(0.0, lower - MARGIN)


def _over(ratio: float, share: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio * share / (ratio * share + 1 - share)
