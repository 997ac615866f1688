"""What embeddings must be before anything is computed from them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput

BLOCK = 65536


def require_finite(vectors: NDArray[Any], kind: str) -> None:
    """Raise InvalidInput unless `vectors` is (rows, H) of finite floats; the message names the first bad row.

    kind  what a row stands for, such as "query"
    """
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise InvalidInput(
            f"{kind} vectors must be floats of shape (rows, width), got {vectors.dtype} {vectors.shape}."
        )
    for start in range(0, len(vectors), BLOCK):
        finite = np.isfinite(vectors[start : start + BLOCK]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise InvalidInput(f"the vector of {kind} row {row} holds NaN or infinity; encode its text again.")
