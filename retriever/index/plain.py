"""Postings as they come: one shard of a build, or what a segment is made from.

plain.terms.*          the vocabulary, sorted by UTF-8 bytes, see `retriever.index.strings`
plain.offsets.npy      (V + 1) int64, where each term's postings begin
plain.documents.npy    (P,) int32, ascending within a term
plain.frequencies.npy  (P,) uint8, uint16 or uint32, the smallest that holds all
plain.lengths.npy      (N,) int32 number of terms of each document

and where positions are kept

plain.positions.npy        uint8, see `kernels.positions.coding`
plain.position_starts.npy  (V,) int64 where each term's begin
"""

import os
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.positions import copy_kept_bytes, count_kept_bytes, encode_positions, term_starts
from kernels.words import merge_sorted
from retriever.index.strings import StringTable

# What the inverted part and the learned sparse part of a shard are called.
PLAIN = "plain"
PLAIN_IMPACTS = "plain-impacts"


def in_field(part: str, field: int | None) -> str:
    """Return what a part of a shard or segment is called for one search field, by its number; None for the contents."""
    return part if field is None else f"{part}.field{field}"


_ARRAYS = ("offsets", "documents", "values", "lengths")


class PlainPositions(NamedTuple):
    """The positions of all postings: those of a term stand together, from starts[term] on."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def sizes(self) -> NDArray[np.int64]:
        """Return (V,) the bytes of each term; every term has some."""
        order = np.argsort(self.starts)
        sizes = np.empty(len(order), np.int64)
        sizes[order] = np.diff(self.starts[order], append=len(self.data))
        return sizes


class PlainPostings(NamedTuple):
    """Postings of N documents; the values are frequencies, or weights as float32."""

    terms: Sequence[bytes]
    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    values: NDArray[Any]
    lengths: NDArray[np.int32]
    positions: PlainPositions | None = None

    def write(self, folder: Path, part: str = PLAIN) -> list[str]:
        """Write all files into `folder` and return their names."""
        names = StringTable.write(folder, f"{part}.terms", self.terms)
        for name in _ARRAYS:
            np.save(folder / f"{part}.{name}.npy", getattr(self, name))
            names.append(f"{part}.{name}.npy")
        if self.positions is not None:
            for name, content in (("positions", self.positions.data), ("position_starts", self.positions.starts)):
                np.save(folder / f"{part}.{name}.npy", content)
                names.append(f"{part}.{name}.npy")
        return names

    @classmethod
    def read(cls, folder: Path, part: str = PLAIN, *, positions: bool = False) -> "PlainPostings":
        """Read what `write` wrote, positions if they are asked for; the arrays are memory-mapped."""

        def load(name: str) -> NDArray[Any]:
            loaded: NDArray[Any] = np.load(folder / f"{part}.{name}.npy", mmap_mode="r", allow_pickle=False)
            return loaded

        terms = StringTable(folder, f"{part}.terms").all_raw()
        found = PlainPositions(load("positions"), load("position_starts")) if positions else None
        return cls(terms, load("offsets"), load("documents"), load("values"), load("lengths"), found)


class PlainWriter:
    """Collects documents in memory, 8 bytes a term, for one shard; with `positions` 16 bytes."""

    def __init__(self, *, positions: bool = False) -> None:
        self._keeps_positions = positions
        self._vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
        self._terms = array("I")
        self._lengths = array("I")

    def add(self, terms: Sequence[str]) -> None:
        """Add the next document, already analysed."""
        self._terms.extend(map(self._vocabulary.__getitem__, terms))
        self._lengths.append(len(terms))

    def add_numbered(self, terms: Sequence[str], numbers: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Add the next documents, whose terms one after another are `numbers` of `terms`; `lengths` of them in each."""
        used = np.zeros(len(terms), np.bool_)
        used[numbers] = True
        own = np.zeros(len(terms), np.uint32)
        for number in np.flatnonzero(used).tolist():
            own[number] = self._vocabulary[terms[number]]
        self._terms.frombytes(own[numbers].tobytes())
        self._lengths.frombytes(lengths.astype(np.uint32).tobytes())

    def postings(self) -> PlainPostings:
        """Return what was collected."""
        # In the order of their UTF-8 bytes, too.
        vocabulary = sorted(self._vocabulary)
        rank = np.empty(len(vocabulary), np.int64)
        rank[list(map(self._vocabulary.__getitem__, vocabulary))] = np.arange(len(vocabulary))
        lengths = np.array(self._lengths, np.int32)
        terms = rank[np.array(self._terms, np.int64)]
        documents = np.repeat(np.arange(len(lengths)), lengths)
        places = None
        if self._keeps_positions:
            # One whole number for each occurrence, the term above its place among all; sorted, they stand by position.
            order = np.sort(terms << 32 | np.arange(len(terms))) & 0xFFFFFFFF
            terms, documents = terms[order], documents[order]
            places = order - (np.cumsum(lengths, dtype=np.int64) - lengths)[documents]
        # The term above the document; equal ones are counted.
        keys, frequencies = np.unique(terms << 32 | documents, return_counts=True)
        largest = int(frequencies.max()) if len(frequencies) else 0
        offsets = np.zeros(len(vocabulary) + 1, np.int64)
        np.cumsum(np.bincount(keys >> 32, minlength=len(vocabulary)), out=offsets[1:])
        positions = None
        if places is not None:
            data = encode_positions(places, frequencies)
            positions = PlainPositions(data, term_starts(data, np.diff(offsets)))
        return PlainPostings(
            [term.encode("utf-8") for term in vocabulary],
            offsets,
            (keys & 0xFFFFFFFF).astype(np.int32),
            frequencies.astype(np.min_scalar_type(largest)),
            lengths,
            positions,
        )


