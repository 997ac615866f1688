"""Losses of compressed documents on tensors small enough to work out by hand."""

import numpy as np
import pytest
import torch

from training.losses.hashing import balanced_shares, code_margin, part_distances, quantisation_error, soft_choice


def test_the_margin_is_asked_of_negatives_only():
    queries = torch.tensor([[1.0, -1.0], [0.5, 0.5]])
    documents = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    relevant = torch.tensor([[True, False, False], [False, True, True]])
    # Query 0: own 0, others 2 and 0. Query 1: own 0, its one negative 1.
    expected = ((2 - 0 + 2) + (2 - 0 + 0) + (2 - 0 + 1)) / 3
    assert float(code_margin(queries, documents, relevant, 2.0)) == pytest.approx(expected)
    expected = ((0.1 + 2) + 0.1 + (0.1 + 1)) / 3
    assert float(code_margin(queries, documents, relevant, 0.1)) == pytest.approx(expected)


def test_codes_beyond_the_margin_pull_no_more():
    queries = torch.tensor([[1.0, 1.0]], requires_grad=True)
    documents = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    loss = code_margin(queries, documents, torch.tensor([[True, False]]), 2.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(queries.grad, torch.zeros(1, 2))
    queries.grad = None
    code_margin(queries, documents, torch.ones(1, 2, dtype=torch.bool), 2.0).backward()
    assert torch.equal(queries.grad, torch.zeros(1, 2))


def test_distances_are_those_of_each_part():
    generator = torch.Generator().manual_seed(0)
    turned = torch.randn(5, 6, generator=generator)
    centroids = torch.randn(3, 7, 2, generator=generator)
    found = part_distances(turned, centroids)
    for part in range(3):
        expected = torch.cdist(turned[:, 2 * part : 2 * part + 2], centroids[part]) ** 2
        assert torch.allclose(found[part], expected, atol=1e-5)


def test_balanced_shares_use_all_centroids_alike():
    generator = torch.Generator().manual_seed(1)
    # All embeddings are nearest to centroid 0; alone, each would go there.
    distances = torch.rand(2, 48, 8, generator=generator)
    distances[:, :, 0] -= 0.5
    assert (distances.argmin(dim=2) == 0).float().mean() > 0.6
    shares = balanced_shares(distances, epsilon=0.05)
    assert shares.dtype == torch.float64
    assert torch.allclose(shares.sum(dim=2), torch.ones(2, 48, dtype=torch.float64))
    assert torch.allclose(shares.sum(dim=1), torch.full((2, 8), 6.0, dtype=torch.float64), atol=1e-3)
    for part in range(2):
        used = np.bincount(shares[part].argmax(dim=1).numpy(), minlength=8)
        assert used.min() >= 3
        assert used.max() <= 9


def test_the_share_that_costs_least_in_all_wins():
    # Both want centroid 0; the one that loses less by leaving leaves.
    distances = torch.tensor([[[0.0, 1.0], [0.0, 0.1]]])
    assert balanced_shares(distances)[0].argmax(dim=1).tolist() == [0, 1]


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_shares_stay_finite_at_any_distance(value):
    distances = torch.zeros(1, 3, 4)
    distances[0, 0, 0] = value
    distances[0, 1] = value
    assert torch.isfinite(balanced_shares(distances)).all()
    with pytest.raises(ValueError, match="epsilon"):
        balanced_shares(distances, epsilon=1e-4)


def test_the_choice_is_hard_and_its_gradient_soft():
    distances = torch.tensor([[[0.5, 0.2, 0.9]]], requires_grad=True)
    chosen = soft_choice(distances)
    assert chosen.detach()[0, 0] == pytest.approx([0, 1, 0])
    values = torch.tensor([1.0, 2.0, 3.0])
    (chosen * values).sum().backward()
    soft = torch.softmax(-distances.detach(), dim=2)
    mean = float((soft * values).sum())
    assert distances.grad[0, 0] == pytest.approx((-soft[0, 0] * (values - mean)).numpy())


def test_the_error_is_a_squared_distance():
    assert float(quantisation_error(torch.tensor([[1.0, 2.0], [0, 0]]), torch.tensor([[1.0, 0.0], [3, 4]]))) == 14.5
