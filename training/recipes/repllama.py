"""A language model's last token as the vector, trained by a softmax over the batch and hard negatives.

RepLLaMA, arXiv:2310.08319; github.com/texttron/tevatron. All weights are trained, or changes of low rank.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from training.batch import Batch
from training.decoders import DecoderSettings, open_decoder, untrained
from training.encoders import scale_of
from training.losses.contrastive import info_nce
from training.low_rank import LowRankSettings, add_low_rank, merge_low_rank, require_package
from training.recipe import Recipe
from training.recipes.contrastive import DrawnSettings, drawn
from training.settings import FitSettings
from training.task import Task


class RepllamaSettings(DecoderSettings, DrawnSettings):
    """See DecoderSettings and DrawnSettings; the published temperature of .01 is a scale of 100.

    lora  the published training has rank 32 and a learning rate of 1e-4, for a model of 7 billion weights
    """

    scale: float | None = 100.0
    lora: LowRankSettings = LowRankSettings()
    hard: Literal["none", "random", "mined"] = "mined"
    count: int = Field(15, ge=1, le=100)
    document_tokens: int = Field(196, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=8, learning_rate=1e-5)


def train(task: Task[RepllamaSettings]) -> Path:
    """Fit the base with the softmax loss."""
    require_package(task.settings.lora)
    return contrast(task, open_decoder(task.settings, offline=task.offline))


def contrast(task: Task[Any], model: Any) -> Path:
    """Fit a model with the softmax loss as the stage `contrastive`."""
    scale = scale_of(task.settings, model)

    def objective(batch: Batch) -> Tensor:
        return info_nce(scale * batch.scores(), batch.relevant)

    draw, lora = drawn(task, model), task.settings.lora
    if not lora.rank:
        return task.fit("contrastive", model, objective, draw)
    add_low_rank(model, lora, task.settings.seed)
    return task.fit("contrastive", model, objective, draw, finish=merge_low_rank)


RECIPE = Recipe(
    "repllama",
    "A causal language model as bi-encoder: the end token's state is the vector.",
    "RepLLaMA, arXiv:2310.08319",
    RepllamaSettings,
    train,
    start=untrained,
)
