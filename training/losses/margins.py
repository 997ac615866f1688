"""Losses that copy a teacher's differences or values."""

import torch
from torch import Tensor
from torch.nn import functional


def margin_mse(positive: Tensor, negative: Tensor, teacher_positive: Tensor, teacher_negative: Tensor) -> Tensor:
    """Return the mean of ((s+ - s-) - (t+ - t-))^2 over tensors of one shape (arXiv:2010.02666)."""
    return functional.mse_loss((positive - negative).float(), (teacher_positive - teacher_negative).float())


def in_batch_margin_mse(scores: Tensor, teacher: Tensor, own: Tensor, teacher_own: Tensor, apart: Tensor) -> Tensor:
    """Return the margin MSE of each query's own document against the documents of other queries.

    scores, teacher   (B, D) of all pairs of the batch
    own, teacher_own  (B,) scores of each query's relevant document
    apart             bool (B, D): pairs that count, such as all off the diagonal

    One half of TAS-B's in-batch term (arXiv:2104.06967), for D = positives or D = negatives.
    """
    margins = own.unsqueeze(1) - scores
    wanted = teacher_own.unsqueeze(1) - teacher
    squares = (margins.float() - wanted.float()) ** 2
    return (squares * apart).sum() / apart.sum().clamp(min=1)


def cosine_mse(cosines: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared difference of cosines and soft labels (arXiv:2109.13059)."""
    return functional.mse_loss(cosines.float(), labels.float())


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return binary cross-entropy of logits with labels in 0..1; labels beyond are cut (cosines may be negative)."""
    return functional.binary_cross_entropy_with_logits(logits.float(), torch.clamp(labels.float(), 0, 1))
