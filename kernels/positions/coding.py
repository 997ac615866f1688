"""The positions of postings as bytes, one posting's after another's.

Positions are counted from 0 and ascend. Each stands as the distance from the one before it less one, the first as
itself, times two, plus 1 if another follows in the same posting; this number in groups of 7 bits, the lowest first,
the top bit set on all but the last byte. So a posting's end shows by itself, and a text of less than 64 terms takes
one byte a position.

Bytes do not depend on the numbers of documents or terms, and are copied unchanged when parts are merged.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled


@compiled
def skip(data, at):
    """Return where the posting after the one at `at` begins."""
    while True:
        more = data[at] & 1
        while data[at] >= 128:
            at += 1
        at += 1
        if not more:
            return at


@compiled
def read(data, at, positions, count):
    """Append the positions of the posting at `at` behind the first `count`; return the array, grown if need be, and
    how many it holds then."""
    place = np.int64(-1)
    while True:
        value = np.int64(data[at] & 127)
        shift = 7
        while data[at] >= 128:
            at += 1
            value |= np.int64(data[at] & 127) << shift
            shift += 7
        at += 1
        place += (value >> 1) + 1
        if count == len(positions):
            grown = np.empty(2 * count + 16, np.int64)
            grown[:count] = positions
            positions = grown
        positions[count] = place
        count += 1
        if not value & 1:
            return positions, count


@compiled
def _size(positions, counts):
    size = 0
    first = 0
    for posting in range(len(counts)):
        before = np.int64(-1)
        for i in range(first, first + counts[posting]):
            value = (np.int64(positions[i]) - before - 1) << 1
            before = np.int64(positions[i])
            size += 1
            while value >= 128:
                value >>= 7
                size += 1
        first += counts[posting]
    return size


@compiled
def _encode(positions, counts, data):
    at = 0
    first = 0
    for posting in range(len(counts)):
        before = np.int64(-1)
        last = first + counts[posting] - 1
        for i in range(first, last + 1):
            value = (np.int64(positions[i]) - before - 1) << 1 | np.int64(i < last)
            before = np.int64(positions[i])
            while value >= 128:
                data[at] = (value & 127) | 128
                value >>= 7
                at += 1
            data[at] = value
            at += 1
        first = last + 1


def encode_positions(positions: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the bytes of postings.

    positions  of all postings end to end, ascending within each, below 2**31
    counts     how many each posting has, at least 1
    """
    if len(counts) and (int(counts.min()) < 1 or int(counts.sum(dtype=np.int64)) != len(positions)):
        raise ValueError(f"{len(positions)} positions for {len(counts)} postings do not fit together")
    data = np.empty(_size(positions, counts), np.uint8)
    _encode(positions, counts, data)
    return data


@compiled
def _starts(data, counts, order, starts):
    """Return where the last posting ends, or -1 when it would be beyond the data."""
    at = 0
    size = len(data)
    for term in order:
        starts[term] = at
        left = counts[term]
        while left > 0:
            if at >= size:
                return -1
            more = data[at] & 1
            while data[at] >= 128:
                at += 1
                if at >= size:
                    return -1
            at += 1
            if not more:
                left -= 1
    return at


def term_starts(
    data: NDArray[np.uint8], counts: NDArray[np.integer], order: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Return (V,) where each term's positions begin.

    counts  (V,) postings of each term
    order   (V,) the terms as they stand in `data`; by number without it

    Raises ValueError unless these postings take up all of `data`: whoever then reads as many stays within it.
    """
    starts = np.zeros(len(counts), np.int64)
    end = _starts(data, counts, np.arange(len(counts)) if order is None else order, starts)
    if end != len(data):
        raise ValueError(f"{len(data)} bytes of positions are not those of {int(np.sum(counts))} postings")
    return starts
