"""Addresses of the arrays of several segments, so that one compiled call searches them all.

A call that takes 20 arrays for each of 10 segments would spend longer on unpacking its arguments than on a
query. The table holds what the compiled code needs as integers; `Segments` keeps the arrays alive.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.impact.postings import BLOCK, DTYPES, ImpactPostings

DOCUMENTS = 0
KINDS = 1
GROUPS = 2
CODES = 3
TINY_DOCUMENTS = 4
SPARSE_STARTS = 5
SPARSE_COUNTS = 6
SPARSE_BOUNDS = 7
SPARSE_DOCUMENTS = 8
DENSE_STARTS = 9
DENSE_COUNTS = 10
DENSE_BOUNDS = 11
DENSE_DISTANCES = 12
CHECKPOINTS = 13
FIRST_SPARSE_CODE = 14
FIRST_DENSE_CODE = 15
DENSE_SIZES = 16
ALLOWED = 17
# A selective filter's documents one by one, and how many; 0 when the mask alone is to be read.
ALLOWED_LIST = 18
ALLOWED_COUNT = 19
COLUMNS = 20

# Up to that share of a segment, a list of documents is read faster than their mask.
LISTED_SHARE = 1 / 32

_COLUMN_OF = {
    "kinds": KINDS,
    "groups": GROUPS,
    "codes": CODES,
    "tiny_documents": TINY_DOCUMENTS,
    "sparse_starts": SPARSE_STARTS,
    "sparse_counts": SPARSE_COUNTS,
    "sparse_bounds": SPARSE_BOUNDS,
    "sparse_documents": SPARSE_DOCUMENTS,
    "dense_starts": DENSE_STARTS,
    "dense_counts": DENSE_COUNTS,
    "dense_bounds": DENSE_BOUNDS,
    "dense_distances": DENSE_DISTANCES,
    "checkpoints": CHECKPOINTS,
    "dense_sizes": DENSE_SIZES,
}


def whole_blocks(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy, filled with zeros up to whole blocks: the last block's places beyond its end are harmless then."""
    padded = np.zeros(-(-max(1, len(array)) // BLOCK) * BLOCK, array.dtype)
    padded[: len(array)] = array
    return padded


class Segments:
    """The postings of all segments of an index, ready for the kernel.

    table  (S, COLUMNS) int64, numbers and addresses
    live   for each segment (N,) bool, the documents that are not deleted, or None when all are
    """

    def __init__(self, parts: Sequence[ImpactPostings], live: Sequence[NDArray[np.bool_] | None] | None = None) -> None:
        self.parts = [
            ImpactPostings(
                *(np.ascontiguousarray(array, DTYPES[name]) for name, array in zip(part._fields, part, strict=True))
            )
            for part in parts
        ]
        self.live = list(live) if live is not None else [None] * len(parts)
        self.table = np.zeros((len(self.parts), COLUMNS), np.int64)
        for row, part in zip(self.table, self.parts, strict=True):
            row[DOCUMENTS] = part.size
            row[FIRST_SPARSE_CODE] = len(part.tiny_documents)
            row[FIRST_DENSE_CODE] = len(part.tiny_documents) + len(part.sparse_documents)
            for name, column in _COLUMN_OF.items():
                row[column] = getattr(part, name).ctypes.data
        self.live = [None if mask is None else whole_blocks(mask) for mask in self.live]
        self._write_masks(self.table, self.live)
        self._last: tuple[object, NDArray[np.int64], object, object] | None = None

    def restricted(self, allowed: Sequence[NDArray[np.bool_]] | None) -> tuple[NDArray[np.int64], object]:
        """Return a table that only lets `allowed` documents pass, and an object that must outlive its use.

        What was made of the masks given last is kept for queries that come with the same sequence of the same,
        unchanged masks.
        """
        if allowed is None:
            return self.table, self.live
        last = self._last
        if last is not None and last[0] is allowed:
            return last[1], last
        masks: list[NDArray[np.bool_]] = []
        for mask, live, part in zip(allowed, self.live, self.parts, strict=True):
            if mask.shape != (part.size,):
                raise ValueError(f"a mask has shape {mask.shape}, the segment {part.size} documents")
            masks.append(whole_blocks(mask if live is None else mask & live[: part.size]))
        table = self.table.copy()
        self._write_masks(table, masks)
        lists: list[NDArray[np.int32]] = []
        for row, narrowed in zip(table, masks, strict=True):
            if np.count_nonzero(narrowed) <= LISTED_SHARE * row[DOCUMENTS]:
                lists.append(np.flatnonzero(narrowed).astype(np.int32))
                row[ALLOWED_LIST], row[ALLOWED_COUNT] = lists[-1].ctypes.data, len(lists[-1])
        last = (allowed, table, masks, lists)
        self._last = last
        return table, last

    @staticmethod
    def _write_masks(table: NDArray[np.int64], masks: Sequence[NDArray[np.bool_] | None]) -> None:
        for row, mask in zip(table, masks, strict=True):
            row[ALLOWED] = 0 if mask is None else mask.ctypes.data


def _pointer_to(element):
    @intrinsic
    def pointer(context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(types.int64), generate

    return pointer


_u8 = _pointer_to(types.uint8)
_u16 = _pointer_to(types.uint16)
_u32 = _pointer_to(types.uint32)
_i64 = _pointer_to(types.int64)
_f32 = _pointer_to(types.float32)


@njit(inline="always")
def uint8_array(address, size):
    return carray(_u8(address), (size,))


@njit(inline="always")
def uint16_array(address, size):
    return carray(_u16(address), (size,))


@njit(inline="always")
def uint32_array(address, size):
    return carray(_u32(address), (size,))


@njit(inline="always")
def int64_array(address, size):
    return carray(_i64(address), (size,))


@njit(inline="always")
def float32_array(address, size):
    return carray(_f32(address), (size,))
