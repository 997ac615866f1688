"""Candidates by vectors in memory, against the full matrix of scores."""

import numpy as np
import pytest

from retriever.errors import InvalidInput
from training import nearest
from training.judgments import Judgments
from training.nearest import nearest_candidates


def test_relevant_documents_are_left_out_and_the_next_ones_take_their_places():
    documents = np.array([[4, 0], [3, 0], [2, 0], [1, 0], [0, 1]], np.float32)
    queries = np.array([[1, 0], [0, 2], [-1, 0]], np.float32)
    found = nearest_candidates(queries, documents, 2, Judgments.of_lists([[0, 2], [4], []]))
    assert found.offsets.tolist() == [0, 2, 4, 6]
    # The second query ties everywhere, in order of row; the third turns the order around.
    assert found.documents.tolist() == [1, 3, 0, 1, 4, 3]
    assert found.scores.tolist() == [3, 1, 0, 0, 0, -1]


@pytest.mark.parametrize("depth", [1, 7, 60])
def test_blocks_give_what_the_whole_matrix_gives(depth, monkeypatch):
    generator = np.random.default_rng(3)
    queries, documents = (generator.standard_normal((count, 9)).astype(np.float32) for count in (37, 53))
    excluded = Judgments.of_lists([generator.integers(0, 53, generator.integers(0, 6)) for _ in range(37)])
    scores = (queries.astype(np.float64) @ documents.T.astype(np.float64)).astype(np.float64)
    monkeypatch.setattr(nearest, "QUERIES", 10)
    found = nearest_candidates(queries, documents, depth, excluded)
    for row in range(37):
        kept = np.setdiff1d(np.arange(53), excluded.relevant(row))
        expected = kept[np.argsort(-scores[row, kept], kind="stable")][:depth]
        rows, values = found.of(row)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(values, scores[row, expected], atol=1e-5)


def test_queries_may_lose_all_or_be_none():
    vectors = np.eye(3, dtype=np.float32)
    found = nearest_candidates(vectors, vectors, 5, Judgments.of_lists([[0, 1, 2], [], [1]]))
    assert found.offsets.tolist() == [0, 0, 3, 5]
    assert len(nearest_candidates(vectors[:0], vectors, 5)) == 0


def test_what_does_not_fit_is_refused():
    vectors = np.eye(3, dtype=np.float32)
    broken = vectors.copy()
    broken[1, 1] = np.nan
    for arguments, message in (
        ((vectors, broken, 1), "document row 1 holds NaN"),
        ((vectors, vectors[:, :2].copy(), 1), "width 3 and documents 2"),
        ((vectors, vectors, 0), "depth must be 1 or more"),
        ((vectors, vectors[:0], 1), "there must be documents"),
        ((vectors, vectors, 1, Judgments.of_lists([[0]])), "excluded has 1 queries, there are 3"),
    ):
        with pytest.raises(InvalidInput, match=message):
            nearest_candidates(*arguments)
