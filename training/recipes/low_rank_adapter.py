"""A low-rank residual over frozen embeddings, for a collection with few labels.

After "Adapted Dense Retrieval", Khatry et al. 2023, arXiv:2310.05380, which leaves f and loss open; negatives are mined
in the whole corpus, anew in every cycle, by the embeddings as they are adapted. Texts are encoded once.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from retriever.heads.adapter import AdapterHead, Form, Sides
from training.batch import CollectionLoss
from training.collection import TrainingCollection
from training.encoders import as_encoder, scale_of
from training.evaluation import nearest
from training.fitting import fit_encoder
from training.losses.contrastive import info_nce
from training.nearest import nearest_candidates
from training.negatives import with_negatives
from training.pairs import from_candidates, uniform
from training.rankers import ListCollator
from training.recipe import Recipe
from training.settings import EncoderSettings, FitSettings
from training.task import Task

QUERIES, DOCUMENTS = "queries.npy", "documents.npy"


class LowRankAdapterSettings(EncoderSettings):
    """form         linear: B(Ax); lookup: softmax(xK)V; full: a whole matrix, to compare with
    rank         of the residual, or its slots
    sides        query leaves document vectors and so every index as they are; both adapts documents too
    depth        of the lists that negatives are drawn from, mined anew in each cycle
    count        negatives of each query, beside those of the batch
    cycles       of mining and fitting
    validation   share of the training queries that only choose the cycle: the one with most relevant documents in
                 the first place, the untouched start among them
    fit          of each cycle
    """

    form: Form = "linear"
    rank: int = Field(32, ge=1, le=4096)
    sides: Sides = "query"
    depth: int = Field(50, ge=1, le=1000)
    count: int = Field(4, ge=0, le=100)
    cycles: int = Field(5, ge=1, le=100)
    validation: float = Field(0.2, gt=0, lt=1)
    query_tokens: int = Field(64, ge=4, le=8192)
    document_tokens: int = Field(256, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=32, learning_rate=1e-3, weight_decay=0.01, epochs=4, save_steps=0)


def train(task: Task[LowRankAdapterSettings]) -> Path:
    """Encode all texts once, then mine and fit in turns; returns the cycle that does best on the queries held back."""
    settings, whole = task.settings, task.collection
    base = task.open_base()
    place = task.stages.run("vectors", lambda folder: _encode(base, whole, folder))
    queries, documents = (np.load(place / name, allow_pickle=False) for name in (QUERIES, DOCUMENTS))
    kept = _validation(len(whole.queries), settings)
    task, own = task.on(_of_queries(whole, ~kept)), queries[~kept]
    model = _with_head(base, settings)
    start = task.stages.run("start", lambda folder: _save(model, folder))
    best, most = start, _first_places(model, queries[kept], documents, _of_queries(whole, kept))
    for cycle in range(settings.cycles):
        folder = _cycle(task, model, own, documents, cycle)
        model = task.open_base(folder)
        found = _first_places(model, queries[kept], documents, _of_queries(whole, kept))
        task.stages.reports[f"fit-{cycle}"]["first_places"] = found
        if found > most:
            best, most = folder, found
    return best


def _encode(model: Any, collection: TrainingCollection, folder: Path) -> dict[str, Any]:
    encoder = as_encoder(model)
    for name, vectors in (
        (QUERIES, encoder.encode_queries(collection.queries)),
        (DOCUMENTS, encoder.encode_documents(collection.documents)),
    ):
        temporary = folder / f".{name}.part.npy"
        np.save(temporary, vectors, allow_pickle=False)
        temporary.replace(folder / name)
    return {"queries": len(collection.queries), "documents": len(collection.documents)}


def _validation(count: int, settings: LowRankAdapterSettings) -> NDArray[np.bool_]:
    """Return bool[Q]: which queries only choose the cycle; at least one, at most all but one."""
    mask = np.zeros(count, np.bool_)
    held = min(max(1, round(settings.validation * count)), max(count - 1, 0))
    mask[np.random.default_rng(settings.seed).permutation(count)[:held]] = True
    return mask


def _of_queries(collection: TrainingCollection, chosen: NDArray[np.bool_]) -> TrainingCollection:
    """Return the collection with the chosen queries only."""
    return collection.restrict(np.repeat(chosen, np.diff(collection.judgments.offsets)))


def _with_head(base: Any, settings: LowRankAdapterSettings) -> Any:
    """Freeze the base and put a head on it that changes nothing yet."""
    for module in base:
        module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        base.append(AdapterHead(base.get_embedding_dimension(), settings.rank, settings.form, settings.sides))
    return base


def _save(model: Any, folder: Path) -> dict[str, Any]:
    model.save_pretrained(str(folder), create_model_card=False)
    return {"trained_weights": sum(weight.numel() for weight in _head(model).parameters())}


def _head(model: Any) -> AdapterHead:
    head: AdapterHead = list(model)[-1]
    return head


def _cycle(
    task: Task[LowRankAdapterSettings],
    model: Any,
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    cycle: int,
) -> Path:
    """Mine with the embeddings as they are adapted, and fit the head on what is found."""
    settings, collection = task.settings, task.collection
    for module in list(model)[:-1]:
        module.requires_grad_(False)
    scale = scale_of(settings, model)

    def work(folder: Path) -> dict[str, Any]:
        mined = nearest_candidates(
            adapted(model, queries, "query"), adapted(model, documents, "document"), settings.depth, collection.barred
        )
        draw = with_negatives(collection, settings.count, from_candidates(mined, uniform))
        loss = VectorLoss(model, collection, queries, documents, scale)
        # Negatives and their order must differ from cycle to cycle.
        seed = settings.seed + cycle
        collator = ListCollator(draw, seed=seed)
        return fit_encoder(
            model, loss, collator, folder, settings=settings.fit, seed=seed, examples=len(collection.queries)
        )

    return task.stages.run(f"fit-{cycle}", work)


def adapted(model: Any, vectors: NDArray[np.float32], side: Literal["query", "document"]) -> NDArray[np.float32]:
    """Return base vectors (N, H) as the model's head changes them, of unit length where it compares by cosine."""
    with torch.inference_mode():
        found = _head(model).adapted(torch.from_numpy(vectors).to(model.device), side)
        if model.similarity_fn_name in (None, "cosine"):
            found = functional.normalize(found, dim=1)
    numbers: NDArray[np.float32] = found.cpu().numpy()
    return numbers


