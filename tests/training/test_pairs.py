"""Choosing negatives: exact probabilities, coverage, what happens at the edges."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retriever.errors import InvalidInput
from training.candidates import Candidates
from training.pairs import (
    Choice,
    from_candidates,
    gaussian_around_positive,
    gaussian_logits,
    hard_margin,
    margin_bin,
    margin_bins,
    softmax_curriculum,
    uniform,
)

CHOICES: list[Choice] = [
    uniform,
    partial(uniform, depth=3),
    partial(softmax_curriculum, temperature=0.05),
    gaussian_around_positive,
    margin_bins,
    hard_margin,
]


def frequencies(choose: Choice, scores: list[float], positive: float, draws: int = 20_000) -> np.ndarray:
    """How often each place is drawn first, as a share."""
    generator = np.random.default_rng(7)
    array = np.array(scores, np.float32)
    first = [choose(array, positive, 1, generator)[0] for _ in range(draws)]
    return np.bincount(first, minlength=len(scores)) / draws


@pytest.mark.parametrize("choose", CHOICES)
@given(
    scores=st.lists(st.floats(-20, 20, width=32), max_size=12),
    positive=st.floats(-20, 20, width=32),
    count=st.integers(0, 15),
    seed=st.integers(0, 99),
)
def test_places_are_distinct_valid_and_repeatable(
    choose: Choice, scores: list[float], positive: float, count: int, seed: int
) -> None:
    array = np.sort(np.array(scores, np.float32))[::-1]
    places = choose(array, positive, count, np.random.default_rng(seed))
    assert places.dtype == np.int64
    assert len(places) <= count
    assert len(set(places.tolist())) == len(places)
    assert all(0 <= place < len(array) for place in places)
    assert places.tolist() == choose(array, positive, count, np.random.default_rng(seed)).tolist()


@pytest.mark.parametrize("choose", [CHOICES[0], *CHOICES[2:5]])
def test_more_than_there_are_gives_all_and_none_gives_none(choose: Choice) -> None:
    generator = np.random.default_rng(0)
    scores = np.array([4, 3, 1], np.float32)
    assert sorted(choose(scores, 5.0, 10, generator).tolist()) == [0, 1, 2]
    assert choose(scores[:0], 5.0, 4, generator).tolist() == []


def test_uniform_stays_within_its_depth() -> None:
    shares = frequencies(partial(uniform, depth=2), [9, 8, 7, 6], 10)
    assert shares[2:].sum() == 0
    assert shares[0] == pytest.approx(0.5, abs=0.02)


def test_simans_probabilities_by_hand() -> None:
    # s+ = 3, a = ln 2, b = -1: distances from 2 are 2, 0, 1, so the weights are 1/16, 1 and 1/2.
    scores, a = [4.0, 2.0, 1.0], float(np.log(2))
    weights = np.exp(gaussian_logits(np.array(scores, np.float32), 3.0, a=a, b=-1.0))
    assert weights == pytest.approx([1 / 16, 1, 1 / 2])
    shares = frequencies(partial(gaussian_around_positive, a=a, b=-1.0), scores, 3.0)
    assert shares == pytest.approx([1 / 25, 16 / 25, 8 / 25], abs=0.015)


def test_softmax_probabilities_by_hand() -> None:
    # Scores ln 1, ln 2, ln 5 at temperature 1 are drawn at 1/8, 2/8, 5/8.
    shares = frequencies(partial(softmax_curriculum, temperature=1.0), [np.log(5), np.log(2), 0.0], 0.0)
    assert shares == pytest.approx([5 / 8, 2 / 8, 1 / 8], abs=0.015)


def test_the_second_draw_is_from_what_is_left() -> None:
    # Weights 2, 1, 1: P({0, 1}) = 2/4 * 1/2 + 1/4 * 2/3 = 5/12.
    generator = np.random.default_rng(3)
    scores = np.log(np.array([2, 1, 1], np.float32))
    pairs = [frozenset(softmax_curriculum(scores, 0.0, 2, generator, temperature=1.0).tolist()) for _ in range(20_000)]
    assert sum(pair == {0, 1} for pair in pairs) / len(pairs) == pytest.approx(5 / 12, abs=0.015)


def test_a_lower_temperature_draws_harder_negatives() -> None:
    scores = np.linspace(0.9, 0.1, 50).astype(np.float32)
    means = []
    for temperature in (1.0, 0.05, 0.001):
        generator = np.random.default_rng(1)
        drawn = [softmax_curriculum(scores, 1.0, 5, generator, temperature=temperature) for _ in range(200)]
        means.append(float(np.mean([scores[places].mean() for places in drawn])))
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(float(scores[:5].mean()), abs=1e-3)


def test_probabilities_that_underflow_still_order_the_draw() -> None:
    scores = np.array([1000, 0, -1000], np.float32)
    for seed in range(20):
        places = gaussian_around_positive(scores, 1000.0, 3, np.random.default_rng(seed), a=5.0)
        assert places.tolist() == [0, 1, 2]


def test_bins_have_equal_width() -> None:
    margins = np.array([0.0, 0.99, 1.0, 5.0, 9.99, 10.0])
    assert margin_bin(margins).tolist() == [0, 0, 1, 5, 9, 9]


def test_equal_margins_are_one_bin() -> None:
    assert margin_bin(np.full(4, 2.5)).tolist() == [0, 0, 0, 0]
    shares = frequencies(margin_bins, [1, 1, 1, 1], 3)
    assert shares == pytest.approx([0.25] * 4, abs=0.015)


def test_a_non_empty_bin_first_then_a_candidate_of_it() -> None:
    # Margins 0, 0, 0, 10: two bins hold something, and the lone hard one is drawn half the time.
    assert frequencies(margin_bins, [5, 5, 5, -5], 5) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2], abs=0.015)


def test_bins_spread_margins_more_than_random_draws() -> None:
    # Most candidates are easy, as in real lists.
    generator = np.random.default_rng(5)
    scores = np.sort(20 - generator.exponential(3, 300).astype(np.float32))
    margins = 20 - scores

    def entropy(choose: Choice) -> float:
        numbers = [margin_bin(margins)[choose(scores, 20.0, 1, generator)[0]] for _ in range(3000)]
        shares = np.bincount(numbers, minlength=10) / len(numbers)
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())

    assert entropy(margin_bins) > entropy(uniform) + 0.3


def test_pairs_of_several_positives_have_their_own_margins() -> None:
    # Two positives by one negative of score 0: margins 1 and 11, so each is a bin of its own.
    positives, scores = np.array([1, 1, 1, 11], np.float32), np.zeros(4, np.float32)
    generator = np.random.default_rng(2)
    first = [margin_bins(scores, positives, 1, generator)[0] for _ in range(4000)]
    assert np.mean(np.array(first) == 3) == pytest.approx(0.5, abs=0.03)


def test_hard_margins_only() -> None:
    scores = np.array([9, 4, 3, -8], np.float32)
    generator = np.random.default_rng(0)
    assert sorted(hard_margin(scores, 10.0, 9, generator).tolist()) == [0, 1]
    assert hard_margin(scores, 10.0, 9, generator, cutoff=0.5).tolist() == []


def test_scores_that_are_not_finite_are_refused() -> None:
    scores, generator = np.array([1, np.nan], np.float32), np.random.default_rng(0)
    for choose in CHOICES[2:5]:
        with pytest.raises(InvalidInput, match="NaN"):
            choose(scores, 1.0, 1, generator)
    with pytest.raises(InvalidInput, match="NaN"):
        gaussian_around_positive(scores[:1], float("nan"), 1, generator)


def test_settings_out_of_range_are_refused() -> None:
    scores, generator = np.ones(2, np.float32), np.random.default_rng(0)
    with pytest.raises(InvalidInput, match="temperature"):
        softmax_curriculum(scores, 1.0, 1, generator, temperature=0.0)
    with pytest.raises(InvalidInput, match="a must"):
        gaussian_around_positive(scores, 1.0, 1, generator, a=-1.0)
    with pytest.raises(InvalidInput, match="bins"):
        margin_bins(scores, 1.0, 1, generator, bins=0)


def test_a_source_of_negatives_gives_document_rows() -> None:
    candidates = Candidates(
        np.array([0, 2, 2, 5]), np.array([8, 6, 5, 3, 1], np.int32), np.array([2, 1, 9, 5, 0], np.float32)
    )
    sampler = from_candidates(candidates, partial(gaussian_around_positive, a=100.0), np.array([1.0, 0.0, 5.0]))
    generator = np.random.default_rng(0)
    assert sampler(0, 1, generator).tolist() == [6]
    assert sampler(1, 3, generator).tolist() == []
    assert sampler(2, 1, generator).tolist() == [3]
    assert sampler(2, 1, generator).dtype == np.int32
    with pytest.raises(InvalidInput, match=r"\(3,\)"):
        from_candidates(candidates, uniform, np.zeros(2))
