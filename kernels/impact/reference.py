"""Scoring every document, one posting after another: the definition."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def impact_reference(
    postings: Sequence[tuple[NDArray[np.int32], NDArray[np.floating]]], weights: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Return (N,) sums of weight times value over the query's terms, 0 where none occurs.

    postings  for each query term its documents and the value of each
    weights   (T,) of the terms in the query
    size      N
    """
    scores = np.zeros(size, np.float64)
    for (documents, values), weight in zip(postings, weights, strict=True):
        for document, value in zip(documents, values, strict=True):
            scores[document] += weight * value
    return scores


def best_documents(scores: NDArray[np.float64], k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return the documents with a score above 0 that are at least as good as the k-th best, in order of number."""
    matching = scores > 0 if allowed is None else (scores > 0) & allowed
    found = np.flatnonzero(matching)
    if len(found) <= k:
        return found
    threshold = np.sort(scores[found])[-k]
    best: NDArray[np.int64] = found[scores[found] >= threshold]
    return best
