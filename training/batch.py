"""From rows to a batch of texts, and from a batch's embeddings to its loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from retriever.errors import ModelFault
from training.collection import TrainingCollection
from training.negatives import Draw, Rows


@dataclass
class Batch:
    """Embeddings of one batch, and what is known of its pairs.

    queries        (B, H), of unit length where the model compares by cosine
    documents      (B * (1 + h), H): first the relevant document of each query, then h negatives of each query
    query_rows     int64[B]
    document_rows  int64[B * (1 + h)]
    relevant       bool (B, B * (1 + h)), on the embeddings' device; copies of a relevant document's text and the
                   query itself as a document count as relevant, since they are no negatives
    """

    queries: Tensor
    documents: Tensor
    query_rows: Rows
    document_rows: Rows
    relevant: Tensor

    @property
    def size(self) -> int:
        return len(self.query_rows)

    def scores(self) -> Tensor:
        """Return (B, B * (1 + h)) inner products."""
        return self.queries @ self.documents.T

    def own_scores(self) -> Tensor:
        """Return (B, 1 + h): of each query with its own documents only, the relevant one first."""
        own = self.own(self.documents)
        return torch.einsum("bh,bkh->bk", self.queries, own)

    def own_relevant(self) -> Tensor:
        """Return bool (B, 1 + h): which of each query's own documents are relevant to it."""
        rows = torch.arange(self.size, device=self.relevant.device)
        columns = self.own(torch.arange(len(self.document_rows), device=self.relevant.device))
        return self.relevant[rows.unsqueeze(1), columns]

    def own(self, values: Tensor) -> Tensor:
        """Return (B, 1 + h, ...) from values of all documents (B * (1 + h), ...)."""
        positives, negatives = values[: self.size], values[self.size :]
        return torch.cat([positives.unsqueeze(1), negatives.reshape(self.size, -1, *values.shape[1:])], dim=1)


Objective = Callable[[Batch], Tensor | Mapping[str, Tensor]]

Parts = TypeVar("Parts", bound=Tensor | Mapping[str, Tensor])
"""A loss, or its parts by name."""


class RowCollator:
    """Draws the documents of a batch of query rows and tokenises both sides.

    Which ones are drawn depends on seed, epoch and the batch's rows alone, so a resumed training sees the same.
    """

    # The trainer hands this to its samplers.
    valid_label_columns: Sequence[str] = ()

    def __init__(
        self,
        model: Any,
        collection: TrainingCollection,
        draw: Draw | None,
        *,
        query_tokens: int,
        document_tokens: int,
        seed: int,
    ) -> None:
        self.model = model
        self.collection = collection
        self.draw = draw
        self.query_tokens = query_tokens
        self.document_tokens = document_tokens
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also of a draw that changes with it."""
        self.epoch = epoch
        follow = getattr(self.draw, "set_epoch", None)
        if follow is not None:
            follow(epoch)

    def __call__(self, features: list[dict[str, int]]) -> dict[str, Any]:
        queries = np.array([feature["row"] for feature in features], np.int64)
        texts = [self.collection.queries[row] for row in queries]
        batch = self._tokens(texts, "query", self.query_tokens)
        if self.draw is None:
            return {**batch, "label": torch.from_numpy(queries)}
        generator = np.random.default_rng([self.seed, self.epoch, *queries[:2].tolist()])
        positives, negatives = self.draw(queries, generator)
        rows = np.concatenate([positives, negatives.ravel()])
        contents = [self.collection.documents[row].content for row in rows]
        batch |= self._tokens(contents, "document", self.document_tokens)
        return {**batch, "label": torch.from_numpy(np.concatenate([queries, rows]))}

    def prompt(self, side: str) -> str | None:
        """Return what stands before the texts of a side in the batch that is being made."""
        prompt: str | None = self.model.prompts.get(side)
        return prompt

    def _tokens(self, texts: list[str], side: str, most: int) -> dict[str, Any]:
        inputs = self.model.preprocess(texts, prompt=self.prompt(side), task=side, max_length=most)
        return {f"{side}_{key}": value for key, value in inputs.items()} | {f"{side}_task": side}


class CollectionLoss(nn.Module):
    """A loss over queries of a collection, which names them where its batch breaks."""

    def __init__(self, collection: TrainingCollection) -> None:
        super().__init__()
        self.collection = collection
        self.query_rows: Rows = np.zeros(0, np.int64)

    def finite(self, loss: Parts, query_rows: Rows) -> Parts:
        """Return the loss of a batch. Raises ModelFault naming its queries when it is NaN or infinite."""
        self.query_rows = query_rows
        parts = loss if isinstance(loss, Mapping) else {"loss": loss}
        for name, value in parts.items():
            if not torch.isfinite(value.detach()).all():
                self._refuse(name, value)
        return loss

    def require_finite_gradient(self, norm: Tensor) -> None:
        """Raise ModelFault naming the queries of the latest batch when the norm of its gradient is NaN or infinite."""
        if not torch.isfinite(norm):
            self._refuse("norm of the gradient", norm)

    def _refuse(self, name: str, value: Tensor) -> NoReturn:
        ids = [self.collection.query_ids[row] for row in self.query_rows]
        raise ModelFault(
            f"the {name} of a batch is {float(value.detach())}; its queries are {ids[:8]}"
            f"{' ...' if len(ids) > 8 else ''}. Look at their texts, or lower learning_rate."
        )


class BatchLoss(CollectionLoss):
    """Encodes both sides of a batch and hands them to an objective."""

    def __init__(self, model: Any, collection: TrainingCollection, objective: Objective) -> None:
        super().__init__(collection)
        self.model = model
        self.objective = objective
        self.cosine = model.similarity_fn_name in (None, "cosine")

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor | Mapping[str, Tensor]:
        queries, documents = (self._embed(side) for side in features)
        rows = labels.cpu().numpy()
        query_rows, document_rows = rows[: len(queries)], rows[len(queries) :]
        relevant = torch.from_numpy(self.collection.barred.mask(query_rows, document_rows)).to(queries.device)
        loss = self.objective(Batch(queries, documents, query_rows, document_rows, relevant))
        return self.finite(loss, query_rows)

    def _embed(self, features: dict[str, Tensor]) -> Tensor:
        embeddings = self.model(features)["sentence_embedding"].float()
        return functional.normalize(embeddings, dim=1) if self.cosine else embeddings