def _first_places(
    model: Any, queries: NDArray[np.float32], documents: NDArray[np.float32], collection: TrainingCollection
) -> int:
    """Count the queries whose best document, themselves left out, is relevant."""
    _, found = nearest(adapted(model, queries, "query"), adapted(model, documents, "document"), min(2, len(documents)))
    count = 0
    for row, own in enumerate(collection.itself):
        ranked = [document for document in found[row].tolist() if document not in own]
        count += bool(np.isin(ranked[:1], collection.judgments.relevant(row)).any())
    return count


class VectorLoss(CollectionLoss):
    """The softmax over a batch of rows whose base vectors are known; only the head is computed."""

    def __init__(
        self,
        model: Any,
        collection: TrainingCollection,
        queries: NDArray[np.float32],
        documents: NDArray[np.float32],
        scale: float,
    ) -> None:
        super().__init__(collection)
        self.model = model
        self.queries, self.documents = torch.from_numpy(queries), torch.from_numpy(documents)
        self.scale = scale
        self.cosine = model.similarity_fn_name in (None, "cosine")

    def forward(self, features: list[Any], labels: Tensor, **_: Any) -> Tensor:
        drawn = labels.cpu()
        queries, positives, negatives = drawn[:, 0], drawn[:, 1], drawn[:, 2:]
        rows = torch.cat([positives, negatives.reshape(-1)])
        relevant = self.collection.barred.mask(queries.numpy(), rows.numpy())
        first, second = self._adapted(self.queries[queries], "query"), self._adapted(self.documents[rows], "document")
        loss = info_nce(self.scale * first @ second.T, torch.from_numpy(relevant).to(first.device))
        return self.finite(loss, queries.numpy())

    def _adapted(self, vectors: Tensor, side: Literal["query", "document"]) -> Tensor:
        found = _head(self.model).adapted(vectors.to(self.model.device), side)
        return functional.normalize(found, dim=1) if self.cosine else found


RECIPE = Recipe(
    "low_rank_adapter",
    "A small residual over frozen embeddings; indexes stay valid where only queries are adapted.",
    "Adapted Dense Retrieval, arXiv:2310.05380",
    LowRankAdapterSettings,
    train,
)
