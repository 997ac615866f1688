"""AR2: a retriever that confuses a ranker, and the ranker that learns from it, in turns.

Zhang et al. 2022, "Adversarial Retriever-Ranker for Dense Text Retrieval", arXiv:2110.03611; microsoft/AR2. Each phase
has its own warm-up and decay of the learning rate here, where the original has one over all cycles.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from training.batch import Batch
from training.choice_settings import ChoiceSettings, mined_negatives
from training.encoders import scale_of
from training.finished import copy_model
from training.losses.contrastive import own_softmax
from training.losses.ranking import adversarial, distillation_cross_entropy
from training.mined import Mined
from training.negatives import Draw, with_negatives
from training.rankers import RankedLists, Start, open_ranker, write_start
from training.recipe import Recipe
from training.reranking import compare_with_ranker
from training.settings import FitSettings
from training.static_negatives import StaticSettings, static_negatives
from training.task import Task
from training.teachers import CrossEncoderTeacher

RANKER = "ranker"


class Ar2Settings(StaticSettings):
    """base           the warmed-up retriever
    ranker         cross-encoder to begin with, or a model whose body becomes one
    ranker_start   classifier: such a body gets a new layer; joint: `ranker` is a bi-encoder, a BERT with mean pooling
                   such as the base, and becomes `retriever.models.joint_bert`, which begins with its order
    joint_layers   of "joint": upper layers that read query and document together
    ranker_tokens  of query and document together
    depth          of the retriever's list that negatives are drawn from
    choose         how they are drawn
    count          negatives of each query; no others, also not those of the batch
    cycles         each: ranker, then retriever, then mining anew (refresh: false keeps the first list)
    adversarial    lambda: 0 leaves distillation alone, 1 the adversarial term alone; the original's argument
                   parser has 0, the paper 0.5
    adversarial_reduction  the original sums this term over the batch and averages the other one, so that its
                   weight grows with the batch (8 there); "mean" averages both
    fit            of the retriever in each cycle
    ranker_warmup  of the ranker before the first cycle
    ranker_fit     of the ranker in each cycle
    """

    ranker: str = "all-MiniLM-L6-v2"
    ranker_start: Start = "classifier"
    joint_layers: int = Field(2, ge=0, le=100)
    ranker_tokens: int = Field(160, ge=8, le=8192)
    depth: int = Field(100, ge=1, le=1000)
    count: int = Field(15, ge=1, le=255)
    cycles: int = Field(16, ge=1, le=1000)
    refresh: bool = True
    choose: ChoiceSettings = ChoiceSettings()
    adversarial: float = Field(0.5, ge=0, le=1)
    adversarial_reduction: Literal["sum", "mean"] = "sum"
    fit: FitSettings = FitSettings(batch_size=8, learning_rate=1e-5, steps=1500, max_grad_norm=2.0)
    ranker_warmup: FitSettings = FitSettings(batch_size=8, learning_rate=1e-5, steps=4000, max_grad_norm=2.0)
    ranker_fit: FitSettings = FitSettings(batch_size=8, learning_rate=1e-6, steps=500, max_grad_norm=2.0)

    def other_models(self) -> dict[str, str]:
        return super().other_models() | {"ranker": self.ranker}


def train(task: Task[Ar2Settings]) -> Path:
    """Warm the ranker up, then train both in turns; the ranker lies in the model's folder `ranker`."""
    settings = task.settings
    retriever = task.open_base()
    scale = scale_of(settings, retriever)
    mined = static_negatives(task, retriever, "mine-0", scored=settings.choose.scored)
    place = _fit_ranker(task, "ranker-warmup", _start(task), _draw(task, mined), settings.ranker_warmup)
    for cycle in range(settings.cycles):
        draw = _draw(task, mined)
        # Cycle 0 has the seed of the warm-up, which the ranker has behind it.
        place = _fit_ranker(task.cycle(cycle + 1), f"ranker-{cycle}", place, draw, settings.ranker_fit)
        ranker = _open_ranker(task, place)
        folder = task.cycle(cycle).fit(f"retriever-{cycle}", retriever, _objective(task, ranker, scale), draw)
        retriever = task.open_base(folder)
        if settings.refresh and cycle + 1 < settings.cycles:
            mined = static_negatives(task, retriever, f"mine-{cycle + 1}", anew=True)
    copy_model(place, folder / RANKER)
    return folder


def _objective(task: Task[Ar2Settings], ranker: Any, scale: float) -> Any:
    """Return lambda * adversarial + (1 - lambda) * distillation over each query's own documents."""
    settings, collection = task.settings, task.collection
    contents = [document.content for document in collection.documents]
    teacher = CrossEncoderTeacher(ranker, collection.queries, contents)

    def objective(batch: Batch) -> Tensor:
        scores = scale * batch.own_scores()
        own = batch.own(torch.from_numpy(batch.document_rows)).numpy()
        queries = batch.query_rows.repeat(own.shape[1])
        rewards = torch.from_numpy(teacher.scores(queries, own.ravel()).reshape(own.shape)).to(scores.device)
        weight = settings.adversarial
        return weight * adversarial(scores, rewards, reduction=settings.adversarial_reduction) + (
            1 - weight
        ) * distillation_cross_entropy(scores, rewards)

    return objective


def _draw(task: Task[Ar2Settings], mined: Mined) -> Draw:
    hard = mined_negatives(mined, task.settings.choose)
    return with_negatives(task.collection, task.settings.count, hard)


def _start(task: Task[Ar2Settings]) -> str | Path:
    """Return the ranker to begin with."""
    settings = task.settings
    if settings.ranker_start == "classifier":
        return settings.ranker
    return task.stages.run(
        "ranker-start",
        lambda folder: write_start(
            folder, settings.ranker, "joint", setting="ranker_start", seed=settings.seed,
            joint_layers=settings.joint_layers, offline=task.offline,
        ),
    )  # fmt: skip


def _open_ranker(task: Task[Ar2Settings], name: str | Path) -> Any:
    settings = task.settings
    return open_ranker(name, max_tokens=settings.ranker_tokens, seed=settings.seed, offline=task.offline)


def _fit_ranker(task: Task[Ar2Settings], stage: str, start: str | Path, draw: Draw, settings: FitSettings) -> Path:
    def objective(lists: RankedLists) -> Tensor:
        return own_softmax(lists.scores, lists.relevant)

    return task.fit_ranker(stage, _open_ranker(task, start), objective, draw, settings)


def compare(task: Task[Ar2Settings], trained: Path) -> dict[str, Any]:
    """Compare the bi-encoder with its base, and the cross-encoder with the bi-encoder."""
    return compare_with_ranker(task, trained, trained / RANKER, max_tokens=task.settings.ranker_tokens)


RECIPE = Recipe(
    "ar2",
    "Retriever and ranker trained against each other, in turns.",
    "AR2, arXiv:2110.03611",
    Ar2Settings,
    train,
    compare,
)
