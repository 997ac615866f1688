"""bm25_search against its definition, and its order among equals."""

import numpy as np
import pytest

from kernels.bm25 import bm25_reference, bm25_search, count_allowed
from kernels.bm25.cpu import BLOCK


def random_postings(generator: np.random.Generator, documents: int, terms: int):
    """Return postings as a list of pairs and as the flat arrays that the kernel takes."""
    postings = []
    for _ in range(terms):
        count = int(generator.integers(0, documents + 1))
        chosen = np.sort(generator.choice(documents, count, replace=False)).astype(np.int32)
        postings.append((chosen, generator.integers(1, 9, count).astype(np.uint8)))
    ends = np.cumsum([len(found) for found, _ in postings]).astype(np.int64)
    flat = np.concatenate([found for found, _ in postings])
    frequencies = np.concatenate([tf for _, tf in postings])
    return postings, flat, frequencies, ends - [len(found) for found, _ in postings], ends


def best(scores, id_rank, k, allowed=None):
    """Return (scores, documents) of the best k by the definition's scores."""
    matching = [d for d in range(len(scores)) if scores[d] > 0 and (allowed is None or allowed[d])]
    chosen = sorted(matching, key=lambda d: (-scores[d], id_rank[d]))[:k]
    return [scores[d] for d in chosen], chosen


@pytest.mark.parametrize("documents", [1, 7, 63, 1000])
@pytest.mark.parametrize("terms", [1, 3, 8])
@pytest.mark.parametrize("k", [1, 10, 2000])
@pytest.mark.parametrize("filtered", [False, True])
def test_equals_the_definition_bit_for_bit(documents, terms, k, filtered):
    generator = np.random.default_rng([documents, terms, k, filtered])
    postings, flat, frequencies, starts, ends = random_postings(generator, documents, terms)
    weights = generator.random(terms, np.float32) + np.float32(0.1)
    norms = generator.integers(0, 40, documents).astype(np.uint8)
    inverse = generator.random(256, np.float32) + np.float32(0.1)
    id_rank = generator.permutation(documents).astype(np.int32)
    allowed = generator.random(documents) < 0.5 if filtered else None
    expected_scores, expected = best(bm25_reference(postings, weights, norms, inverse), id_rank, k, allowed)
    scores, found = bm25_search(
        flat, frequencies, starts.astype(np.int64), ends, weights, norms, inverse, id_rank, k, allowed
    )
    assert found.tolist() == expected
    assert scores.tolist() == expected_scores


def test_spans_several_blocks_of_documents():
    documents = 2 * BLOCK + 17
    flat = np.array([0, BLOCK - 1, BLOCK, 2 * BLOCK, documents - 1], np.int32)
    frequencies = np.array([1, 2, 3, 4, 5], np.uint8)
    norms = np.zeros(documents, np.uint8)
    scores, found = bm25_search(
        flat,
        frequencies,
        np.array([0], np.int64),
        np.array([5], np.int64),
        np.ones(1, np.float32),
        norms,
        np.ones(256, np.float32),
        np.arange(documents, dtype=np.int32),
        3,
    )
    # 1 - 1 / (1 + tf): more occurrences score higher.
    assert found.tolist() == [documents - 1, 2 * BLOCK, BLOCK]
    np.testing.assert_allclose(scores, [5 / 6, 4 / 5, 3 / 4], rtol=1e-6)


def test_equal_scores_stand_in_order_of_id_rank():
    flat = np.arange(50, dtype=np.int32)
    id_rank = np.arange(50, dtype=np.int32)[::-1].copy()
    scores, found = bm25_search(
        flat,
        np.ones(50, np.uint16),
        np.array([0], np.int64),
        np.array([50], np.int64),
        np.ones(1, np.float32),
        np.zeros(50, np.uint8),
        np.ones(256, np.float32),
        id_rank,
        5,
    )
    assert found.tolist() == [49, 48, 47, 46, 45]
    assert len(set(scores.tolist())) == 1


def test_refuses_k_below_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        bm25_search(
            np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64),
            np.zeros(0, np.float32), np.zeros(3, np.uint8), np.ones(256, np.float32),
            np.arange(3, dtype=np.int32), 0,
        )  # fmt: skip


def test_no_terms_or_no_documents_give_nothing():
    for documents in (0, 3):
        scores, found = bm25_search(
            np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64),
            np.zeros(0, np.float32), np.zeros(documents, np.uint8), np.ones(256, np.float32),
            np.arange(documents, dtype=np.int32), 5,
        )  # fmt: skip
        assert len(scores) == len(found) == 0


def test_count_allowed():
    allowed = np.array([True, False, True, True])
    assert count_allowed(np.array([0, 1, 3], np.int32), allowed) == 2
