"""A scan over blocks of 64 documents: look-ups and sums for a block, then a look at those that enter.

A document's score is the float32 sum of its parts' table entries in order of part, whatever the block, so that it is
the same to the bit in every scan.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.pq.codes import LANES, ProductCodes

# Queries whose tables stay in the second cache while a block is scored for all of them.
TOGETHER = 8


def tables(queries: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (Q, M, 256): inner products of each part of rotated queries (Q, H) with its centroids (M, 256, H / M)."""
    parts = queries.reshape(len(queries), len(centroids), -1)
    found = np.einsum("qmd,mcd->qmc", parts, centroids, optimize=True)
    return np.ascontiguousarray(found, np.float32)


def best_codes(
    codes: ProductCodes, tables: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Return for each query (scores float32[k'], ordinals int32[k']) of the k best codes, best first.

    tables   float32 (Q, M, 256), see `tables`; no NaN
    allowed  bool[N], or None for all; k' = min(k, allowed documents)
    Equal scores stand in order of ordinal, and are cut so. Cost: N * M look-ups a query; memory: 16 * k bytes a query.
    """
    if tables.ndim != 3 or tables.shape[1:] != (codes.parts, 256) or tables.dtype != np.float32:
        raise ValueError(f"tables must be float32 (Q, {codes.parts}, 256), got {tables.dtype} {tables.shape}.")
    if allowed is not None and allowed.shape != (codes.documents,):
        raise ValueError(f"allowed must be ({codes.documents},), got {allowed.shape}.")
    k = min(k, codes.documents if allowed is None else int(np.count_nonzero(allowed)))
    if k < 1:
        return [(np.zeros(0, np.float32), np.zeros(0, np.int32))] * len(tables)
    mask = np.zeros(0, np.bool_) if allowed is None else np.ascontiguousarray(allowed)
    found = []
    for start in range(0, len(tables), TOGETHER):
        part = np.ascontiguousarray(tables[start : start + TOGETHER])
        scores = np.empty((len(part), k), np.float32)
        ordinals = np.empty((len(part), k), np.int32)
        _scan(codes.bytes, codes.documents, part, k, mask, scores, ordinals)
        for row in range(len(part)):
            order = np.argsort(-scores[row], kind="stable")
            found.append((scores[row][order], ordinals[row][order]))
    return found


@compiled
def _scan(codes, documents, tables, k, allowed, scores, ordinals):
    """Fill scores and ordinals (Q, k), ordinals ascending; k documents are allowed at least."""
    count, parts = tables.shape[0], tables.shape[1]
    room = 2 * k + LANES
    taken = np.zeros(count, np.int64)
    # What a document must be above to enter, once k are taken.
    bound = np.full(count, -np.inf, np.float32)
    values = np.empty((count, room), np.float32)
    who = np.empty((count, room), np.int32)
    block = np.empty(LANES, np.float32)
    for start in range(0, documents, LANES):
        lanes = min(LANES, documents - start)
        if len(allowed) > 0 and not allowed[start : start + lanes].any():
            continue
        part = codes[start * parts : (start + lanes) * parts]
        for query in range(count):
            if lanes == LANES:
                best = _scores_of_block(part, tables[query], block)
            else:
                best = _scores_of_few(part, tables[query], lanes, block)
            below = bound[query]
            full = taken[query] >= k
            if full and best <= below:
                continue
            for lane in range(lanes):
                if (full and block[lane] <= below) or (len(allowed) > 0 and not allowed[start + lane]):
                    continue
                values[query, taken[query]] = block[lane]
                who[query, taken[query]] = start + lane
                taken[query] += 1
            if taken[query] > room - LANES or (not full and taken[query] >= k):
                bound[query] = _thinned(values[query], who[query], taken[query], k)
                taken[query] = k
    for query in range(count):
        _thinned(values[query], who[query], taken[query], k)
        scores[query] = values[query, :k]
        ordinals[query] = who[query, :k]


@compiled
def _scores_of_block(codes, table, block):
    """Write the scores of the 64 documents of a block, and return the best."""
    for lane in range(LANES):
        block[lane] = 0
    for part in range(len(table)):
        entries = table[part]
        own = codes[part * LANES : (part + 1) * LANES]
        for lane in range(LANES):
            block[lane] += entries[own[lane]]
    best = block[0]
    for lane in range(LANES):
        best = max(best, block[lane])
    return best


@compiled
def _scores_of_few(codes, table, lanes, block):
    """Do as `_scores_of_block` for the last block, of fewer documents."""
    best = np.float32(-np.inf)
    for lane in range(lanes):
        total = np.float32(0)
        for part in range(len(table)):
            total += table[part, codes[part * lanes + lane]]
        block[lane] = total
        best = max(best, total)
    return best


@compiled
def _thinned(values, who, taken, k):
    """Keep the k best of those taken, of equal ones the first, in order; return the least of them."""
    bound = np.partition(values[:taken], taken - k)[taken - k]
    ties = k
    for place in range(taken):
        if values[place] > bound:
            ties -= 1
    kept = 0
    for place in range(taken):
        if values[place] > bound or (values[place] == bound and ties > 0):
            if values[place] == bound:
                ties -= 1
            values[kept], who[kept] = values[place], who[place]
            kept += 1
    return bound


def code_scores(codes: ProductCodes, table: NDArray[np.float32], documents: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return float32[n], the scores of these documents by a query's table (M, 256), as `best_codes` gives them."""
    scores = np.empty(len(documents), np.float32)
    _score(codes.bytes, codes.documents, np.ascontiguousarray(table), np.ascontiguousarray(documents, np.int64), scores)
    return scores


@compiled
def _score(codes, total, table, documents, scores):
    parts = len(table)
    for place in range(len(documents)):
        start = documents[place] // LANES * LANES
        lanes = min(LANES, total - start)
        lane = documents[place] - start
        score = np.float32(0)
        for part in range(parts):
            score += table[part, codes[start * parts + part * lanes + lane]]
        scores[place] = score
