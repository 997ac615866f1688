"""The baseline: softmax over the batch, with or without hard negatives.

Karpukhin et al. 2020, "Dense Passage Retrieval", arXiv:2004.04906.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from training.batch import Batch
from training.encoders import scale_of
from training.filters import below_positive
from training.losses.contrastive import info_nce
from training.negatives import Draw, Sampler, positives_only, with_negatives
from training.pairs import from_candidates, uniform
from training.recipe import Recipe
from training.settings import EncoderSettings
from training.task import Task


class ContrastiveSettings(EncoderSettings):
    """hard   where each query's own negatives come from: none, the whole corpus, or the base's best `depth`
    count  of such negatives for each query
    ratio  mined candidates that score this much of the least relevant document or more count as relevant and are
           left out (TopK-PercPos, arXiv:2407.15831); None leaves all in
    """

    hard: Literal["none", "random", "mined"] = "none"
    count: int = Field(1, ge=1, le=100)
    depth: int = Field(100, ge=1, le=1000)
    ratio: float | None = Field(0.95, gt=0)


def train(task: Task[ContrastiveSettings]) -> Path:
    """Fit the base with the softmax loss."""
    model = task.open_base()
    settings = task.settings
    scale = scale_of(settings, model)

    def objective(batch: Batch) -> Tensor:
        return info_nce(scale * batch.scores(), batch.relevant)

    return task.fit("contrastive", model, objective, drawn(task, model))


def drawn(task: Task[Any], model: Any) -> Draw:
    """Return what draws the documents that settings of this class ask for; mines with `model` where they do."""
    settings, collection = task.settings, task.collection
    if settings.hard == "none":
        return positives_only(collection.judgments)
    return with_negatives(collection, settings.count, _mined(task, model) if settings.hard == "mined" else None)


def _mined(task: Task[Any], model: Any) -> Sampler:
    found = task.mine("mine", model, task.settings.depth)
    candidates = found.candidates
    if task.settings.ratio is not None:
        candidates = below_positive(candidates, found.positive_scores, task.settings.ratio)
    return from_candidates(candidates, uniform)


RECIPE = Recipe(
    "contrastive",
    "In-batch negatives and a softmax: the baseline.",
    "DPR, arXiv:2004.04906",
    ContrastiveSettings,
    train,
)
