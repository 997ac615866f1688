"""BM25 term at a time over blocks of documents, with a heap for the best k."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

# The accumulators of one block, 512 KiB, stay in a core's second-level cache.
BLOCK = 65536


@njit(nogil=True, cache=True)
def _worse(score_a, rank_a, score_b, rank_b):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    return score_a < score_b or (score_a == score_b and rank_a > rank_b)


@njit(nogil=True, cache=True)
def _sift(scores, ranks, found, start, size):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    node = start
    while True:
        child = 2 * node + 1
        if child >= size:
            return
        if child + 1 < size and _worse(scores[child + 1], ranks[child + 1], scores[child], ranks[child]):
            child += 1
        if not _worse(scores[child], ranks[child], scores[node], ranks[node]):
            return
        scores[node], scores[child] = scores[child], scores[node]
        ranks[node], ranks[child] = ranks[child], ranks[node]
        found[node], found[child] = found[child], found[node]
        node = child


@njit(nogil=True, cache=True)
def _search(documents, frequencies, starts, ends, weights, norms, inverse, allowed, id_rank, k):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    total = len(norms)
    scores = np.empty(k, np.float32)
    ranks = np.empty(k, np.int32)
    found = np.empty(k, np.int32)
    size = 0
    accumulators = np.zeros(min(BLOCK, total), np.float64)
    cursors = starts.copy()
    restricted = len(allowed) > 0
    for base in range(0, total, BLOCK):
        limit = min(base + BLOCK, total)
        touched = 0
        for term in range(len(weights)):
            weight = weights[term]
            cursor = cursors[term]
            first = cursor
            end = ends[term]
            while cursor < end and documents[cursor] < limit:
                document = documents[cursor]
                saturation = np.float32(1) + np.float32(frequencies[cursor]) * inverse[norms[document]]
                accumulators[document - base] += np.float32(weight - weight / saturation)
                cursor += 1
            touched += cursor - first
            cursors[term] = cursor
        if touched == 0:
            continue
        for offset in range(limit - base):
            if accumulators[offset] <= 0.0:
                continue
            score = np.float32(accumulators[offset])
            accumulators[offset] = 0.0
            if size == k and score < scores[0]:
                continue
            document = base + offset
            if restricted and not allowed[document]:
                continue
            rank = id_rank[document]
            if size < k:
                scores[size] = score
                ranks[size] = rank
                found[size] = document
                size += 1
                if size == k:
                    for node in range(k // 2 - 1, -1, -1):
                        _sift(scores, ranks, found, node, k)
            elif _worse(scores[0], ranks[0], score, rank):
                scores[0] = score
                ranks[0] = rank
                found[0] = document
                _sift(scores, ranks, found, 0, k)
    return scores[:size], ranks[:size], found[:size]


def bm25_search(
    documents: NDArray[np.int32],
    frequencies: NDArray[np.unsignedinteger],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    weights: NDArray[np.float32],
    norms: NDArray[np.uint8],
    inverse: NDArray[np.float32],
    id_rank: NDArray[np.int32],
    k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return scores and positions of the best k documents, best first, ties in order of `id_rank`.

    documents    (P,) postings of all terms, ascending within a term
    frequencies  (P,) any unsigned integer type
    starts, ends (terms,) the range of each query term
    id_rank      (N,) place of each document's id among all ids of the segment, ascending
    allowed      (N,) documents that may be returned, or None for all

    Only documents with a query term are returned, so there may be fewer than k.
    Cost: one pass over the query terms' postings and over the accumulators of blocks that they touch.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    mask = np.zeros(0, np.bool_) if allowed is None else allowed
    k = min(k, len(norms))
    if k == 0 or len(weights) == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int32)
    scores, ranks, found = _search(documents, frequencies, starts, ends, weights, norms, inverse, mask, id_rank, k)
    order = np.lexsort((ranks, -scores))
    return scores[order], found[order]


@njit(nogil=True, cache=True)
def count_allowed(documents, allowed):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Return how many of `documents` are allowed: a term's document frequency among live documents."""
    count = 0
    for document in documents:
        if allowed[document]:
            count += 1
    return count
