"""The codes of a segment: what a search scans instead of the vectors.

    dense.codes.npy   uint64[N * W], sign codes as `kernels.hamming` lays them out, or
                      uint8[N * M], product codes as `kernels.pq` does

Scores are inner products of queries with what codes stand for: +1 and -1, or centroids.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kernels import hamming, pq
from retriever.codebook import Codebook
from retriever.errors import IndexCorrupt
from retriever.index.form import Form

CODES = "dense.codes.npy"


class Codes(Protocol):
    """Codes of N documents."""

    @property
    def documents(self) -> int: ...

    @property
    def finds_best(self) -> bool:
        """Whether `nearest` gives those of the largest scores, not only likely ones."""
        ...

    def nearest(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None
    ) -> list[NDArray[np.int64]]:
        """Return for each query (Q, H) the ordinals of the `count` documents with the nearest codes."""
        ...

    def best(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return (Q, k') scores and ordinals of the largest scores, exact; ties are cut in order of ordinal."""
        ...

    def scores(self, query: NDArray[np.float32], ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of these documents for a query (H,)."""
        ...

    def decoded(self, ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (n, H), what the codes of these documents stand for, in the space of the queries."""
        ...

    def in_memory(self) -> Self:
        """Return the same codes, read from their file.

        A scan of a mapped file for one query takes a tenth longer at width 384, and as long at 768
        (benchmarks/results/quantised.csv); what it takes depends on the pages that the system keeps the file in.
        """
        ...


class SignPart:
    """Sign codes."""

    finds_best = False

    def __init__(self, codes: hamming.SignCodes) -> None:
        self._codes = codes

    @property
    def documents(self) -> int:
        return self._codes.documents

    def nearest(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None
    ) -> list[NDArray[np.int64]]:
        """See `Codes.nearest`: by Hamming distance to the query's signs."""
        return [
            ordinals.astype(np.int64) for _, ordinals in hamming.nearest_codes(self._codes, queries, count, allowed)
        ]

    def best(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Codes.best`. Cost: H additions for each document and query."""
        chosen = np.arange(self.documents) if allowed is None else np.flatnonzero(allowed)
        found_scores, found = [], []
        for query in queries:
            scores = hamming.sign_scores(self._codes, query, chosen)
            order = np.argsort(-scores, kind="stable")[:k]
            found_scores.append(scores[order])
            found.append(chosen[order])
        return np.array(found_scores, np.float32), np.array(found, np.int64)

    def scores(self, query: NDArray[np.float32], ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Codes.scores`."""
        return hamming.sign_scores(self._codes, query, ordinals)

    def decoded(self, ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Codes.decoded`."""
        return hamming.plus_and_minus(hamming.rows_at(self._codes, ordinals), self._codes.width)

    def in_memory(self) -> Self:
        """See `Codes.in_memory`."""
        return type(self)(replace(self._codes, words=np.array(self._codes.words)))


class ProductPart:
    """Product codes."""

    finds_best = True

    def __init__(self, codes: pq.ProductCodes, codebook: Codebook) -> None:
        self._codes = codes
        self._codebook = codebook

    @property
    def documents(self) -> int:
        return self._codes.documents

    def _tables(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        return pq.tables(self._codebook.rotated(queries), self._codebook.centroids)

    def nearest(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None
    ) -> list[NDArray[np.int64]]:
        """See `Codes.nearest`: by score."""
        found = pq.best_codes(self._codes, self._tables(queries), count, allowed)
        return [ordinals.astype(np.int64) for _, ordinals in found]

    def best(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Codes.best`."""
        found = pq.best_codes(self._codes, self._tables(queries), k, allowed)
        return np.array([scores for scores, _ in found]), np.array([ordinals for _, ordinals in found], np.int64)

    def scores(self, query: NDArray[np.float32], ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Codes.scores`."""
        return pq.code_scores(self._codes, self._tables(query[None])[0], ordinals)

    def decoded(self, ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Codes.decoded`."""
        turned = self._codebook.decode(pq.rows_at(self._codes, ordinals))
        # The rotation is orthonormal: its transpose undoes it.
        original: NDArray[np.float32] = turned @ self._codebook.rotation
        return original

    def in_memory(self) -> Self:
        """See `Codes.in_memory`."""
        return type(self)(replace(self._codes, bytes=np.array(self._codes.bytes)), self._codebook)


def read_codes(path: Path, width: int, codebook: Codebook | None) -> Codes:
    """Map the codes of a segment into memory. Raises IndexCorrupt when they cannot be codes of this width."""
    # Mapped privately instead of for reading: compiled code is then the same as for arrays in memory.
    content = np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
    per = hamming.words_of(width) if content.dtype == np.uint64 else codebook.parts if codebook else 0
    if content.ndim != 1 or content.dtype not in (np.uint64, np.uint8) or not per or len(content) % per:
        raise IndexCorrupt(
            f"{path} holds {content.dtype} {content.shape}, which are no codes of vectors of width {width}"
            f"{f' in {codebook.parts} parts' if codebook else ''}; restore it or rebuild the index."
        )
    if content.dtype == np.uint64:
        return SignPart(hamming.SignCodes(content, len(content) // per, width))
    assert codebook is not None
    return ProductPart(pq.ProductCodes(content, len(content) // per, codebook.parts), codebook)


def read_rows(path: Path, form: Form) -> NDArray[np.uint64] | NDArray[np.uint8]:
    """Return the codes of a segment, a row a document."""
    content = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    if form.codebook is None:
        per = hamming.words_of(form.width)
        return hamming.rows_of(hamming.SignCodes(content, len(content) // per, form.width))
    parts = form.codebook.parts
    return pq.rows_of(pq.ProductCodes(content, len(content) // parts, parts))


def write_rows(folder: Path, rows: NDArray[np.uint64] | NDArray[np.uint8]) -> None:
    """Write codes, a row a document, as the codes of a segment."""
    content: NDArray[Any]
    if rows.dtype == np.uint64:
        content = hamming.laid_out(rows.astype(np.uint64, copy=False))
    else:
        content = pq.laid_out(rows.astype(np.uint8, copy=False)).bytes
    np.save(folder / CODES, content, allow_pickle=False)
