"""Top-k of inner products on a GPU without the scores ever standing in memory.

Documents are taken in groups of neighbours. A first kernel multiplies as any matrix product does, but stores
only the largest score of each group. The k best documents lie in the k best groups: every one of those groups
holds a document at least as good as any document outside them. A second kernel scores these k groups again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.topk.blocked import not_finite
from kernels.topk.selection import select

BLOCK_Q, BLOCK_D, BLOCK_H = 128, 128, 64


def group_size(k: int) -> int:
    """Return how many neighbours share a maximum: few when many groups have to be scored again."""
    return 64 if k <= 32 else 16


def topk_triton(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what `topk_reference` returns, for contiguous rows of bfloat16, float16 or float32.

    Holds 4 * Q * D / group_size(k) bytes of maxima and 4 * Q * k * group_size(k) bytes of scores.
    Both kernels add in float32 but in another order, so documents whose scores differ in the last bits only
    may change places at rank k.
    Raises ValueError when a score is not finite.
    """
    (Q, H), D = queries.shape, len(documents)
    group = group_size(k)
    device = queries.device
    groups = triton.cdiv(D, group)
    maxima = torch.empty((Q, groups), dtype=torch.float32, device=device)
    fault = torch.zeros(1, dtype=torch.int32, device=device)
    # Without a mask any pointer will do: it is not read.
    mask = fault if allowed is None else allowed.contiguous().view(torch.uint8)
    block_q = min(BLOCK_Q, max(16, triton.next_power_of_2(Q)))
    query_blocks = triton.cdiv(Q, block_q)
    _group_maxima[(query_blocks * triton.cdiv(D, BLOCK_D),)](
        queries,
        documents,
        mask,
        maxima,
        fault,
        Q,
        D,
        H,
        groups,
        query_blocks,
        queries.stride(0),
        documents.stride(0),
        HAS_MASK=allowed is not None,
        GROUP=group,
        BLOCK_Q=block_q,
        BLOCK_D=BLOCK_D,
        BLOCK_H=min(BLOCK_H, max(16, triton.next_power_of_2(H))),
        num_warps=8,
        num_stages=3,
    )
    if bool(fault):
        raise not_finite()
    kept = min(k, groups)
    # Ascending, so that among equal scores the lower column is the lower document.
    chosen = select(maxima, kept)[1].sort(dim=1).values  # (Q, kept)
    del maxima
    scores = torch.empty((Q, kept, group), dtype=torch.float32, device=device)
    _score_groups[(Q * kept,)](
        queries,
        documents,
        mask,
        chosen,
        scores,
        D,
        H,
        kept,
        queries.stride(0),
        documents.stride(0),
        HAS_MASK=allowed is not None,
        GROUP=group,
        BLOCK_H=min(128, triton.next_power_of_2(max(1, H))),
        num_warps=2,
    )
    best, columns = select(scores.view(Q, kept * group), k)
    rows = chosen.gather(1, columns // group) * group + columns % group
    rows.masked_fill_(best == float("-inf"), -1)
    missing = k - best.shape[1]
    if missing:
        best = torch.nn.functional.pad(best, (0, missing), value=float("-inf"))
        rows = torch.nn.functional.pad(rows, (0, missing), value=-1)
    return best, rows


@triton.jit  # type: ignore[untyped-decorator]
def _group_maxima(  # type: ignore[no-untyped-def]
    queries,  # [Q, H]
    documents,  # [D, H]
    mask,  # [D] uint8
    maxima,  # [Q, groups]
    fault,  # [1], becomes 1 when a score is not finite
    Q,
    D,
    H,
    groups,
    query_blocks,
    query_stride,
    document_stride,
    HAS_MASK: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    # All blocks of queries meet a block of documents while it is in the cache.
    q = (tl.program_id(0) % query_blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    block = tl.program_id(0) // query_blocks
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    query_rows = queries + q.to(tl.int64)[:, None] * query_stride
    document_rows = documents + d.to(tl.int64)[None, :] * document_stride
    scores = tl.zeros((BLOCK_Q, BLOCK_D), dtype=tl.float32)
    for start in range(0, H, BLOCK_H):
        h = start + tl.arange(0, BLOCK_H)
        left = tl.load(query_rows + h[None, :], mask=(q[:, None] < Q) & (h[None, :] < H), other=0.0)
        right = tl.load(document_rows + h[:, None], mask=(d[None, :] < D) & (h[:, None] < H), other=0.0)
        scores = tl.dot(left, right, acc=scores, input_precision="ieee")
    # x - x is 0 for every finite x and NaN for the others.
    faults = tl.sum(tl.sum((scores - scores != 0).to(tl.int32), axis=1), axis=0)
    tl.store(fault, 1, mask=faults > 0)
    usable = d < D
    if HAS_MASK:
        usable = usable & (tl.load(mask + d, mask=d < D, other=0) != 0)
    scores = tl.where(usable[None, :], scores, float("-inf"))
    best = tl.max(tl.reshape(scores, (BLOCK_Q, BLOCK_D // GROUP, GROUP)), axis=2)
    g = block * (BLOCK_D // GROUP) + tl.arange(0, BLOCK_D // GROUP)
    places = maxima + q.to(tl.int64)[:, None] * groups + g[None, :]
    tl.store(places, best, mask=(q[:, None] < Q) & (g[None, :] < groups))


@triton.jit  # type: ignore[untyped-decorator]
def _score_groups(  # type: ignore[no-untyped-def]
    queries,  # [Q, H]
    documents,  # [D, H]
    mask,  # [D] uint8
    chosen,  # [Q, kept] int64 numbers of groups
    scores,  # [Q, kept, GROUP]
    D,
    H,
    kept,
    query_stride,
    document_stride,
    HAS_MASK: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    d = tl.load(chosen + place) * GROUP + tl.arange(0, GROUP)
    query_row = queries + (place // kept) * query_stride
    document_rows = documents + d[:, None] * document_stride
    total = tl.zeros((GROUP,), dtype=tl.float32)
    for start in range(0, H, BLOCK_H):
        h = start + tl.arange(0, BLOCK_H)
        left = tl.load(query_row + h, mask=h < H, other=0.0).to(tl.float32)
        right = tl.load(document_rows + h[None, :], mask=(d[:, None] < D) & (h[None, :] < H), other=0.0)
        total += tl.sum(left[None, :] * right.to(tl.float32), axis=1)
    usable = d < D
    if HAS_MASK:
        usable = usable & (tl.load(mask + d, mask=d < D, other=0) != 0)
    tl.store(scores + place * GROUP + tl.arange(0, GROUP), tl.where(usable, total, float("-inf")))
