"""Postings as they come: one shard of a build, or what a segment is made from.

plain.terms.*          the vocabulary, sorted by UTF-8 bytes, see `retriever.index.strings`
plain.offsets.npy      (V + 1) int64, where each term's postings begin
plain.documents.npy    (P,) int32, ascending within a term
plain.frequencies.npy  (P,) uint8, uint16 or uint32, the smallest that holds all
plain.lengths.npy      (N,) int32 number of terms of each document
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from retriever.index.strings import StringTable

_ARRAYS = ("offsets", "documents", "frequencies", "lengths")


class PlainPostings(NamedTuple):
    """Postings of N documents; the frequencies are of any unsigned integer type."""

    terms: Sequence[bytes]
    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    frequencies: NDArray[np.unsignedinteger[Any]]
    lengths: NDArray[np.int32]

    def write(self, folder: Path) -> list[str]:
        """Write all files into `folder` and return their names."""
        names = StringTable.write(folder, "plain.terms", self.terms)
        for name in _ARRAYS:
            np.save(folder / f"plain.{name}.npy", getattr(self, name))
            names.append(f"plain.{name}.npy")
        return names

    @classmethod
    def read(cls, folder: Path) -> "PlainPostings":
        """Read what `write` wrote; the arrays are memory-mapped."""
        arrays = [np.load(folder / f"plain.{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS]
        return cls(StringTable(folder, "plain.terms").all_raw(), *arrays)


class PlainWriter:
    """Collects documents in memory, 8 bytes a term, for one shard."""

    def __init__(self) -> None:
        self._vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
        self._terms = array("I")
        self._lengths = array("I")

    def add(self, terms: Sequence[str]) -> None:
        """Add the next document, already analysed."""
        self._terms.extend(map(self._vocabulary.__getitem__, terms))
        self._lengths.append(len(terms))

    def postings(self) -> PlainPostings:
        """Return what was collected."""
        vocabulary = sorted((term.encode("utf-8"), number) for term, number in self._vocabulary.items())
        rank = np.empty(len(vocabulary), np.int64)
        rank[[number for _, number in vocabulary]] = np.arange(len(vocabulary))
        lengths = np.array(self._lengths, np.int32)
        # One whole number for each occurrence, the term above the document; equal ones are counted.
        keys = rank[np.array(self._terms, np.int64)] << 32 | np.repeat(np.arange(len(lengths)), lengths)
        keys, frequencies = np.unique(keys, return_counts=True)
        largest = int(frequencies.max()) if len(frequencies) else 0
        offsets = np.zeros(len(vocabulary) + 1, np.int64)
        np.cumsum(np.bincount(keys >> 32, minlength=len(vocabulary)), out=offsets[1:])
        return PlainPostings(
            [term for term, _ in vocabulary],
            offsets,
            (keys & 0xFFFFFFFF).astype(np.int32),
            frequencies.astype(np.min_scalar_type(largest)),
            lengths,
        )


@njit(nogil=True, cache=True)
def _count_kept(offsets, documents, renumbered, places, counts):
    for term in range(len(places)):
        for posting in range(offsets[term], offsets[term + 1]):
            if renumbered[documents[posting]] >= 0:
                counts[places[term]] += 1


@njit(nogil=True, cache=True)
def _copy_kept(offsets, documents, frequencies, renumbered, places, cursors, new_documents, new_frequencies):
    for term in range(len(places)):
        place = places[term]
        for posting in range(offsets[term], offsets[term + 1]):
            document = renumbered[documents[posting]]
            if document >= 0:
                new_documents[cursors[place]] = document
                new_frequencies[cursors[place]] = frequencies[posting]
                cursors[place] += 1


def merge_plain(parts: Sequence[PlainPostings], kept: Iterable[NDArray[np.bool_] | None]) -> PlainPostings:
    """Return the documents of all parts in order.

    kept  for each part its documents to keep, or None for all; those left out are forgotten entirely

    Cost: 5 to 8 bytes of memory for each posting, and the vocabularies.
    """
    renumbered = []
    total = 0
    for part, keep in zip(parts, kept, strict=True):
        mask = np.ones(len(part.lengths), np.bool_) if keep is None else keep
        renumbered.append(np.where(mask, np.cumsum(mask) - 1 + total, -1).astype(np.int32))
        total += int(mask.sum())
    vocabulary = sorted(set().union(*(part.terms for part in parts)))
    position = {term: place for place, term in enumerate(vocabulary)}
    places = [np.fromiter(map(position.__getitem__, part.terms), np.int64, len(part.terms)) for part in parts]
    counts = np.zeros(len(vocabulary), np.int64)
    for part, places_, new in zip(parts, places, renumbered, strict=True):
        _count_kept(part.offsets, part.documents, new, places_, counts)
    alive = counts > 0
    offsets = np.zeros(len(vocabulary) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    documents = np.empty(offsets[-1], np.int32)
    frequencies = np.empty(offsets[-1], np.result_type(np.uint8, *(part.frequencies.dtype for part in parts)))
    cursors = offsets[:-1].copy()
    for part, places_, new in zip(parts, places, renumbered, strict=True):
        _copy_kept(part.offsets, part.documents, part.frequencies, new, places_, cursors, documents, frequencies)
    lengths = [np.asarray(part.lengths)[new >= 0] for part, new in zip(parts, renumbered, strict=True)]
    return PlainPostings(
        [term for term, lives in zip(vocabulary, alive.tolist(), strict=True) if lives],
        np.concatenate([np.zeros(1, np.int64), offsets[1:][alive]]),
        documents,
        frequencies,
        np.concatenate([np.zeros(0, np.int32), *lengths]),
    )
