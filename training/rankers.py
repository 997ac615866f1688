"""Cross-encoders to train, on lists of documents that are drawn for each query."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import resolve
from retriever.models.folder import read_object
from retriever.progress import quiet_transformers, without_transformers_bars
from training.batch import CollectionLoss
from training.collection import TrainingCollection
from training.negatives import Draw, Rows

# Forward passes of one batch.
PASSES = 3

Start = Literal["joint", "classifier"]


@dataclass
class RankedLists:
    """Scores of one batch of lists.

    scores         (B, 1 + h) logits; the drawn relevant document in column 0
    query_rows     int64[B]
    document_rows  int64 (B, 1 + h)
    relevant       bool (B, 1 + h), on the scores' device; with copies, see `TrainingCollection.barred`
    """

    scores: Tensor
    query_rows: Rows
    document_rows: NDArray[np.int64]
    relevant: Tensor


ListObjective = Callable[[RankedLists], Tensor | Mapping[str, Tensor]]


def open_ranker(name: str | Path, *, max_tokens: int, seed: int, offline: bool = False) -> Any:
    """Return a sentence-transformers CrossEncoder with one output.

    A model that is none gives its body; the head then is drawn by the seed. Weights become float32.
    Raises BackendUnavailable.
    """
    from sentence_transformers.cross_encoder import CrossEncoder

    import retriever.models.joint_bert  # noqa: F401  makes the architecture known

    folder = resolve(str(name), offline=offline)
    try:
        with without_transformers_bars(), quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = CrossEncoder(
                str(folder), num_labels=1, max_length=max_tokens, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is no model to start a cross-encoder from: {error}") from error
    return model.float()


def write_start(
    folder: Path,
    base: str | Path,
    start: Start,
    *,
    setting: str,
    seed: int,
    joint_layers: int,
    bridge: float = -2.0,
    dropout: float | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """Write a cross-encoder to start from; returns what a stage's report says of it.

    start    joint: `retriever.models.joint_bert` of a bi-encoder; classifier: any body with a new layer, drawn by seed
    setting  the name of the setting that asked for it, for errors
    dropout  of the model; None for the base's

    Raises InvalidInput for a joint start of no BERT.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = resolve(str(base), offline=offline)
    with without_transformers_bars(), quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if start == "joint":
            kind = read_object(place / "config.json").get("model_type")
            if kind != "bert":
                raise InvalidInput(f"{setting}=joint needs a BERT, {base} is {kind!r}; set {setting}=classifier.")
            from retriever.models.joint_bert import from_bi_encoder

            model = from_bi_encoder(str(place), joint_layers, bridge)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(str(place), num_labels=1, local_files_only=True)
        if dropout is not None:
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(model.config, name):
                    setattr(model.config, name, dropout)
        model.save_pretrained(str(folder))
        AutoTokenizer.from_pretrained(str(place), local_files_only=True).save_pretrained(str(folder))
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


class ListCollator:
    """Draws the documents of a batch of query rows; which ones depends on seed, epoch and rows alone."""

    valid_label_columns: Sequence[str] = ()

    def __init__(self, draw: Draw, *, seed: int) -> None:
        self.draw = draw
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also of a draw that changes with it."""
        self.epoch = epoch
        follow = getattr(self.draw, "set_epoch", None)
        if follow is not None:
            follow(epoch)

    def __call__(self, features: list[dict[str, int]]) -> dict[str, Tensor]:
        queries = np.array([feature["row"] for feature in features], np.int64)
        generator = np.random.default_rng([self.seed, self.epoch, *queries[:2].tolist()])
        positives, negatives = self.draw(queries, generator)
        # As the label, since the trainer's other columns are texts.
        return {"label": torch.from_numpy(np.column_stack([queries, positives, negatives]))}


class ListLoss(CollectionLoss):
    """Scores each query with its documents and hands the lists to an objective.

    both_orders  the lists stand there twice, the second time with the document before the query in every pair
    """

    def __init__(
        self, model: Any, collection: TrainingCollection, objective: ListObjective, *, both_orders: bool = False
    ) -> None:
        super().__init__(collection)
        self.model = model
        self.objective = objective
        self.both_orders = both_orders

    def forward(self, features: list[Any], labels: Tensor, **_: Any) -> Tensor | Mapping[str, Tensor]:
        rows = labels.cpu().numpy()
        queries, documents = rows[:, 0], rows[:, 1:]
        scores = self.scores(queries, documents)
        if self.both_orders:
            scores = torch.cat([scores, self.scores(queries, documents, swapped=True)])
            queries, documents = np.tile(queries, 2), np.tile(documents, (2, 1))
        relevant = np.stack(
            [np.isin(own, self.collection.barred.relevant(int(q))) for q, own in zip(queries, documents, strict=True)]
        )
        lists = RankedLists(scores, queries, documents, torch.from_numpy(relevant).to(scores.device))
        return self.finite(self.objective(lists), queries)

    def scores(self, queries: Rows, documents: NDArray[np.int64], *, swapped: bool = False) -> Tensor:
        """Return (B, K) logits of each query with its documents, or of the documents with the query."""
        texts, contents = self.collection.queries, self.collection.documents
        pairs = [(texts[q], contents[d].content) for q, own in zip(queries, documents, strict=True) for d in own]
        if swapped:
            pairs = [(document, query) for query, document in pairs]
        # Passes over texts of like length need less padding.
        order = sorted(range(len(pairs)), key=lambda place: len(pairs[place][0]) + len(pairs[place][1]))
        passes = np.array_split(np.array(order), min(PASSES, len(order)))
        found = torch.cat([self._forward([pairs[place] for place in places]) for places in passes])
        logits: Tensor = found[torch.from_numpy(np.argsort(order)).to(found.device)].reshape(documents.shape)
        return logits

    def _forward(self, pairs: list[tuple[str, str]]) -> Tensor:
        tokens = self.model.preprocess(pairs)
        tokens = {
            key: value.to(self.model.device) if isinstance(value, Tensor) else value for key, value in tokens.items()
        }
        scores: Tensor = self.model(tokens)["scores"].float().reshape(len(pairs))
        return scores
