"""Fusing ranked lists of several first stages into one.

The input is one list of (id, score) a stage, best first; the output likewise, ties in order of id.
"""

from collections.abc import Mapping, Sequence

Ranking = Sequence[tuple[str, float]]


def reciprocal_rank(
    rankings: Mapping[str, Ranking], *, constant: int = 60, weights: Mapping[str, float] | None = None
) -> list[tuple[str, float]]:
    """Return documents by the weighted sum of 1 / (constant + rank), ranks from 1.

    Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet". A stage that did not
    find a document adds nothing.
    """
    fused: dict[str, float] = {}
    for stage, ranking in rankings.items():
        weight = 1.0 if weights is None else weights.get(stage, 1.0)
        for rank, (id_, _) in enumerate(ranking, 1):
            fused[id_] = fused.get(id_, 0.0) + weight / (constant + rank)
    return ordered(fused)


def weighted_minmax(
    rankings: Mapping[str, Ranking], *, weights: Mapping[str, float] | None = None
) -> list[tuple[str, float]]:
    """Return documents by the weighted mean of each stage's scores stretched to 0..1 within the query.

    A stage's worst listed document scores 0, as do the ones it did not list. A list whose scores are all
    equal gives 1 to its members. The result lies in 0..1.
    """
    fused: dict[str, float] = {}
    total = sum(1.0 if weights is None else weights.get(stage, 1.0) for stage in rankings)
    for stage, ranking in rankings.items():
        if not ranking:
            continue
        weight = (1.0 if weights is None else weights.get(stage, 1.0)) / (total or 1.0)
        best, worst = ranking[0][1], ranking[-1][1]
        for id_, score in ranking:
            stretched = (score - worst) / (best - worst) if best > worst else 1.0
            fused[id_] = fused.get(id_, 0.0) + weight * stretched
    return ordered(fused)


def ordered(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return (id, score) pairs, larger scores first, ties in order of id."""
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
