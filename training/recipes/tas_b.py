"""TAS-Balanced: batches of one topic, pairs balanced by the teacher's margin, two teachers.

Hofstätter et al. 2021, "Efficiently Teaching an Effective Dense Retriever with Balanced Topic Aware Sampling",
arXiv:2104.06967; sebastian-hofstaetter/matchmaker. The original lowers its rate on plateaus and stops early on
nDCG@10 of judged queries; here rate and length are those of `fit`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from retriever.errors import InvalidInput
from training.batch import Batch, Objective
from training.batches import ShuffledBatchSampler, TopicBatchSampler
from training.candidates import Candidates
from training.clusters import Labels, topic_clusters
from training.collection import TrainingCollection
from training.encoders import as_encoder, scale_of
from training.losses.contrastive import info_nce
from training.losses.margins import in_batch_margin_mse, margin_mse
from training.negatives import Draw, Rows
from training.pair_scores import PairScores, pair_scores
from training.pairs import Choice, hard_margin, margin_bins, uniform
from training.recipe import Recipe
from training.settings import FitSettings
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task
from training.teacher_settings import TeacherSettings, open_teacher, score_matrix
from training.teachers import Teacher

LABELS = "clusters.npy"


class TasBSettings(StaticSettings):
    """sampling     random: queries and pairs at random; topic: batches of one cluster of queries, pairs at random;
                 topic_balanced: the same, pairs over equal bins of the pair teacher's margin; topic_balanced_hard:
                 only pairs whose margin is at most `cutoff`
    supervision  both: L_pair + in_batch_weight / 2 (L_in_batch+ + L_in_batch-); pair or in_batch alone;
                 none: softmax over the batch without a teacher
    pair_teacher       scores each (query, relevant document, mined negative) once, before training
    batch_teacher      scores every query with every document of a batch, live
    queries_per_cluster  makes ceil(queries / this) clusters
    clusters_per_batch   1 is the paper's; the batch is shared evenly
    depth        so many of the base's best documents, or of a file's, are each query's negatives
    bins         of the margins between a query's least and largest
    cutoff       of topic_balanced_hard; matchmaker's configurations have 6 for a cross-encoder's logits. A query
                 without such a pair gives its hardest ones instead of being left out
    """

    sampling: Literal["random", "topic", "topic_balanced", "topic_balanced_hard"] = "topic_balanced"
    supervision: Literal["none", "pair", "in_batch", "both"] = "both"
    pair_teacher: TeacherSettings = TeacherSettings(kind="cross_encoder", model="cross-encoder/ms-marco-MiniLM-L6-v2")
    batch_teacher: TeacherSettings = TeacherSettings(kind="late_interaction", model="colbert-ir/colbertv2.0")
    in_batch_weight: float = Field(0.75, gt=0)
    queries_per_cluster: int = Field(200, ge=1)
    clusters_per_batch: int = Field(1, ge=1)
    depth: int = Field(100, ge=1, le=1000)
    bins: int = Field(10, ge=1)
    cutoff: float = 6.0
    query_tokens: int = Field(30, ge=4, le=8192)
    document_tokens: int = Field(200, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=32, learning_rate=7e-6)

    @property
    def scores_pairs(self) -> bool:
        """Whether the pair teacher is asked: to teach, or to choose among pairs."""
        return self.supervision in ("pair", "both") or self.sampling in ("topic_balanced", "topic_balanced_hard")

    @property
    def scores_batches(self) -> bool:
        """Whether the batch teacher is asked."""
        return self.supervision in ("in_batch", "both")

    def other_models(self) -> dict[str, str]:
        pair = self.pair_teacher.models("pair_teacher") if self.scores_pairs else {}
        batch = self.batch_teacher.models("batch_teacher") if self.scores_batches else {}
        return super().other_models() | pair | batch


def train(task: Task[TasBSettings]) -> Path:
    """Cluster the queries and mine with the base, score the pairs, fit; the base should be a warmed-up retriever."""
    settings, collection = task.settings, task.collection
    live = open_teacher(settings.batch_teacher, task) if settings.scores_batches else None
    model = task.open_base()
    sampler: Callable[..., Any] = ShuffledBatchSampler
    if settings.sampling != "random":
        labels = _clusters(task, model)
        sampler = partial(TopicBatchSampler, labels=labels, clusters_per_batch=settings.clusters_per_batch)
    mined = static_negatives(task, model).candidates
    taught_pairs = settings.supervision in ("pair", "both")
    scores = None
    if settings.scores_pairs:
        scores = pair_scores(task, mined, settings.pair_teacher, "score")
    draw = drawn_pairs(collection, mined, _choice(settings), scores)
    objective = supervised(settings, scale_of(settings, model), scores if taught_pairs else None, live)
    return task.fit("tas_b", model, objective, draw, batch_sampler=sampler)


def _clusters(task: Task[TasBSettings], model: Any) -> Labels:
    """Return the cluster of each query, by the stage `cluster`."""
    count = -(-len(task.collection.queries) // task.settings.queries_per_cluster)

    def work(folder: Path) -> dict[str, Any]:
        labels = topic_clusters(as_encoder(model).encode_queries(task.collection.queries), count, task.settings.seed)
        temporary = folder / f".{LABELS}.part.npy"
        np.save(temporary, labels, allow_pickle=False)
        temporary.replace(folder / LABELS)
        sizes = np.bincount(labels)
        return {"clusters": len(sizes), "smallest": int(sizes.min()), "largest": int(sizes.max())}

    labels: Labels = np.load(task.stages.run("cluster", work) / LABELS, allow_pickle=False)
    return labels


def _choice(settings: TasBSettings) -> Choice:
    if settings.sampling == "topic_balanced":
        return partial(margin_bins, bins=settings.bins)
    if settings.sampling == "topic_balanced_hard":
        return partial(hard_margin, cutoff=settings.cutoff)
    return uniform


def drawn_pairs(collection: TrainingCollection, mined: Candidates, choose: Choice, scores: PairScores | None) -> Draw:
    """Return what draws one pair of a relevant and a mined document for each query.

    choose  among all pairs of a query, by the teacher's scores of the mined and of the relevant document of each
    scores  None where `choose` looks at none
    """

    def draw(queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        positives, negatives = np.empty(len(queries), np.int64), np.empty((len(queries), 1), np.int64)
        for place, query in enumerate(queries.tolist()):
            relevant, hard = collection.judgments.relevant(query), mined.of(query)[0]
            if len(hard) == 0:
                raise InvalidInput(
                    f"query {collection.query_ids[query]!r} has no negative: every document is relevant to it."
                )
            # All pairs: each relevant document with each mined one.
            listed = np.concatenate([relevant, hard]).astype(np.int64)
            known = np.zeros(len(listed), np.float32) if scores is None else scores(np.full(len(listed), query), listed)
            theirs = np.tile(known[len(relevant) :], len(relevant))
            ours = np.repeat(known[: len(relevant)], len(hard))
            chosen = choose(theirs, ours, 1, generator)
            pair = int(chosen[0]) if len(chosen) else int(np.argmin(ours - theirs))
            positives[place], negatives[place, 0] = relevant[pair // len(hard)], hard[pair % len(hard)]
        return positives, negatives

    return draw


def supervised(settings: TasBSettings, scale: float, pairs: PairScores | None, live: Teacher | None) -> Objective:
    """Return the loss of a batch of B queries, B relevant documents and B negatives.

    scale  factor on the student's scores
    pairs  gives L_pair, `live` gives L_in_batch; with neither it is the softmax over the batch
    """

    def objective(batch: Batch) -> Tensor | Mapping[str, Tensor]:
        size = batch.size
        scores = scale * batch.scores()  # (B, 2B)
        own, hard = scores[:, :size].diagonal(), scores[:, size:].diagonal()
        losses: dict[str, Tensor] = {}
        if pairs is not None:
            taught = pairs(np.tile(batch.query_rows, 2), batch.document_rows)
            wanted = torch.from_numpy(taught).to(scores.device)
            losses["pair"] = margin_mse(own, hard, wanted[:size], wanted[size:])
        if live is not None:
            matrix = settings.batch_teacher.scale * score_matrix(live, batch.query_rows, batch.document_rows)
            teacher = torch.from_numpy(matrix).to(scores.device)
            apart = ~torch.eye(size, dtype=torch.bool, device=scores.device)
            for name, columns in (("positives", slice(0, size)), ("negatives", slice(size, None))):
                losses[f"in_batch_{name}"] = (settings.in_batch_weight / 2) * in_batch_margin_mse(
                    scores[:, columns], teacher[:, columns], own, teacher[:, :size].diagonal(), apart
                )
        return losses or info_nce(scores, batch.relevant)

    return objective


RECIPE = Recipe(
    "tas_b",
    "Batches of one topic, pairs balanced by margin, two teachers.",
    "TAS-Balanced, arXiv:2104.06967",
    TasBSettings,
    train,
)
