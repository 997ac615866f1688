"""ADORE: the query encoder alone, on the negatives that it retrieves itself at every step.

Zhan et al. 2021, arXiv:2104.08051; jingtaozhan/DRhard, adore/train.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from training.collection import TrainingCollection
from training.dynamic_search import DynamicSearchLoss, FlatDocuments
from training.encoders import as_encoder, scale_of, with_frozen_documents
from training.recipe import Recipe
from training.settings import EncoderSettings, FitSettings
from training.task import Task

VECTORS = "documents.npy"


class AdoreSettings(EncoderSettings):
    """depth       documents retrieved for each query at every step
    metric_cut  reciprocal ranks beyond it count as 0
    """

    depth: int = Field(200, ge=2, le=1000)
    metric_cut: int = Field(200, ge=1)
    query_tokens: int = Field(64, ge=4, le=8192)
    fit: FitSettings = FitSettings(learning_rate=5e-6, epochs=6)


def train(task: Task[AdoreSettings]) -> Path:
    """Encode all documents once with the base, then fit a copy of it for queries against that index."""
    base = task.open_base()
    index = task.stages.run("index", lambda folder: _encode(base, task.collection, folder))
    # Copy-on-write, since torch warns of memory that it could not write to; nothing is written.
    vectors = np.load(index / VECTORS, mmap_mode="c", allow_pickle=False)
    scale = scale_of(task.settings, base)
    model = with_frozen_documents(base)
    loss = DynamicSearchLoss(
        model,
        task.collection,
        FlatDocuments(vectors),
        depth=task.settings.depth,
        metric_cut=task.settings.metric_cut,
        scale=scale,
    )
    return task.fit_loss("adore", model, loss, None)


def _encode(model: Any, collection: TrainingCollection, folder: Path) -> dict[str, Any]:
    vectors = as_encoder(model).encode_documents(collection.documents)
    temporary = folder / f".{VECTORS}.part.npy"
    np.save(temporary, vectors, allow_pickle=False)
    temporary.replace(folder / VECTORS)
    return {"documents": len(vectors)}


RECIPE = Recipe(
    "adore",
    "Query encoder trained on what it retrieves itself; the document index stays as it is.",
    "ADORE, arXiv:2104.08051",
    AdoreSettings,
    train,
)
