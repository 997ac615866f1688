"""Which of a query's mined candidates become its negatives, as a setting."""

from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from training.filters import below_positive
from training.mined import Mined
from training.negatives import Sampler
from training.pairs import Choice, from_candidates, gaussian_around_positive, softmax_curriculum, uniform


class ChoiceSettings(BaseModel):
    """How negatives are drawn among the candidates that an encoder ranks high.

    by           uniform; softmax of score / temperature, so the best ones mostly; or gaussian, those whose score is
                 near that of the least relevant document (SimANS, arXiv:2210.11773)
    temperature  of softmax
    a, b         of gaussian: p ∝ exp(-a (s - s⁺ - b)²). SimANS' a of 0.5 is for inner products of vectors that are
                 not normalised; cosines need some hundreds
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["uniform", "softmax", "gaussian"] = "uniform"
    temperature: float = Field(0.05, gt=0)
    a: float = Field(0.5, ge=0)
    b: float = 0.0

    @property
    def scored(self) -> bool:
        """Whether the choice looks at the score of a relevant document."""
        return self.by == "gaussian"

    def choice(self) -> Choice:
        if self.by == "softmax":
            return partial(softmax_curriculum, temperature=self.temperature)
        if self.by == "gaussian":
            return partial(gaussian_around_positive, a=self.a, b=self.b)
        return uniform


def mined_negatives(found: Mined, settings: ChoiceSettings, *, ratio: float | None = None) -> Sampler:
    """Return a source of negatives out of what was mined.

    ratio  candidates that score this much of the least relevant document or more are left out; None leaves all in
    """
    candidates = found.candidates
    if ratio is not None:
        candidates = below_positive(candidates, found.positive_scores, ratio)
    return from_candidates(candidates, settings.choice(), found.positive_scores)
