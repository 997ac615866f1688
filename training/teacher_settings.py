"""Which teacher a recipe asks: its settings, and opening it for a task."""

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import resolve
from retriever.models.folder import read_object
from retriever.progress import without_transformers_bars
from training.task import Task
from training.teachers import (
    CachedScores,
    CrossEncoderTeacher,
    EnsembleTeacher,
    LateInteractionTeacher,
    Rows,
    Scores,
    Teacher,
)
from training.vector_teacher import VectorTeacher, encode

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


SCORES = "scores.parquet"


class TeacherSettings(BaseModel):
    """kind       cross_encoder: the raw logit of a pair; late_interaction: MaxSim of a multi-vector encoder;
               bi_encoder: the inner product of vectors, each text being encoded once; cached: scores of a file;
               ensemble: the mean of several teachers, each stretched to 0..1 over the documents of a query that are
               asked for together
    model      folder or name; of cached the cross-encoder that made the scores, which is asked for pairs that the
               file lacks, None makes them an error
    scores     of cached: a Parquet file of `retriever train score`; a relative path counts from where the command runs
    teachers   of ensemble: two or more
    scale      factor on the scores; the student copies their differences, so cosines want the student's own scale,
               and an ensemble's 0..1 have 30 in OpenSearch's training (arXiv:2411.04403)
    precision  of the weights; a late-interaction model stays float32
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cross_encoder", "late_interaction", "bi_encoder", "cached", "ensemble"]
    model: str | None = None
    scores: Path | None = None
    teachers: tuple["TeacherSettings", ...] = ()
    scale: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "cached" and self.scores is None:
            raise ValueError("kind=cached needs scores, a file of `retriever train score`")
        if self.kind == "ensemble" and len(self.teachers) < 2:
            raise ValueError(f"kind=ensemble needs two teachers or more, got {len(self.teachers)}")
        if self.kind not in ("cached", "ensemble") and self.model is None:
            raise ValueError(f"kind={self.kind} needs a model")
        return self

    def models(self, setting: str) -> dict[str, str]:
        """Return the models that this teacher asks, by name; `setting` is its own name."""
        if self.kind != "ensemble":
            return {f"{setting}.model": self.model} if self.model is not None else {}
        found = [teacher.models(f"{setting}.teachers.{place}") for place, teacher in enumerate(self.teachers)]
        return {name: model for models in found for name, model in models.items()}


def _of_one_scale(settings: TeacherSettings) -> TeacherSettings:
    if settings.kind == "ensemble":
        raise ValueError("an ensemble of two documents says only which is the better one; give one teacher")
    return settings


PairTeacher = Annotated[TeacherSettings, AfterValidator(_of_one_scale)]
"""A teacher that is asked about two documents of a query at a time."""


def open_teacher(settings: TeacherSettings, task: Task[Any]) -> Teacher:
    """Return a teacher of the task's queries and documents; its scores are not scaled yet.

    A bi-encoder encodes both sides in a stage of its own, once for all its uses; models of other kinds are asked live.
    Raises BackendUnavailable for a model that cannot be loaded, InvalidInput for one of another kind.
    """
    if settings.kind == "ensemble":
        return EnsembleTeacher([open_teacher(one, task) for one in settings.teachers], scale=1)
    if settings.kind == "cached":
        return _cached(settings, task)
    if settings.kind == "bi_encoder":
        return VectorTeacher.load(task.stages.run(stage_of(settings), lambda folder: _encode(settings, task, folder)))
    if settings.kind == "late_interaction":
        model = _multi_vector_encoder(_model(settings), task.offline)
        return LateInteractionTeacher(model, task.collection.queries, _contents(task))
    return _cross_encoder(settings, task)


def stage_of(settings: TeacherSettings) -> str:
    """Return the name of the stage that holds a bi-encoder's vectors, or the scores of a file with later ones."""
    name = f"{settings.model} {settings.precision}{f' {settings.scores}' if settings.kind == 'cached' else ''}"
    return f"teacher-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def score_matrix(teacher: Teacher, query_rows: Rows, document_rows: Rows) -> Scores:
    """Return (B, D): a teacher's scores of each query with each document."""
    if isinstance(teacher, VectorTeacher | LateInteractionTeacher):
        return teacher.matrix(query_rows, document_rows)
    shape = len(query_rows), len(document_rows)
    return teacher.scores(np.repeat(query_rows, shape[1]), np.tile(document_rows, shape[0])).reshape(shape)


def _model(settings: TeacherSettings) -> str:
    assert settings.model is not None, "the settings demand it"
    return settings.model


def _contents(task: Task[Any]) -> list[str]:
    return [document.content for document in task.collection.documents]


def _cross_encoder(settings: TeacherSettings, task: Task[Any]) -> Teacher:
    from retriever.rerank import CrossEncoderReranker

    reranker = CrossEncoderReranker(_model(settings), offline=task.offline, precision=settings.precision)
    return CrossEncoderTeacher(reranker, task.collection.queries, _contents(task))


def _cached(settings: TeacherSettings, task: Task[Any]) -> Teacher:
    """Return a file's scores; those that a cross-encoder adds go to a copy in a stage, the file stays as it is."""
    given = settings.scores
    assert given is not None, "the settings demand it"
    path = given
    if settings.model is not None:
        path = task.stages.run(stage_of(settings), lambda folder: _copy(given, folder)) / SCORES
    query_rows = {id_: row for row, id_ in enumerate(task.collection.query_ids)}
    cached = CachedScores(path, query_rows, task.collection.corpus.rows, name=settings.model)
    if settings.model is not None:
        # Only now, since a file of another teacher is refused first.
        cached.teacher = _cross_encoder(settings, task)
    return cached


def _copy(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}; make it with `retriever train score`.")
    temporary = folder / f".{SCORES}.part"
    shutil.copyfile(path, temporary)
    temporary.replace(folder / SCORES)
    return {"file": str(path)}


def _encode(settings: TeacherSettings, task: Task[Any], folder: Path) -> dict[str, Any]:
    from retriever.encoder import load_encoder

    encode(load_encoder(_model(settings), precision=settings.precision, offline=task.offline), task.collection, folder)
    return {"model": settings.model, "precision": settings.precision}


def _multi_vector_encoder(name: str, offline: bool) -> "MultiVectorEncoder":
    from sentence_transformers import MultiVectorEncoder

    folder = resolve(name, offline=offline)
    _require_token_vectors(folder)
    try:
        with without_transformers_bars():
            model: MultiVectorEncoder = MultiVectorEncoder(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is no late-interaction model: {error}") from error
    return model


def _require_token_vectors(folder: Path) -> None:
    """Refuse a model without a trained projection of tokens: sentence-transformers would put a random one on it."""
    architectures = read_object(folder / "config.json").get("architectures") or []
    kind = read_object(folder / "config_sentence_transformers.json").get("model_type")
    trained = any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures)
    if not trained and kind not in ("MultiVectorEncoder", "ColBERT"):
        raise InvalidInput(
            f"{folder} is no late-interaction model ({kind or ', '.join(architectures) or 'unknown'}); "
            "give one that sentence-transformers saved as a MultiVectorEncoder, or a ColBERT checkpoint."
        )
