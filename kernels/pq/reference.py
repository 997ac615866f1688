"""What `best_codes` and `code_scores` mean."""

import numpy as np
from numpy.typing import NDArray

from kernels.pq.codes import ProductCodes, rows_of


def code_scores_reference(
    codes: ProductCodes, table: NDArray[np.float32], documents: NDArray[np.integer]
) -> NDArray[np.float32]:
    """See `kernels.pq.code_scores`."""
    rows = rows_of(codes)[documents]
    scores = np.zeros(len(rows), np.float32)
    for part in range(codes.parts):
        scores += table[part, rows[:, part]]
    return scores


def best_codes_reference(
    codes: ProductCodes, tables: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """See `kernels.pq.best_codes`."""
    chosen = np.arange(codes.documents) if allowed is None else np.flatnonzero(allowed)
    found = []
    for table in tables:
        scores = code_scores_reference(codes, table, chosen)
        order = np.argsort(-scores, kind="stable")[:k]
        found.append((scores[order], chosen[order].astype(np.int32)))
    return found
