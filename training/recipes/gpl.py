"""GPL: on generated queries the student copies a cross-encoder's margins between documents.

Wang et al., arXiv:2112.07577 (UKPLab/gpl). The negatives are what several retrievers find, unlabelled relevant ones
among them: their margins are small or negative, and the student learns just that. Its original's cosine option compares
with a name that the option does not have, so it never normalises; here scores are as the base has them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from retriever.models import resolve
from training.batch import Batch, Objective
from training.candidates import Candidates
from training.encoders import scale_of
from training.losses.margins import margin_mse
from training.negatives import Draw, Rows, with_negatives
from training.pairs import from_candidates, uniform
from training.recipe import Recipe
from training.settings import FitSettings
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task
from training.teacher_settings import PairTeacher, TeacherSettings, open_teacher
from training.teachers import Teacher


class GplSettings(StaticSettings):
    """retrievers  whose best documents are negatives, beside the base's own; the original has two in all
    depth       of each of their lists
    teacher     scores the drawn pairs while the student is trained; a cross-encoder in the original
    """

    retrievers: tuple[str, ...] = ()
    depth: int = Field(50, ge=1, le=1000)
    teacher: PairTeacher = TeacherSettings(kind="cross_encoder", model="cross-encoder/ms-marco-MiniLM-L6-v2")
    query_tokens: int = 64
    document_tokens: int = 350
    fit: FitSettings = FitSettings(batch_size=32, learning_rate=2e-5, steps=140_000, warmup=0.00714)

    def other_models(self) -> dict[str, str]:
        retrievers = {f"retrievers.{place}": name for place, name in enumerate(self.retrievers)}
        return super().other_models() | retrievers | self.teacher.models("teacher")


def train(task: Task[GplSettings]) -> Path:
    """Mine with the base and the other retrievers, then fit the base to the teacher's margins.

    The teacher is opened before: one that cannot be is found out at once.
    """
    teacher = open_teacher(task.settings.teacher, task)
    model = task.open_base()
    draw = mined_pairs(task, model)
    objective = margins(teacher, task.settings.teacher.scale, scale_of(task.settings, model))
    return task.fit("gpl", model, objective, draw)


def mined_pairs(task: Task[Any], model: Any) -> Draw:
    """Return what draws a relevant and a mined document, of what the model and the other retrievers find."""
    settings = task.settings
    found = [static_negatives(task, model).candidates]
    for place, name in enumerate(settings.retrievers):
        other = task.open_base(resolve(name, offline=task.offline))
        found.append(task.mine(f"mine-{place}", other, settings.depth).candidates)
    return with_negatives(task.collection, 1, from_candidates(united(found), uniform))


def united(parts: list[Candidates]) -> Candidates:
    """Return each query's candidates of all lists, each document once, by the best of its ranks.

    Scores of several encoders do not compare, so those of the result are reciprocal ranks.
    """
    if len(parts) == 1:
        return parts[0]
    offsets, documents, scores = [0], [], []
    for row in range(len(parts[0])):
        best: dict[int, float] = {}
        for part in parts:
            for rank, document in enumerate(part.of(row)[0].tolist(), 1):
                best[document] = max(best.get(document, 0.0), 1 / rank)
        ordered = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
        documents += [document for document, _ in ordered]
        scores += [score for _, score in ordered]
        offsets.append(len(documents))
    return Candidates(np.array(offsets, np.int64), np.array(documents, np.int32), np.array(scores, np.float32))


def margins(teacher: Teacher, teacher_scale: float, scale: float) -> Objective:
    """Return the mean squared difference of student's and teacher's margins, of a relevant and a mined document."""

    def objective(batch: Batch) -> Tensor:
        scores = scale * batch.own_scores()
        own = batch.own(torch.from_numpy(batch.document_rows)).numpy()
        wanted = (teacher_scale * taught(teacher, batch.query_rows, own)).to(scores.device)
        return margin_mse(scores[:, 0], scores[:, 1], wanted[:, 0], wanted[:, 1])

    return objective


def taught(teacher: Teacher, queries: Rows, documents: Rows) -> Tensor:
    """Return a teacher's scores (B, K) of query rows (B,) and document rows (B, K)."""
    asked = np.repeat(queries, documents.shape[1])
    return torch.from_numpy(teacher.scores(asked, documents.ravel()).reshape(documents.shape))


RECIPE = Recipe(
    "gpl",
    "A cross-encoder's margins on generated queries.",
    "GPL, arXiv:2112.07577",
    GplSettings,
    train,
)
