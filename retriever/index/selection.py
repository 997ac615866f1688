"""Choosing the best of scored candidates."""

from collections.abc import Sequence

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

    segments, documents, scores  (C,) of the candidates; scores are not negative
    id_ranks                     for each segment (N,) the place of each document's id, which orders equal scores
    """
    if len(scores) > k:
        keep = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        segments, documents, scores = segments[keep], documents[keep], scores[keep]
    if len(id_ranks) == 1:
        return [_ordered(documents, scores, id_ranks[0], k)]
    return [
        _ordered(documents[segments == number], scores[segments == number], id_rank, k)
        for number, id_rank in enumerate(id_ranks)
    ]


def _ordered(
    documents: NDArray[np.int32], scores: NDArray[np.float32], id_rank: NDArray[np.int32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    # Scores are not negative, so their bits are in their order.
    keys = scores.view(np.int32).astype(np.int64) << 32 | (0x7FFFFFFF - id_rank[documents])
    order = np.argsort(keys)[: -k - 1 : -1]
    return scores[order], documents[order]
