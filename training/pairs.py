"""Choosing negatives out of a query's candidates: pure functions that return places in its list.

Each takes the scores of the candidates, float32[n], the score of the positive, how many are wanted and a generator.
Each returns int64 places, in order of drawing, none twice: at most as many as wanted, fewer where the list is too
short, none where it is empty. `from_candidates` makes a source of negatives out of any of them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from training.candidates import Candidates
from training.negatives import Sampler

Places = NDArray[np.int64]
Scores = NDArray[np.float32]

Positive = float | NDArray[np.floating]
"""The score of the positive or, where the list is of pairs, that of the positive of each pair, [n]."""

Choice = Callable[[Scores, Positive, int, np.random.Generator], Places]
"""Of (scores of candidates, score of the positive, how many, generator) at most so many places."""


def uniform(
    scores: Scores, positive: Positive, count: int, generator: np.random.Generator, *, depth: int | None = None
) -> Places:
    """Draw uniformly among the best `depth` candidates, or among all."""
    size = len(scores) if depth is None else min(depth, len(scores))
    return generator.permutation(size)[:count]


def softmax_curriculum(
    scores: Scores, positive: Positive, count: int, generator: np.random.Generator, *, temperature: float
) -> Places:
    """Draw without replacement from softmax(score / temperature) (CoRNStack, arXiv:2412.01007).

    A falling temperature (`training.schedules.annealed`, .05 to .001 there) makes the negatives ever harder.
    """
    if not temperature > 0:
        raise InvalidInput(f"temperature must be more than 0, got {temperature}.")
    return _without_replacement(np.asarray(scores, np.float64) / temperature, count, generator)


def gaussian_around_positive(
    scores: Scores, positive: Positive, count: int, generator: np.random.Generator, *, a: float = 0.5, b: float = 0.0
) -> Places:
    """Draw without replacement from p ∝ exp(-a (s - s⁺ - b)²): neither too easy nor likely a false negative.

    SimANS, arXiv:2210.11773. `a` depends on the scale of the scores; the default suits inner products of vectors
    that are not normalised, cosines need some hundreds.
    """
    return _without_replacement(gaussian_logits(scores, positive, a=a, b=b), count, generator)


def gaussian_logits(scores: Scores, positive: Positive, *, a: float = 0.5, b: float = 0.0) -> NDArray[np.float64]:
    """Return the logarithms of SimANS' unnormalised probabilities."""
    if a < 0:
        raise InvalidInput(f"a must be 0 or more, got {a}.")
    logits: NDArray[np.float64] = -a * (np.asarray(scores, np.float64) - positive - b) ** 2
    return logits


def margin_bins(
    scores: Scores,
    positive: Positive,
    count: int,
    generator: np.random.Generator,
    *,
    bins: int = 10,
) -> Places:
    """Draw a non-empty bin of teacher margins uniformly, then a candidate of it uniformly (TAS-B, arXiv:2104.06967).

    Margins are `positive` - `scores`, of one positive or, for pairs, of one for each score; `bins` of equal width
    lie between the least and the largest. Where all margins are equal there is one bin.
    """
    margins = np.asarray(positive, np.float64) - np.asarray(scores, np.float64)
    bin_of = margin_bin(margins, bins)
    left = [np.flatnonzero(bin_of == number).tolist() for number in np.unique(bin_of)]
    places: list[int] = []
    while left and len(places) < count:
        chosen = int(generator.integers(len(left)))
        places.append(left[chosen].pop(int(generator.integers(len(left[chosen])))))
        if not left[chosen]:
            left.pop(chosen)
    return np.array(places, np.int64)


def margin_bin(margins: NDArray[np.floating], bins: int = 10) -> NDArray[np.int64]:
    """Return the bin of each margin, 0 to bins - 1; all 0 where the margins are equal."""
    if bins < 1:
        raise InvalidInput(f"bins must be 1 or more, got {bins}.")
    if len(margins) == 0:
        return np.zeros(0, np.int64)
    if not np.isfinite(margins).all():
        raise InvalidInput("a candidate or the positive has a score that is NaN or infinite.")
    least = margins.min()
    width = (margins.max() - least) / bins
    if not width > 0:
        return np.zeros(len(margins), np.int64)
    numbers: NDArray[np.int64] = np.minimum((margins - least) / width, bins - 1).astype(np.int64)
    return numbers


def hard_margin(
    scores: Scores,
    positive: Positive,
    count: int,
    generator: np.random.Generator,
    *,
    cutoff: float = 6.0,
) -> Places:
    """Draw uniformly among candidates whose teacher margin is at most `cutoff`; none where all are easier.

    TAS-B's alternative to bins. The default is that of matchmaker's configurations, for a cross-encoder's logits.
    """
    margins = np.asarray(positive, np.float64) - np.asarray(scores, np.float64)
    return generator.permutation(np.flatnonzero(margins <= cutoff))[:count]


def from_candidates(
    candidates: Candidates, choose: Choice, positive_scores: NDArray[np.floating] | None = None
) -> Sampler:
    """Return a source of mined negatives: documents of `candidates` that `choose` picks.

    positive_scores  [Q], of the positive of each query; needed only where `choose` looks at it, NaN if left out
    """
    if positive_scores is not None and positive_scores.shape != (len(candidates),):
        raise InvalidInput(f"positive_scores must be ({len(candidates)},), got {positive_scores.shape}.")

    def sampler(query: int, count: int, generator: np.random.Generator) -> NDArray[np.int32]:
        documents, scores = candidates.of(query)
        positive = float("nan") if positive_scores is None else float(positive_scores[query])
        return documents[choose(scores, positive, count, generator)]

    return sampler


def _without_replacement(logits: NDArray[np.float64], count: int, generator: np.random.Generator) -> Places:
    # Gumbel top-k: the largest sums of logit and noise are a draw without replacement from the softmax
    # (arXiv:1903.06059), and no probability underflows.
    if not np.isfinite(logits).all():
        raise InvalidInput("a candidate or the positive has a score that is NaN or infinite.")
    return np.argsort(-(logits + generator.gumbel(size=len(logits))), kind="stable")[:count]
