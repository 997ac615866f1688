"""Losses on tensors small enough to work out by hand."""

import math

import pytest
import torch
from torch.nn import functional

from training.losses.contrastive import info_nce, own_softmax, pairwise_softplus, triplet_hard_mining
from training.losses.margins import cosine_mse, in_batch_margin_mse, margin_mse, soft_cross_entropy
from training.losses.ranking import adversarial, distillation_cross_entropy, lambda_mrr


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_softmax_leaves_out_other_relevant_documents():
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 5.0]])
    relevant = torch.tensor([[True, False, False], [False, True, True]])
    first = -2 + math.log(math.exp(2) + math.exp(1) + 1)
    second = -1 + math.log(1 + math.exp(1))
    assert float(info_nce(scores, relevant)) == pytest.approx((first + second) / 2)


def test_own_softmax_looks_at_each_querys_own_documents():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    relevant = torch.tensor([[True, True, False]])
    expected = -1 + math.log(math.exp(1) + math.exp(2))
    assert float(own_softmax(scores, relevant)) == pytest.approx(expected)


def test_softplus_pairs_are_averaged_over_negatives_only():
    scores = torch.tensor([[1.0, 3.0], [0.5, 2.0]])
    negatives = torch.tensor([[False, True], [False, False]])
    assert float(pairwise_softplus(scores, negatives)) == pytest.approx(softplus(2.0))


def test_softplus_without_negatives_has_a_gradient_of_zero():
    scores = torch.ones(2, 2, requires_grad=True)
    pairwise_softplus(scores, torch.zeros(2, 2, dtype=torch.bool)).backward()
    assert torch.equal(scores.grad, torch.zeros(2, 2))


def test_hard_mining_takes_the_best_negatives_and_masks_the_rest():
    scores = torch.tensor([[0.5, 0.6, 0.1, 0.9]])
    negatives = torch.tensor([[False, True, True, False]])
    one = triplet_hard_mining(scores, negatives, count=1)
    assert float(one) == pytest.approx(0.6 - 0.5 + 0.3)
    weights = torch.softmax(torch.tensor([0.6, 0.1]) / 0.1, 0)
    assert float(triplet_hard_mining(scores, negatives, count=10)) == pytest.approx(float(weights[0]) * 0.4, abs=1e-4)
    assert float(triplet_hard_mining(scores, torch.zeros(1, 4, dtype=torch.bool))) == 0


def test_lambda_weights_are_differences_of_reciprocal_ranks():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    relevant = torch.tensor([[False, True, False]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    expected = (0.5 * softplus(1.0) + (1 / 2 - 1 / 3) * softplus(-1.0)) / 2
    assert float(lambda_mrr(scores, relevant, valid, retrieved=3, metric_cut=200)) == pytest.approx(expected)


def test_an_appended_positive_has_reciprocal_rank_zero():
    scores = torch.tensor([[3.0, 2.0, 1.0, 9.0]])
    relevant = torch.tensor([[False, False, True, False]])
    valid = torch.tensor([[True, True, True, False]])
    expected = (1.0 * softplus(2.0) + 0.5 * softplus(1.0)) / 2
    assert float(lambda_mrr(scores, relevant, valid, retrieved=2, metric_cut=200)) == pytest.approx(expected)


def test_ranks_beyond_the_cut_weigh_nothing():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    relevant = torch.tensor([[False, False, True]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    expected = (1.0 * softplus(2.0) + 0.0) / 2
    assert float(lambda_mrr(scores, relevant, valid, retrieved=3, metric_cut=1)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="metric_cut"):
        lambda_mrr(scores, relevant, valid, retrieved=3, metric_cut=0)


def test_the_adversarial_term_raises_the_negative_that_confuses_the_ranker():
    scores = torch.zeros(1, 4, requires_grad=True)
    ranker = torch.tensor([[2.0, 1.9, -3.0, -3.0]])
    adversarial(scores, ranker).backward()
    # Descent moves against the gradient: its smallest entry rises most.
    negatives = scores.grad[0, 1:]
    assert int(negatives.argmin()) == 0
    assert negatives[0] < 0


def test_the_adversarial_reduction_is_explicit():
    scores, ranker = torch.randn(3, 4), torch.randn(3, 4)
    total = adversarial(scores, ranker, reduction="sum")
    assert float(adversarial(scores, ranker, reduction="mean")) == pytest.approx(float(total) / 3)
    with pytest.raises(ValueError, match="max"):
        adversarial(scores, ranker, reduction="max")


def test_distillation_is_least_at_the_teacher():
    teacher = torch.tensor([[1.0, 0.0, -1.0]])
    at_teacher = distillation_cross_entropy(teacher, teacher)
    assert float(at_teacher) < float(distillation_cross_entropy(teacher.flip(1), teacher))


def test_margins_are_compared_not_scores():
    assert float(margin_mse(*map(torch.tensor, (5.0, 3.0, 105.0, 103.0)))) == 0
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    teacher = scores + torch.tensor([[10.0], [20.0]])
    apart = ~torch.eye(2, dtype=torch.bool)
    own = scores.diagonal()
    assert float(in_batch_margin_mse(scores, teacher, own, teacher.diagonal(), apart)) == 0
    off = in_batch_margin_mse(scores, teacher, own, teacher.diagonal() + 1, apart)
    assert float(off) == pytest.approx(1)


def test_soft_labels():
    assert float(cosine_mse(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.0]))) == pytest.approx(0.125)
    logits = torch.tensor([0.3])
    expected = functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0]))
    assert float(soft_cross_entropy(logits, torch.tensor([-0.2]))) == pytest.approx(float(expected))
