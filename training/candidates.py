"""Ranked documents of each query, by row: what negatives are chosen from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidate documents of each query with their scores, as compressed sparse rows.

    offsets    int64[Q + 1]; the candidates of query row q stand at offsets[q] to offsets[q + 1]
    documents  int32[nnz] document rows, each at most once for a query
    scores     float32[nnz], best first for each query

    A query may have none. Raises InvalidInput naming the first query row whose candidates break these rules; that
    no document stands twice is the maker's promise.
    """

    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        wanted = {"offsets": np.int64, "documents": np.int32, "scores": np.float32}
        for name, dtype in wanted.items():
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype:
                raise InvalidInput(
                    f"{name} of candidates must be a flat array of {np.dtype(dtype)}, got {array.dtype} {array.shape}."
                )
        offsets, entries = self.offsets, len(self.documents)
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != entries or (np.diff(offsets) < 0).any():
            raise InvalidInput(f"offsets of candidates must rise from 0 to {entries}, the number of documents.")
        if len(self.scores) != entries:
            raise InvalidInput(f"candidates have {entries} documents, but {len(self.scores)} scores.")
        self._refuse(~np.isfinite(self.scores), "a score that is NaN or infinite")
        self._refuse(self.documents < 0, "a negative document row")
        rises = np.zeros(entries, np.bool_)
        rises[1:] = self.scores[1:] > self.scores[:-1]
        # The first candidate of a query follows the last one of another.
        starts = offsets[:-1]
        rises[starts[starts < entries]] = False
        self._refuse(rises, "scores that are not sorted, best first")

    def _refuse(self, broken: NDArray[np.bool_], fault: str) -> None:
        if broken.any():
            place = int(np.argmax(broken))
            row = int(np.searchsorted(self.offsets, place, side="right")) - 1
            raise InvalidInput(f"the candidates of query row {row} have {fault}: {self.scores[place]}, "
                               f"document row {self.documents[place]}.")  # fmt: skip

    @classmethod
    def of_matrix(cls, documents: NDArray[np.integer], scores: NDArray[np.floating]) -> "Candidates":
        """Take (Q, k) document rows and scores, best first; places of row -1, as `kernels.topk` gives, are empty."""
        found = documents >= 0
        offsets = np.zeros(len(documents) + 1, np.int64)
        np.cumsum(found.sum(axis=1), out=offsets[1:])
        return cls(offsets, documents[found].astype(np.int32), scores[found].astype(np.float32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def queries(self) -> NDArray[np.int64]:
        """The query row of each candidate, int64[nnz]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def ranks(self) -> NDArray[np.int64]:
        """The rank of each candidate in its query's list, from 0, int64[nnz]."""
        return np.arange(len(self.documents)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    def of(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return documents and scores of a query, best first."""
        start, end = self.offsets[row], self.offsets[row + 1]
        return self.documents[start:end], self.scores[start:end]

    def restrict(self, mask: NDArray[np.bool_]) -> "Candidates":
        """Keep the candidates where `mask`, bool[nnz], is True; the order stays."""
        if mask.shape != self.documents.shape or mask.dtype != np.bool_:
            raise InvalidInput(f"mask must be bool {self.documents.shape}, got {mask.dtype} {mask.shape}.")
        kept = np.zeros(len(mask) + 1, np.int64)
        np.cumsum(mask, out=kept[1:])
        return Candidates(kept[self.offsets], self.documents[mask], self.scores[mask])
