"""An immutable array of strings in two files, memory-mapped: names of terms and ids of documents.

NAME.bytes holds the UTF-8 of all strings end to end, NAME.offsets.npy the (n + 1) ends, unsigned and no wider than
needed.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

# Strings written at once.
BLOCK = 65_536


class StringTable(Sequence[str]):
    """Reads one string in about a microsecond without loading the rest."""

    def __init__(self, folder: Path, name: str) -> None:
        self._offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        size = (folder / f"{name}.bytes").stat().st_size
        # An empty file cannot be mapped.
        self._view: memoryview = memoryview(b"")
        if size:
            self._view = np.memmap(folder / f"{name}.bytes", np.uint8, "r").data

    @classmethod
    def write(cls, folder: Path, name: str, strings: Iterable[str | bytes]) -> list[str]:
        """Write the two files and return their names; bytes are written as they are."""
        sizes = [np.zeros(1, np.int64)]
        remaining = iter(strings)
        with (folder / f"{name}.bytes").open("wb") as file:
            # In blocks, since one call a string takes most of the time, and all at once the memory.
            while block := list(islice(remaining, BLOCK)):
                raw = [string if isinstance(string, bytes) else string.encode("utf-8") for string in block]
                file.write(b"".join(raw))
                sizes.append(np.fromiter(map(len, raw), np.int64, len(raw)))
        ends = np.cumsum(np.concatenate(sizes))
        np.save(folder / f"{name}.offsets.npy", ends.astype(np.min_scalar_type(ends[-1])))
        return [f"{name}.bytes", f"{name}.offsets.npy"]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        return str(self.raw(position), "utf-8")

    def __iter__(self) -> Iterator[str]:
        for position in range(len(self)):
            yield self[position]

    def raw(self, position: int) -> bytes:
        """Return the UTF-8 of one string."""
        return bytes(self._view[self._offsets[position] : self._offsets[position + 1]])

    def all_raw(self) -> list[bytes]:
        """Return the UTF-8 of all strings."""
        content = bytes(self._view)
        ends = self._offsets.tolist()
        return [content[start:end] for start, end in pairwise(ends)]

    def take(self, positions: NDArray[np.integer]) -> list[str]:
        """Return the strings at some positions, five times as fast as one by one."""
        starts = self._offsets[positions].astype(np.int64)
        sizes = self._offsets[positions + 1] - starts
        ends = np.cumsum(sizes)
        if len(ends) == 0 or ends[-1] == 0:
            return [""] * len(ends)
        # All bytes in one piece: the place of each in the file is its own plus how far its string was moved.
        content = bytes(np.asarray(self._view)[np.arange(ends[-1]) + np.repeat(starts - ends + sizes, sizes)])
        limits = [0, *ends.tolist()]
        if content.isascii():
            text = content.decode("ascii")
            return [text[start:end] for start, end in pairwise(limits)]
        return [str(content[start:end], "utf-8") for start, end in pairwise(limits)]

    def find(self, string: str) -> int:
        """Return the position of `string` in a table sorted by UTF-8 bytes, or -1."""
        wanted = string.encode("utf-8")
        position = bisect_left(range(len(self)), wanted, key=self.raw)
        return position if position < len(self) and self.raw(position) == wanted else -1
