"""Attention that a `Stretch` changes; without one it is the library's own.

transformers calls it by the name under which it is registered and hands on what a model was called with beside its
inputs, so nothing is kept between calls and threads do not meet.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from retriever.long_context.rotary import turned
from retriever.long_context.stretch import Merge, Stretch

NAME = "retriever_long_context"

# Rows of scores that are held at once by `merged_attention`.
QUERIES = 256


def stretched_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    stretch: Stretch | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return (B, T, heads, d), as the library's attention does.

    query, key, value  (B, heads, T, d), turned by the model where it has rotary positions; fewer heads of keys and
                       values are repeated
    """
    if stretch is not None:
        if stretch.scale is not None:
            query = query * stretch.scale[:, None, None, None].to(query.dtype)
        if stretch.angles is not None:
            query, key = turned(query, stretch.angles), turned(key, stretch.angles)
        if stretch.merge is not None:
            asked = options.get("is_causal")
            causal = getattr(module, "is_causal", True) if asked is None else asked
            scaling = options.get("scaling") or query.shape[-1] ** -0.5
            found = merged_attention(
                query, key, value, stretch.merge, attention_mask, causal=causal and attention_mask is None,
                scaling=scaling, dropout=options.get("dropout", 0.0),
            )  # fmt: skip
            return found, None
    found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return found, None


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    merge: Merge,
    mask: Tensor | None,
    *,
    causal: bool,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """Return (B, T, heads, d): softmax over scores, each from the distance that `merge` gives its two tokens.

    mask  (B, 1 or heads, T, T), bool (True where a key is seen) or added to scores; None for none
    Holds 4 * B * heads * 256 * T floats at a time, and takes two to three times the products of plain attention.
    """
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    lowest = torch.finfo(torch.float32).min
    key_grouped, key_shifted = turned(key, merge.grouped), turned(key, merge.shifted)
    query_grouped, query_shifted = turned(query, merge.grouped), turned(query, merge.shifted)
    rows = []
    for begin in range(0, query.shape[2], QUERIES):
        end = min(begin + QUERIES, query.shape[2])
        # Nobody sees what is behind these queries.
        last = end if causal else key.shape[2]
        block = slice(begin, end)
        distance = (merge.places[:, block, None] - merge.places[:, None, :last])[:, None]  # (B, 1, b, T)
        scores = query_shifted[:, :, block] @ key_grouped[:, :, :last].mT
        if not causal:
            scores = torch.where(distance < 0, query_grouped[:, :, block] @ key_shifted.mT, scores)
        scores = torch.where(distance.abs() < merge.neighbours, query[:, :, block] @ key[:, :, :last].mT, scores)
        scores = scores.float() * scaling
        if causal:
            order = torch.arange(last, device=query.device)
            scores = scores.masked_fill(order[begin:, None] < order, lowest)
        elif mask is not None:
            part = mask[:, :, block, :last]
            scores = scores.masked_fill(~part, lowest) if part.dtype == torch.bool else scores + part
        weights = torch.nn.functional.dropout(scores.softmax(-1), dropout).to(value.dtype)
        rows.append(weights @ value[:, :, :last])
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, stretched_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
