"""Running a recipe: data, stages, the test against the start, the report."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, open_collection
from retriever.evaluation.records import environment
from retriever.storage import require_writable, write_atomically
from training.collection import Corpus, read_corpus, select
from training.encoders import as_encoder
from training.evaluation import PerQuery, comparison, dense_run, measured
from training.model_card import model_card
from training.settings import EncoderSettings
from training.stages import Stages
from training.task import Task

WORK = "work"


@dataclass(frozen=True)
class Recipe:
    """One published system.

    train  carries out the stages and returns the folder of the trained model
    """

    name: str
    summary: str
    source: str
    settings: type[EncoderSettings]
    train: Callable[[Task[Any]], Path]


def run_recipe(
    recipe: Recipe,
    settings: EncoderSettings,
    data: Path,
    output: Path,
    *,
    splits: tuple[str, ...] = ("dev", "test"),
    restart: bool = False,
    keep_work: bool = False,
    offline: bool = False,
) -> dict[str, Any]:
    """Train on the `train` judgments of a BEIR folder, test start and end on the other splits, and report.

    Writes to `output` a model folder with README.md and training_report.json. Stages lie in a folder beside it
    until all is done, so that an interrupted training goes on when the same command is given again.
    """
    require_writable(output)
    if (output / "training_report.json").is_file() and not restart:
        raise InvalidInput(f"{output} holds a finished training; give another --output, or --restart to replace it.")
    work = output.parent / f".{output.name}.{WORK}"
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    corpus = read_corpus(data)
    train = open_collection(str(data), "train")
    collection = select(train, corpus, max_queries=settings.max_queries, seed=settings.seed)
    plan = {
        "recipe": recipe.name,
        "settings": settings.model_dump(mode="json"),
        "data": {"corpus": corpus.sha256, "train": train.sha256},
    }
    stages = Stages(work, plan)
    task = Task(collection, settings, stages, offline)
    trained = recipe.train(task)
    held_out = [found for split in splits if (found := split_of(data, split))]
    evaluation = compare_models(task, trained, held_out)
    report = {
        **plan,
        "source": recipe.source,
        "held_out": {found.split: found.sha256 for found in held_out},
        "queries": len(collection.queries),
        "dropped": collection.dropped,
        "stages": stages.reports,
        "evaluation": evaluation,
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
    }
    _publish(trained, output, report)
    if not keep_work:
        shutil.rmtree(work)
    return report


def split_of(data: Path, split: str) -> Collection | None:
    """Return a split, or None where the collection has none of that name."""
    folder = data / "qrels"
    if not any(folder.glob(f"{split}.tsv*")):
        return None
    return open_collection(str(data), split)


def compare_models(task: Task[Any], trained: Path, held_out: list[Collection]) -> dict[str, Any]:
    """Return by split the measures of start and end with paired tests."""
    corpus = task.collection.corpus
    before = measure_splits(task.open_base(), corpus, held_out)
    after = measure_splits(task.open_base(trained), corpus, held_out)
    return {split: comparison(before[split], after[split]) for split in before}


def measure_splits(model: Any, corpus: Corpus, held_out: list[Collection]) -> dict[str, PerQuery]:
    """Return the measures of a model on each split; the corpus is encoded once."""
    encoder = as_encoder(model)
    vectors = encoder.encode_documents(corpus.documents)
    return {found.split: measured(dense_run(encoder, corpus, found, vectors), found) for found in held_out}


def _publish(trained: Path, output: Path, report: dict[str, Any]) -> None:
    """Put the model, its card and its report into `output`, the report last."""
    if output.exists():
        shutil.rmtree(output)
    kept = shutil.ignore_patterns("checkpoints", "done.json", "fit.json", "stopped")
    shutil.copytree(trained, output, ignore=kept)
    (output / "README.md").write_text(model_card(report), encoding="utf-8")
    write_atomically(output / "training_report.json", json.dumps(report, indent=1, default=str).encode())
