"""Likelihood of a query's tokens behind its document, with or without a stop at the document's end token.

LLM-QL, arXiv:2504.05216 and github.com/Trustworthy-Information-Access/llm-ql: query tokens see the document through
its end token alone, so that all that helps to write the query has to be in that token's states.
"""

import torch
from torch import Tensor
from torch.nn import functional


def attention_mask(starts: Tensor, ends: Tensor, stops: Tensor, width: int, *, stop: bool) -> Tensor:
    """Return bool (B, 1, width, width), True where the row's token sees the column's.

    starts, ends, stops  int64[B]: places of the first token, of the document's end token, and behind the last token;
                         what lies outside is padding, on whichever side
    stop                 tokens behind the end token see nothing that lies before it

    Padding sees itself, so that no row of a softmax is empty.
    """
    places = torch.arange(width, device=starts.device)
    row, column = places[None, :, None], places[None, None, :]
    start, end, behind = (value[:, None, None] for value in (starts, ends, stops))
    seen = (column <= row) & (column >= start) & (row < behind)
    if stop:
        seen = seen & ((row <= end) | (column >= end))
    return (seen | (row == column)).unsqueeze(1)


def predicting(starts: Tensor, ends: Tensor, stops: Tensor, width: int, *, document: bool = False) -> Tensor:
    """Return bool (B, width): the places whose next token's likelihood counts.

    Those from the end token to the last but one, which tell the query's tokens; with `document` all but the last one,
    as in the published code, which does not keep the document's own tokens out of its loss.
    """
    places = torch.arange(width, device=starts.device)[None, :]
    first = (starts if document else ends)[:, None]
    return (places >= first) & (places < stops[:, None] - 1)


def query_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p over tokens, from (N, V) logits and the N tokens that came next."""
    return functional.cross_entropy(logits.float(), targets)
