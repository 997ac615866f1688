"""Losses that set a relevant document against all others of the batch."""

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(scores: Tensor, relevant: Tensor) -> Tensor:
    """Return the mean cross-entropy of each query's own document, (B, B * (1 + h)) scores.

    relevant  bool, same shape: pairs known to be relevant; the own document of query i stands in column i, any
              other relevant one is no negative and is left out
    """
    own = torch.arange(len(scores), device=scores.device)
    others = relevant.clone()
    others[own, own] = False
    return functional.cross_entropy(scores.float().masked_fill(others, -torch.inf), own)


def own_softmax(scores: Tensor, relevant: Tensor) -> Tensor:
    """Return the mean cross-entropy of the relevant document in column 0 of each query's own (B, 1 + h).

    relevant  bool, same shape; a relevant document beyond column 0 is left out
    """
    others = relevant.clone()
    others[:, 0] = False
    target = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    return functional.cross_entropy(scores.float().masked_fill(others, -torch.inf), target)


def pairwise_softplus(scores: Tensor, negatives: Tensor) -> Tensor:
    """Return STAR's loss: the mean of softplus(s(q, d) - s(q, d+)) over all pairs marked as negative.

    scores     (B, D); the relevant document of query i stands in column i
    negatives  bool (B, D)

    An average of two-way losses, not a softmax, as in jingtaozhan/DRhard (arXiv:2104.08051); in float32.
    """
    scores = scores.float()
    own = scores.diagonal().unsqueeze(1)
    losses = functional.softplus(scores - own)
    # Multiplying instead of picking keeps a gradient of 0, not none, when nothing is negative.
    return (losses * negatives).sum() / negatives.sum().clamp(min=1)


def triplet_hard_mining(
    scores: Tensor, negatives: Tensor, *, count: int = 10, margin: float = 0.3, temperature: float = 0.1
) -> Tensor:
    """Return NGAME's loss: the best `count` negatives of each query in the batch, weighted by their softmax.

    scores     (B, D) cosines; the relevant document of query i stands in column i
    negatives  bool (B, D)

    max(0, s_n - s_p + margin), each weighted by softmax(s_n / temperature) over the chosen negatives; gradients
    flow through the weights. Extreme-classification/ngame, WSDM 2023.
    """
    scores = scores.float()
    own = scores.diagonal().unsqueeze(1)
    candidates = scores.masked_fill(~negatives, -torch.inf)
    hardest = candidates.topk(min(count, scores.shape[1]), dim=1).values
    # Queries with fewer negatives than `count`: what fills up weighs nothing.
    real = hardest.isfinite()
    hardest = torch.where(real, hardest, torch.full_like(hardest, -1e4))
    weights = torch.softmax(hardest / temperature, dim=1)
    losses = (functional.relu(hardest - own + margin) * weights * real).sum(dim=1)
    return losses.mean()
