"""Trans-Encoder: bi-encoder and cross-encoder teach each other in turns, without judgments.

Liu et al. 2022, "Trans-Encoder: Unsupervised sentence-pair modelling through self- and mutual-distillations",
arXiv:2109.13059; amzn/trans-encoder. Its pairs are sentences of similarity test sets; here they are queries with the
documents that the bi-encoder ranks high and random ones, since the judgments to learn from are not looked at. The
original selects checkpoint and cycle on labelled pairs; here it is the cycle, and `select` says how.
"""

from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection
from retriever.models import resolve
from training.batch import Batch
from training.encoders import as_encoder
from training.finished import copy_model
from training.losses.margins import cosine_mse, soft_cross_entropy
from training.mined import Mined
from training.negatives import Draw, Rows
from training.rankers import RankedLists, Start, open_ranker, write_start
from training.recipe import Recipe, measure_splits
from training.reranking import compare_with_ranker
from training.settings import EncoderSettings, FitSettings
from training.task import Task
from training.teachers import BiEncoderTeacher, CrossEncoderTeacher, mutual, probabilities, unit_labels

CROSS_ENCODER = "cross_encoder"
MEASURE = "nDCG@10"


class TransEncoderSettings(EncoderSettings):
    """cross_encoder   whose body every cross-encoder starts from, as in the original's scripts
    cross_start     classifier: the body gets a new layer; joint: `cross_encoder` is a bi-encoder, a BERT with mean
                    pooling, and becomes `retriever.models.joint_bert`, which begins with its order
    joint_layers    of "joint": upper layers that read query and document together
    both_orders     cross-encoders learn each pair with the query first and with the document first, as the original's
                    do; except for QNLI's questions and sentences, which queries and documents are like
    second          another bi-encoder: the mutual form, in which labels of both are averaged; None for the self form
    depth           of the bi-encoder's list that pairs are taken from
    pairs           of each query and step; one in `random_share` of them random
    labels          how cosines become labels of the cross-encoder: negative ones cut to 0, or -1..1 mapped to 0..1
    cycles          of the original: 3
    select          whose models are the result: those of the cycle whose first bi-encoder has the best nDCG@10 on the
                    judged queries of the dev split, as in the original, or the last cycle's, which needs no judgments.
                    What is said of dev afterwards then flatters the result
    cross_tokens    of query and document together
    fit             of the bi-encoder in each cycle; it starts anew from the base
    cross_fit       of the cross-encoder in each cycle
    """

    cross_encoder: str = "all-MiniLM-L6-v2"
    cross_start: Start = "classifier"
    joint_layers: int = Field(2, ge=0, le=100)
    both_orders: bool = False
    second: str | None = None
    depth: int = Field(50, ge=2, le=1000)
    pairs: int = Field(4, ge=2, le=64)
    random_share: int = Field(4, ge=1)
    labels: Literal["clip", "rescale"] = "clip"
    cycles: int = Field(3, ge=1, le=20)
    select: Literal["dev", "last"] = "dev"
    cross_tokens: int = Field(160, ge=8, le=8192)
    fit: FitSettings = FitSettings(batch_size=32, learning_rate=5e-5, epochs=10, warmup=0)
    cross_fit: FitSettings = FitSettings(batch_size=8, learning_rate=2e-5, epochs=1)

    def other_models(self) -> dict[str, str]:
        second = {"second": self.second} if self.second else {}
        return super().other_models() | {"cross_encoder": self.cross_encoder} | second


def train(task: Task[TransEncoderSettings]) -> Path:
    """Distil bi-encoder to cross-encoder and back, `cycles` times; the cross-encoder lies in `cross_encoder`."""
    settings = task.settings
    dev = _dev(task)
    starts = [settings.base, *([settings.second] if settings.second else [])]
    encoders = [task.open_base(resolve(start, offline=task.offline)) for start in starts]
    cross_start = _cross_start(task)
    results: list[tuple[float, Path, Path]] = []
    drawn = _unlabelled(task, task.mine("pairs", encoders[0], settings.depth, unlabelled=True))
    for cycle in range(settings.cycles):
        labels = _cosine_labels(task, encoders)
        crosses = [
            _fit_cross(task, f"cross-{cycle}-{place}", cross_start, labels, drawn) for place in range(len(starts))
        ]
        back = _cross_labels(task, crosses)
        folders = [_fit_bi(task, f"bi-{cycle}-{place}", start, back, drawn) for place, start in enumerate(starts)]
        encoders = [task.open_base(folder) for folder in folders]
        quality = _quality(task, f"dev-{cycle}", encoders[0], dev) if dev else float(cycle)
        results.append((quality, folders[0], crosses[0]))
    # Of cycles that are equally good the first.
    _, folder, cross = max(results, key=lambda result: result[0])
    copy_model(cross, folder / CROSS_ENCODER)
    return folder