def plain_weights(documents: Sequence[Mapping[str, float]]) -> PlainPostings:
    """Return the postings of documents given as terms with weights."""
    vocabulary = sorted({term for terms in documents for term in terms}, key=lambda term: term.encode("utf-8"))
    number = {term: place for place, term in enumerate(vocabulary)}
    lengths = np.fromiter(map(len, documents), np.int32, len(documents))
    count = int(lengths.sum())
    terms = np.fromiter((number[term] for entry in documents for term in entry), np.int64, count)
    values = np.fromiter((value for entry in documents for value in entry.values()), np.float32, count)
    order = np.argsort(terms, kind="stable")
    offsets = np.zeros(len(vocabulary) + 1, np.int64)
    np.cumsum(np.bincount(terms, minlength=len(vocabulary)), out=offsets[1:])
    return PlainPostings(
        [term.encode("utf-8") for term in vocabulary],
        offsets,
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order],
        values[order],
        lengths,
    )


@njit(nogil=True, cache=True)
def _count_kept(offsets, documents, renumbered, places, counts):
    for term in range(len(places)):
        for posting in range(offsets[term], offsets[term + 1]):
            if renumbered[documents[posting]] >= 0:
                counts[places[term]] += 1


@njit(nogil=True, cache=True)
def _copy_kept(offsets, documents, values, renumbered, places, cursors, new_documents, new_values):
    for term in range(len(places)):
        place = places[term]
        for posting in range(offsets[term], offsets[term + 1]):
            document = renumbered[documents[posting]]
            if document >= 0:
                new_documents[cursors[place]] = document
                new_values[cursors[place]] = values[posting]
                cursors[place] += 1


def scratch(folder: Path, size: int) -> NDArray[np.uint8]:
    """Return so many bytes that the system keeps in a nameless file instead of memory; it goes with the array.

    Raises OSError when the disk is full, instead of a signal when they are written.
    """
    if size == 0:
        return np.zeros(0, np.uint8)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "w+", shape=(size,)).view(np.ndarray)


def merge_plain(
    parts: Sequence[PlainPostings], kept: Iterable[NDArray[np.bool_] | None], folder: Path | None = None
) -> PlainPostings:
    """Return the documents of all parts in order.

    kept    for each part its documents to keep, or None for all; those left out are forgotten entirely
    folder  where there is disk for the positions; without it they are left out

    Cost: 5 to 8 bytes of memory for each posting, and the vocabularies.
    """
    renumbered = []
    total = 0
    for part, keep in zip(parts, kept, strict=True):
        mask = np.ones(len(part.lengths), np.bool_) if keep is None else keep
        renumbered.append(np.where(mask, np.cumsum(mask) - 1 + total, -1).astype(np.int32))
        total += int(mask.sum())
    vocabulary, places = merge_sorted([part.terms for part in parts])
    counts = np.zeros(len(vocabulary), np.int64)
    for part, places_, new in zip(parts, places, renumbered, strict=True):
        _count_kept(part.offsets, part.documents, new, places_, counts)
    alive = counts > 0
    offsets = np.zeros(len(vocabulary) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    documents = np.empty(offsets[-1], np.int32)
    values = np.empty(offsets[-1], np.result_type(np.uint8, *(part.values.dtype for part in parts)))
    cursors = offsets[:-1].copy()
    for part, places_, new in zip(parts, places, renumbered, strict=True):
        _copy_kept(part.offsets, part.documents, part.values, new, places_, cursors, documents, values)
    lengths = [np.asarray(part.lengths)[new >= 0] for part, new in zip(parts, renumbered, strict=True)]
    merged = None
    if folder is not None:
        merged = _merged_positions(parts, renumbered, places, len(vocabulary), folder)
        merged = merged._replace(starts=merged.starts[alive])
    return PlainPostings(
        [term for term, lives in zip(vocabulary, alive.tolist(), strict=True) if lives],
        np.concatenate([np.zeros(1, np.int64), offsets[1:][alive]]),
        documents,
        values,
        np.concatenate([np.zeros(0, np.int32), *lengths]),
        merged,
    )


def _merged_positions(
    parts: Sequence[PlainPostings],
    renumbered: Sequence[NDArray[np.int32]],
    places: Sequence[NDArray[np.int64]],
    terms: int,
    folder: Path,
) -> PlainPositions:
    """Return the positions of what is kept, the terms in order.

    renumbered  for each part the new number of each document, below 0 where it is left out
    places      for each part the new number of each term, below `terms`
    """
    sizes = np.zeros(terms, np.int64)
    sources = []
    for part, new, places_ in zip(parts, renumbered, places, strict=True):
        assert part.positions is not None, "an index that keeps positions has them in each part"
        sources.append((part.offsets, part.documents, new, *part.positions, places_))
    for source in sources:
        count_kept_bytes(*source, sizes)
    starts = np.cumsum(sizes) - sizes
    data = scratch(folder, int(sizes.sum()))
    cursors = starts.copy()
    for source in sources:
        copy_kept_bytes(*source, cursors, data)
    return PlainPositions(data, starts)
