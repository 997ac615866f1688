"""Learned impacts on disk: documents and queries as sparse rows of 8-bit weights, and what the exact answers are.

indptr (N + 1) int64, indices int32 ascending within a row, values uint8; the same for queries with "query_" before
scale  one unit of weight is so many steps
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Sparse rows; iterating gives the terms and impacts of each."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.uint8]

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        for number in range(self.count):
            yield self.row(number)

    @property
    def count(self) -> int:
        return len(self.indptr) - 1

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        span = slice(self.indptr[number], self.indptr[number + 1])
        return self.indices[span], self.values[span]

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"indptr": self.indptr, "indices": self.indices, "values": self.values}

    def transposed(self, width: int) -> "Rows":
        """Return terms as rows: documents ascending within each."""
        order = np.argsort(self.indices, kind="stable")
        indptr = np.zeros(width + 1, np.int64)
        np.cumsum(np.bincount(self.indices, minlength=width), out=indptr[1:])
        rows = np.repeat(np.arange(self.count, dtype=np.int32), np.diff(self.indptr))
        return Rows(indptr, rows[order], self.values[order])


def read(path: Path) -> tuple[Rows, Rows]:
    """Return documents and queries."""
    with np.load(path, allow_pickle=False) as file:
        documents = Rows(file["indptr"], file["indices"], file["values"])
        queries = Rows(file["query_indptr"], file["query_indices"], file["query_values"])
    return documents, queries


def width(*parts: Rows) -> int:
    """Return one more than the largest term."""
    return max(int(part.indices.max(initial=-1)) for part in parts) + 1


class Exact:
    """Scores by the definition: for every document the sum of products of impacts."""

    def __init__(self, documents: Rows, queries: Rows) -> None:
        self.postings = documents.transposed(width(documents, queries))
        self.queries = queries
        self._documents = documents.count

    def scores(self, query: int) -> NDArray[np.int64]:
        """Return (N,) scores of all documents."""
        total = np.zeros(self._documents, np.int64)
        for term, weight in zip(*self.queries.row(query), strict=True):
            found, impacts = self.postings.row(int(term))
            total[found] += int(weight) * impacts.astype(np.int64)
        return total

    def recall(self, query: int, ids: list[str], k: int) -> float:
        """Return the share of the best k that was found; any document with the k-th score or more counts."""
        scores = self.scores(query)
        best = min(k, int((scores > 0).sum()))
        if best == 0:
            return 1.0
        least = np.partition(scores, -best)[-best]
        return sum(bool(scores[int(id_)] >= least) for id_ in ids[:best]) / best
