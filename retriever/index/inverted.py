"""The inverted part of a segment: BM25 postings, writer and reader.

    inverted.terms.*           the vocabulary, sorted by UTF-8 bytes
    inverted.offsets.npy       (V + 1) int64, where each term's postings begin
    inverted.documents.npy     (P,) int32, ascending within a term
    inverted.frequencies.npy   (P,) uint8, uint16 or uint32, the smallest that holds all
    inverted.lengths.npy       (N,) int32 number of terms of each document

Statistics (document frequency, mean length) are taken over live documents of all segments at search time,
so adds and deletes give the same scores as a new index.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.bm25 import bm25_search, count_allowed
from retriever.index.strings import StringTable

NAMES = [
    "inverted.terms.bytes",
    "inverted.terms.offsets.npy",
    "inverted.offsets.npy",
    "inverted.documents.npy",
    "inverted.frequencies.npy",
    "inverted.lengths.npy",
]


def encode_length(length: int) -> int:
    """Return the byte that stands for a document length (Lucene's SmallFloat.intToByte4).

    Lengths up to 39 are exact, longer ones keep their four leading bits.
    """
    if length < 24:
        return length
    length -= 24
    bits = length.bit_length()
    if bits < 4:
        return 24 + length
    shift = bits - 4
    return 24 + ((length >> shift & 0x07) | (shift + 1) << 3)


def decode_length(byte: int) -> int:
    """Return the length that a byte stands for (Lucene's SmallFloat.byte4ToInt)."""
    if byte < 24:
        return byte
    bits = (byte - 24) & 0x07
    shift = ((byte - 24) >> 3) - 1
    return 24 + (bits if shift == -1 else (bits | 0x08) << shift)


LENGTHS = np.array([decode_length(byte) for byte in range(256)], np.int64)


def encode_lengths(lengths: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return (N,) length bytes: the last byte whose decoded length is not above the real one."""
    return (np.searchsorted(LENGTHS, lengths, side="right") - 1).astype(np.uint8)


def inverse_length_norms(k1: float, b: float, mean_length: float) -> NDArray[np.float32]:
    """Return (256,) 1 / (k1 * (1 - b + b * length / mean_length)) in Lucene's float32 arithmetic."""
    one, k1_, b_ = np.float32(1), np.float32(k1), np.float32(b)
    return one / (k1_ * ((one - b_) + b_ * LENGTHS.astype(np.float32) / np.float32(mean_length)))


def inverse_document_frequency(documents: int, frequency: int) -> np.float32:
    """Return ln(1 + (N - df + 0.5) / (df + 0.5)) as float32."""
    return np.float32(np.log(1 + (documents - frequency + 0.5) / (frequency + 0.5)))


class InvertedWriter:
    """Collects documents in memory; `write` puts them down. For one shard: about 20 bytes a posting."""

    def __init__(self) -> None:
        self._vocabulary: dict[str, int] = {}
        self._terms = array("I")
        self._documents = array("I")
        self._frequencies = array("I")
        self._lengths = array("I")

    def add(self, terms: Sequence[str]) -> None:
        """Add the next document, already analysed."""
        document = len(self._lengths)
        vocabulary = self._vocabulary
        for term, frequency in Counter(terms).items():
            self._terms.append(vocabulary.setdefault(term, len(vocabulary)))
            self._documents.append(document)
            self._frequencies.append(frequency)
        self._lengths.append(len(terms))

    def write(self, folder: Path) -> list[str]:
        """Write all files into `folder` and return their names."""
        vocabulary = sorted(self._vocabulary, key=lambda term: term.encode("utf-8"))
        rank = np.empty(len(vocabulary), np.int64)
        for position, term in enumerate(vocabulary):
            rank[self._vocabulary[term]] = position
        terms = rank[np.frombuffer(self._terms, np.uint32)] if vocabulary else np.zeros(0, np.int64)
        order = np.argsort(terms, kind="stable")
        offsets = np.zeros(len(vocabulary) + 1, np.int64)
        np.cumsum(np.bincount(terms, minlength=len(vocabulary)), out=offsets[1:])
        documents = np.frombuffer(self._documents, np.uint32) if vocabulary else np.zeros(0, np.uint32)
        frequencies = np.frombuffer(self._frequencies, np.uint32) if vocabulary else np.zeros(0, np.uint32)
        _save(
            folder,
            vocabulary,
            offsets,
            documents[order].astype(np.int32),
            frequencies[order],
            np.array(self._lengths, np.int32),
        )
        return list(NAMES)


def _save(
    folder: Path,
    vocabulary: Sequence[str],
    offsets: NDArray[np.int64],
    documents: NDArray[np.int32],
    frequencies: NDArray[np.uint32],
    lengths: NDArray[np.int32],
) -> None:
    StringTable.write(folder, "inverted.terms", vocabulary)
    largest = int(frequencies.max()) if len(frequencies) else 0
    np.save(folder / "inverted.offsets.npy", offsets)
    np.save(folder / "inverted.documents.npy", documents)
    np.save(folder / "inverted.frequencies.npy", frequencies.astype(np.min_scalar_type(largest)))
    np.save(folder / "inverted.lengths.npy", lengths)


@njit(nogil=True, cache=True)
def _count_kept(offsets, documents, renumbered, places, counts):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    for term in range(len(places)):
        for posting in range(offsets[term], offsets[term + 1]):
            if renumbered[documents[posting]] >= 0:
                counts[places[term]] += 1


@njit(nogil=True, cache=True)
def _copy_kept(offsets, documents, frequencies, renumbered, places, cursors, new_documents, new_frequencies):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    for term in range(len(places)):
        place = places[term]
        for posting in range(offsets[term], offsets[term + 1]):
            document = renumbered[documents[posting]]
            if document >= 0:
                new_documents[cursors[place]] = document
                new_frequencies[cursors[place]] = frequencies[posting]
                cursors[place] += 1


def merge_inverted(
    readers: Sequence["InvertedReader"], kept: Sequence[NDArray[np.bool_] | None], folder: Path
) -> list[str]:
    """Write one inverted part holding the documents of all `readers` in order; return the file names.

    kept  for each reader its documents to keep, or None for all; those left out are forgotten entirely.
    """
    renumbered = []
    total = 0
    for reader, keep in zip(readers, kept, strict=True):
        mask = np.ones(reader.documents, np.bool_) if keep is None else keep
        renumbered.append(np.where(mask, np.cumsum(mask) - 1 + total, -1).astype(np.int32))
        total += int(mask.sum())
    # UTF-8 keeps the order of code points, so sorting str gives the order of the files.
    vocabulary = sorted(set().union(*(reader.terms for reader in readers)))
    position = {term: place for place, term in enumerate(vocabulary)}
    places = [np.fromiter((position[term] for term in reader.terms), np.int64) for reader in readers]
    counts = np.zeros(len(vocabulary), np.int64)
    for reader, places_, new in zip(readers, places, renumbered, strict=True):
        _count_kept(reader.offsets, reader.postings, new, places_, counts)
    alive = counts > 0
    offsets = np.zeros(len(vocabulary) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    documents = np.empty(offsets[-1], np.int32)
    frequencies = np.empty(offsets[-1], np.uint32)
    cursors = offsets[:-1].copy()
    for reader, places_, new in zip(readers, places, renumbered, strict=True):
        _copy_kept(reader.offsets, reader.postings, reader.frequencies, new, places_, cursors, documents, frequencies)
    lengths = [np.asarray(reader.lengths)[new >= 0] for reader, new in zip(readers, renumbered, strict=True)]
    _save(
        folder,
        [term for term, lives in zip(vocabulary, alive, strict=True) if lives],
        np.concatenate([np.zeros(1, np.int64), offsets[1:][alive]]),
        documents,
        frequencies,
        np.concatenate(lengths) if lengths else np.zeros(0, np.int32),
    )
    return list(NAMES)


class InvertedReader:
    """The postings of one segment, memory-mapped."""

    def __init__(self, folder: Path, live: NDArray[np.bool_] | None = None) -> None:
        """Open; `live` (N,) marks the documents that are not tombstoned, None when all live."""
        self.terms = StringTable(folder, "inverted.terms")
        self.offsets = np.load(folder / "inverted.offsets.npy", mmap_mode="r", allow_pickle=False)
        self.postings = np.load(folder / "inverted.documents.npy", mmap_mode="r", allow_pickle=False)
        self.frequencies = np.load(folder / "inverted.frequencies.npy", mmap_mode="r", allow_pickle=False)
        self.lengths = np.load(folder / "inverted.lengths.npy", mmap_mode="r", allow_pickle=False)
        self.documents = len(self.lengths)
        self.live = live
        self._norms = encode_lengths(self.lengths)
        if live is not None and len(live) != self.documents:
            raise ValueError(f"{len(live)} tombstone bits for {self.documents} documents")
        lengths = np.asarray(self.lengths) if live is None else self.lengths[live]
        # Lucene counts only documents that have the field, that is, at least one term.
        self.live_with_terms = int(np.count_nonzero(lengths))
        self.total_length = int(lengths.sum(dtype=np.int64))

    def term_range(self, term: str) -> tuple[int, int]:
        """Return where a term's postings begin and end; an empty range when it does not occur."""
        position = self.terms.find(term)
        if position < 0:
            return 0, 0
        return int(self.offsets[position]), int(self.offsets[position + 1])

    def document_frequency(self, span: tuple[int, int]) -> int:
        """Return the number of live documents in a range of postings. Reads it when there are tombstones."""
        start, end = span
        if self.live is None:
            return end - start
        return int(count_allowed(self.postings[start:end], self.live))

    def search(
        self,
        spans: Sequence[tuple[int, int]],
        weights: NDArray[np.float32],
        inverse: NDArray[np.float32],
        id_rank: NDArray[np.int32],
        k: int,
        allowed: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return scores and ordinals of the best k live documents; see `kernels.bm25.bm25_search`."""
        if allowed is None:
            allowed = self.live
        starts = np.array([start for start, _ in spans], np.int64)
        ends = np.array([end for _, end in spans], np.int64)
        return bm25_search(
            self.postings, self.frequencies, starts, ends, weights, self._norms, inverse, id_rank, k, allowed
        )


def weigh_terms(
    readers: Sequence[InvertedReader], counts: Mapping[str, int]
) -> tuple[NDArray[np.float32], list[list[tuple[int, int]]], int, float]:
    """Weigh query terms by inverse document frequency over all segments.

    counts  how often each term stands in the query; Lucene multiplies its weight by that

    Returns (weights of the terms that occur anywhere, for each reader their ranges, documents, mean length).
    """
    documents = sum(reader.live_with_terms for reader in readers)
    total = sum(reader.total_length for reader in readers)
    weights = []
    spans: list[list[tuple[int, int]]] = [[] for _ in readers]
    for term, count in counts.items():
        ranges = [reader.term_range(term) for reader in readers]
        frequency = sum(reader.document_frequency(span) for reader, span in zip(readers, ranges, strict=True))
        if frequency == 0:
            continue
        weights.append(np.float32(count) * inverse_document_frequency(documents, frequency))
        for spans_, span in zip(spans, ranges, strict=True):
            spans_.append(span)
    mean = total / documents if documents else 1.0
    return np.array(weights, np.float32), spans, documents, mean
