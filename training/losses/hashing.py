"""Losses of compressed documents, and the soft forms of codes that gradients pass."""

import torch
from torch import Tensor
from torch.nn import functional


def code_margin(queries: Tensor, documents: Tensor, relevant: Tensor, margin: float) -> Tensor:
    """Return BPR's loss of codes on both sides: the mean of max(0, margin - <h_q, h_d+> + <h_q, h_d>) over negatives.

    queries    (B, H) soft codes
    documents  (D, H) soft codes; the relevant document of query i stands in row i
    relevant   bool (B, D): pairs that are no negatives
    margin     in the units of the inner product, where two codes that differ in a bit differ by 2

    studio-ousia/bpr, arXiv:2106.00882.
    """
    scores = queries.float() @ documents.float().T
    losses = functional.relu(margin - scores.diagonal().unsqueeze(1) + scores)
    # Multiplying instead of picking keeps a gradient of 0, not none, when nothing is negative.
    negatives = ~relevant
    return (losses * negatives).sum() / negatives.sum().clamp(min=1)


def part_distances(turned: Tensor, centroids: Tensor) -> Tensor:
    """Return (M, N, 256) squared distances of each part of rotated embeddings (N, H) to centroids (M, 256, H / M)."""
    parts = turned.reshape(len(turned), len(centroids), -1).transpose(0, 1)
    lengths = (parts**2).sum(dim=2, keepdim=True) + (centroids**2).sum(dim=2).unsqueeze(1)
    return lengths - 2 * parts @ centroids.transpose(1, 2)


def balanced_shares(distances: Tensor, *, epsilon: float = 0.003, rounds: int = 100) -> Tensor:
    """Return RepCONC's shares (M, N, K), float64: of each embedding over the centroids, all centroids used alike.

    distances  (M, N, K); of each part centred and scaled to -1 ... 1 here
    epsilon    the smaller, the nearer the shares are to 0 and 1
    rounds     of Sinkhorn's two normalisations; the last one gives each embedding shares that sum to 1

    float64, since exp(1 / epsilon) is far beyond float32. jingtaozhan/RepCONC, arXiv:2110.05789.
    """
    if epsilon < 0.0015:
        raise ValueError(f"epsilon must be at least 0.0015, where exp(1 / epsilon) leaves float64, got {epsilon}.")
    distances = distances.detach().double()
    low, high = distances.amin(dim=(1, 2), keepdim=True), distances.amax(dim=(1, 2), keepdim=True)
    least = torch.finfo(torch.float64).tiny
    centred = (2 * distances - (low + high)) / (high - low).clamp(min=least)
    shares = torch.exp(-centred / epsilon)
    count, centroids = shares.shape[1:]
    shares /= shares.sum(dim=(1, 2), keepdim=True)
    for _ in range(rounds):
        shares /= shares.sum(dim=1, keepdim=True).clamp(min=least) * centroids
        shares /= shares.sum(dim=2, keepdim=True).clamp(min=least) * count
    return shares * count


def soft_choice(distances: Tensor) -> Tensor:
    """Return (M, N, K): 1 for the nearest centroid of each part, with the gradient of softmax(-distances).

    BiDR's contrastive quantisation, arXiv:2201.05409.
    """
    soft = torch.softmax(-distances, dim=2)
    hard = functional.one_hot(soft.argmax(dim=2), soft.shape[2]).to(soft.dtype)
    return hard + soft - soft.detach()


def quantisation_error(quantised: Tensor, continuous: Tensor) -> Tensor:
    """Return the mean over embeddings (N, H) of their squared distance to what stands for them."""
    return ((quantised.float() - continuous.float()) ** 2).sum(dim=1).mean()
