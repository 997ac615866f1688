"""The terms of a segment, sorted by their UTF-8 bytes, with common beginnings written once.

    NAME.npy         uint8: for each term how many bytes it shares with the one before, how many follow, and those
    NAME.groups.npy  (V / 64 + 1) int64 where each group of 64 terms begins; a group's first term shares nothing

Numbers are written in groups of 7 bits, the lowest first, the top bit set on all but the last byte.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numba import njit
from numpy.typing import NDArray

GROUP = 64


@njit(nogil=True, cache=True)
def _number(data, at):
    value = np.int64(0)
    shift = 0
    while True:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


@njit(nogil=True, cache=True)
def _put_number(out, at, value):
    while value >= 128:
        out[at] = (value & 127) | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@njit(nogil=True, cache=True)
def _fold(text, offsets, out, groups):
    at = 0
    for term in range(len(offsets) - 1):
        start = offsets[term]
        size = offsets[term + 1] - start
        shared = 0
        if term % GROUP == 0:
            groups[term // GROUP] = at
        else:
            before = offsets[term - 1]
            most = min(size, start - before)
            while shared < most and text[before + shared] == text[start + shared]:
                shared += 1
        at = _put_number(out, at, shared)
        at = _put_number(out, at, size - shared)
        out[at : at + size - shared] = text[start + shared : start + size]
        at += size - shared
    groups[len(groups) - 1] = at
    return at


@njit(nogil=True, cache=True)
def _compare_head(data, at, wanted):
    """Return the sign of a group's first term against `wanted`."""
    _, at = _number(data, at)
    size, at = _number(data, at)
    for i in range(min(size, len(wanted))):
        if data[at + i] != wanted[i]:
            return -1 if data[at + i] < wanted[i] else 1
    return 0 if size == len(wanted) else (-1 if size < len(wanted) else 1)


@njit(nogil=True, cache=True)
def _find(data, groups, terms, wanted):
    low = 0
    high = len(groups) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if _compare_head(data, groups[middle], wanted) <= 0:
            low = middle
        else:
            high = middle
    at = groups[low]
    # Bytes that `wanted` has in common with the term before.
    common = 0
    for term in range(low * GROUP, min(terms, (low + 1) * GROUP)):
        shared, at = _number(data, at)
        size, at = _number(data, at)
        if shared < common:
            return -1
        if shared == common:
            i = 0
            while i < size and common < len(wanted) and data[at + i] == wanted[common]:
                i += 1
                common += 1
            if i == size and common == len(wanted):
                return term
            if i < size and (common == len(wanted) or data[at + i] > wanted[common]):
                return -1
        at += size
    return -1


@njit(nogil=True, cache=True)
def _find_all(data, groups, terms, wanted, ends, found):
    start = 0
    for i in range(len(ends)):
        found[i] = _find(data, groups, terms, wanted[start : ends[i]]) if terms else -1
        start = ends[i]


class Vocabulary(Sequence[str]):
    """Finds a term in about half a microsecond; reads the others a group at a time."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self._data = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        self._groups = np.load(folder / f"{name}.groups.npy", mmap_mode="r", allow_pickle=False)
        self._size = size
        groups = np.asarray(self._groups)
        if len(groups) != -(-size // GROUP) + 1 or groups[0] != 0 or groups[-1] != len(self._data):
            raise ValueError(f"the vocabulary {name} does not hold {size} terms")
        if (np.diff(groups) < 1).any():
            raise ValueError(f"the vocabulary {name} has groups out of order")

    @classmethod
    def write(cls, folder: Path, name: str, terms: Sequence[bytes]) -> list[str]:
        """Write terms, sorted and distinct, and return the names of the files."""
        text = np.frombuffer(b"".join(terms), np.uint8)
        offsets = np.zeros(len(terms) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, terms), np.int64, len(terms)), out=offsets[1:])
        # Two numbers of at most ten bytes go before each term.
        out = np.empty(len(text) + 20 * len(terms), np.uint8)
        groups = np.zeros(-(-len(terms) // GROUP) + 1, np.int64)
        size = _fold(text, offsets, out, groups)
        np.save(folder / f"{name}.npy", out[:size])
        np.save(folder / f"{name}.groups.npy", groups)
        return [f"{name}.npy", f"{name}.groups.npy"]

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        if not 0 <= position < self._size:
            raise IndexError(f"term {position} of {self._size}")
        return str(self._group(position // GROUP)[position % GROUP], "utf-8")

    def __iter__(self) -> Iterator[str]:
        return (str(term, "utf-8") for term in self.raw())

    def raw(self) -> Iterator[bytes]:
        """Yield the UTF-8 of all terms in order."""
        for group in range(len(self._groups) - 1):
            yield from self._group(group)

    def _group(self, group: int) -> list[bytes]:
        data = bytes(self._data[self._groups[group] : self._groups[group + 1]])
        terms: list[bytes] = []
        term = b""
        at = 0
        while at < len(data):
            shared, at = _read_number(data, at)
            size, at = _read_number(data, at)
            term = term[:shared] + data[at : at + size]
            at += size
            terms.append(term)
        return terms

    def find(self, term: str) -> int:
        """Return the number of a term, or -1."""
        return int(self.find_all([term.encode("utf-8")])[0])

    def find_all(self, terms: Sequence[bytes]) -> NDArray[np.int64]:
        """Return (T,) numbers of terms, -1 for those that are not there."""
        found = np.empty(len(terms), np.int64)
        wanted = np.frombuffer(b"".join(terms), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, terms), np.int64, len(terms)))
        _find_all(self._data, self._groups, self._size, wanted, ends, found)
        return found

    def starting_with(self, prefix: str, limit: int) -> list[tuple[int, str]]:
        """Return up to `limit` (number, term) that start with a prefix, in order."""
        wanted = prefix.encode("utf-8")
        heads = range(len(self._groups) - 1)
        group = max(0, bisect_left(heads, wanted, key=lambda head: self._group(head)[0]) - 1)
        found: list[tuple[int, str]] = []
        for number in range(group, len(heads)):
            for place, term in enumerate(self._group(number)):
                if term.startswith(wanted):
                    if len(found) == limit:
                        return found
                    found.append((number * GROUP + place, str(term, "utf-8")))
                elif term > wanted:
                    return found
        return found


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] >= 128:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1
