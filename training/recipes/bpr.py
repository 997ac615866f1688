"""BPR: sign codes of documents, learned with the encoder; queries stay float.

Yamada et al. 2021, "Efficient Passage Retrieval with Hashing for Open-domain Question Answering", arXiv:2106.00882;
studio-ousia/bpr. The original has two towers and strips a "?" at the end of queries; here one encoder serves both
sides, and texts stay as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor
from transformers import TrainerCallback

from retriever.heads.sign import SignHead
from training.batch import Batch, Objective
from training.encoders import head_of, of_unit_length, require_no_head, scale_of, with_head
from training.losses.contrastive import info_nce
from training.losses.hashing import code_margin
from training.recipe import Recipe
from training.recipes.contrastive import DrawnSettings, drawn
from training.schedules import root_growth
from training.settings import FitSettings
from training.task import Task
from training.untrained_heads import SIGNED, signed


class BprSettings(DrawnSettings):
    """slope   what training puts in the place of the step: "tanh" of beta times the embedding, beta growing with the
            steps, or "straight-through"
    gamma   beta is sqrt(1 + gamma * step)
    dense   whether the float query is set against the soft codes of all documents of the batch, by a softmax
    binary  of soft codes on both sides: "margin", the paper's hinge, "cross_entropy" in its place, or "none"
    margin  of the hinge; 2.0 is the paper's and INCOME's, the original's argument parser has 0.1
    scale   of the softmax; with unit length divided by sqrt(H), the length of a code, so that it still is the
            inverse temperature of a cosine

    A base whose vectors have unit length gets them multiplied by sqrt(H) before tanh, which such small numbers would
    not bend; the softmax begins at the very scores of the base.
    """

    slope: Literal["tanh", "straight-through"] = "tanh"
    gamma: float = Field(0.1, ge=0)
    dense: bool = True
    binary: Literal["margin", "cross_entropy", "none"] = "margin"
    margin: float = Field(2.0, ge=0)
    hard: Literal["none", "random", "mined"] = "mined"
    fit: FitSettings = FitSettings(batch_size=128, learning_rate=2e-5, epochs=40, warmup=0.06, max_grad_norm=2.0)

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not self.dense and self.binary == "none":
            raise ValueError("dense=false with binary=none leaves no loss; change one of them")
        return self


def train(task: Task[BprSettings]) -> Path:
    """Fit the base with a sign head."""
    model = task.open_base()
    require_no_head(model)
    return fit_signs(task, model)


def fit_signs(task: Task[Any], model: Any) -> Path:
    """Fit a model, with a sign head where it has none, to the pairs that `BprSettings` ask for."""
    draw = drawn(task, model)
    model, head, scale = with_signs(model, task.settings)
    objective = hashed(task.settings, head, scale)
    return task.fit("bpr", model, objective, draw, callbacks=[growing_beta(head, task.settings.gamma)])


def with_signs(model: Any, settings: Any) -> tuple[Any, Any, float]:
    """Return the model with a sign head, its own if it ends in one; the head; the factor on scores inside losses."""
    width = int(model.get_embedding_dimension())
    head = head_of(model)
    if isinstance(head, SignHead):
        head.slope = settings.slope
    else:
        head = SignHead(width, settings.slope, scale=width**0.5 if of_unit_length(model) else 1.0)
        model = with_head(model, head)
    return model, head, scale_of(settings, model) / head.scale


def hashed(settings: BprSettings, head: Any, scale: float) -> Objective:
    """Return the loss of a batch of float queries and soft codes of documents."""

    def objective(batch: Batch) -> Tensor | Mapping[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if settings.dense:
            losses["dense"] = info_nce(scale * batch.scores(), batch.relevant)
        codes = head.codes(batch.queries)
        if settings.binary == "margin":
            losses["binary"] = code_margin(codes, batch.documents, batch.relevant, settings.margin)
        elif settings.binary == "cross_entropy":
            losses["binary"] = info_nce(codes @ batch.documents.T, batch.relevant)
        return losses

    return objective


def growing_beta(head: Any, gamma: float) -> Any:
    """Return a callback that sets the head's beta before each step; it depends on the step's number alone, so that a
    resumed training goes on with the right one."""

    class Beta(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            head.beta = root_growth(state.global_step, gamma)

    return Beta()


RECIPE = Recipe(
    "bpr",
    "Sign codes of documents, learned with the encoder; an eighth of a byte a dimension.",
    "BPR, arXiv:2106.00882",
    BprSettings,
    train,
    start=signed,
    start_is=SIGNED,
)
