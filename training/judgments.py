"""Which documents are relevant to which query, by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Judgments:
    """Relevant documents of each query, as compressed sparse rows.

    offsets    int64[Q + 1]
    documents  int32[nnz], ascending within a query
    """

    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]

    @classmethod
    def of_lists(cls, relevant: Sequence[Sequence[int]]) -> "Judgments":
        """Collect one list of document rows for each query."""
        ordered = [np.unique(np.asarray(rows, np.int32)) for rows in relevant]
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in ordered])]).astype(np.int64)
        return cls(offsets, np.concatenate(ordered) if ordered else np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def relevant(self, query: int) -> NDArray[np.int32]:
        """Return the relevant documents of a query, ascending."""
        return self.documents[self.offsets[query] : self.offsets[query + 1]]

    def mask(self, queries: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool (Q, D): whether the document of each column is relevant to the query of each row."""
        found = np.zeros((len(queries), len(documents)), np.bool_)
        starts = self.offsets[queries]
        counts = self.offsets[queries + 1] - starts
        relevant = self.documents[_ranges(starts, counts)].astype(np.int64)
        # The columns that hold each relevant document: none, one, or more where it was drawn more than once.
        order = np.argsort(documents, kind="stable")
        ordered = documents[order]
        firsts = np.searchsorted(ordered, relevant, side="left")
        times = np.searchsorted(ordered, relevant, side="right") - firsts
        rows = np.repeat(np.arange(len(queries)), counts)
        found[np.repeat(rows, times), order[_ranges(firsts, times)]] = True
        return found


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start, start + 1, ... of each range, behind each other."""
    before = np.cumsum(counts) - counts
    numbers: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return numbers
