"""Sign codes laid out for a scan: one bit a dimension, 64 dimensions a word, the words of 64 documents together.

A block of 64 documents holds their first words, then their second ones, and so on, so that one vector instruction
works on several documents; the last block is as short as what is left. A document takes 8 * ceil(H / 64) bytes, H / 8
where 64 divides H, and nothing is padded beyond that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 64
WORD = 64


@dataclass(frozen=True, eq=False)
class SignCodes:
    """Codes of N documents of H dimensions.

    words  uint64[N * W], W = ceil(H / 64), in blocks as above; bits beyond H are 0
    """

    words: NDArray[np.uint64]
    documents: int
    width: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.words.shape != (self.documents * words_of(self.width),):
            raise ValueError(
                f"{self.documents} codes of {self.width} bits take {self.documents * words_of(self.width)} words, "
                f"got {self.words.shape}."
            )
        if self.words.dtype != np.uint64:
            raise ValueError(f"codes are uint64, got {self.words.dtype}.")


def words_of(width: int) -> int:
    """Return how many words a code of so many bits takes."""
    return -(-width // WORD)


def packed(vectors: NDArray[np.floating]) -> SignCodes:
    """Return the sign codes of (N, H) vectors: a bit is set where the number is 0 or more."""
    return SignCodes(laid_out(signs(vectors)), len(vectors), vectors.shape[1])


def signs(vectors: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return uint64 (N, W) with a bit set where the number is 0 or more; bit i of a word is its i-th dimension."""
    bits = np.packbits(np.asarray(vectors) >= 0, axis=1, bitorder="little")
    whole = np.zeros((len(bits), 8 * words_of(vectors.shape[1])), np.uint8)
    whole[:, : bits.shape[1]] = bits
    return whole.view("<u8").astype(np.uint64, copy=False)


def laid_out(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return uint64[N * W] in blocks of 64 documents, from (N, W)."""
    parts = [words[start : start + LANES].T.ravel() for start in range(0, len(words), LANES)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def rows_at(codes: SignCodes, documents: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return uint64 (n, W) of some documents, by their numbers in any order; the others are not read."""
    per = words_of(codes.width)
    starts = documents // LANES * LANES
    lanes = np.minimum(LANES, codes.documents - starts)
    first = starts * per + (documents - starts)
    return codes.words[first[:, None] + lanes[:, None] * np.arange(per)]


def rows_of(codes: SignCodes) -> NDArray[np.uint64]:
    """Return uint64 (N, W), the inverse of `laid_out`."""
    per = words_of(codes.width)
    rows = np.empty((codes.documents, per), np.uint64)
    for start in range(0, codes.documents, LANES):
        lanes = min(LANES, codes.documents - start)
        rows[start : start + lanes] = codes.words[start * per : (start + lanes) * per].reshape(per, lanes).T
    return rows


def unpacked(codes: SignCodes) -> NDArray[np.float32]:
    """Return (N, H) of +1 and -1."""
    return plus_and_minus(rows_of(codes), codes.width)


def plus_and_minus(words: NDArray[np.uint64], width: int) -> NDArray[np.float32]:
    """Return (N, H) of +1 and -1 for codes uint64 (N, W)."""
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :width]
    return bits.astype(np.float32) * 2 - 1
