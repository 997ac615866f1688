"""A language model's last token as the vector, trained by a softmax over the batch and hard negatives.

RepLLaMA, arXiv:2310.08319; github.com/texttron/tevatron. All weights are trained.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from training.batch import Batch
from training.decoders import DecoderSettings, open_decoder, untrained
from training.encoders import scale_of
from training.losses.contrastive import info_nce
from training.recipe import Recipe
from training.recipes.contrastive import DrawnSettings, drawn
from training.task import Task


class RepllamaSettings(DecoderSettings, DrawnSettings):
    """See DecoderSettings and DrawnSettings; the published temperature of .01 is a scale of 100."""

    scale: float | None = 100.0


def train(task: Task[RepllamaSettings]) -> Path:
    """Fit the base with the softmax loss."""
    return contrast(task, open_decoder(task.settings, offline=task.offline))


def contrast(task: Task[Any], model: Any) -> Path:
    """Fit a model with the softmax loss as the stage `contrastive`."""
    scale = scale_of(task.settings, model)

    def objective(batch: Batch) -> Tensor:
        return info_nce(scale * batch.scores(), batch.relevant)

    return task.fit("contrastive", model, objective, drawn(task, model))


RECIPE = Recipe(
    "repllama",
    "A causal language model as bi-encoder: the end token's state is the vector.",
    "RepLLaMA, arXiv:2310.08319",
    RepllamaSettings,
    train,
    start=untrained,
)
