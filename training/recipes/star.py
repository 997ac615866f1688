"""STAR: static hard negatives, and the documents of the batch beside them for stability.

Zhan et al. 2021, "Optimizing Dense Retrieval Model Training with Hard Negatives", arXiv:2104.08051;
jingtaozhan/DRhard, star/train.py.
"""

from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from training.batch import Batch
from training.choice_settings import ChoiceSettings, mined_negatives
from training.encoders import scale_of
from training.losses.contrastive import pairwise_softplus
from training.negatives import positives_only, with_negatives
from training.recipe import Recipe
from training.settings import FitSettings
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task


class StarSettings(StaticSettings):
    """depth       so many of the base's best documents are the negatives to draw from, fixed during training
    choose      how they are drawn
    count       so many for each query and step; 0 leaves those of the batch alone, the paper's baseline
    in_batch    whether the other queries' relevant documents are negatives too
    share_hard  whether the other queries' drawn negatives are, which are much like random ones

    Without both, each query's own hard negatives are alone: the training that the paper calls unstable.
    """

    depth: int = Field(200, ge=1, le=1000)
    count: int = Field(1, ge=0, le=100)
    in_batch: bool = True
    share_hard: bool = True
    choose: ChoiceSettings = ChoiceSettings()
    query_tokens: int = Field(24, ge=4, le=8192)
    document_tokens: int = Field(120, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=256)

    @model_validator(mode="after")
    def _some_negatives(self) -> Self:
        if not self.count and not self.in_batch:
            raise ValueError("count=0 with in_batch=false leaves no negatives; change one of them")
        if not self.count and (self.negatives or self.teacher_margin):
            raise ValueError("count=0 takes no mined negatives; leave out negatives and teacher_margin, or raise count")
        return self


def train(task: Task[StarSettings]) -> Path:
    """Mine with the base, then fit it; the base should be a warmed-up retriever."""
    model = task.open_base()
    settings, collection = task.settings, task.collection
    scale = scale_of(settings, model)

    def objective(batch: Batch) -> Tensor:
        chosen = negatives(batch, in_batch=settings.in_batch, share_hard=settings.share_hard)
        return pairwise_softplus(scale * batch.scores(), chosen)

    draw = positives_only(collection.judgments)
    if settings.count:
        found = static_negatives(task, model, scored=settings.choose.scored)
        mined = mined_negatives(found, settings.choose)
        draw = with_negatives(collection, settings.count, mined)
    return task.fit("star", model, objective, draw)


def negatives(batch: Batch, *, in_batch: bool, share_hard: bool) -> Tensor:
    """Return bool (B, B * (1 + h)): the documents that are negatives of each query."""
    chosen = ~batch.relevant
    if not in_batch:
        chosen[:, : batch.size] = False
    if not share_hard:
        own = torch.eye(batch.size, dtype=torch.bool, device=chosen.device)
        chosen[:, batch.size :] &= own.repeat_interleave(len(batch.document_rows) // batch.size - 1, dim=1)
    return chosen


RECIPE = Recipe(
    "star",
    "Static hard negatives beside those of the batch, stable.",
    "STAR, arXiv:2104.08051",
    StarSettings,
    train,
)
