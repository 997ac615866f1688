"""Candidate lists: validation, reading, restricting."""

import numpy as np
import pytest

from kernels.topk import topk
from retriever.errors import InvalidInput
from training.candidates import Candidates


def candidates() -> Candidates:
    """Queries 0, 1, 2 with three, no and two candidates."""
    return Candidates(
        np.array([0, 3, 3, 5]), np.array([7, 2, 9, 2, 4], np.int32), np.array([5, 3, 3, 8, -1], np.float32)
    )


def test_each_query_has_its_list() -> None:
    found = candidates()
    assert len(found) == 3
    documents, scores = found.of(0)
    assert documents.tolist() == [7, 2, 9]
    assert scores.tolist() == [5, 3, 3]
    assert found.of(1)[0].tolist() == []
    assert found.of(2)[0].tolist() == [2, 4]
    assert found.queries.tolist() == [0, 0, 0, 2, 2]
    assert found.ranks.tolist() == [0, 1, 2, 0, 1]


def test_a_mask_keeps_order_and_queries() -> None:
    found = candidates().restrict(np.array([False, True, True, False, False]))
    assert [found.of(row)[0].tolist() for row in range(3)] == [[2, 9], [], []]
    assert found.offsets.tolist() == [0, 2, 2, 2]


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"mask must be bool \(5,\)"):
        candidates().restrict(np.ones(4, bool))


def test_a_matrix_of_search_results_leaves_out_empty_places() -> None:
    import torch

    queries, documents = torch.eye(3)[:2], torch.eye(3)[:2] * 2
    scores, rows = topk(queries, documents, 3)
    found = Candidates.of_matrix(rows.numpy(), scores.numpy())
    assert [found.of(row)[0].tolist() for row in range(2)] == [[0, 1], [1, 0]]
    assert found.of(1)[1].tolist() == [2, 0]


def test_no_queries() -> None:
    none = Candidates(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert len(none) == 0
    assert none.restrict(np.zeros(0, bool)).queries.tolist() == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("offsets", np.array([0, 3, 2, 5]), "offsets of candidates must rise from 0 to 5"),
        ("offsets", np.array([0, 3, 3, 4]), "offsets of candidates must rise from 0 to 5"),
        ("offsets", np.zeros(0, np.int64), "offsets of candidates must rise"),
        ("offsets", np.array([0, 3, 3, 5], np.int32), "offsets of candidates must be a flat array of int64"),
        ("documents", np.array([7, 2, 9, 2, -4], np.int32), "query row 2 have a negative document row"),
        ("documents", np.arange(5), "documents of candidates must be a flat array of int32"),
        ("scores", np.array([5, 3, 3, np.nan, -1], np.float32), "query row 2 have a score that is NaN"),
        ("scores", np.array([5, 3, 4, 8, -1], np.float32), "query row 0 have scores that are not sorted"),
        ("scores", np.array([5, 3, 3, 8], np.float32), "5 documents, but 4 scores"),
    ],
)
def test_what_is_broken_is_named(field: str, value: np.ndarray, message: str) -> None:
    good = candidates()
    parts = {name: getattr(good, name) for name in ("offsets", "documents", "scores")}
    with pytest.raises(InvalidInput, match=message):
        Candidates(**(parts | {field: value}))


def test_lists_that_end_the_arrays_may_be_empty() -> None:
    found = Candidates(np.array([0, 0, 1, 1]), np.array([3], np.int32), np.array([1], np.float32))
    assert [len(found.of(row)[0]) for row in range(3)] == [0, 1, 0]
