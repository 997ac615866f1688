"""Top-k of inner products by a full matrix product and a stable sort: the definition."""

import torch
from torch import Tensor


def topk_reference(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (Q, k) float32 scores, best first, and (Q, k) int64 rows of `documents`.

    queries    (Q, H) float32, bfloat16 or float16
    documents  (D, H) of the same dtype
    allowed    (D,) bool, True where a document may be found; None allows all

    Products are added in float32. Equal scores stand in order of row. Places for which there is no document
    hold score -inf and row -1.
    """
    scores = queries.float() @ documents.float().T  # (Q, D)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    scores, rows = scores.sort(dim=1, descending=True, stable=True)
    found = torch.full((len(queries), k), float("-inf"), device=queries.device)
    found_rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    kept = min(k, len(documents))
    found[:, :kept] = scores[:, :kept]
    found_rows[:, :kept] = rows[:, :kept].masked_fill(scores[:, :kept] == float("-inf"), -1)
    return found, found_rows
