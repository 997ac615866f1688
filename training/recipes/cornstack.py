"""CoRNStack: pairs that two tests find consistent, and negatives that grow harder.

Suresh et al. 2024, "CoRNStack: High-Quality Contrastive Data for Better Code Retrieval and Reranking",
arXiv:2412.01007; the filter also as in nomic-ai/contrastors. The published code is for evaluation only, so the
threshold and the temperatures are from memory of the paper; all are settings.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor
from transformers import TrainerCallback

from retriever.encoder import load_encoder
from training.batch import Batch
from training.encoders import scale_of
from training.filters import below_positive, consistent
from training.losses.contrastive import info_nce
from training.mined import Mined
from training.negatives import Rows, with_negatives
from training.pairs import Places, Positive, Scores, from_candidates, softmax_curriculum, uniform
from training.recipe import Recipe
from training.schedules import annealed
from training.settings import FitSettings
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task

KEPT = "kept.npy"


class CornstackSettings(StaticSettings):
    """filter_model   encoder that judges the pairs; None takes all pairs as they are
    top_k          a pair stays if its document is among so many best of its query
    threshold      and its similarity is at least this
    depth          of the base's list that negatives are drawn from
    count          of each query
    ratio          candidates that score this much of the positive or more count as relevant and are left out
                   (TopK-PercPos); None leaves all in
    temperature    of the softmax over candidates that negatives are drawn from, without replacement, in the first
                   step; None draws uniformly
    last_temperature  in the last step of the whole training
    query_prompt   stands before every query, from mining to the finished encoder, which keeps it; None for the base's
    """

    filter_model: str | None = "all-MiniLM-L6-v2"
    top_k: int = Field(2, ge=1, le=1000)
    threshold: float = Field(0.7, ge=-1, le=1)
    depth: int = Field(100, ge=1, le=1000)
    count: int = Field(7, ge=1, le=100)
    ratio: float | None = Field(0.95, gt=0)
    temperature: float | None = Field(0.05, gt=0)
    last_temperature: float = Field(0.001, gt=0)
    query_prompt: str | None = "Represent this query for searching relevant code: "
    query_tokens: int = Field(64, ge=4, le=8192)
    fit: FitSettings = FitSettings(epochs=3)

    def other_models(self) -> dict[str, str]:
        return super().other_models() | ({"filter_model": self.filter_model} if self.filter_model else {})


def train(task: Task[CornstackSettings]) -> Path:
    """Filter the pairs, mine with the base, fit it on ever harder negatives."""
    settings = task.settings
    if settings.filter_model:
        kept = np.load(task.stages.run("filter", lambda folder: _filter(task, folder)) / KEPT, allow_pickle=False)
        task = task.on(task.collection.restrict(kept))
    model = task.open_base()
    if settings.query_prompt is not None:
        model.prompts["query"] = settings.query_prompt
    scale = scale_of(settings, model)
    draw = Curriculum(task, static_negatives(task, model, scored=settings.ratio is not None))

    def objective(batch: Batch) -> Tensor:
        return info_nce(scale * batch.scores(), batch.relevant)

    return task.fit("cornstack", model, objective, draw, callbacks=[counting_steps(draw)])


def _filter(task: Task[CornstackSettings], folder: Path) -> dict[str, Any]:
    """Write bool[pairs]: which pairs of query and relevant document are consistent."""
    settings, collection = task.settings, task.collection
    assert settings.filter_model is not None
    encoder = load_encoder(settings.filter_model, offline=task.offline)
    queries = encoder.encode_queries(collection.queries)
    documents = encoder.encode_documents(collection.documents)
    owners = np.repeat(np.arange(len(queries)), np.diff(collection.judgments.offsets))
    kept = consistent(queries[owners], documents, collection.judgments.documents, settings.top_k, settings.threshold)
    temporary = folder / f".{KEPT}.part.npy"
    np.save(temporary, kept, allow_pickle=False)
    temporary.replace(folder / KEPT)
    return {"pairs": len(kept), "kept": int(kept.sum())}


class Curriculum:
    """Draws negatives whose softmax temperature falls from step to step; see `counting_steps`."""

    def __init__(self, task: Task[CornstackSettings], mined: Mined) -> None:
        settings, collection = task.settings, task.collection
        candidates = mined.candidates
        if settings.ratio is not None:
            candidates = below_positive(candidates, mined.positive_scores, settings.ratio)
        self.settings = settings
        self.temperature = settings.temperature
        self.begin(0, 1)
        hard = from_candidates(candidates, self._choose)
        self._draw = with_negatives(collection, settings.count, hard)

    def begin(self, step: int, steps: int) -> None:
        """Say which of all steps, from 0, the next batch is of; those after it follow one by one."""
        self.step, self.steps = step, steps

    def __call__(self, queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        first, last = self.settings.temperature, self.settings.last_temperature
        if first is not None:
            # On a logarithmic scale, as the two differ by more than one order of magnitude.
            progress = self.step / max(1, self.steps - 1)
            self.temperature = float(np.exp(annealed(np.log(first), np.log(last), progress)))
        self.step += 1
        return self._draw(queries, generator)

    def _choose(self, scores: Scores, positive: Positive, count: int, generator: np.random.Generator) -> Places:
        if self.temperature is None:
            return uniform(scores, positive, count, generator)
        return softmax_curriculum(scores, positive, count, generator, temperature=self.temperature)


def counting_steps(curriculum: Curriculum) -> TrainerCallback:
    """Return a callback that tells the curriculum where in the training each epoch, also a resumed one, begins."""

    class Counting(TrainerCallback):
        # Not at each step: batches are made ahead of the steps that take them.
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            curriculum.begin(state.global_step, state.max_steps)

    return Counting()


RECIPE = Recipe(
    "cornstack",
    "Pairs filtered for consistency, negatives that grow harder; made for code.",
    "CoRNStack, arXiv:2412.01007",
    CornstackSettings,
    train,
)
