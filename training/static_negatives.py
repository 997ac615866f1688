"""Negatives that are fixed before training: what the base finds, or a file of `retriever train mine`."""

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from retriever.errors import InvalidInput
from retriever.evaluation.collections import open_collection
from training.candidate_files import JUDGED, codes_of, read_candidates, read_columns
from training.candidates import Candidates
from training.collection import NAMED, TrainingCollection
from training.filters import teacher_margin
from training.mined import Mined, load, save
from training.pair_scores import pair_scores
from training.settings import EncoderSettings
from training.task import Task
from training.teacher_settings import TeacherSettings


class TeacherMarginSettings(BaseModel):
    """Candidates stay whose score by a teacher is at least `margin` below that of the relevant document.

    margin  INCOME's 3 is for logits of a cross-encoder (arXiv:2205.11498); of several relevant documents the least
            counts
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: TeacherSettings
    margin: float = 3.0


class StaticSettings(EncoderSettings):
    """What recipes take that mine negatives before training.

    negatives         a Parquet file of `retriever train mine` in the place of what the base finds; a relative path
                      counts from where the command runs. Recipes that mine in cycles take it for the first one
    negatives_source  only that source's candidates; None for all that the file has, by their ranks where several
    depth             so many of each query's best candidates, also of a file's
    teacher_margin    leaves out candidates that a teacher finds too near to the relevant document; None leaves all in
    """

    negatives: Path | None = None
    negatives_source: Literal["bm25", "dense", "sparse"] | None = None
    depth: int = Field(100, ge=1, le=1000)
    teacher_margin: TeacherMarginSettings | None = None

    @model_validator(mode="after")
    def _source_of_a_file(self) -> Self:
        if self.negatives_source is not None and self.negatives is None:
            raise ValueError("negatives_source says what is taken of a file; set negatives too")
        return self

    def other_models(self) -> dict[str, str]:
        return {} if self.teacher_margin is None else self.teacher_margin.teacher.models("teacher_margin.teacher")


def static_negatives(
    task: Task[Any], model: Any, stage: str = "mine", *, scored: bool = False, anew: bool = False
) -> Mined:
    """Return what negatives are drawn from, by `StaticSettings`, as the stage `stage`.

    scored  whether the choice among them looks at the scores of relevant documents
    anew    mine with `model` also where the settings name a file

    Raises InvalidInput for a file of another collection, and with `scored` for one without those scores.
    """
    settings = task.settings
    if settings.negatives is None or anew:
        found = task.mine(stage, model, settings.depth)
    else:
        found = load(task.stages.run(stage, lambda folder: _read(task, folder)))
        if scored:
            _require_scores(found, task)
    return found if settings.teacher_margin is None else _apart(task, found, stage)


def read_negatives(path: Path, collection: TrainingCollection, depth: int, source: str | None = None) -> Mined:
    """Return the best `depth` candidates of each query in a file of mined ones, without what is no negative.

    source  only candidates of this one

    The positive's score is the least that the source gave to a relevant document; NaN where it gave none, or where
    the file has several sources, whose scores do not compare. Queries that the file lacks have no candidates.
    Raises InvalidInput for queries or documents that the collection does not have, naming some.
    """
    rows, documents = {id_: row for row, id_ in enumerate(collection.query_ids)}, collection.corpus.rows
    table = read_columns(path, ["query_id", "source"])
    _require_known(path, codes_of(table["query_id"])[1], rows, collection)
    sources = [name for name in codes_of(table["source"])[1] if name != JUDGED]
    found = read_candidates(path, rows, documents, source=source)
    barred = [np.isin(found.of(row)[0], collection.barred.relevant(row)) for row in range(len(found))]
    found = found.restrict(~np.concatenate(barred))
    found = found.restrict(found.ranks < depth)
    if source is None and len(sources) == 1:
        source = sources[0]
    least = np.full(len(found), np.nan, np.float32)
    if source is not None:
        relevant = read_candidates(path, rows, documents, source=source, label=1)
        least = np.array([_least(relevant, collection, row) for row in range(len(relevant))], np.float32)
    # Nothing is compared with these.
    least[np.diff(found.offsets) == 0] = 0
    return Mined(found, least)


def _require_known(path: Path, ids: list[str], rows: dict[str, int], collection: TrainingCollection) -> None:
    """Raise InvalidInput for queries that the collection's folder lacks; it may have others than are trained on."""
    if unknown := [id_ for id_ in ids if id_ not in rows]:
        texts = open_collection(str(collection.corpus.path), "train").queries
        if unknown := [id_ for id_ in unknown if id_ not in texts]:
            raise InvalidInput(
                f"{path} names {len(unknown)} queries that {collection.corpus.path} does not have, such as "
                f"{', '.join(map(repr, unknown[:NAMED]))}; mine from an index of this collection, with its queries."
            )


def _least(relevant: Candidates, collection: TrainingCollection, row: int) -> float:
    documents, scores = relevant.of(row)
    known = scores[np.isin(documents, collection.judgments.relevant(row))]
    return float(known.min()) if len(known) else float("nan")


def _read(task: Task[Any], folder: Path) -> dict[str, Any]:
    settings = task.settings
    found = read_negatives(settings.negatives, task.collection, settings.depth, settings.negatives_source)
    save(found, folder)
    counts = np.diff(found.candidates.offsets)
    return {
        "file": str(settings.negatives),
        "queries": len(counts),
        "queries_without_candidates": int((counts == 0).sum()),
        "candidates": int(counts.sum()),
    }


def _require_scores(found: Mined, task: Task[Any]) -> None:
    lost = np.flatnonzero(np.isnan(found.positive_scores))
    if len(lost):
        names = ", ".join(repr(task.collection.query_ids[row]) for row in lost[:NAMED])
        raise InvalidInput(
            f"{task.settings.negatives} has no score that compares with its candidates for the relevant documents of "
            f"{len(lost)} queries, such as {names}; set ratio=null and choose.by=uniform or softmax where the recipe "
            "has them, or negatives_source=dense where the file was mined with it."
        )


def _apart(task: Task[Any], found: Mined, stage: str) -> Mined:
    """Keep what the teacher puts far enough below the relevant documents, as the stages -scores and -margin."""
    settings, judgments = task.settings.teacher_margin, task.collection.judgments
    candidates = found.candidates

    def work(folder: Path) -> dict[str, Any]:
        scores = pair_scores(task, candidates, settings.teacher, f"{stage}-scores")
        owners = np.repeat(np.arange(len(candidates)), np.diff(judgments.offsets))
        positive = np.minimum.reduceat(scores(owners, judgments.documents.astype(np.int64)), judgments.offsets[:-1])
        taught = scores(candidates.queries, candidates.documents.astype(np.int64))
        kept = teacher_margin(candidates, taught, positive, settings.margin)
        save(Mined(kept, found.positive_scores), folder)
        return {"candidates": len(candidates.documents), "kept": len(kept.documents)}

    return load(task.stages.run(f"{stage}-margin", work))
