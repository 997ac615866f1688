"""Product codes laid out for a scan: a byte a part, the bytes of 64 documents together.

A block of 64 documents holds their first bytes, then their second ones, and so on; the last block is as short as what
is left. A document takes M bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 64


@dataclass(frozen=True, eq=False)
class ProductCodes:
    """Codes of N documents of M parts.

    bytes  uint8[N * M] in blocks as above
    """

    bytes: NDArray[np.uint8]
    documents: int
    parts: int

    def __post_init__(self) -> None:
        if self.parts < 1 or self.bytes.shape != (self.documents * self.parts,) or self.bytes.dtype != np.uint8:
            raise ValueError(
                f"{self.documents} codes of {self.parts} parts take {self.documents * self.parts} bytes, got "
                f"{self.bytes.dtype} {self.bytes.shape}."
            )


def laid_out(codes: NDArray[np.uint8]) -> ProductCodes:
    """Return codes (N, M) in blocks."""
    parts = [codes[start : start + LANES].T.ravel() for start in range(0, len(codes), LANES)]
    return ProductCodes(np.concatenate(parts) if parts else np.zeros(0, np.uint8), *codes.shape)


def rows_at(codes: ProductCodes, documents: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return codes (n, M) of some documents, by their numbers in any order; the others are not read."""
    starts = documents // LANES * LANES
    lanes = np.minimum(LANES, codes.documents - starts)
    first = starts * codes.parts + (documents - starts)
    return codes.bytes[first[:, None] + lanes[:, None] * np.arange(codes.parts)]


def rows_of(codes: ProductCodes) -> NDArray[np.uint8]:
    """Return codes (N, M), the inverse of `laid_out`."""
    rows = np.empty((codes.documents, codes.parts), np.uint8)
    for start in range(0, codes.documents, LANES):
        lanes = min(LANES, codes.documents - start)
        block = codes.bytes[start * codes.parts : (start + lanes) * codes.parts]
        rows[start : start + lanes] = block.reshape(codes.parts, lanes).T
    return rows
