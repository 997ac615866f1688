"""ADORE: the query encoder alone, on the negatives that it retrieves itself at every step.

Zhan et al. 2021, arXiv:2104.08051; jingtaozhan/DRhard, adore/train.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.batch import finite
from training.collection import TrainingCollection
from training.encoders import as_encoder, scale_of, with_frozen_documents
from training.evaluation import nearest
from training.losses.ranking import lambda_mrr
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
    fit: FitSettings = FitSettings(learning_rate=5e-6)


def train(task: Task[AdoreSettings]) -> Path:
    """Encode all documents once with the base, then fit a copy of it for queries against that index."""
    base = task.open_base()
    index = task.stages.run("index", lambda folder: _encode(base, task.collection, folder))
    # Copy-on-write, since torch warns of memory that it could not write to; nothing is written.
    vectors = np.load(index / VECTORS, mmap_mode="c", allow_pickle=False)
    scale = scale_of(task.settings, base)
    model = with_frozen_documents(base)
    loss = DynamicSearchLoss(model, task.collection, vectors, task.settings, scale)
    return task.fit_loss("adore", model, loss, None)


def _encode(model: Any, collection: TrainingCollection, folder: Path) -> dict[str, Any]:
    vectors = as_encoder(model).encode_documents(collection.documents)
    temporary = folder / f".{VECTORS}.part.npy"
    np.save(temporary, vectors, allow_pickle=False)
    temporary.replace(folder / VECTORS)
    return {"documents": len(vectors)}


class DynamicSearchLoss(nn.Module):
    """Retrieves with the current query encoder from a fixed index and weighs the pairs of what it finds."""

    def __init__(
        self,
        model: Any,
        collection: TrainingCollection,
        vectors: NDArray[np.float32],
        settings: AdoreSettings,
        scale: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.collection = collection
        self.vectors = vectors
        self.settings = settings
        self.scale = scale
        self.cosine = model.similarity_fn_name in (None, "cosine")

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Any:
        (tokens,) = features
        queries = self.model(tokens)["sentence_embedding"].float()
        if self.cosine:
            queries = functional.normalize(queries, dim=1)
        rows = labels.cpu().numpy()
        depth = min(self.settings.depth, len(self.vectors))
        _, found = nearest(queries.detach().cpu().numpy(), self.vectors, depth)
        documents, relevant, valid = self._lists(rows, found)
        vectors = torch.from_numpy(self.vectors[documents]).to(queries.device)
        scores = self.scale * torch.einsum("bh,bkh->bk", queries, vectors)
        loss = lambda_mrr(
            scores,
            torch.from_numpy(relevant).to(queries.device),
            torch.from_numpy(valid).to(queries.device),
            retrieved=depth,
            metric_cut=self.settings.metric_cut,
        )
        return finite(loss, self.collection, rows)

    def _lists(
        self, rows: NDArray[np.int64], found: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return documents, relevant and valid (B, K); a list without a relevant document gets all of them appended."""
        judged = [self.collection.judgments.relevant(int(row)) for row in rows]
        appended = [
            known if not np.isin(known, retrieved).any() else known[:0]
            for known, retrieved in zip(judged, found, strict=True)
        ]
        width = found.shape[1] + max(map(len, appended))
        documents = np.zeros((len(rows), width), np.int64)
        relevant = np.zeros((len(rows), width), np.bool_)
        valid = np.zeros((len(rows), width), np.bool_)
        for place, (known, retrieved, missing) in enumerate(zip(judged, found, appended, strict=True)):
            barred = self.collection.barred.relevant(int(rows[place]))
            listed = np.concatenate([retrieved, missing])
            documents[place, : len(listed)] = listed
            relevant[place, : len(listed)] = np.isin(listed, known)
            # A copy of a relevant document is neither.
            valid[place, : len(listed)] = relevant[place, : len(listed)] | ~np.isin(listed, barred)
        return documents, relevant, valid


RECIPE = Recipe(
    "adore",
    "Query encoder trained on what it retrieves itself; the document index stays as it is.",
    "ADORE, arXiv:2104.08051",
    AdoreSettings,
    train,
)
