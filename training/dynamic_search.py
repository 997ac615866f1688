"""Negatives that the query encoder retrieves itself at every step, ADORE's mechanism (arXiv:2104.08051)."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.batch import CollectionLoss
from training.collection import TrainingCollection
from training.evaluation import nearest
from training.losses.ranking import lambda_mrr


class SearchedDocuments(Protocol):
    """Documents that are searched with the query encoder, and maybe the centroids, of the moment."""

    def __len__(self) -> int: ...

    def nearest(self, queries: Tensor, k: int) -> NDArray[np.int64]:
        """Return rows (B, k) of the documents that score best, best first; exact."""

    def scores(self, queries: Tensor, documents: NDArray[np.int64]) -> Tensor:
        """Return (B, K) scores of the documents of rows (B, K), with gradients."""


@dataclass(frozen=True, eq=False)
class FlatDocuments:
    """Documents as vectors float32 (D, H) that stay as they are."""

    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, queries: Tensor, k: int) -> NDArray[np.int64]:
        return nearest(queries.detach().cpu().numpy(), self.vectors, k)[1]

    def scores(self, queries: Tensor, documents: NDArray[np.int64]) -> Tensor:
        vectors = torch.from_numpy(self.vectors[documents]).to(queries.device)
        return torch.einsum("bh,bkh->bk", queries, vectors)


class DynamicSearchLoss(CollectionLoss):
    """Retrieves with the current query encoder from documents and weighs the pairs of what it finds.

    depth       documents retrieved for each query
    metric_cut  see `training.losses.ranking.lambda_mrr`
    scale       factor on the scores
    """

    def __init__(
        self,
        model: Any,
        collection: TrainingCollection,
        documents: SearchedDocuments,
        *,
        depth: int,
        metric_cut: int,
        scale: float,
    ) -> None:
        super().__init__(collection)
        self.model = model
        self.documents = documents
        self.depth = min(depth, len(documents))
        self.metric_cut = metric_cut
        self.scale = scale
        self.cosine = model.similarity_fn_name in (None, "cosine")

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Any:
        (tokens,) = features
        queries = self.model(tokens)["sentence_embedding"].float()
        if self.cosine:
            queries = functional.normalize(queries, dim=1)
        rows = labels.cpu().numpy()
        # A search by what is no number has no order.
        self.finite({"sum of the query vectors": queries.sum()}, rows)
        documents, relevant, valid = self._lists(rows, self.documents.nearest(queries, self.depth))
        loss = lambda_mrr(
            self.scale * self.documents.scores(queries, documents),
            torch.from_numpy(relevant).to(queries.device),
            torch.from_numpy(valid).to(queries.device),
            retrieved=self.depth,
            metric_cut=self.metric_cut,
        )
        return self.finite(loss, rows)

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
