"""Top-k of inner products block by block: bounded memory, any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kernels.topk.selection import select

# Bytes of scores that exist at a time: about a core's share of cache on a CPU, enough to fill a GPU.
BLOCK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}


def topk_blocked(
    queries: Tensor,
    documents: Tensor,
    k: int,
    allowed: Tensor | None = None,
    *,
    block_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `topk_reference` returns; holds `block_bytes` of scores instead of all Q * D.

    Raises ValueError when a score is not finite: NaN or infinity came in, or float32 overflowed.
    """
    block_bytes = block_bytes or BLOCK_BYTES.get(queries.device.type, BLOCK_BYTES["cpu"])
    block = max(1, block_bytes // (4 * len(queries)))
    best = torch.full((len(queries), k), float("-inf"), device=queries.device)
    rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    # Flags are read together at the end, so that a GPU need not wait for each.
    finite = torch.ones((), dtype=torch.bool, device=queries.device)
    with full_float32():
        for start in range(0, len(documents), block):
            scores = inner_products(queries, documents[start : start + block])  # (Q, block)
            lowest, highest = scores.aminmax()
            finite &= lowest.isfinite() & highest.isfinite()
            if allowed is not None:
                scores.masked_fill_(~allowed[start : start + block], float("-inf"))
            found, columns = select(scores, k)
            best, rows = _merge(best, rows, found, columns + start)
    if not bool(finite):
        raise not_finite()
    return best, rows.masked_fill_(best == float("-inf"), -1)


def _merge(best: Tensor, rows: Tensor, found: Tensor, found_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the k best of both lists; the first has the smaller rows, so a stable sort keeps ties right."""
    k = best.shape[1]
    scores, order = torch.cat([best, found], dim=1).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], torch.cat([rows, found_rows], dim=1).gather(1, order[:, :k])


def inner_products(queries: Tensor, documents: Tensor) -> Tensor:
    """Return (Q, D) float32 inner products, added in float32 whatever the dtype of the vectors."""
    if queries.dtype == torch.float32:
        return queries @ documents.T
    if queries.is_cuda:
        return torch.mm(queries, documents.T, out_dtype=torch.float32)
    return queries.float() @ documents.float().T


def not_finite() -> ValueError:
    return ValueError(
        "a score is NaN or infinite: a vector holds NaN or infinity, or is so long that float32 overflows"
    )


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep TF32, which rounds to 10 bits, out of float32 products."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)
