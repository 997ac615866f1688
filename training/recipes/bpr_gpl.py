"""BPR on generated queries with a cross-encoder's margins.

INCOME, Thakur et al. 2022, arXiv:2205.11498; thakur-nandan/income, income/bpr/gpl. Its loss of codes looks at two
passages of a batch only; here all of them count. It also takes the generated document to be the better one always; here
the teacher says which is, as it does for the float query.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from retriever.heads.sign import Slope
from training.batch import Batch, Objective
from training.losses.margins import margin_mse
from training.recipe import Recipe
from training.recipes.bpr import growing_beta, with_signs
from training.recipes.gpl import GplSettings, mined_pairs, taught
from training.task import Task
from training.teacher_settings import open_teacher
from training.teachers import Teacher
from training.untrained_heads import SIGNED, signed


class BprGplSettings(GplSettings):
    """Those of `gpl`; slope, gamma and margin as in `bpr`.

    binary  of soft codes on both sides: "margin", a hinge on the order that the teacher gives, or "none"

    The base may be a model that `bpr` trained elsewhere: its head stays.
    """

    slope: Slope = "tanh"
    gamma: float = Field(0.1, ge=0)
    binary: Literal["margin", "none"] = "margin"
    margin: float = Field(2.0, ge=0)


def train(task: Task[BprGplSettings]) -> Path:
    """Mine with the base, then fit it with a sign head to the teacher's margins."""
    settings = task.settings
    teacher = open_teacher(settings.teacher, task)
    model = task.open_base()
    draw = mined_pairs(task, model)
    model, head, scale = with_signs(model, settings)
    objective = distilled(settings, head, scale, teacher)
    return task.fit("bpr_gpl", model, objective, draw, callbacks=[growing_beta(head, settings.gamma)])


def distilled(settings: BprGplSettings, head: Any, scale: float, teacher: Teacher) -> Objective:
    """Return the loss of a batch of float queries and soft codes of a relevant and a mined document each."""

    def objective(batch: Batch) -> Mapping[str, Tensor]:
        scores = scale * batch.own_scores()
        own = batch.own(torch.from_numpy(batch.document_rows)).numpy()
        wanted = (settings.teacher.scale * taught(teacher, batch.query_rows, own)).to(scores.device)
        losses = {"dense": margin_mse(scores[:, 0], scores[:, 1], wanted[:, 0], wanted[:, 1])}
        if settings.binary == "margin":
            codes = torch.einsum("bh,bkh->bk", head.codes(batch.queries), batch.own(batch.documents))
            order = torch.sign(wanted[:, 0] - wanted[:, 1])
            losses["binary"] = functional.relu(settings.margin - order * (codes[:, 0] - codes[:, 1])).mean()
        return losses

    return objective


RECIPE = Recipe(
    "bpr_gpl",
    "Sign codes by a cross-encoder's margins on generated queries.",
    "INCOME, arXiv:2205.11498",
    BprGplSettings,
    train,
    start=signed,
    start_is=SIGNED,
)
