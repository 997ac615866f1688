"""Curves from scores to probabilities: by hand, as properties, and on data whose probabilities are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retriever.calibration import Isotonic, Logistic, fit, fit_isotonic, fit_logistic
from retriever.evaluation.calibration import METHODS, expected_error


def test_pools_by_hand():
    # 1 and 2 are pooled (a relevant document below one that is not), 0 and 3 stand alone; the mean is 1/2.
    curve = fit_isotonic(np.array([0.0, 1, 2, 3]), np.array([False, True, False, True]))
    assert curve.scores == [0, 1, 2, 3]
    assert curve.probabilities == [0.25, 0.5, 0.5, 0.75]
    assert curve.relevance([-5, 0.5, 1.5, 9]).tolist() == [0.25, 0.375, 0.5, 0.75]


def test_equal_scores_are_one_point():
    curve = fit_isotonic(np.array([1.0, 1, 1, 2]), np.array([True, False, False, True]))
    assert curve.scores == [1, 2]
    assert curve.probabilities == [(1 + 0.5) / 4, 0.75]


def test_the_logistic_curve_is_found_again():
    generator = np.random.default_rng(0)
    scores = generator.normal(20, 5, 40_000)
    chance = 1 / (1 + np.exp(-(0.7 * scores - 15)))
    curve = fit_logistic(scores, generator.random(len(scores)) < chance)
    assert curve.slope == pytest.approx(0.7, rel=0.05)
    assert curve.intercept == pytest.approx(-15, rel=0.05)
    assert np.abs(curve.relevance(scores) - chance).max() < 0.03


def test_scores_against_relevance_say_nothing():
    scores = np.arange(100.0)
    curve = fit_logistic(scores, scores < 20)
    assert curve.slope == 0
    assert curve.relevance([0.0, 99.0]) == pytest.approx([21 / 102] * 2)


PAIRS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), min_size=1, max_size=60)


@given(pairs=PAIRS, method=st.sampled_from(METHODS), asked=st.lists(st.floats(-1e7, 1e7), min_size=2, max_size=20))
def test_a_curve_never_falls_and_gives_probabilities(pairs, method, asked):
    scores, relevant = (np.array(column) for column in zip(*pairs, strict=True))
    curve = fit(method, scores.astype(np.float64), relevant.astype(np.bool_))
    found = curve.relevance(sorted(asked))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()
    assert type(curve).model_validate_json(curve.model_dump_json()).relevance(asked).tolist() == pytest.approx(
        curve.relevance(asked).tolist()
    )


@pytest.mark.parametrize(
    ("scores", "probabilities"),
    [([1.0, 0.0], [0.1, 0.2]), ([0.0, 1.0], [0.2, 0.1]), ([0.0], [0.1, 0.2]), ([0.0], [1.5]), ([], []),
     ([float("nan")], [0.5])],
)  # fmt: skip
def test_faulty_curves_are_refused(scores, probabilities):
    with pytest.raises(ValidationError):
        Isotonic(scores=scores, probabilities=probabilities)


def test_a_slope_that_falls_is_refused():
    with pytest.raises(ValidationError):
        Logistic(slope=-1, intercept=0)


def test_expected_error_by_hand():
    truth = np.array([0.0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    assert expected_error(truth, truth) == 0
    # Halves: said .2 where a fifth is relevant, .9 where nine tenths and a half are not.
    said = np.array([0.2] * 5 + [0.9] * 5)
    half = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0.0])
    assert expected_error(said, half, bins=2) == pytest.approx((0 + 0.1) / 2)
