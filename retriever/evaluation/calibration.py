"""Fitting a calibration to judged queries, and measuring it on queries that it has not seen."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retriever.calibration import Calibration, Method, Reliability, fit
from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection
from retriever.index.sealed import Index
from retriever.pipeline import PipelineSpec
from retriever.progress import Progress

FOLDS = 5
LEAST_QUERIES = 10
DEPTH = 100
TOGETHER = 32
METHODS: tuple[Method, ...] = ("isotonic", "logistic")


def calibrate(
    index: Index,
    collection: Collection,
    pipeline: PipelineSpec,
    *,
    depth: int = DEPTH,
    relevant_from: int = 1,
    method: Method | None = None,
    judged_only: bool = False,
    group_by_parent: bool = False,
    quiet: bool = True,
) -> Calibration:
    """Fit a curve to the best `depth` hits of each judged query.

    relevant_from  least grade that counts as relevant
    method         None takes the one with the smaller log loss on queries that it has not seen
    judged_only    leave out hits that nobody judged, instead of counting them as not relevant: right where the top of
                   every ranking was judged, far too hopeful where only relevant documents were

    Raises InvalidInput for fewer than LEAST_QUERIES queries or hits that are all of one kind. Cost: the searches.
    """
    queries = collection.judged
    if len(queries) < LEAST_QUERIES:
        raise InvalidInput(
            f"a calibration needs at least {LEAST_QUERIES} judged queries; {collection.name}/{collection.split} has "
            f"{len(queries)} with text."
        )
    scores, relevant, owners, judged = _pairs(
        index, collection, pipeline, depth, relevant_from, judged_only, group_by_parent, quiet
    )
    if len(np.unique(owners)) < LEAST_QUERIES:
        raise InvalidInput(f"only {len(np.unique(owners))} of the queries have hits; {LEAST_QUERIES} are needed.")
    if not relevant.any() or relevant.all():
        raise InvalidInput(
            f"of {len(relevant)} hits {int(relevant.sum())} are relevant; a calibration needs some that are and some "
            "that are not. Is this the collection of the index?"
        )
    measured = {name: _reliability(name, scores, relevant, owners) for name in METHODS}
    best: Method = min(METHODS, key=lambda name: measured[name].log_loss)
    chosen = best if method is None else method
    return Calibration(
        pipeline=pipeline,
        curve=fit(chosen, scores, relevant),
        collection=f"{collection.name}/{collection.split}",
        queries=len(queries),
        pairs=len(scores),
        judged=judged,
        relevant=int(relevant.sum()),
        relevant_from=relevant_from,
        depth=depth,
        generation=index.generation,
        reliability=measured[chosen],
    )


def _pairs(
    index: Index,
    collection: Collection,
    pipeline: PipelineSpec,
    depth: int,
    relevant_from: int,
    judged_only: bool,
    group_by_parent: bool,
    quiet: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64], int]:
    """Return of all hits the scores, whether they are relevant, the query's number; and how many were judged."""
    scores: list[float] = []
    relevant: list[bool] = []
    owners: list[int] = []
    judged = 0
    names = list(collection.judged)
    with Progress("searching", len(names), quiet) as bar:
        for start in range(0, len(names), TOGETHER):
            part = names[start : start + TOGETHER]
            texts = [collection.judged[name] for name in part]
            answers = index.batch_search(
                texts, depth, pipeline=pipeline, group_by_parent=group_by_parent, documents=False
            )
            for number, (name, answer) in enumerate(zip(part, answers, strict=True), start):
                if answer.degraded:
                    raise InvalidInput(f"query {name!r} was answered degraded ({', '.join(answer.degraded)}).")
                grades = collection.qrels[name]
                for hit in answer.hits:
                    known = hit.id in grades
                    if (judged_only and not known) or (pipeline.rerank and "rerank" not in hit.scores):
                        continue
                    judged += known
                    scores.append(hit.score)
                    relevant.append(grades.get(hit.id, 0) >= relevant_from)
                    owners.append(number)
            bar.advance(len(part))
    return np.array(scores, np.float64), np.array(relevant, np.bool_), np.array(owners, np.int64), judged


def _reliability(
    method: Method, scores: NDArray[np.float64], relevant: NDArray[np.bool_], owners: NDArray[np.int64]
) -> Reliability:
    """Measure a method on each fold of the queries by a curve of the other folds."""
    said = np.empty(len(scores))
    for fold in range(FOLDS):
        held = owners % FOLDS == fold
        if held.any():
            said[held] = fit(method, scores[~held], relevant[~held]).relevance(scores[held])
    truth = relevant.astype(np.float64)
    safe = np.clip(said, 1e-6, 1 - 1e-6)
    return Reliability(
        error=expected_error(said, truth),
        brier=float(np.mean((said - truth) ** 2)),
        brier_of_mean=float(np.mean((truth.mean() - truth) ** 2)),
        log_loss=float(-np.mean(truth * np.log(safe) + (1 - truth) * np.log1p(-safe))),
    )


def expected_error(said: Sequence[float] | NDArray[np.float64], truth: NDArray[np.float64], bins: int = 10) -> float:
    """Return the mean distance between probabilities and outcomes over `bins` parts of equal size, in their order."""
    order = np.argsort(said, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    values = np.asarray(said)
    return float(sum(abs(values[part].mean() - truth[part].mean()) * len(part) for part in parts) / len(order))
