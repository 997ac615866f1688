"""Choosing the best of scored candidates."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def best_by_segment(
    segments: NDArray[np.int32],
    documents: NDArray[np.int32],
    scores: NDArray[np.float32],
    id_ranks: Sequence[NDArray[np.int32]],
    k: int,
) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Return for each segment (scores, ordinals), best first, that together hold the best k of all.

    segments, documents, scores  (C,) of the candidates, in order of their segments; scores are not negative
    id_ranks                     for each segment (N,) the place of each document's id, which orders equal scores
    """
    # Sorting a few more than k costs less than leaving them out first.
    if len(scores) > 2 * k:
        keep = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        segments, documents, scores = segments[keep], documents[keep], scores[keep]
    if len(id_ranks) == 1:
        order = _order(scores, id_ranks[0][documents])[:k]
        return [(scores[order], documents[order])]
    starts = np.searchsorted(segments, np.arange(len(id_ranks) + 1)).tolist()
    ranks = np.empty(len(documents), np.int32)
    for id_rank, start, end in zip(id_ranks, starts[:-1], starts[1:], strict=True):
        if start < end:
            ranks[start:end] = id_rank[documents[start:end]]
    order = _order(scores, ranks)
    # The order is kept within each segment; of few values a stable sort takes no comparisons.
    order = order[np.argsort(segments[order].astype(np.min_scalar_type(len(id_ranks))), kind="stable")]
    scores, documents = scores[order], documents[order]
    return [(scores[start:end][:k], documents[start:end][:k]) for start, end in pairwise(starts)]


def _order(scores: NDArray[np.float32], ranks: NDArray[np.int32]) -> NDArray[np.int64]:
    # Scores are not negative, so their bits are in their order.
    order: NDArray[np.int64] = np.argsort(scores.view(np.int32).astype(np.int64) << 32 | (0x7FFFFFFF - ranks))[::-1]
    return order
