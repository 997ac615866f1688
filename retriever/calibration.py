"""From a pipeline's final score to the probability that the document is relevant.

A raw score of .7 says nothing by itself; a calibration is fitted to judged queries (`retriever.evaluation.calibration`)
and holds for the pipeline, and the index, that gave the scores. Both curves never fall, so order is kept.
"""

import itertools
from collections.abc import Iterable
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from retriever.pipeline import PipelineSpec

Method = Literal["isotonic", "logistic"]
Probability = Annotated[float, Field(ge=0, le=1)]

NEWTON_STEPS = 100


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Logistic(_Model):
    """1 / (1 + exp(-(slope * score + intercept))), after Platt 1999."""

    method: Literal["logistic"] = "logistic"
    slope: Annotated[FiniteFloat, Field(ge=0)]
    intercept: FiniteFloat

    def relevance(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return (D,) probabilities for scores."""
        logits = self.slope * np.asarray(scores, np.float64) + self.intercept
        return np.asarray(np.exp(-np.logaddexp(0, -logits)))


class Isotonic(_Model):
    """Straight lines between points, flat beyond the first and the last."""

    method: Literal["isotonic"] = "isotonic"
    scores: list[FiniteFloat] = Field(min_length=1)
    probabilities: list[Probability]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("there must be as many probabilities as scores")
        for values in (self.scores, self.probabilities):
            if any(after < before for before, after in itertools.pairwise(values)):
                raise ValueError("scores and probabilities must not fall")
        return self

    def relevance(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return (D,) probabilities for scores."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities))


Curve = Annotated[Logistic | Isotonic, Field(discriminator="method")]


class Reliability(_Model):
    """How good the probabilities were for queries that the curve had not seen.

    error          mean distance between what was said and what came true, over tenths of the pairs (ECE)
    brier          mean squared distance to the truth; `brier_of_mean` is that of always saying the mean
    log_loss       in nats
    """

    error: float
    brier: float
    brier_of_mean: float
    log_loss: float


class Calibration(_Model):
    """A curve for one pipeline and what it was fitted to.

    pairs     hits of the queries, `relevant` of them relevant; those that nobody judged count as not relevant
    relevant_from  the grade from which a document counts as relevant
    """

    pipeline: PipelineSpec
    curve: Curve
    collection: str
    queries: int
    pairs: int
    judged: int
    relevant: int
    relevant_from: int = 1
    depth: int
    generation: int
    reliability: Reliability


def calibration_for(calibrations: Iterable[Calibration], pipeline: PipelineSpec) -> Calibration | None:
    """Return the calibration of exactly this pipeline, or None."""
    return next((found for found in calibrations if found.pipeline == pipeline), None)


def fit(method: Method, scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> Logistic | Isotonic:
    """Fit a curve to (D,) scores and whether each document is relevant."""
    return fit_logistic(scores, relevant) if method == "logistic" else fit_isotonic(scores, relevant)


def fit_logistic(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> Logistic:
    """Fit by Newton's method to Platt's smoothed targets; a slope that would be negative becomes 0."""
    positive = int(relevant.sum())
    negative = len(relevant) - positive
    targets = np.where(relevant, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    inputs = np.stack([(scores - centre) / scale, np.ones(len(scores))], axis=1)
    weights = np.array([0.0, np.log((positive + 1) / (negative + 1))])
    for _ in range(NEWTON_STEPS):
        found = np.exp(-np.logaddexp(0, -inputs @ weights))
        gradient = inputs.T @ (found - targets) + 1e-6 * weights
        curvature = (inputs * (found * (1 - found))[:, None]).T @ inputs + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Far from the solution a full step may lead away from it.
        weights -= step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        return Logistic(slope=0.0, intercept=float(np.log((positive + 1) / (negative + 1))))
    slope = float(weights[0]) / scale
    return Logistic(slope=slope, intercept=float(weights[1]) - slope * centre)


def fit_isotonic(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> Isotonic:
    """Fit by pooling adjacent violators; each pool is drawn to the mean by one made-up document of the mean's kind."""
    mean = float(relevant.mean())
    values, places = np.unique(scores, return_inverse=True)
    sizes = np.bincount(places).astype(np.float64)
    sums = np.bincount(places, weights=relevant.astype(np.float64))
    pools: list[list[float]] = []
    for value, size, total in zip(values.tolist(), sizes.tolist(), sums.tolist(), strict=True):
        pools.append([value, value, size, total])
        while len(pools) > 1 and pools[-2][3] * pools[-1][2] >= pools[-1][3] * pools[-2][2]:
            _, last, more, further = pools.pop()
            pools[-1] = [pools[-1][0], last, pools[-1][2] + more, pools[-1][3] + further]
    points: list[float] = []
    probabilities: list[float] = []
    for first, last, size, total in pools:
        # Drawing small pools to the mean must not make the curve fall.
        height = max((total + mean) / (size + 1), probabilities[-1] if probabilities else 0.0)
        for point in dict.fromkeys((first, last)):
            points.append(point)
            probabilities.append(min(1.0, height))
    return Isotonic(scores=points, probabilities=probabilities)
