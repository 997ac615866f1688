"""Filters: mismatched pairs go, likely relevant candidates go."""

import numpy as np
import pytest

from retriever.errors import InvalidInput
from training.candidates import Candidates
from training.filters import below_positive, consistent, teacher_margin


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_rank_and_threshold_must_both_hold() -> None:
    documents = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    queries = np.array([[1, 0]] * 4, np.float32)
    positives = np.arange(4)  # similarities 1, .8, .6, 0 at ranks 1, 2, 3, 4
    assert consistent(queries, documents, positives, top_k=2, threshold=0.7).tolist() == [True, True, False, False]
    assert consistent(queries, documents, positives, top_k=3, threshold=0.7).tolist() == [True, True, False, False]
    assert consistent(queries, documents, positives, top_k=3, threshold=0.5).tolist() == [True, True, True, False]
    assert consistent(queries, documents, positives, top_k=1, threshold=0.5).tolist() == [True, False, False, False]
    assert consistent(queries, documents, positives, top_k=99, threshold=0.0).tolist() == [True] * 4


def test_copies_do_not_push_each_other_out() -> None:
    documents = unit(np.array([[3, 4, 5]] * 3 + [[1, 0, 0]]))
    queries = unit(np.array([[3, 4, 6]] * 3))
    assert consistent(queries, documents, np.array([0, 1, 2]), top_k=1, threshold=0.5).tolist() == [True] * 3


def test_planted_mismatches_are_found() -> None:
    # More pairs than a block, so that blocks are put together rightly.
    generator = np.random.default_rng(0)
    documents = unit(generator.standard_normal((2500, 24)))
    queries = unit(documents + 0.1 * generator.standard_normal(documents.shape))
    positives = np.arange(2500)
    broken = generator.permutation(2500)[:625]
    positives[broken] = np.roll(positives[broken], 1)
    kept = consistent(queries, documents, positives)
    assert not kept[broken].any()
    right = np.setdiff1d(np.arange(2500), broken)
    assert kept[right].mean() > 0.99


def test_memory_maps_that_are_read_only(tmp_path) -> None:
    np.save(tmp_path / "vectors.npy", unit(np.random.default_rng(0).standard_normal((5, 4))))
    documents = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert consistent(documents, documents, np.arange(5)).all()


def test_no_pairs() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert consistent(empty, np.ones((2, 3), np.float32), np.zeros(0, np.int64)).shape == (0,)


def test_bad_vectors_are_named() -> None:
    good, bad = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(InvalidInput, match="query row 2"):
        consistent(bad, good, np.arange(4))
    with pytest.raises(InvalidInput, match="document row 2"):
        consistent(good, bad, np.arange(4))
    with pytest.raises(InvalidInput, match="0 to 3"):
        consistent(good, good, np.array([0, 1, 2, 4]))
    with pytest.raises(InvalidInput, match=r"\(4,\)"):
        consistent(good, good, np.arange(3))
    with pytest.raises(InvalidInput, match="top_k"):
        consistent(good, good, np.arange(4), top_k=0)


def lists() -> Candidates:
    return Candidates(
        np.array([0, 3, 3, 6]),
        np.array([1, 2, 3, 4, 5, 6], np.int32),
        np.array([10.0, 9.4, 2.0, -9.0, -10.4, -11.0], np.float32),
    )


def test_below_the_positive() -> None:
    # Bounds: .95 * 10 = 9.5, and for the negative score -10 - .5 = -10.5.
    kept = below_positive(lists(), np.array([10.0, 1.0, -10.0]))
    assert [kept.of(row)[0].tolist() for row in range(3)] == [[2, 3], [], [6]]


def test_ratio_of_one_keeps_what_is_worse_than_the_positive() -> None:
    kept = below_positive(lists(), np.array([9.4, 0.0, -9.0], np.float32), ratio=1.0)
    assert [kept.of(row)[0].tolist() for row in range(3)] == [[3], [], [5, 6]]


def test_teacher_margin() -> None:
    teacher = np.array([8.0, 7.0, 0.0, 9.0, 1.0, 1.1], np.float32)
    kept = teacher_margin(lists(), teacher, np.array([10.0, 0.0, 4.0]), margin=3.0)
    assert [kept.of(row)[0].tolist() for row in range(3)] == [[2, 3], [], [5]]


def test_scores_of_positives_must_be_there() -> None:
    with pytest.raises(InvalidInput, match="query row 1 is nan"):
        below_positive(lists(), np.array([1.0, np.nan, 1.0]))
    with pytest.raises(InvalidInput, match=r"\(3,\)"):
        below_positive(lists(), np.array([1.0]))
    with pytest.raises(InvalidInput, match=r"\(6,\)"):
        teacher_margin(lists(), np.zeros(5), np.zeros(3))
    teacher = np.array([0, 0, 0, 0, np.inf, 0])
    with pytest.raises(InvalidInput, match="candidate of query row 2"):
        teacher_margin(lists(), teacher, np.zeros(3))
