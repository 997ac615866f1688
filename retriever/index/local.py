"""The local part of a segment: vectors of a second encoder, which put in order what other stages found.

    local.vectors.npy   (N, H) float32 or float16, memory-mapped: only those of candidates are read
    local.absent.npy    int32 ordinals of documents without a vector (no text, or not finite)

BiDR's two granularities (arXiv:2201.05409): codes of one encoder in memory find candidates among all documents, and an
encoder trained on just such candidates tells them apart. Nothing is searched by these vectors. Those of a model that
writes queries (`retriever.llm.bottleneck`) are no vectors in a space but what it needs to know of a document.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LOCAL_VECTORS, LOCAL_ABSENT = "local.vectors.npy", "local.absent.npy"

Compare = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Returns (n,) scores of a query's vector (H,) and (n, H) of documents."""


class LocalReader:
    """The local vectors of one segment."""

    def __init__(self, folder: Path) -> None:
        self.vectors = np.load(folder / LOCAL_VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        self._absent = np.load(folder / LOCAL_ABSENT, allow_pickle=False)

    @property
    def documents(self) -> int:
        return len(self.vectors)

    def scores(
        self, query: NDArray[np.float32], ordinals: NDArray[np.int64], compare: Compare | None = None
    ) -> NDArray[np.float32]:
        """Return (n,) scores of a query (H,) and documents; NaN where a document has no vector.

        compare  None for inner products
        """
        scores = np.full(len(ordinals), np.nan, np.float32)
        places = np.flatnonzero(~np.isin(ordinals, self._absent))
        if len(places):
            # In order, for memory that is read forwards is read faster.
            places = places[np.argsort(ordinals[places])]
            vectors = np.asarray(self.vectors[ordinals[places]], np.float32)
            scores[places] = vectors @ query if compare is None else compare(query, vectors)
        return scores
