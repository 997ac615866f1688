"""Clusters: planted ones are found, sizes are balanced, hard inputs end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retriever.errors import InvalidInput
from training.clusters import balanced_clusters, topic_clusters


def blobs(
    clusters: int, each: int, width: int = 24, spread: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around random centres, in random order, and the centre of each."""
    generator = np.random.default_rng(seed)
    truth = generator.permutation(np.repeat(np.arange(clusters), each))
    vectors = generator.standard_normal((clusters, width))[truth] + spread * generator.standard_normal(
        (clusters * each, width)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth


def purity(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of members that belong to the largest group of their cluster."""
    return sum(np.bincount(truth[labels == label]).max() for label in np.unique(labels)) / len(labels)


def test_topics_are_found() -> None:
    vectors, truth = blobs(8, 40)
    labels = topic_clusters(vectors, 24)
    assert labels.dtype == np.int32
    assert purity(labels, truth) == 1.0
    assert topic_clusters(vectors, 24).tolist() == labels.tolist()
    assert topic_clusters(vectors, 24, seed=5).tolist() != labels.tolist()


@pytest.mark.parametrize("spherical", [True, False])
def test_labels_have_no_gaps(spherical: bool) -> None:
    vectors, _ = blobs(3, 30)
    labels = topic_clusters(vectors, 50, spherical=spherical)
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


def test_equal_vectors_leave_clusters_empty() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    labels = topic_clusters(vectors, 30)
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))
    # Equal vectors stay together, whatever k-means does to fill 30 clusters.
    assert [len(np.unique(labels[start : start + 20])) for start in (0, 20, 40)] == [1, 1, 1]
    assert topic_clusters(np.ones((5, 4), np.float32), 5).tolist() == [0] * 5


def test_as_many_clusters_as_queries() -> None:
    assert sorted(topic_clusters(np.eye(6, dtype=np.float32), 6).tolist()) == list(range(6))
    assert topic_clusters(np.ones((1, 3), np.float32), 1).tolist() == [0]


def test_a_count_that_cannot_be_is_refused() -> None:
    for count in (0, 7):
        with pytest.raises(InvalidInput, match=f"count must be 1 to 6, .* got {count}"):
            topic_clusters(np.eye(6, dtype=np.float32), count)


def test_vectors_that_are_not_finite_are_named() -> None:
    vectors = np.ones((70_000, 2), np.float32)
    vectors[66_001, 1] = np.inf
    with pytest.raises(InvalidInput, match="query row 66001"):
        topic_clusters(vectors, 2)
    with pytest.raises(InvalidInput, match="query row 66001"):
        balanced_clusters(vectors, 2)
    with pytest.raises(InvalidInput, match=r"float32 \(3,\)"):
        balanced_clusters(np.ones(3, np.float32), 2)
    with pytest.raises(InvalidInput, match="int64"):
        topic_clusters(np.ones((3, 2), np.int64), 2)


@given(st.integers(0, 200), st.integers(1, 40), st.integers(0, 5))
def test_sizes_differ_by_one_at_most(count: int, size: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    labels = balanced_clusters(vectors, size, seed)
    assert labels.dtype == np.int32
    assert labels.shape == (count,)
    if count:
        sizes = np.bincount(labels)
        assert sizes.max() - sizes.min() <= 1
        assert sizes.min() >= 1
        assert sizes.max() <= size
        assert len(sizes) < 2 * -(-count // size) or size == 1


def test_balanced_clusters_are_of_similar_queries() -> None:
    vectors, truth = blobs(16, 32)
    labels = balanced_clusters(vectors, 8)
    assert len(np.unique(labels)) == 64
    assert purity(labels, truth) > 0.9
    assert purity(np.random.default_rng(0).permutation(labels), truth) < 0.5


def test_a_first_halving_by_hand() -> None:
    # Two directions of three and five members: the smaller half takes its three and one that is nearest to them.
    angles = np.radians([0, 1, 2, 60, 88, 89, 90, 91])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    for seed in range(10):
        labels = balanced_clusters(vectors, 4, seed)
        assert len(set(labels[:4].tolist())) == len(set(labels[4:].tolist())) == 1


def test_the_same_for_a_seed() -> None:
    vectors, _ = blobs(4, 25, spread=1.0)
    assert balanced_clusters(vectors, 8, 3).tolist() == balanced_clusters(vectors, 8, 3).tolist()
    assert balanced_clusters(vectors, 8, 3).tolist() != balanced_clusters(vectors, 8, 4).tolist()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = blobs(4, 50, spread=1.0)
    whole = balanced_clusters(vectors, 3)
    monkeypatch.setattr("training.clusters.BLOCK_FLOATS", 100)
    assert balanced_clusters(vectors, 3).tolist() == whole.tolist()


def test_equal_and_zero_vectors_are_halved_too() -> None:
    for vectors in (np.ones((37, 4), np.float32), np.zeros((37, 4), np.float32)):
        # Eight clusters of 37: five of them have one more.
        assert sorted(np.bincount(balanced_clusters(vectors, 5)).tolist()) == [4] * 3 + [5] * 5


def test_a_size_of_zero_is_refused() -> None:
    with pytest.raises(InvalidInput, match="size must be 1 or more, got 0"):
        balanced_clusters(np.ones((3, 2), np.float32), 0)
