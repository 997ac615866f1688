"""Losses over a ranked list."""

import torch
from torch import Tensor
from torch.nn import functional


def lambda_mrr(scores: Tensor, relevant: Tensor, valid: Tensor, *, retrieved: int, metric_cut: int) -> Tensor:
    """Return ADORE's loss over one batch of ranked lists.

    scores      (B, K): the documents retrieved, best first, then relevant ones that were not
    relevant    bool (B, K)
    valid       bool (B, K): False where a list is shorter than the longest
    retrieved   so many columns were retrieved; the others have no rank, their reciprocal rank is 0
    metric_cut  so is that of ranks beyond this one

    For each pair of a relevant document a and another one b: |1 / rank_a - 1 / rank_b| softplus(s_b - s_a);
    the mean over all pairs of a list, then over the lists. The original's `metric_cut=None` silently makes every
    weight 0, so a number is required here. Source: adore/train.py of jingtaozhan/DRhard, arXiv:2104.08051.
    """
    if metric_cut < 1:
        raise ValueError(f"metric_cut must be at least 1, got {metric_cut}; the paper's is 200.")
    scores = scores.float()
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float32)
    reciprocal = torch.where(ranks <= min(metric_cut, retrieved), 1 / ranks, torch.zeros_like(ranks))
    weights = (reciprocal.unsqueeze(1) - reciprocal.unsqueeze(0)).abs()
    # (B, a, b)
    pairs = (relevant & valid).unsqueeze(2) & (~relevant & valid).unsqueeze(1)
    losses = functional.softplus(scores.unsqueeze(1) - scores.unsqueeze(2)) * weights
    per_list = (losses * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)
    return per_list.mean()


def distillation_cross_entropy(scores: Tensor, teacher: Tensor) -> Tensor:
    """Return AR2's -sum softmax(teacher) log softmax(scores), (B, K) both, averaged over the lists.

    Listwise KL(softmax(teacher) || softmax(scores)) plus the teacher's entropy, which no gradient sees.
    """
    target = torch.softmax(teacher.float(), dim=1)
    return -(target * torch.log_softmax(scores.float(), dim=1)).sum(dim=1).mean()


def adversarial(scores: Tensor, ranker: Tensor, *, reduction: str = "sum") -> Tensor:
    """Return AR2's reward of documents that confuse the ranker; the relevant document stands in column 0.

    scores     (B, 1 + h) of the retriever
    ranker     (B, 1 + h) of the ranker, taken as constants
    reduction  "sum" over the batch as microsoft/AR2 has it, so that its weight grows with the batch, or "mean"

    sum_j log sigmoid(r_0 - r_j) log p_j: both factors are at most 0, so minimising raises the probability of the
    negatives that the ranker finds hard (arXiv:2110.03611).
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}.")
    ranker = ranker.detach().float()
    rewards = functional.logsigmoid(ranker[:, :1] - ranker)
    losses = (rewards * torch.log(torch.softmax(scores.float(), dim=1) + 1e-7)).sum(dim=1)
    return losses.sum() if reduction == "sum" else losses.mean()
