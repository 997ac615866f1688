"""STAR: static hard negatives, and the documents of the batch beside them for stability.

Zhan et al. 2021, "Optimizing Dense Retrieval Model Training with Hard Negatives", arXiv:2104.08051;
jingtaozhan/DRhard, star/train.py.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from training.batch import Batch
from training.choice_settings import ChoiceSettings, mined_negatives
from training.encoders import scale_of
from training.losses.contrastive import pairwise_softplus
from training.negatives import positives_only, with_negatives
from training.recipe import Recipe
from training.settings import EncoderSettings
from training.task import Task


class StarSettings(EncoderSettings):
    """depth     so many of the base's best documents are the negatives to draw from, fixed during training
    choose    how they are drawn
    count     so many for each query and step; 0 leaves those of the batch alone, the paper's baseline
    in_batch  whether the other queries' relevant documents are negatives too; without them the training is the
              unstable one that the paper warns of
    """

    depth: int = Field(200, ge=1, le=1000)
    count: int = Field(1, ge=0, le=100)
    in_batch: bool = True
    choose: ChoiceSettings = ChoiceSettings()

    @model_validator(mode="after")
    def _some_negatives(self) -> Self:
        if not self.count and not self.in_batch:
            raise ValueError("count=0 with in_batch=false leaves no negatives; change one of them")
        return self


def train(task: Task[StarSettings]) -> Path:
    """Mine with the base, then fit it; the base should be a warmed-up retriever."""
    model = task.open_base()
    settings, collection = task.settings, task.collection
    scale = scale_of(settings, model)

    def objective(batch: Batch) -> Tensor:
        negatives = ~batch.relevant
        if not settings.in_batch:
            negatives[:, : batch.size] = False
        return pairwise_softplus(scale * batch.scores(), negatives)

    draw = positives_only(collection.judgments)
    if settings.count:
        mined = mined_negatives(task.mine("mine", model, settings.depth), settings.choose)
        draw = with_negatives(collection, settings.count, mined)
    return task.fit("star", model, objective, draw)


RECIPE = Recipe(
    "star",
    "Static hard negatives beside those of the batch, stable.",
    "STAR, arXiv:2104.08051",
    StarSettings,
    train,
)
