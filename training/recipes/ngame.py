"""NGAME: batches of similar queries, whose clusters grow and follow the model at almost no cost.

Dahiya et al. 2023, "NGAME: Negative Mining-aware Mini-batching for Extreme Classification", arXiv:2207.04452;
Extreme-classification/ngame. This is its first stage, the Siamese encoder; the classifiers of the later ones are for
a fixed set of labels.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from training.batch import Batch, BatchLoss
from training.batches import ClusterBatchSampler
from training.embedding_memory import EmbeddingMemory, MemoryInCheckpoints
from training.encoders import as_encoder
from training.fitting import fit_encoder
from training.losses.contrastive import triplet_hard_mining
from training.negatives import positives_only
from training.recipe import Recipe
from training.schedules import NGAME_DOUBLINGS, cluster_size
from training.settings import EncoderSettings, FitSettings
from training.task import Task

CLUSTERS = "clusters"


class NgameSettings(EncoderSettings):
    """batches      clustered, or random to compare with
    doublings    epochs at which the size of clusters doubles, from 1, which is random; the same epoch several times
                 multiplies at once, [0, 0, 0, 0] begins with clusters of 16
    refresh      epochs after which the queries are clustered again, once clusters are larger than 1
    mask         whether documents that are relevant to a query, but were drawn for another one, are no negatives of it
    count        negatives of each query: the best of the batch
    margin       by which the relevant document should be ahead of them, in cosine
    temperature  of the softmax that weighs them

    The loss compares by cosine; `scale` has no part in it.
    """

    batches: Literal["clustered", "random"] = "clustered"
    doublings: tuple[int, ...] = NGAME_DOUBLINGS
    refresh: int = Field(5, ge=1)
    mask: bool = True
    count: int = Field(10, ge=1)
    margin: float = Field(0.3, ge=0)
    temperature: float = Field(0.1, gt=0)
    document_tokens: int = Field(32, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=1600, learning_rate=2e-4, epochs=300, warmup=0.01)

    @field_validator("doublings")
    @classmethod
    def _rising(cls, doublings: tuple[int, ...]) -> tuple[int, ...]:
        if any(epoch < 0 for epoch in doublings) or list(doublings) != sorted(doublings):
            raise ValueError(f"must be epochs of 0 or more in ascending order, got {list(doublings)}")
        return doublings


def train(task: Task[NgameSettings]) -> Path:
    """Fit the base on batches of clusters of the embeddings that training itself made."""
    settings, collection = task.settings, task.collection
    model = task.open_base()
    collator = task.collator(model, positives_only(collection.judgments))
    encoder = as_encoder(model)
    memory = EmbeddingMemory(
        len(collection.queries),
        encoder.width,
        lambda rows: encoder.encode_queries([collection.queries[row] for row in rows]),
    )
    similarity: defaultdict[int, list[float]] = defaultdict(list)

    def objective(batch: Batch) -> Tensor:
        memory.add(batch.query_rows, batch.queries.detach().cpu().numpy())
        scores = cosines(batch)
        similarity[collator.epoch].append(float(scores.detach()[~batch.relevant].mean()))
        return triplet_hard_mining(
            scores,
            negatives(batch, mask=settings.mask),
            count=settings.count,
            margin=settings.margin,
            temperature=settings.temperature,
        )

    def work(folder: Path) -> dict[str, Any]:
        samplers: list[ClusterBatchSampler] = []
        report = fit_encoder(
            model,
            BatchLoss(model, collection, objective),
            collator,
            folder,
            settings=settings.fit,
            seed=settings.seed,
            examples=len(collection.queries),
            batch_sampler=_sampler(settings, memory.vectors, folder / CLUSTERS, samplers),
            callbacks=[MemoryInCheckpoints(memory)],
        )
        return report | {
            # Since the last interruption, as the seconds are.
            "clustering_seconds": round(sum(sampler.seconds for sampler in samplers), 2),
            "queries_encoded_for_clustering": memory.encoded,
            "negative_cosine_by_epoch": {epoch: round(float(np.mean(v)), 4) for epoch, v in similarity.items()},
        }

    return task.stages.run("ngame", work)


def negatives(batch: Batch, *, mask: bool) -> Tensor:
    """Return bool (B, B): the documents of other queries; with `mask` without those that are relevant too."""
    own = torch.eye(batch.size, dtype=torch.bool, device=batch.relevant.device)
    return ~(own | batch.relevant) if mask else ~own


def cosines(batch: Batch) -> Tensor:
    """Return (B, B) cosines, also of a model that compares by inner product."""
    return functional.normalize(batch.queries, dim=1) @ functional.normalize(batch.documents, dim=1).T


def _sampler(
    settings: NgameSettings,
    vectors: Callable[[int], NDArray[np.float32]],
    folder: Path,
    made: list[ClusterBatchSampler],
) -> Callable[..., ClusterBatchSampler]:
    """Return what makes the sampler of a training and puts it into `made`."""
    doublings = settings.doublings if settings.batches == "clustered" else ()

    def make(*args: Any, **kwargs: Any) -> ClusterBatchSampler:
        sampler = ClusterBatchSampler(
            *args,
            **kwargs,
            vectors=vectors,
            size=partial(cluster_size, doublings=doublings),
            refresh=settings.refresh,
            folder=folder,
        )
        made.append(sampler)
        return sampler

    return make


RECIPE = Recipe(
    "ngame",
    "Batches of similar queries, clustered by what training itself computes, growing.",
    "NGAME, arXiv:2207.04452",
    NgameSettings,
    train,
)
