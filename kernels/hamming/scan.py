"""A scan over blocks of 64 documents: distances of a block by vector instructions, then a look at the few that count.

The number of documents within each distance tells the distance that a document must be below to enter; what was
taken before is thinned out when the room for it is full. A block is read from memory once for all queries.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.hamming.block import block_distances, ones
from kernels.hamming.codes import LANES, SignCodes, signs, words_of

# Queries that share one pass over the codes: their state stays in the first cache beside a block.
TOGETHER = 64
# Places for what they take, in all; 64 MB.
PLACES = 1 << 22


def nearest_codes(
    codes: SignCodes, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Return for each query (distances int32[k'], ordinals int32[k']) of the k nearest codes, nearest first.

    queries  (Q, H), whose signs count
    allowed  bool[N], or None for all; k' = min(k, allowed documents)
    Equal distances stand in order of ordinal, and are cut so. Cost: N * H / 8 bytes are read for 64
    queries together. Memory: up to 64 MB, or 16 * k bytes if that is more.
    """
    if queries.ndim != 2 or queries.shape[1] != codes.width:
        raise ValueError(f"queries must be (Q, {codes.width}), got {queries.shape}.")
    if allowed is not None and allowed.shape != (codes.documents,):
        raise ValueError(f"allowed must be ({codes.documents},), got {allowed.shape}.")
    k = min(k, codes.documents if allowed is None else int(np.count_nonzero(allowed)))
    if k < 1:
        nothing = np.zeros(0, np.int32)
        return [(nothing, nothing)] * len(queries)
    mask = np.zeros(0, np.bool_) if allowed is None else np.ascontiguousarray(allowed)
    words = signs(queries)
    found = []
    together = max(1, min(TOGETHER, PLACES // k))
    for start in range(0, len(queries), together):
        part = words[start : start + together]
        distances = np.empty((len(part), k), np.int32)
        ordinals = np.empty((len(part), k), np.int32)
        _scan(codes.words, codes.documents, codes.width, part, k, mask, distances, ordinals)
        for row in range(len(part)):
            order = np.argsort(distances[row], kind="stable")
            found.append((distances[row][order], ordinals[row][order]))
    return found


@compiled
def _scan(codes, documents, width, queries, k, allowed, distances, ordinals):
    """Fill distances and ordinals (Q, k), ordinals ascending; k documents are allowed at least."""
    per = queries.shape[1]
    room = 2 * k + LANES
    count = len(queries)
    taken = np.zeros(count, np.int64)
    near = np.empty((count, room), np.int32)
    who = np.empty((count, room), np.int32)
    within = np.zeros((count, width + 1), np.int64)
    # A document enters when its distance is below this; of those taken, `inside` still are.
    bound = np.full(count, width + 1, np.int64)
    inside = np.zeros(count, np.int64)
    block = np.empty(LANES, np.uint64)
    for start in range(0, documents, LANES):
        lanes = min(LANES, documents - start)
        if len(allowed) > 0 and not allowed[start : start + lanes].any():
            continue
        first = start * per
        for query in range(count):
            words = queries[query]
            below = bound[query]
            if lanes == LANES:
                closest = np.int64(block_distances(codes, first, words, block))
            else:
                closest = _distances_of_few(codes[first : first + per * lanes], words, lanes, block)
            if closest >= below:
                continue
            for lane in range(lanes):
                distance = np.int64(block[lane])
                if distance >= below or (len(allowed) > 0 and not allowed[start + lane]):
                    continue
                place = taken[query]
                near[query, place] = distance
                who[query, place] = start + lane
                taken[query] = place + 1
                within[query, distance] += 1
                inside[query] += 1
                # Once k are within the bound, its last distance is too far for those that come later.
                while inside[query] >= k:
                    below -= 1
                    inside[query] -= within[query, below]
                bound[query] = below
            if taken[query] > room - LANES:
                taken[query] = _thinned(near[query], who[query], taken[query], k - inside[query], bound[query])
    for query in range(count):
        _thinned(near[query], who[query], taken[query], k - inside[query], bound[query])
        for place in range(k):
            distances[query, place] = near[query, place]
            ordinals[query, place] = who[query, place]


@compiled
def _distances_of_few(codes, query, lanes, block):
    """Do as `block_distances` for the last block, of fewer documents."""
    closest = np.uint64(len(query) * 64)
    for lane in range(lanes):
        distance = np.uint64(0)
        for word in range(len(query)):
            distance += ones(codes[word * lanes + lane] ^ query[word])
        block[lane] = distance
        closest = min(closest, distance)
    return np.int64(closest)


@compiled
def _thinned(near, who, taken, ties, bound):
    """Keep what is below the bound and the first `ties` at it, in order; return how many that are."""
    kept = 0
    for place in range(taken):
        if near[place] == bound:
            ties -= 1
        if near[place] < bound or (near[place] == bound and ties >= 0):
            near[kept] = near[place]
            who[kept] = who[place]
            kept += 1
    return kept


def sign_scores(codes: SignCodes, query: NDArray[np.floating], documents: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return float32[n]: the inner product of a query (H,) with the codes of these documents, as +1 and -1.

    Sums in float64. BPR's second stage (arXiv:2106.00882).
    """
    if query.shape != (codes.width,):
        raise ValueError(f"the query must be ({codes.width},), got {query.shape}.")
    scores = np.empty(len(documents), np.float32)
    values = np.zeros(words_of(codes.width) * 64, np.float64)
    values[: codes.width] = query
    _score(codes.words, codes.documents, values, np.ascontiguousarray(documents, np.int64), scores)
    return scores


@compiled
def _score(codes, total, query, documents, scores):
    per = len(query) // 64
    whole = query.sum()
    for place in range(len(documents)):
        start = documents[place] // LANES * LANES
        lanes = min(LANES, total - start)
        lane = documents[place] - start
        positive = 0.0
        for word in range(per):
            bits = codes[start * per + word * lanes + lane]
            for bit in range(64):
                # Without a branch, as the bits are as good as random.
                positive += query[word * 64 + bit] * np.float64((bits >> np.uint64(bit)) & np.uint64(1))
        scores[place] = 2.0 * positive - whole
