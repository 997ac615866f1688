"""BM25 over all segments of an index at once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.bm25 import bm25_search, bounds, frequency_table
from kernels.impact import Segments, locate, posting_sizes
from kernels.impact.postings import BLOCK
from retriever.fields import CONTENTS
from retriever.index.inverted import LENGTHS, InvertedReader, encode_length, length_norms
from retriever.index.selection import best_by_segment
from retriever.types import TermScore

MOST_KNOWN = 200_000


class Entry(NamedTuple):
    """A term's number in each segment, -1 where absent, and its inverse document frequency."""

    numbers: tuple[int, ...]
    idf: np.float32


def inverse_length_norms(k1: float, b: float, mean_length: float) -> NDArray[np.float32]:
    """Return (256,) 1 / (k1 * (1 - b + b * length / mean_length)) in Lucene's float32 arithmetic."""
    one, k1_, b_ = np.float32(1), np.float32(k1), np.float32(b)
    with np.errstate(divide="ignore"):
        return one / (k1_ * ((one - b_) + b_ * LENGTHS.astype(np.float32) / np.float32(mean_length)))


def inverse_document_frequencies(documents: int, frequencies: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (T,) ln(1 + (N - df + 0.5) / (df + 0.5)) as float32."""
    idf: NDArray[np.float32] = np.log(1 + (documents - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
    return idf


class Bm25:
    """Searches the inverted parts of all segments with statistics over their live documents."""

    def __init__(
        self, readers: Sequence[InvertedReader], id_ranks: Sequence[NDArray[np.int32]], k1: float, b: float
    ) -> None:
        """id_ranks: for each segment (N,) the place of each document's id, which orders equal scores."""
        self.readers = list(readers)
        self.k1, self.b = k1, b
        self.documents = sum(reader.live_with_terms for reader in readers)
        total = sum(reader.total_length for reader in readers)
        self.mean_length = total / self.documents if self.documents else 1.0
        self._id_ranks = list(id_ranks)
        self.segments = Segments([reader.postings for reader in readers], [reader.live for reader in readers])
        self.frequencies = frequency_table([reader.frequencies for reader in readers])[:, None]
        self._has_deletions = any(reader.live is not None for reader in readers)
        self.inverse, self.uppers, self.lowers = self._prepare(k1, b)
        # A race only looks a term up twice.
        self._known: dict[str, Entry | None] = {}

    def _prepare(self, k1: float, b: float) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
        """Return the inverse norms, and the bounds of each segment's codes, for a k1 and b, as for one field."""
        asked = length_norms(k1, b, self.mean_length)
        pairs = [bounds(reader.norms, asked, reader.occurring) for reader in self.readers]
        uppers = np.array([upper for upper, _ in pairs]).reshape(-1, 1, 256)
        lowers = np.array([lower for _, lower in pairs]).reshape(-1, 1, 256)
        return inverse_length_norms(k1, b, self.mean_length)[None], uppers, lowers

    def find(self, terms: Sequence[str]) -> NDArray[np.int64]:
        """Return (S, T) numbers of terms in each segment, -1 where absent."""
        encoded = [term.encode("utf-8") for term in terms]
        found = [reader.terms.find_all(encoded) for reader in self.readers]
        return np.array(found, np.int64).reshape(len(self.readers), len(terms))

    def document_frequencies(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (T,) live documents that hold each term, given the numbers from `find`."""
        counts = np.zeros(found.shape, np.int64)
        posting_sizes(self.segments.table, found, counts)
        if self._has_deletions:
            for segment, reader in enumerate(self.readers):
                if reader.live is not None:
                    counts[segment] = [reader.live_frequency(t) if t >= 0 else 0 for t in found[segment].tolist()]
        frequencies: NDArray[np.int64] = counts.sum(axis=0)
        return frequencies

    def look_up(self, terms: Sequence[str]) -> dict[str, Entry]:
        """Return those terms that a live document holds, in the order given.

        Queries share most of their words, so what was found is kept.
        """
        known = self._known
        missing = [term for term in terms if term not in known]
        if missing:
            if len(known) >= MOST_KNOWN:
                self._known = known = {}
                missing = list(terms)
            found = self.find(missing)
            frequencies = self.document_frequencies(found)
            idf = inverse_document_frequencies(self.documents, frequencies)
            for column, term in enumerate(missing):
                known[term] = Entry(tuple(found[:, column].tolist()), idf[column]) if frequencies[column] else None
        return {term: entry for term in terms if (entry := known[term]) is not None}

    def holding(self, terms: Sequence[str]) -> list[NDArray[np.bool_]]:
        """Return for each segment (N,) the live documents that hold any of the terms. Reads all their postings."""
        found = self.find(terms)
        masks = []
        for numbers, reader in zip(found.tolist(), self.readers, strict=True):
            mask = np.zeros(reader.documents, np.bool_)
            for number in numbers:
                if number >= 0:
                    mask[reader.documents_of(number)] = True
            masks.append(mask if reader.live is None else mask & reader.live)
        return masks

    def holding_all(self, terms: Sequence[str], allowed: Sequence[NDArray[np.bool_]] | None) -> list[NDArray[np.int32]]:
        """Return for each segment the documents that hold all of the terms, ascending, live and allowed.

        terms    distinct, at least one
        allowed  for each segment (N,) the documents that may be found, or None for all

        Cost: reads the postings of the rarest term, and looks the others up for what is left.
        """
        known = self.look_up(terms)
        nothing = [np.zeros(0, np.int32) for _ in self.readers]
        if len(known) < len(terms):
            return nothing
        numbers = np.array([known[term].numbers for term in terms], np.int64).T  # (S, T)
        rarest, *others = sorted(range(len(terms)), key=lambda t: -float(known[terms[t]].idf))
        parts = list(nothing)
        for segment in np.flatnonzero((numbers >= 0).all(axis=1)).tolist():
            reader = self.readers[segment]
            documents = reader.documents_of(int(numbers[segment, rarest]))
            for mask in (reader.live, None if allowed is None else allowed[segment]):
                documents = documents if mask is None else documents[mask[documents]]
            parts[segment] = documents
        documents = np.concatenate([np.zeros(0, np.int32), *parts])
        segments = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        for term in others:
            held = self._entries(numbers[:, [term]], segments, documents)[0] >= 0
            documents, segments = documents[held], segments[held]
            if len(documents) == 0:
                return nothing
        return np.split(documents, np.searchsorted(segments, np.arange(1, len(parts)))) if parts else []

    def entries(self, terms: Sequence[str], segment: int, documents: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return (T, C) where the code of each term's posting in each of a segment's documents is, -1 without one.

        terms  that live documents hold
        """
        known = self.look_up(terms)
        numbers = np.array([known[term].numbers for term in terms], np.int64).T
        return self._entries(numbers, np.full(len(documents), segment, np.int32), documents)

    def _entries(
        self, numbers: NDArray[np.int64], segments: NDArray[np.int32], documents: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Return (T, C) where the code of each term, by its number in each segment, is for each document, or -1."""
        entries = np.empty((numbers.shape[1], len(documents)), np.int64)
        fields, slots = np.zeros(numbers.shape[1], np.int64), np.zeros(BLOCK, np.uint16)
        table, numbers = self.segments.table[:, None], np.ascontiguousarray(numbers)
        locate(table, fields, numbers, segments, documents, entries, slots)
        return entries

    def explain(
        self, weights: Mapping[str, float], frequencies: Mapping[str, int], field: str = CONTENTS
    ) -> list[TermScore]:
        """Return what each term adds to the score of a document, the largest first.

        weights      of the terms in the query, as for `search`
        frequencies  of all terms of the document
        field        that is searched here
        """
        inverse = self.inverse[0, encode_length(sum(frequencies.values()))]
        parts = []
        for term, entry in self.look_up([term for term in weights if frequencies.get(term)]).items():
            boosted = np.float32(weights[term]) * entry.idf
            score = boosted - boosted / (np.float32(1) + np.float32(frequencies[term]) * inverse)
            parts.append(
                TermScore(term, float(weights[term]), float(entry.idf), frequencies[term], float(score), field)
            )
        return sorted(parts, key=lambda part: (-part.score, part.term))

    def search(
        self,
        weights: Mapping[str, float],
        k: int,
        allowed: Sequence[NDArray[np.bool_]] | None = None,
        *,
        k1: float | None = None,
        b: float | None = None,
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]] | None:
        """Return for each segment (scores, ordinals), best first, that hold the best k of all.

        None when no term occurs in a live document.

        weights  of the terms in the query, such as how often each occurs; above 0
        allowed  for each segment (N,) the documents that may be found, or None for all
        k1, b    other than the index's own; any values, the scores are exact
        """
        known = self.look_up(list(weights))
        if not known:
            return None
        found = np.array([entry.numbers for entry in known.values()], np.int64).T.copy()
        idf = np.array([entry.idf for entry in known.values()], np.float32)
        idf *= np.array([weights[term] for term in known], np.float32)
        inverse, uppers, lowers = self.inverse, self.uppers, self.lowers
        if k1 is not None or b is not None:
            inverse, uppers, lowers = self._prepare(self.k1 if k1 is None else k1, self.b if b is None else b)
        # The masks must live as long as the table that holds their addresses.
        table, _masks = self.segments.restricted(allowed)
        segments, documents, scores = bm25_search(
            table[:, None], self.frequencies, np.zeros(len(idf), np.int64), found, idf, inverse, uppers, lowers, k
        )
        return best_by_segment(segments, documents, scores, self._id_ranks, k)
