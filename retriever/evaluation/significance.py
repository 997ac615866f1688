"""Is a difference between two systems more than chance? Paired tests over queries.

Smucker, Allan and Carterette 2007, "A comparison of statistical significance tests for information retrieval
evaluation", recommend the randomisation test; Holm 1979 the correction; Wilcoxon 1945, "Individual comparisons by
ranking methods", looks at ranks alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 100_000
EXACT_UP_TO = 16
EXACT_RANKS = 50
EXACT_RANKS_TIED = 13
SEED = 20_261_121
# Numbers drawn at once: 32 MiB of them.
CHUNK = 1 << 22


def randomisation_test(
    differences: Sequence[float] | NDArray[np.float64],
    *,
    weights: NDArray[np.float64] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> float:
    """Return the two-sided p of the weighted sum of paired differences under random changes of sign.

    weights  of each difference; None for equal ones. With 1 / (number of queries of its collection) the sum
             is the sum of the collections' means, so the test is stratified by collection.

    Exact for up to 16 differences that are not 0; otherwise (1 + as extreme) / (1 + permutations), never 0.
    """
    values = np.asarray(differences, np.float64)
    if weights is not None:
        values = values * weights
    # A difference of 0 has no sign to change.
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    # Sums in another order differ in the last bits; those count as equal.
    threshold = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if len(values) <= EXACT_UP_TO:
        return float(np.mean(np.abs(_all_signs(len(values)) @ values) >= threshold))
    generator = np.random.default_rng(seed)
    extreme = 0
    step = max(1, CHUNK // len(values))
    for start in range(0, permutations, step):
        count = min(step, permutations - start)
        signs = generator.integers(0, 2, (count, len(values)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= threshold))
    return (1 + extreme) / (1 + permutations)


def _all_signs(count: int) -> NDArray[np.float64]:
    """Return (2 ** count, count): every way to set the signs."""
    return np.array(list(product((-1.0, 1.0), repeat=count)))


def signed_ranks(differences: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the two-sided p of Wilcoxon's signed-rank test, and the sum of signed ranks; differences of 0 are out.

    Exact for up to 50 differences of different sizes, or 13 of any; otherwise by the normal distribution, with the
    correction for ties and none for continuity.
    """
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0, 0.0
    _, places, counts = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    # Differences of one size share the mean of their ranks; doubled, which makes them whole.
    doubled = (2 * np.cumsum(counts) - counts + 1)[places]
    total = int(np.sign(values) @ doubled)
    tied = len(counts) < len(values)
    if len(values) > (EXACT_RANKS_TIED if tied else EXACT_RANKS):
        return math.erfc(abs(total) / math.sqrt(2 * float(doubled @ doubled))), total / 2
    # In how many ways signs can be set so that the positive ranks have each sum.
    ways = np.zeros(int(doubled.sum()) + 1)
    ways[0] = 1
    for rank in doubled.tolist():
        ways[rank:] += ways[:-rank].copy()
    below = (len(ways) - 1 - abs(total)) // 2
    return min(1.0, 2 * float(ways[: below + 1].sum()) / 2.0 ** len(values)), total / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for testing all of them together (Holm's step-down), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def bootstrap_interval(
    differences: Sequence[float] | NDArray[np.float64],
    *,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = SEED,
) -> tuple[float, float]:
    """Return the percentile interval of the mean difference under resampling of queries."""
    values = np.asarray(differences, np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    step = max(1, CHUNK // max(1, len(values)))
    for start in range(0, samples, step):
        count = min(step, samples - start)
        means[start : start + count] = values[generator.integers(0, len(values), (count, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def effect_size(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Return Cohen's d for paired values: mean difference over its standard deviation; 0 when all are equal."""
    values = np.asarray(differences, np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean() / spread) if spread > 0 else 0.0


def equivalence_test(differences: Sequence[float] | NDArray[np.float64], margin: float, *, seed: int = SEED) -> float:
    """Return the p of two one-sided tests that the mean difference lies within +-margin; small means equivalent."""
    values = np.asarray(differences, np.float64)
    below = _one_sided(values + margin, seed)
    above = _one_sided(margin - values, seed)
    return max(below, above)


def _one_sided(values: NDArray[np.float64], seed: int) -> float:
    """Return the p of the mean being above 0 by chance, by changes of sign; exact for few values."""
    threshold = values.sum() - 1e-12 * np.abs(values).sum()
    if len(values) <= EXACT_UP_TO:
        return float(np.mean(_all_signs(len(values)) @ values >= threshold))
    generator = np.random.default_rng(seed)
    permutations = 20_000
    extreme = 0
    step = max(1, CHUNK // len(values))
    for start in range(0, permutations, step):
        count = min(step, permutations - start)
        signs = generator.integers(0, 2, (count, len(values)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.count_nonzero(signs @ values >= threshold))
    return (1 + extreme) / (1 + permutations)


@dataclass(frozen=True)
class Comparison:
    """One system against a baseline by one measure; positive differences are in the system's favour."""

    baseline: float
    system: float
    difference: float
    interval: tuple[float, float]
    effect: float
    p: float
    wins: int
    losses: int
    ties: int
    equivalence_p: float | None = None


def compare(baseline: Mapping[str, float], system: Mapping[str, float], *, margin: float | None = None) -> Comparison:
    """Compare per-query values of the same queries."""
    if baseline.keys() != system.keys():
        raise ValueError("both systems must have values for the same queries")
    queries = sorted(baseline)
    differences = np.array([system[query] - baseline[query] for query in queries])
    return Comparison(
        baseline=float(sum(baseline.values()) / len(queries)),
        system=float(sum(system.values()) / len(queries)),
        difference=float(differences.mean()),
        interval=bootstrap_interval(differences),
        effect=effect_size(differences),
        p=randomisation_test(differences),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
        equivalence_p=None if margin is None else equivalence_test(differences, margin),
    )


def compare_across(
    pairs: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]],
) -> tuple[float, float, float]:
    """Compare two systems on the mean over collections: (baseline, system, p).

    pairs  for each collection the per-query values of baseline and system
    Every collection weighs the same; signs are changed query by query within its collection.
    """
    differences: list[float] = []
    weights: list[float] = []
    means = np.zeros(2)
    for baseline, system in pairs.values():
        queries = sorted(baseline)
        differences += [system[query] - baseline[query] for query in queries]
        weights += [1 / len(queries)] * len(queries)
        means += [sum(baseline.values()) / len(queries), sum(system.values()) / len(queries)]
    p = randomisation_test(differences, weights=np.array(weights))
    baseline_mean, system_mean = (means / len(pairs)).tolist()
    return baseline_mean, system_mean, p
