"""Positions beside impact postings: in the order of the codes, with a mark at every 64th."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.impact.postings import DENSE_KIND, SPARSE_KIND, TINY
from kernels.positions.coding import read, skip
from kernels.positions.merging import gather_bytes

STRIDE_BITS = 6
STRIDE = 1 << STRIDE_BITS


class Positions(NamedTuple):
    """The positions of all postings of one segment.

    data   (bytes,) uint8, see `kernels.positions.coding`: for each entry of `ImpactPostings.codes` with a code above 0
    marks  (C / 64 + 1,) int64: where those of every 64th entry begin, and the end
    """

    data: NDArray[np.uint8]
    marks: NDArray[np.int64]


def list_order(kinds: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the terms in the order of their codes: the tiny ones, the sparse ones, the dense ones."""
    return np.concatenate(
        [np.flatnonzero(kinds <= TINY), np.flatnonzero(kinds == SPARSE_KIND), np.flatnonzero(kinds == DENSE_KIND)]
    )


def lay_out_positions(
    kinds: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> Positions:
    """Lay out the positions of postings that are laid out themselves.

    kinds, codes  of `ImpactPostings`
    data, starts  the positions of each term's postings, and where they begin
    sizes         (V,) their bytes
    out           as many bytes as `data`, to be filled
    """
    gather_bytes(data, starts, sizes, list_order(kinds), out)
    marks = np.zeros((len(codes) + STRIDE - 1) // STRIDE + 1, np.int64)
    _mark(codes, out, marks)
    return Positions(out, marks)


@compiled
def _mark(codes, data, marks):
    at = 0
    for entry in range(len(codes)):
        if entry & (STRIDE - 1) == 0:
            marks[entry >> STRIDE_BITS] = at
        if codes[entry]:
            at = skip(data, at)
    marks[len(marks) - 1] = at


def require_sound_positions(positions: Positions, entries: int) -> None:
    """Raise ValueError unless marks and bytes can belong to so many codes."""
    data, marks = positions
    if len(marks) != (entries + STRIDE - 1) // STRIDE + 1:
        raise ValueError(f"{len(marks)} marks of positions for {entries} codes")
    if marks[0] != 0 or marks[-1] != len(data) or (np.diff(marks) < 0).any():
        raise ValueError("the marks of positions are not in order")
    first = len(data) - 1
    while first > 0 and data[first - 1] >= 128:
        first -= 1
    # So reading on from any posting ends within the bytes.
    if len(data) and (data[-1] >= 128 or data[first] & 1):
        raise ValueError("the positions end within a posting")


@compiled
def _first_fault(codes, data, marks, documents, frequencies, lengths):
    at = 0
    posting = 0
    buffer = np.empty(64, np.int64)
    for entry in range(len(codes)):
        if entry & (STRIDE - 1) == 0 and marks[entry >> STRIDE_BITS] != at:
            return posting
        if codes[entry] == 0:
            continue
        if at >= len(data):
            return posting
        buffer, count = read(data, at, buffer, 0)
        if count != frequencies[posting] or buffer[count - 1] >= lengths[documents[posting]]:
            return posting
        at = skip(data, at)
        posting += 1
    return -1 if at == len(data) else posting


def first_fault(
    codes: NDArray[np.uint8],
    positions: Positions,
    documents: NDArray[np.int32],
    frequencies: NDArray[np.integer],
    lengths: NDArray[np.integer],
) -> int:
    """Return the first posting whose positions cannot be its own, -1 if there is none.

    documents, frequencies  of the postings, in the order of the codes
    lengths                 (N,) terms of each document
    """
    return int(_first_fault(codes, positions.data, positions.marks, documents, frequencies, lengths))
