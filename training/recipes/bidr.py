"""BiDR: light product codes that find candidates, and a second encoder that only has to put them in order.

Xiao et al. 2022, "Progressively Optimized Bi-Granular Document Representation for Scalable Embedding Based Retrieval",
arXiv:2201.05409; microsoft/BiDR. The original compares unrotated documents to rotated codes in its squared error,
which its weight of 0 hides; here both are rotated.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from training.batch import Batch, Objective
from training.batches import GraphWalkBatchSampler
from training.candidates import Candidates
from training.encoders import scale_of
from training.finished import copy_model
from training.losses.contrastive import info_nce
from training.losses.hashing import part_distances, quantisation_error, soft_choice
from training.negatives import Rows, draw_positives, random_negative, with_negatives
from training.quantisation import CENTROIDS, open_quantised, require_quantisable, settling
from training.recipe import Recipe
from training.settings import EncoderSettings, FitSettings
from training.task import Task
from training.untrained_heads import QUANTISED, quantised

LOCAL = "local"


class BidrSettings(EncoderSettings):
    """parts          bytes of a document's code; must divide the width. None for an eighth of the width, or the next
                   fewer that divide it
    error_weight   of the squared distance between code and document; 0 as the original's instructions have it
    centroid_rate  learning rate of the centroids, which have no weight decay
    depth          documents that the codes find for each training query
    near           ranks that the local encoder's negatives come from
    far            ranks by which the walk goes on to other queries
    snowball       walk by what was found first instead of last
    patches        neighbourhoods in a batch
    train_global   fit the base on random negatives first; without it the base must be a retriever already
    fit            of that global encoder
    quantise_fit   of encoder and codes together
    local_fit      of the local encoder, from the base
    """

    parts: int | None = Field(None, ge=1)
    error_weight: float = Field(0.0, ge=0)
    centroid_rate: float = Field(1e-4, gt=0)
    depth: int = Field(1000, ge=2, le=10_000)
    near: tuple[int, int] = (0, 200)
    far: tuple[int, int] = (200, 400)
    snowball: bool = False
    patches: int = Field(1, ge=1)
    query_tokens: int = Field(24, ge=4, le=8192)
    train_global: bool = True
    fit: FitSettings = FitSettings(batch_size=128, learning_rate=1e-4, epochs=30)
    quantise_fit: FitSettings = FitSettings(batch_size=128, learning_rate=1e-4, epochs=30)
    local_fit: FitSettings = FitSettings(batch_size=128, learning_rate=1e-4, epochs=30)

    @model_validator(mode="after")
    def _deep_enough(self) -> Self:
        if self.far[0] >= self.depth:
            raise ValueError(f"depth={self.depth} does not reach the ranks far={self.far}; raise it")
        return self


def train(task: Task[BidrSettings]) -> Path:
    """Fit a global encoder, its codes, and on what they find a local encoder; that one lies in the folder `local`."""
    settings, collection = task.settings, task.collection
    model = task.open_base()
    require_quantisable(task, model, settings.parts)
    scale = scale_of(settings, model)

    def softmax(batch: Batch) -> Tensor:
        return info_nce(scale * batch.scores(), batch.relevant)

    random = with_negatives(collection, 1)
    if settings.train_global:
        model = task.open_base(task.fit("global", model, softmax, random))
    model, head = open_quantised(task, model, settings.parts)
    folder = task.fit(
        "quantise",
        model,
        contrastive_quantisation(settings, head, scale),
        random,
        settings=settings.quantise_fit,
        callbacks=[settling(head)],
        rates={CENTROIDS: settings.centroid_rate},
    )
    mined = task.mine("mine", task.open_base(folder), settings.depth).candidates
    walked = WalkedNegatives(task, mined)
    local = task.fit(
        "local", task.open_base(), softmax, walked, settings=settings.local_fit, batch_sampler=walked.batches
    )
    copy_model(local, folder / LOCAL)
    return folder


def contrastive_quantisation(settings: BidrSettings, head: Any, scale: float) -> Objective:
    """Return the loss of rotated queries and documents: a softmax over the documents and one over their codes.

    Distances are multiplied by `scale` as scores are; else the choice between vectors of unit length would be even.
    """

    def objective(batch: Batch) -> Mapping[str, Tensor]:
        centroids = head.centroids.float()
        chosen = soft_choice(scale * part_distances(batch.documents, centroids))
        quantised = (chosen @ centroids).transpose(0, 1).reshape(batch.documents.shape)
        losses = {
            "continuous": info_nce(scale * batch.scores(), batch.relevant),
            "quantised": info_nce(scale * batch.queries @ quantised.T, batch.relevant),
        }
        if settings.error_weight:
            losses["error"] = settings.error_weight * quantisation_error(quantised, batch.documents)
        return losses

    return objective


class WalkedNegatives:
    """Draws for each query the negative by which the epoch's walk left it; where that is missing a random document.

    batches  makes the batch sampler whose walk it is
    """

    def __init__(self, task: Task[BidrSettings], candidates: Candidates) -> None:
        self.collection = task.collection
        settings = task.settings
        self.make = partial(
            GraphWalkBatchSampler,
            candidates=candidates,
            near=settings.near,
            far=settings.far,
            snowball=settings.snowball,
            patches=settings.patches,
        )
        self.sampler: GraphWalkBatchSampler | None = None
        self.epoch = 0

    def batches(self, *args: Any, **kwargs: Any) -> GraphWalkBatchSampler:
        self.sampler = self.make(*args, **kwargs)
        return self.sampler

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        assert self.sampler is not None, "batches of another sampler"
        walk = self.sampler.walk(self.epoch)
        place = np.empty(len(self.collection.queries), np.int64)
        place[walk.queries] = np.arange(len(walk.queries))
        negatives = walk.negatives[place[queries]].astype(np.int64)
        for row in np.flatnonzero(negatives[:, 0] < 0):
            negatives[row, 0] = random_negative(self.collection, int(queries[row]), generator)
        return draw_positives(self.collection.judgments, queries, generator), negatives


RECIPE = Recipe(
    "bidr",
    "Product codes that find candidates, and a second encoder, in `local`, that puts them in order.",
    "BiDR, arXiv:2201.05409",
    BidrSettings,
    train,
    start=quantised,
    start_is=QUANTISED,
)
