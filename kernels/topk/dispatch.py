"""Checks the arguments and picks an implementation."""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.topk.blocked import topk_blocked

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# More queries than this are taken in turns, to bound what the implementations hold for each query.
QUERY_BLOCK = 1024


def topk(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (Q, k) float32 scores, best first, and (Q, k) int64 rows of `documents`.

    queries    (Q, H) float32, bfloat16 or float16
    documents  (D, H) of the same dtype, on the same device
    allowed    (D,) bool, True where a document may be found; None allows all

    Exact: no candidate is left out, products are added in float32, equal scores stand in order of row. Places
    for which there is no document, as when k > D, hold score -inf and row -1.
    Raises ValueError for shapes, dtypes or devices that do not fit, and when any score, of a document that is
    not allowed too, is not finite.
    """
    _check(queries, documents, k, allowed)
    if len(queries) == 0 or len(documents) == 0 or k == 0:
        return _nothing(queries, k)
    search = choose(queries, documents, k)
    parts = [
        search(queries[start : start + QUERY_BLOCK], documents, k, allowed)
        for start in range(0, len(queries), QUERY_BLOCK)
    ]
    return torch.cat([scores for scores, _ in parts]), torch.cat([rows for _, rows in parts])


def choose(queries: Tensor, documents: Tensor, k: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the implementation that should be fastest for these arguments.

    Triton's kernel saves the scores' way through memory at the price of a second look at k groups. float32
    stays with the vendor's library, whose products are faster without tensor cores; so do few queries, where
    reading the documents is all that counts.
    """
    if not queries.is_cuda or queries.dtype == torch.float32 or importlib.util.find_spec("triton") is None:
        return topk_blocked
    contiguous = queries.stride(1) == 1 and documents.stride(1) == 1
    if not contiguous or len(queries) < 64 or len(documents) < 64 * 16 * k:
        return topk_blocked
    from kernels.topk.triton import topk_triton

    return topk_triton


def _nothing(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if not bool(queries.isfinite().all()):
        raise ValueError("a query holds NaN or infinity")
    shape = (len(queries), k)
    scores = torch.full(shape, float("-inf"), device=queries.device)
    return scores, torch.full(shape, -1, dtype=torch.int64, device=queries.device)


def _check(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"queries must be (Q, H) and documents (D, H), got {tuple(queries.shape)} and {tuple(documents.shape)}"
        )
    if queries.dtype not in DTYPES or documents.dtype != queries.dtype:
        raise ValueError(
            f"queries and documents must both be float32, bfloat16 or float16, got {queries.dtype} and "
            f"{documents.dtype}"
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 0:
        raise ValueError(f"k must be a whole number, 0 or more, got {k!r}")
    if allowed is not None and (allowed.dtype != torch.bool or allowed.shape != (len(documents),)):
        raise ValueError(f"allowed must be ({len(documents)},) bool, got {tuple(allowed.shape)} {allowed.dtype}")
    devices = {tensor.device for tensor in (queries, documents, allowed) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device, got {sorted(map(str, devices))}")
