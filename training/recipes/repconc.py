"""RepCONC: both encoders with product codes that training itself assigns, evenly over the centroids.

Zhan et al. 2022, "Learning Discrete Representations via Constrained Clustering for Effective and Efficient Dense
Retrieval", arXiv:2110.05789; jingtaozhan/RepCONC. The original's batches of 4096 come from gradient caching, which is
left out here. Its last stage is `jpq` with this recipe's model as the base.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from training.batch import Batch, Objective
from training.encoders import scale_of
from training.losses.contrastive import info_nce
from training.losses.hashing import balanced_shares, part_distances, quantisation_error
from training.quantisation import CENTROIDS, open_quantised, require_quantisable, settling
from training.recipe import Recipe
from training.recipes.contrastive import DrawnSettings, drawn
from training.settings import FitSettings
from training.task import Task
from training.untrained_heads import QUANTISED, quantised

CENTROIDS_OF_A_PART = 256


class RepconcSettings(DrawnSettings):
    """parts          bytes of a document's code; must divide the width. None for an eighth of the width, or the next
                   fewer that divide it
    balanced       assign so that each batch uses all centroids alike; without it to the nearest centroid
    epsilon        of the Sinkhorn shares; smaller means harder
    rounds         of their normalisation
    error_weight   of the squared distance between code and document
    centroid_rate  learning rate of the centroids, which have no weight decay
    depth          negatives are among the base's so many best documents

    A batch must have 256 documents, negatives included: fewer cannot use all centroids.
    """

    parts: int | None = Field(None, ge=1)
    balanced: bool = True
    epsilon: float = Field(0.003, ge=0.0015)
    rounds: int = Field(100, ge=1, le=10_000)
    error_weight: float = Field(1e-4, ge=0)
    centroid_rate: float = Field(5e-4, gt=0)
    hard: Literal["none", "random", "mined"] = "mined"
    depth: int = Field(11, ge=1, le=1000)
    ratio: float | None = Field(None, gt=0)
    fit: FitSettings = FitSettings(batch_size=256, learning_rate=2e-5, epochs=5, warmup=0)

    @model_validator(mode="after")
    def _enough_documents(self) -> Self:
        documents = self.fit.batch_size * (1 if self.hard == "none" else 1 + self.count)
        if self.balanced and documents < CENTROIDS_OF_A_PART:
            raise ValueError(
                f"a batch of {documents} documents cannot use {CENTROIDS_OF_A_PART} centroids alike; raise "
                "fit.batch_size or count, or set balanced=false"
            )
        return self


def train(task: Task[RepconcSettings]) -> Path:
    """Start from OPQ of the base, fit base and centroids; in the end a document's code is its nearest centroids."""
    settings = task.settings
    base = task.open_base()
    require_quantisable(task, base, settings.parts)
    scale = scale_of(settings, base)
    draw = drawn(task, base)
    model, head = open_quantised(task, base, settings.parts)
    return task.fit(
        "repconc",
        model,
        constrained(settings, head, scale),
        draw,
        callbacks=[settling(head)],
        rates={CENTROIDS: settings.centroid_rate},
    )


def constrained(settings: RepconcSettings, head: Any, scale: float) -> Objective:
    """Return the loss of a batch of rotated queries and documents."""

    def objective(batch: Batch) -> Mapping[str, Tensor]:
        continuous = batch.documents
        distances = part_distances(continuous.detach(), head.centroids.detach().float())
        if settings.balanced:
            shares = balanced_shares(distances, epsilon=settings.epsilon, rounds=settings.rounds)
            codes = shares.argmax(dim=2).T
        else:
            codes = distances.argmin(dim=2).T
        assigned = head.decode(codes).float()
        # The gradient of the ranking reaches the centroids and, straight through, the document.
        quantised = assigned + continuous - continuous.detach()
        return {
            "ranking": info_nce(scale * batch.queries @ quantised.T, batch.relevant),
            "error": settings.error_weight * quantisation_error(assigned, continuous),
        }

    return objective


RECIPE = Recipe(
    "repconc",
    "Encoder and product codes together, all centroids used alike.",
    "RepCONC, arXiv:2110.05789",
    RepconcSettings,
    train,
    start=quantised,
    start_is=QUANTISED,
)
