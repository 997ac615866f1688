"""The baseline: softmax over the batch, with or without hard negatives.

Karpukhin et al. 2020, "Dense Passage Retrieval", arXiv:2004.04906.
"""

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from training.batch import Batch
from training.choice_settings import ChoiceSettings, mined_negatives
from training.embedding_memory import MemoryInCheckpoints
from training.encoders import scale_of
from training.losses.contrastive import info_nce
from training.memory_queue import MemoryQueue
from training.negatives import Draw, positives_only, with_negatives
from training.recipe import Recipe
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task


class DrawnSettings(StaticSettings):
    """hard   where each query's own negatives come from: none, the whole corpus, or the base's best `depth`,
           in whose place `negatives` puts a file's
    count  of such negatives for each query
    ratio  mined candidates that score this much of the least relevant document or more count as relevant and are
           left out (TopK-PercPos, arXiv:2407.15831); None leaves all in
    choose  how mined ones are drawn
    """

    hard: Literal["none", "random", "mined"] = "none"
    count: int = Field(1, ge=1, le=100)
    depth: int = Field(100, ge=1, le=1000)
    ratio: float | None = Field(0.95, gt=0)
    choose: ChoiceSettings = ChoiceSettings()

    @model_validator(mode="after")
    def _negatives_are_used(self) -> Self:
        if self.hard != "mined" and (self.negatives or self.teacher_margin):
            raise ValueError(f"negatives and teacher_margin are for hard=mined, got hard={self.hard}")
        return self


class ContrastiveSettings(DrawnSettings):
    """queue  so many documents of earlier batches are further negatives, as they were encoded then (XBM,
    arXiv:1912.06798); 0 for none
    """

    queue: int = Field(0, ge=0, le=131_072)


def train(task: Task[ContrastiveSettings]) -> Path:
    """Fit the base with the softmax loss."""
    model = task.open_base()
    settings = task.settings
    scale = scale_of(settings, model)
    queue = MemoryQueue(settings.queue, task.collection.barred)

    def objective(batch: Batch) -> Tensor:
        if not settings.queue:
            return info_nce(scale * batch.scores(), batch.relevant)
        older, barred = queue.scores(batch)
        queue.add(batch.documents, batch.document_rows)
        scores = torch.cat([batch.scores(), older], dim=1)
        return info_nce(scale * scores, torch.cat([batch.relevant, barred], dim=1))

    callbacks = [MemoryInCheckpoints(queue)] if settings.queue else []
    return task.fit("contrastive", model, objective, drawn(task, model), callbacks=callbacks)


def drawn(task: Task[Any], model: Any, stage: str = "mine") -> Draw:
    """Return what draws the documents that settings of this class ask for; mines with `model` where they do.

    stage  name of the mining, where a recipe mines more than once
    """
    settings, collection = task.settings, task.collection
    if settings.hard == "none":
        return positives_only(collection.judgments)
    if settings.hard == "random":
        return with_negatives(collection, settings.count)
    scored = settings.choose.scored or settings.ratio is not None
    found = static_negatives(task, model, stage, scored=scored)
    return with_negatives(collection, settings.count, mined_negatives(found, settings.choose, ratio=settings.ratio))


RECIPE = Recipe(
    "contrastive",
    "In-batch negatives and a softmax: the baseline.",
    "DPR, arXiv:2004.04906",
    ContrastiveSettings,
    train,
)
