"""What `nearest_codes` and `sign_scores` mean."""

import numpy as np
from numpy.typing import NDArray

from kernels.hamming.codes import SignCodes, unpacked


def nearest_codes_reference(
    codes: SignCodes, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """See `kernels.hamming.nearest_codes`."""
    chosen = np.arange(codes.documents) if allowed is None else np.flatnonzero(allowed)
    documents = unpacked(codes)[chosen] > 0
    found = []
    for query in queries:
        distances = (documents != (query >= 0)).sum(axis=1)
        order = np.argsort(distances, kind="stable")[:k]
        found.append((distances[order].astype(np.int32), chosen[order].astype(np.int32)))
    return found


def sign_scores_reference(
    codes: SignCodes, query: NDArray[np.floating], documents: NDArray[np.integer]
) -> NDArray[np.float32]:
    """See `kernels.hamming.sign_scores`."""
    scores: NDArray[np.float32] = (unpacked(codes)[documents].astype(np.float64) @ query.astype(np.float64)).astype(
        np.float32
    )
    return scores
