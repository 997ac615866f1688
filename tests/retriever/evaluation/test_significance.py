"""The tests of significance against scipy's, and by hand."""

import numpy as np
import pytest
from scipy import stats

from retriever.evaluation.significance import (
    bootstrap_interval,
    compare,
    compare_across,
    effect_size,
    equivalence_test,
    holm,
    randomisation_test,
    signed_ranks,
)


def test_exact_for_few_queries_by_hand():
    # All eight sign patterns of (1, 2, 3): only +++ and --- are as extreme as 6.
    assert randomisation_test([1.0, 2.0, 3.0]) == 2 / 8
    assert randomisation_test([1.0, -1.0]) == 1.0
    assert randomisation_test([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("count", [5, 12, 40, 300])
@pytest.mark.parametrize("shift", [0.0, 0.02, 0.1])
def test_agrees_with_scipy(count, shift):
    differences = np.random.default_rng([count, int(shift * 100)]).normal(shift, 0.2, count)
    theirs = stats.permutation_test(
        (differences, np.zeros(count)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue
    assert randomisation_test(differences) == pytest.approx(theirs, abs=0.015)


def test_signed_ranks_by_hand():
    # Ranks 1, -2 and 3: six of eight signings give a sum as far from 0 or farther.
    assert signed_ranks([0.1, -0.2, 0.3, 0.0]) == (0.75, 2.0)
    # Two of one size share the ranks 1 and 2, so that the sums are 0, 3 or 6 on either side.
    assert signed_ranks([0.1, 0.1, 0.3]) == (0.25, 6.0)
    assert signed_ranks([0.0, 0.0]) == (1.0, 0.0)
    assert signed_ranks([-0.5]) == (1.0, -1.0)


@pytest.mark.parametrize("count", [1, 2, 7, 13, 14, 30, 50, 51, 300])
@pytest.mark.parametrize("steps", [None, 5], ids=["untied", "tied"])
def test_signed_ranks_agree_with_scipy(count, steps):
    differences = np.random.default_rng([count, 7]).normal(0.1, 0.3, count)
    if steps:
        differences = np.round(differences * steps) / steps
    values = differences[differences != 0]
    if not len(values):
        assert signed_ranks(differences)[0] == 1
        return
    p, total = signed_ranks(differences)
    assert p == pytest.approx(stats.wilcoxon(values, correction=False).pvalue, rel=1e-9)
    assert total == np.sign(values) @ stats.rankdata(np.abs(values))


def test_the_same_seed_gives_the_same_p():
    differences = np.random.default_rng(1).normal(0.01, 0.2, 100)
    assert randomisation_test(differences) == randomisation_test(differences)


def test_chance_is_rarely_significant():
    generator = np.random.default_rng(2)
    p_values = [randomisation_test(generator.normal(0, 1, 30), permutations=2000) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.10


def test_holm_by_hand():
    # Sorted .01, .03, .04: times 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_effect_size_by_hand():
    assert effect_size([1.0, 2.0, 3.0]) == 2.0
    assert effect_size([0.5, 0.5]) == 0.0


def test_bootstrap_interval_is_about_the_usual_one():
    differences = np.random.default_rng(3).normal(0.1, 0.3, 400)
    low, high = bootstrap_interval(differences)
    expected = stats.t.interval(0.95, 399, differences.mean(), stats.sem(differences))
    assert (low, high) == pytest.approx(expected, abs=0.005)


def test_equivalence_by_hand():
    # Shifted by the margin of 2: (3, 3) and (1, 1); each sum is the largest of four.
    assert equivalence_test([1.0, 1.0], 2.0) == 1 / 4


def test_with_one_collection_the_stratified_test_is_the_plain_one_and_near_the_t_test():
    generator = np.random.default_rng(7)
    before = {str(n): value for n, value in enumerate(generator.uniform(0, 1, 200))}
    after = {query: value + generator.normal(0.02, 0.15) for query, value in before.items()}
    differences = np.array([after[query] - before[query] for query in before])
    _, _, p = compare_across({"one": (before, after)})
    assert p == pytest.approx(randomisation_test(differences), abs=0.005)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_the_stratified_test_agrees_with_drawing_signs_within_each_collection():
    generator = np.random.default_rng(8)
    parts = {name: generator.normal(0.02, 0.2, count) for name, count in (("a", 30), ("b", 150), ("c", 9))}
    observed = abs(sum(part.mean() for part in parts.values()))
    drawn = sum((generator.choice([-1.0, 1.0], (20_000, len(part))) * part).mean(axis=1) for part in parts.values())
    expected = np.mean(np.abs(drawn) >= observed)
    pairs = {
        name: ({str(n): 0.0 for n in range(len(part))}, {str(n): value for n, value in enumerate(part)})
        for name, part in parts.items()
    }
    assert compare_across(pairs)[2] == pytest.approx(expected, abs=0.015)


def test_equivalence_needs_a_small_difference_and_enough_queries():
    generator = np.random.default_rng(4)
    assert equivalence_test(generator.normal(0, 0.02, 200), 0.01) < 0.05
    assert equivalence_test(generator.normal(0.02, 0.02, 200), 0.01) > 0.5
    assert equivalence_test(generator.normal(0, 0.02, 3), 0.01) > 0.05


def test_comparison():
    before = {"a": 0.5, "b": 0.5, "c": 1.0}
    after = {"a": 0.75, "b": 0.25, "c": 1.0}
    found = compare(before, after, margin=0.1)
    assert (found.wins, found.losses, found.ties) == (1, 1, 1)
    assert found.difference == 0
    assert found.p == 1.0
    with pytest.raises(ValueError, match="same queries"):
        compare(before, {"a": 1.0})


def test_every_collection_weighs_the_same():
    large = ({str(n): 0.0 for n in range(1000)}, {str(n): 0.1 for n in range(1000)})
    small = ({"x": 0.4, "y": 0.4}, {"x": 0.2, "y": 0.2})
    before, after, _ = compare_across({"large": large, "small": small})
    assert before == pytest.approx((0.0 + 0.4) / 2)
    assert after == pytest.approx((0.1 + 0.2) / 2)
