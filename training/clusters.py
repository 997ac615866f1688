"""Clusters of similar queries: by topic, of any size, or balanced, of equal size."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from retriever.index.faiss_module import load_faiss
from training.vectors import require_finite

if TYPE_CHECKING:
    from torch import Tensor

Labels = NDArray[np.int32]

# Clusters that are halved at a time: more would wait for the slowest of them, fewer leave the cores idle.
BLOCK_FLOATS = 1 << 23

# The similarity gained by one more turn at which NGAME stops, and turns at most.
TOLERANCE = 1e-4
TURNS = 50


def topic_clusters(
    vectors: NDArray[np.float32], count: int, seed: int = 0, *, spherical: bool = True, turns: int = 20
) -> Labels:
    """Return int32[Q], the cluster of each query by inner-product k-means (TAS-B, arXiv:2104.06967).

    vectors    (Q, H)
    count      clusters wanted, TAS-B has about one for 200 queries
    spherical  keep centroids at length 1, as FAISS does for inner products, so that none attracts by its length

    Labels are 0, 1, ... without gaps: clusters that stay empty, as when many vectors are equal, are left out, so
    there may be fewer than `count`. The same for a seed, number of threads and version of FAISS.
    Raises InvalidInput for vectors that are not finite and for more clusters than queries.
    """
    require_finite(vectors, "query")
    if not 1 <= count <= len(vectors):
        raise InvalidInput(f"count must be 1 to {len(vectors)}, the number of queries, got {count}.")
    faiss = load_faiss()
    vectors = np.ascontiguousarray(vectors, np.float32)
    kmeans = faiss.Clustering(vectors.shape[1], count)
    kmeans.niter = turns
    kmeans.seed = seed & 0x7FFFFFFF
    kmeans.spherical = spherical
    # The default warns on stderr about fewer than 39 points a centroid, and samples 256.
    kmeans.min_points_per_centroid = 1
    kmeans.max_points_per_centroid = len(vectors)
    centroids = faiss.IndexFlatIP(vectors.shape[1])
    kmeans.train(vectors, centroids)
    nearest = centroids.search(vectors, 1)[1][:, 0]
    return np.unique(nearest, return_inverse=True)[1].reshape(-1).astype(np.int32)


def balanced_clusters(vectors: NDArray[np.float32], size: int, seed: int = 0) -> Labels:
    """Return int32[Q], the cluster of each query, by halving again and again (NGAME, arXiv:2207.04452).

    vectors  (Q, H), compared by cosine
    size     of clusters at most; their number is rounded up to a power of two, so most are smaller

    Each half takes the members most similar to its centroid rather than the other's, so sizes differ by 1 at most
    and no cluster is empty. Clusters that were one until late have neighbouring labels. Size 1 gives every query
    its own cluster and compares nothing.
    Holds one copy of the vectors. Raises InvalidInput for vectors that are not finite.
    """
    require_finite(vectors, "query")
    if size < 1:
        raise InvalidInput(f"size must be 1 or more, got {size}.")
    if size == 1 or len(vectors) == 0:
        return np.arange(len(vectors), dtype=np.int32)
    import torch

    points = torch.nn.functional.normalize(torch.tensor(np.asarray(vectors, np.float32)), dim=1)
    generator = np.random.default_rng(seed)
    order = torch.arange(len(points))
    bounds = np.array([0, len(points)])  # of the clusters in `order`
    while len(bounds) - 1 < -(-len(points) // size):
        bounds = _halve_all(points, order, bounds, generator)
    labels = np.empty(len(points), np.int32)
    labels[order.numpy()] = np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
    return labels


def _halve_all(
    points: "Tensor", order: "Tensor", bounds: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Reorder `order` so that each cluster's halves stand side by side, and return the bounds of all halves."""
    import torch

    sizes = np.diff(bounds)
    # Two different members of each cluster, to start from.
    first = generator.integers(0, sizes)
    second = (first + 1 + generator.integers(0, sizes - 1)) % sizes
    # Clusters of one size stack into a tensor; there are two sizes at most.
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        step = max(1, BLOCK_FLOATS // (int(size) * points.shape[1]))
        for start in range(0, len(chosen), step):
            block = chosen[start : start + step]
            places = torch.from_numpy(bounds[block][:, None] + np.arange(size))
            seeds = torch.from_numpy(np.stack([first[block], second[block]], axis=1))
            order[places] = _halve(points, order[places], seeds)
    return np.sort(np.concatenate([bounds, bounds[:-1] + sizes // 2]))


def _halve(points: "Tensor", rows: "Tensor", seeds: "Tensor") -> "Tensor":
    """Return `rows` with the first n // 2 of each cluster more like one centroid, the others like the other.

    points  (Q, H)
    rows    (C, n) of C clusters
    seeds   (C, 2) places in `rows`
    """
    import torch

    clusters, n = rows.shape
    members = points[rows]  # (C, n, H)
    total = members.sum(dim=1)
    centroids = members[torch.arange(clusters)[:, None], seeds]  # (C, 2, H)
    best = torch.full((clusters,), -torch.inf)
    result = torch.empty_like(rows)
    active = torch.arange(clusters)
    for _ in range(TURNS):
        difference = torch.bmm(members, (centroids[:, 0] - centroids[:, 1]).unsqueeze(2)).squeeze(2)  # (A, n)
        halves = difference.argsort(dim=1, descending=True, stable=True)
        result[active] = rows[active].gather(1, halves)
        left = torch.zeros_like(difference).scatter_(1, halves[:, : n // 2], 1.0)
        sums = torch.bmm(left.unsqueeze(1), members).squeeze(1)  # (A, H)
        sums = torch.stack([sums, total - sums], dim=1)
        centroids = torch.nn.functional.normalize(sums, dim=2)
        similarity = (sums * centroids).sum(dim=(1, 2)) / n
        going = similarity - best > TOLERANCE
        if not bool(going.any()):
            break
        best = similarity
        if not bool(going.all()):
            active, best, centroids = active[going], best[going], centroids[going]
            members, total = members[going], total[going]
    return result
