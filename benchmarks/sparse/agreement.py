"""Whether two engines find the same: scores equal up to float32, or how much their top tens share."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sparse import matrix

Hits = list[list[list[Any]]]
"""For each query its pairs of id and score, best first."""


def overlap(found: Hits, reference: Hits) -> float:
    """Return the mean share of the reference's ids that were found; a query without hits counts as 1."""
    shares = []
    for ours, theirs in zip(found, reference, strict=True):
        ids = {id_ for id_, _ in theirs}
        shares.append(len(ids & {id_ for id_, _ in ours}) / len(ids) if ids else 1.0)
    return float(np.mean(shares))


def differences(found: Hits, reference: Hits) -> tuple[list[int], list[int]]:
    """Return the queries whose scores differ by more than float32 rounds, and those whose ids differ in order."""
    scores, ids = [], []
    for number, (ours, theirs) in enumerate(zip(found, reference, strict=True)):
        a, b = [score for _, score in ours], [score for _, score in theirs]
        if len(a) != len(b) or not np.allclose(a, b, rtol=2**-22, atol=0):
            scores.append(number)
        if [id_ for id_, _ in ours] != [id_ for id_, _ in theirs]:
            ids.append(number)
    return scores, ids


def compare(found: Hits, ours: Hits | None) -> dict[str, float | None]:
    """Return the overlap with our top ten and the share of queries whose scores are ours."""
    if ours is None:
        return {"overlap_10": None, "equal_scores": None}
    scores, _ = differences(found, ours)
    return {"overlap_10": overlap(found, ours), "equal_scores": 1 - len(scores) / len(ours)}


def against_definition(found: Hits, queries: Path, k: int) -> dict[str, float]:
    """Return the recall against exact scores, ties counting as found, and the share of queries without a miss."""
    exact = matrix.Exact(*matrix.read(queries))
    recalls = [exact.recall(number, [id_ for id_, _ in hits], k) for number, hits in enumerate(found)]
    return {"overlap_10": float(np.mean(recalls)), "equal_scores": float(np.mean(np.array(recalls) == 1))}


def print_differences(lucene: Hits, ours: Hits, limit: int = 5) -> None:
    """Say where our scores are not Lucene's; there should be no such place."""
    scores, ids = differences(ours, lucene)
    print(f"Lucene against ours: {len(scores)} of {len(ours)} queries differ in scores, {len(ids)} in order of ids")
    for number in (scores + ids)[:limit]:
        print(f"  query {number}\n    Lucene {lucene[number]}\n    ours   {ours[number]}")
