"""JPQ on generated queries with a cross-encoder's margins, between a document and what its codes retrieve just now.

INCOME, Thakur et al. 2022, arXiv:2205.11498; thakur-nandan/income, income/jpq/train_gpl.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from training.batch import CollectionLoss
from training.collection import TrainingCollection
from training.dynamic_search import SearchedDocuments
from training.losses.margins import margin_mse
from training.negatives import Rows, draw_positives, random_negative
from training.recipe import Recipe
from training.recipes.gpl import taught
from training.recipes.jpq import JpqSettings, coded, fit_coded
from training.settings import FitSettings
from training.task import Task
from training.teacher_settings import PairTeacher, TeacherSettings, open_teacher
from training.teachers import Teacher
from training.untrained_heads import QUANTISED, quantised


class JpqGplSettings(JpqSettings):
    """Those of `jpq`, with INCOME's values; `metric_cut` has no meaning here.

    depth    documents that the codes of the moment find for each query, one of which is its negative
    teacher  scores the drawn pairs while the student is trained; a cross-encoder in the original

    The base may be a model that `jpq` trained elsewhere: its codebook stays.
    """

    depth: int = Field(25, ge=1, le=1000)
    teacher: PairTeacher = TeacherSettings(kind="cross_encoder", model="cross-encoder/ms-marco-MiniLM-L6-v2")
    centroid_rate: float | None = 1e-4
    query_tokens: int = 64
    document_tokens: int = 350
    fit: FitSettings = FitSettings(batch_size=32, learning_rate=5e-6, epochs=2)

    def other_models(self) -> dict[str, str]:
        return super().other_models() | self.teacher.models("teacher")


def train(task: Task[JpqGplSettings]) -> Path:
    """Open the teacher, give the documents their codes once, then fit queries and centroids to its margins."""
    teacher = open_teacher(task.settings.teacher, task)
    model, documents, scale = coded(task)
    loss = DynamicMargins(model, task.collection, documents, teacher, settings=task.settings, scale=scale)
    return fit_coded(task, "jpq_gpl", model, documents, loss)


class DynamicMargins(CollectionLoss):
    """The margin MSE of a relevant document and one that the query of the moment retrieves, in units of the teacher."""

    def __init__(
        self,
        model: Any,
        collection: TrainingCollection,
        documents: SearchedDocuments,
        teacher: Teacher,
        *,
        settings: JpqGplSettings,
        scale: float,
    ) -> None:
        super().__init__(collection)
        self.model = model
        self.documents = documents
        self.teacher = teacher
        self.teacher_scale = settings.teacher.scale
        self.depth = min(settings.depth, len(documents))
        self.seed = settings.seed
        self.scale = scale

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Any:
        (tokens,) = features
        queries = self.model(tokens)["sentence_embedding"].float()
        rows = labels.cpu().numpy()
        # A search by what is no number has no order.
        self.finite({"sum of the query vectors": queries.sum()}, rows)
        pairs = self._pairs(rows, self.documents.nearest(queries, self.depth))
        scores = self.scale * self.documents.scores(queries, pairs)
        wanted = (self.teacher_scale * taught(self.teacher, rows, pairs)).to(scores.device)
        loss = margin_mse(scores[:, 0], scores[:, 1], wanted[:, 0], wanted[:, 1])
        return self.finite(loss, rows)

    def _pairs(self, rows: Rows, found: Rows) -> Rows:
        """Return (B, 2), a relevant document of each query and one of those found; a random one where all are relevant.

        What is drawn depends on the batch and what it finds alone, so that a resumed training goes on to the same.
        """
        generator = np.random.default_rng([self.seed, *rows[:2].tolist(), *found[0, :2].tolist()])
        positives = draw_positives(self.collection.judgments, rows, generator)
        negatives = np.empty(len(rows), np.int64)
        for place, (row, retrieved) in enumerate(zip(rows.tolist(), found, strict=True)):
            others = np.setdiff1d(retrieved, self.collection.barred.relevant(row))
            chosen = generator.choice(others) if len(others) else random_negative(self.collection, row, generator)
            negatives[place] = chosen
        return np.stack([positives, negatives], axis=1)


RECIPE = Recipe(
    "jpq_gpl",
    "Query encoder and centroids by a cross-encoder's margins on generated queries.",
    "INCOME, arXiv:2205.11498",
    JpqGplSettings,
    train,
    start=quantised,
    start_is=QUANTISED,
)
