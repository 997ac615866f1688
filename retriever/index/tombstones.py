"""Deleted documents of a segment: a bit for each, little-endian, 1 where the document is gone."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_tombstones(path: Path, deleted: NDArray[np.int64], documents: int) -> None:
    """Write a bitmap of `documents` bits with those at `deleted` set."""
    gone = np.zeros(documents, np.bool_)
    gone[deleted] = True
    np.save(path, np.packbits(gone, bitorder="little"))


def read_live(path: Path, documents: int) -> NDArray[np.bool_]:
    """Return (N,) True where the document is not deleted."""
    bits = np.load(path, allow_pickle=False)
    return ~np.unpackbits(bits, count=documents, bitorder="little").astype(np.bool_)
