"""ANCE: negatives mined anew by the model itself after every so many steps.

Xiong et al. 2020, "Approximate Nearest Neighbor Negative Contrastive Learning", arXiv:2007.00808. Mining alternates
with training here instead of running beside it, so negatives are never older than one cycle.
"""

from pathlib import Path

from pydantic import Field
from torch import Tensor

from training.batch import Batch
from training.choice_settings import ChoiceSettings, mined_negatives
from training.encoders import scale_of
from training.losses.contrastive import info_nce, own_softmax
from training.negatives import with_negatives
from training.recipe import Recipe
from training.settings import FitSettings
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task


class AnceSettings(StaticSettings):
    """cycles    how often negatives are mined; fit.epochs or fit.steps are those of one cycle
    depth     so many of the model's best documents are the negatives to draw from
    choose    how they are drawn
    count     so many for each query and step
    refresh   whether to mine anew; false keeps what the base found, to compare with
    in_batch  whether the other queries' documents are negatives too; the paper has each query's own only
    """

    cycles: int = Field(3, ge=1, le=100)
    depth: int = Field(200, ge=1, le=1000)
    count: int = Field(1, ge=1, le=100)
    refresh: bool = True
    in_batch: bool = False
    choose: ChoiceSettings = ChoiceSettings()
    query_tokens: int = Field(64, ge=4, le=8192)
    fit: FitSettings = FitSettings(learning_rate=1e-5)


def train(task: Task[AnceSettings]) -> Path:
    """Mine and fit in turns, each cycle from where the last one ended."""
    settings, collection = task.settings, task.collection
    model = task.open_base()
    scale = scale_of(settings, model)

    def objective(batch: Batch) -> Tensor:
        if settings.in_batch:
            return info_nce(scale * batch.scores(), batch.relevant)
        return own_softmax(scale * batch.own_scores(), batch.own_relevant())

    for cycle in range(settings.cycles):
        if settings.refresh or cycle == 0:
            scored = settings.choose.scored
            found = static_negatives(task, model, f"mine-{cycle}", scored=scored, anew=cycle > 0)
            mined = mined_negatives(found, settings.choose)
        draw = with_negatives(collection, settings.count, mined)
        folder = task.cycle(cycle).fit(f"fit-{cycle}", model, objective, draw)
        model = task.open_base(folder)
    return folder


RECIPE = Recipe(
    "ance",
    "Negatives mined anew by the model itself in every cycle.",
    "ANCE, arXiv:2007.00808",
    AnceSettings,
    train,
)
