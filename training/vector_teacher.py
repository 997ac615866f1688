"""A bi-encoder as a teacher whose vectors are computed once and read by every training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retriever.protocols import Encoder
from training.collection import TrainingCollection
from training.teachers import Rows, Scores

QUERIES, DOCUMENTS = "queries.npy", "documents.npy"

# Pairs whose vectors are gathered at once.
PAIRS = 1 << 16


class VectorTeacher:
    """Inner products of vectors that are known already, (Q, H) and (D, H)."""

    def __init__(self, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> None:
        self.queries = queries
        self.documents = documents

    @classmethod
    def load(cls, folder: Path) -> "VectorTeacher":
        """Read what `encode` left."""
        return cls(*(np.load(folder / name, allow_pickle=False) for name in (QUERIES, DOCUMENTS)))

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        """Return float32[n] of pairs."""
        found = np.empty(len(query_rows), np.float32)
        for start in range(0, len(query_rows), PAIRS):
            part = slice(start, start + PAIRS)
            queries, documents = self.queries[query_rows[part]], self.documents[document_rows[part]]
            found[part] = np.einsum("nh,nh->n", queries, documents)
        return found

    def matrix(self, query_rows: Rows, document_rows: Rows) -> Scores:
        """Return (B, D): each query with each document."""
        found: Scores = self.queries[query_rows] @ self.documents[document_rows].T
        return found


def encode(encoder: Encoder, collection: TrainingCollection, folder: Path) -> None:
    """Write the vectors of all training queries and of all documents; one that is there already is kept."""
    _save(folder / QUERIES, lambda: encoder.encode_queries(collection.queries))
    _save(folder / DOCUMENTS, lambda: encoder.encode_documents(collection.documents))


def _save(path: Path, vectors: Callable[[], NDArray[np.float32]]) -> None:
    if not path.is_file():
        temporary = path.with_name(f".{path.name}.part.npy")
        np.save(temporary, vectors(), allow_pickle=False)
        temporary.replace(path)
