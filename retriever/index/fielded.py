"""BM25 over several fields of the documents at once: the weighted sum of each field's own BM25.

Each field has its own postings, document frequencies and lengths; the terms of all fields are searched in one pass,
so that the best are the best of the sums. Scores are those of Lucene's BooleanQuery over boosted TermQueries.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.bm25 import bm25_search, score_all
from retriever.fields import CONTENTS
from retriever.index.bm25 import Bm25, Entry
from retriever.index.selection import best_by_segment
from retriever.types import TermScore

FieldTerm = tuple[str, str]
"""A field and an analysed term."""

Found = list[tuple[NDArray[np.float32], NDArray[np.int32]]]


def in_fields(terms: Mapping[str, float], field_weights: Mapping[str, float] | None) -> dict[FieldTerm, float]:
    """Return the weights of terms in fields, products in float32 as Lucene's boosts; None is the contents alone."""
    if field_weights is None:
        return {(CONTENTS, term): weight for term, weight in terms.items()}
    return {
        (field, term): float(np.float32(boost) * np.float32(weight))
        for field, boost in field_weights.items()
        for term, weight in terms.items()
    }


class FieldedBm25:
    """Searches the inverted parts of all fields of all segments."""

    def __init__(self, parts: Mapping[str, Bm25], id_ranks: Sequence[NDArray[np.int32]]) -> None:
        """parts: by field, the contents first; id_ranks as for `Bm25`."""
        self.parts = dict(parts)
        self.contents = self.parts[CONTENTS]
        self._numbers = {field: number for number, field in enumerate(self.parts)}
        self._id_ranks = list(id_ranks)
        every = list(self.parts.values())
        self._postings = np.stack([part.segments.table for part in every], axis=1)  # (S, F, columns)
        self._frequencies = np.concatenate([part.frequencies for part in every], axis=1)
        self._inverse = np.concatenate([part.inverse for part in every])  # (F, 256)
        self._uppers = np.concatenate([part.uppers for part in every], axis=1)  # (S, F, 256)
        self._lowers = np.concatenate([part.lowers for part in every], axis=1)

    def search(
        self, weights: Mapping[FieldTerm, float], k: int, allowed: Sequence[NDArray[np.bool_]] | None
    ) -> Found | None:
        """Return for each segment (scores, ordinals), best first, that hold the best k of all.

        None when no term occurs in a live document of its field. Arguments as for `Bm25.search`.
        """
        fields = {field for field, _ in weights}
        if len(fields) == 1:
            return self.parts[fields.pop()].search({term: weight for (_, term), weight in weights.items()}, k, allowed)
        known = self.known(weights)
        if not known:
            return None
        numbers = np.array([entry.numbers for entry in known.values()], np.int64).T.copy()
        # The masks must live as long as the table that holds their addresses.
        table, _masks = self.contents.segments.restricted(allowed)
        postings = self._postings
        if allowed is not None:
            postings = postings.copy()
            postings[:, 0] = table
        segments, documents, scores = bm25_search(
            postings, self._frequencies, self._places(known), numbers, _boosted(known, weights), self._inverse,
            self._uppers, self._lowers, k,
        )  # fmt: skip
        return best_by_segment(segments, documents, scores, self._id_ranks, k)

    def known(self, terms: Iterable[FieldTerm]) -> dict[FieldTerm, Entry]:
        """Return where those terms are that a live document holds, and their inverse document frequencies."""
        by_field = _by_field(terms)
        found = {field: self.parts[field].look_up(of_field) for field, of_field in by_field.items()}
        return {(field, term): entry for field, entries in found.items() for term, entry in entries.items()}

    def score_all(
        self, segment: int, known: Mapping[FieldTerm, Entry], weights: Mapping[FieldTerm, float]
    ) -> NDArray[np.float32]:
        """Return (N,) the scores of all documents of a segment. Reads every posting of the terms."""
        numbers = np.array([entry.numbers[segment] for entry in known.values()], np.int64)
        return score_all(
            self._postings, self._frequencies, segment, self._places(known), numbers, _boosted(known, weights),
            self._inverse,
        )  # fmt: skip

    def _places(self, terms: Iterable[FieldTerm]) -> NDArray[np.int64]:
        return np.array([self._numbers[field] for field, _ in terms], np.int64)

    def holding(self, terms: Iterable[FieldTerm]) -> list[NDArray[np.bool_]]:
        """Return for each segment (N,) the live documents that hold any of the terms. Reads all their postings."""
        masks = [np.zeros(reader.documents, np.bool_) for reader in self.contents.readers]
        for field, of_field in _by_field(terms).items():
            masks = [mask | held for mask, held in zip(masks, self.parts[field].holding(of_field), strict=True)]
        return masks

    def explain(
        self, weights: Mapping[FieldTerm, float], frequencies: Mapping[str, Mapping[str, int]]
    ) -> list[TermScore]:
        """Return what each term of each field adds to the score of a document, the largest first.

        frequencies  for each field of `weights`, of all its terms in the document
        """
        scores: list[TermScore] = []
        for field, counts in frequencies.items():
            of_field = {term: weight for (name, term), weight in weights.items() if name == field}
            scores += self.parts[field].explain(of_field, counts, field)
        return sorted(scores, key=lambda part: (-part.score, part.term, part.field))


def _boosted(known: Mapping[FieldTerm, Entry], weights: Mapping[FieldTerm, float]) -> NDArray[np.float32]:
    idf = np.array([entry.idf for entry in known.values()], np.float32)
    return idf * np.array([weights[term] for term in known], np.float32)


def _by_field(terms: Iterable[FieldTerm]) -> dict[str, list[str]]:
    by_field: dict[str, list[str]] = {}
    for field, term in terms:
        by_field.setdefault(field, []).append(term)
    return by_field
