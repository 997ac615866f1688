"""Fusion by its arithmetic."""

import pytest

from retriever.fusion import reciprocal_rank, weighted_minmax

BM25 = [("a", 9.0), ("b", 5.0), ("c", 1.0)]
DENSE = [("c", 0.9), ("a", 0.5)]


def test_reciprocal_rank():
    fused = dict(reciprocal_rank({"bm25": BM25, "dense": DENSE}))
    assert fused == pytest.approx({"a": 1 / 61 + 1 / 62, "b": 1 / 62, "c": 1 / 63 + 1 / 61})


def test_reciprocal_rank_with_weights_and_constant():
    fused = dict(reciprocal_rank({"bm25": BM25, "dense": DENSE}, constant=1, weights={"dense": 2.0}))
    assert fused["c"] == pytest.approx(1 / 4 + 2 / 2)


def test_weighted_minmax():
    fused = dict(weighted_minmax({"bm25": BM25, "dense": DENSE}, weights={"bm25": 1.0, "dense": 3.0}))
    # a: bm25 1.0 of weight 1/4, dense worst of its list; c: worst and best
    assert fused == pytest.approx({"a": 0.25, "b": 0.125, "c": 0.75})


def test_minmax_of_equal_scores_and_of_an_empty_list():
    assert weighted_minmax({"bm25": [("a", 2.0), ("b", 2.0)], "dense": []}) == [("a", 0.5), ("b", 0.5)]


def test_ties_stand_in_order_of_id():
    assert [id_ for id_, _ in reciprocal_rank({"x": [("b", 1.0)], "y": [("a", 1.0)]})] == ["a", "b"]