def _dev(task: Task[TransEncoderSettings]) -> Collection | None:
    """Return what a cycle is selected on, None where there is nothing to select. Raises InvalidInput without it."""
    if task.settings.select == "last" or task.settings.cycles == 1:
        return None
    found = [split for part in task.parts for split in part.held_out if split.split == "dev"]
    if not found:
        raise InvalidInput(
            f"select=dev needs judgments qrels/dev.tsv, which {task.collection.corpus.path} does not have; add them, "
            "or set select=last."
        )
    return found[0]


def _quality(task: Task[TransEncoderSettings], stage: str, model: Any, dev: Collection) -> float:
    """Return the mean nDCG@10 of a bi-encoder as the stage `stage`."""

    def work(folder: Path) -> dict[str, Any]:
        values = measure_splits(model, task.collection.corpus, [dev])[dev.split][MEASURE]
        return {MEASURE: fmean(values.values())}

    task.stages.run(stage, work)
    return float(task.stages.reports[stage][MEASURE])


def _unlabelled(task: Task[TransEncoderSettings], mined: Mined) -> Draw:
    """Draw pairs of a query with documents of the bi-encoder's list, and some with any document."""
    settings, size = task.settings, len(task.collection.documents)

    def draw(queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        drawn = generator.integers(0, size, (len(queries), settings.pairs))
        for place, query in enumerate(queries.tolist()):
            listed, _ = mined.candidates.of(query)
            chosen = generator.permutation(len(listed))[: settings.pairs]
            near = np.flatnonzero(generator.integers(0, settings.random_share, len(chosen)))
            drawn[place, near] = listed[chosen[near]]
        return drawn[:, 0], drawn[:, 1:]

    return draw


Labels = Any
"""Of query rows and document rows int64[n] the soft labels float32[n] in 0..1."""


def _cosine_labels(task: Task[TransEncoderSettings], encoders: list[Any]) -> Labels:
    collection, how = task.collection, task.settings.labels
    contents = [document.content for document in collection.documents]
    teachers = [BiEncoderTeacher(as_encoder(model), collection.queries, contents, cosine=True) for model in encoders]
    return lambda queries, documents: unit_labels(mutual([t.scores(queries, documents) for t in teachers]), how)


def _cross_labels(task: Task[TransEncoderSettings], folders: list[Path]) -> Labels:
    collection = task.collection
    contents = [document.content for document in collection.documents]
    teachers = [CrossEncoderTeacher(_open_cross(task, folder), collection.queries, contents) for folder in folders]
    return lambda queries, documents: mutual(
        [probabilities(teacher.scores(queries, documents)).astype(np.float32) for teacher in teachers]
    )


def _cross_start(task: Task[TransEncoderSettings]) -> str | Path:
    """Return what the cross-encoders of all cycles start from."""
    settings = task.settings
    if settings.cross_start == "classifier":
        return settings.cross_encoder
    return task.stages.run(
        "cross-start",
        lambda folder: write_start(
            folder, settings.cross_encoder, "joint", setting="cross_start", seed=settings.seed,
            joint_layers=settings.joint_layers, offline=task.offline,
        ),
    )  # fmt: skip


def _open_cross(task: Task[TransEncoderSettings], name: str | Path) -> Any:
    settings = task.settings
    return open_ranker(name, max_tokens=settings.cross_tokens, seed=settings.seed, offline=task.offline)


def _fit_cross(task: Task[TransEncoderSettings], stage: str, start: str | Path, labels: Labels, draw: Draw) -> Path:
    def objective(lists: RankedLists) -> Tensor:
        documents = lists.document_rows
        soft = labels(lists.query_rows.repeat(documents.shape[1]), documents.ravel())
        return soft_cross_entropy(lists.scores.reshape(-1), torch.from_numpy(soft).to(lists.scores.device))

    settings = task.settings
    model, both = _open_cross(task, start), settings.both_orders
    return task.fit_ranker(stage, model, objective, draw, settings.cross_fit, both_orders=both)


def _fit_bi(task: Task[TransEncoderSettings], stage: str, start: str, labels: Labels, draw: Draw) -> Path:
    model = task.open_base(resolve(start, offline=task.offline))

    def objective(batch: Batch) -> Tensor:
        own = batch.own(torch.from_numpy(batch.document_rows)).numpy()
        soft = labels(batch.query_rows.repeat(own.shape[1]), own.ravel()).reshape(own.shape)
        documents = functional.normalize(batch.own(batch.documents), dim=2)
        cosines = torch.einsum("bh,bkh->bk", functional.normalize(batch.queries, dim=1), documents)
        return cosine_mse(cosines, torch.from_numpy(soft).to(cosines.device))

    return task.fit(stage, model, objective, draw)


def compare(task: Task[TransEncoderSettings], trained: Path) -> dict[str, Any]:
    """Compare the bi-encoder with its base, and the cross-encoder with the bi-encoder."""
    return compare_with_ranker(task, trained, trained / CROSS_ENCODER, max_tokens=task.settings.cross_tokens)


RECIPE = Recipe(
    "trans_encoder",
    "Bi-encoder and cross-encoder teach each other on unlabelled pairs.",
    "Trans-Encoder, arXiv:2109.13059",
    TransEncoderSettings,
    train,
    compare,
)
