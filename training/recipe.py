"""Running a recipe: data, stages, the test against the start, the report."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, open_collection
from retriever.evaluation.records import environment
from retriever.models import resolve
from retriever.storage import sha256_of, write_atomically
from training.collection import Corpus, pooled, read_corpus, select
from training.encoders import as_encoder, head_of
from training.evaluation import PerQuery, comparison, dense_run, measured
from training.finished import publish, require_free
from training.model_card import model_card
from training.settings import EncoderSettings, files_of
from training.stages import Stages, differing
from training.task import Part, Task
from training.teachers import model_digest

WORK = "work"
REPORT = "training_report.json"
BASE = "the base"


Start = Callable[[Any, Corpus, Any], Any]


@dataclass(frozen=True)
class Recipe:
    """One published system.

    train    carries out the stages and returns the folder of the trained model
    compare  measures start and end on held-out queries; None for bi-encoders, see `compare_models`
    several  whether it can learn from several collections at once
    task     what the model is for, as model hubs call it
    start    gives the base the form, before it is trained, that the trained model is compared with: of (base, corpus,
             settings); None compares with the base itself
    start_is what that start is called in reports, where it is not the base in the form of an encoder
    """

    name: str
    summary: str
    source: str
    settings: type[EncoderSettings]
    train: Callable[[Task[Any]], Path]
    compare: Callable[[Task[Any], Path], dict[str, Any]] | None = None
    several: bool = False
    task: str = "sentence-similarity"
    start: Start | None = None
    start_is: str = BASE

    @property
    def compresses(self) -> bool:
        """Whether the base gives float vectors, and the start what is made of them: then both are compared with."""
        return self.start is not None and self.start_is != BASE


def run_recipe(
    recipe: Recipe,
    settings: EncoderSettings,
    data: Path | Sequence[Path],
    output: Path,
    *,
    splits: tuple[str, ...] = ("dev", "test"),
    restart: bool = False,
    keep_work: bool = False,
    offline: bool = False,
) -> dict[str, Any]:
    """Train on the `train` judgments of BEIR folders, test start and end on the other splits, and report.

    data  one folder, or several for a recipe that takes them
    Writes to `output` a model folder with README.md and training_report.json. Stages lie in a folder beside it
    until all is done, so that an interrupted training goes on when the same command is given again.
    """
    require_free(output, REPORT, restart=restart)
    work = output.parent / f".{output.name}.{WORK}"
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    parts = open_parts(recipe, settings, [data] if isinstance(data, Path) else list(data), splits)
    plan = plan_of(recipe, settings, parts, offline=offline)
    stages = Stages(work, plan)
    collection = pooled([part.collection for part in parts])
    task = Task(collection, settings, stages, offline, parts)
    trained = recipe.train(task)
    held_out = [found for part in parts for found in part.held_out]
    also: dict[str, Any] = {}
    if recipe.compare:
        evaluation = recipe.compare(task, trained)
    else:
        evaluation, also = compare_models(task, trained, held_out, recipe)
    report = {
        **plan,
        "source": recipe.source,
        "pipeline_tag": recipe.task,
        "held_out": {
            f"{part.name} {found.split}" if recipe.several else found.split: found.sha256
            for part in parts
            for found in part.held_out
        },
        "queries": len(collection.queries),
        "dropped": collection.dropped,
        "stages": stages.reports,
        "start": recipe.start_is,
        "evaluation": evaluation,
        **({"evaluation_from_float_base": also} if also else {}),
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
    }

    def complete(folder: Path) -> None:
        (folder / "README.md").write_text(model_card(report), encoding="utf-8")
        write_atomically(folder / REPORT, json.dumps(report, indent=1, default=str).encode())

    publish(trained, output, complete)
    if not keep_work:
        shutil.rmtree(work)
    return report


def plan_of(recipe: Recipe, settings: EncoderSettings, parts: list[Part], *, offline: bool) -> dict[str, Any]:
    """Return all that decides what comes out: recipe, settings, digests of the base model, of the data and of models
    and files that settings name. Raises what `require_named` raises.
    """
    require_named(settings, offline=offline)
    digests = {part.name: part.sha256 for part in parts}
    models = {name: model_digest(model, offline=offline) for name, model in settings.other_models().items()}
    files = {name: sha256_of(path) for name, path in files_of(settings).items()}
    plan = {
        "recipe": recipe.name,
        "settings": settings.model_dump(mode="json"),
        "base": model_digest(settings.base, offline=offline),
        "data": digests if recipe.several else parts[0].sha256,
    }
    return plan | ({"models": models} if models else {}) | ({"files": files} if files else {})


def require_named(settings: EncoderSettings, *, offline: bool) -> None:
    """Raise unless the models and files that settings name are there, before hours of work for which they are needed.

    InvalidInput names a setting's file, or a model that nothing is known by; BackendUnavailable a model that is not on
    this machine and cannot be fetched.
    """
    for name, path in files_of(settings).items():
        if not path.is_file():
            raise InvalidInput(f"{name}: there is no file {path}; a relative path counts from {Path.cwd()}.")
    for model in (settings.base, *settings.other_models().values()):
        resolve(model, offline=offline)


def require_same_training(
    recipe: Recipe, settings: EncoderSettings, data: Path, trained: Path, *, offline: bool
) -> None:
    """Refuse a finished training with other settings or data than these. Raises InvalidInput."""
    report = json.loads((trained / REPORT).read_text())
    plan = plan_of(recipe, settings, open_parts(recipe, settings, [data], ()), offline=offline)
    plan = json.loads(json.dumps(plan, default=str))
    if other := differing({key: report.get(key) for key in plan}, plan):
        raise InvalidInput(
            f"{trained} holds a training with other settings or data ({other}); give the same ones to go on, "
            "another --output, or --restart to begin anew."
        )


def open_parts(recipe: Recipe, settings: EncoderSettings, folders: list[Path], splits: tuple[str, ...]) -> list[Part]:
    """Read the collections of a training with the splits of these names that they have."""
    if len(folders) != 1 and not recipe.several:
        raise InvalidInput(f"{recipe.name} learns from one collection, got {len(folders)}; give --data once.")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise InvalidInput(f"every --data must be a folder of another name, got {', '.join(names)}.")
    parts = []
    for name, folder in zip(names, folders, strict=True):
        corpus = read_corpus(folder)
        train = open_collection(str(folder), "train")
        collection = select(train, corpus, max_queries=settings.max_queries, seed=settings.seed)
        held_out = [found for split in splits if (found := split_of(folder, split))]
        parts.append(Part(name, collection, held_out, {"corpus": corpus.sha256, "train": train.sha256}))
    return parts


def split_of(data: Path, split: str) -> Collection | None:
    """Return a split, or None where the collection has none of that name."""
    folder = data / "qrels"
    if not any(folder.glob(f"{split}.tsv*")):
        return None
    return open_collection(str(data), split)


def compare_models(
    task: Task[Any], trained: Path, held_out: list[Collection], recipe: Recipe | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return by split the measures of start and end with paired tests; and those of the float base and the end.

    The second is empty where the base itself is the start.
    """
    if not held_out:
        return {}, {}
    corpus = task.collection.corpus
    after = measure_splits(task.open_base(trained), corpus, held_out)
    before, uncompressed = measure_starts(task.open_base(), recipe, corpus, task.settings, held_out)
    return (
        {split: comparison(before[split], after[split]) for split in before},
        {split: comparison(uncompressed[split], after[split]) for split in uncompressed},
    )


def measure_starts(
    base: Any, recipe: Recipe | None, corpus: Corpus, settings: Any, held_out: list[Collection]
) -> tuple[dict[str, PerQuery], dict[str, PerQuery]]:
    """Return the measures of a recipe's start, and of the float base where that is another model."""
    if recipe is None or recipe.start is None or head_of(base) is not None:
        return measure_splits(base, corpus, held_out), {}
    # First, for the start changes the model. A language model alone gives no vectors.
    uncompressed = measure_splits(base, corpus, held_out) if recipe.compresses else {}
    return measure_splits(recipe.start(base, corpus, settings), corpus, held_out), uncompressed


def measure_splits(model: Any, corpus: Corpus, held_out: list[Collection]) -> dict[str, PerQuery]:
    """Return the measures of a model on each split; the corpus is encoded once, and not for none."""
    if not held_out:
        return {}
    encoder = as_encoder(model)
    vectors = encoder.encode_documents(corpus.documents)
    return {found.split: measured(dense_run(encoder, corpus, found, vectors), found) for found in held_out}
