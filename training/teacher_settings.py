"""Which teacher a recipe asks: its settings, and opening it for a task."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import resolve
from retriever.models.folder import read_object
from retriever.progress import without_transformers_bars
from training.task import Task
from training.teachers import CrossEncoderTeacher, LateInteractionTeacher, Rows, Scores, Teacher
from training.vector_teacher import VectorTeacher, encode

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class TeacherSettings(BaseModel):
    """kind       cross_encoder: the raw logit of a pair; late_interaction: MaxSim of a multi-vector encoder;
               bi_encoder: the inner product of vectors, each text being encoded once
    model      folder or name
    scale      factor on the scores; the student copies their differences, so cosines want the student's own scale
    precision  of the weights; a late-interaction model stays float32
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cross_encoder", "late_interaction", "bi_encoder"]
    model: str
    scale: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"


def open_teacher(settings: TeacherSettings, task: Task[Any]) -> Teacher:
    """Return a teacher of the task's queries and documents; its scores are not scaled yet.

    A bi-encoder encodes both sides in a stage of its own, once for all its uses; other teachers are asked live.
    Raises BackendUnavailable for a model that cannot be loaded, InvalidInput for one of another kind.
    """
    if settings.kind == "bi_encoder":
        return VectorTeacher.load(task.stages.run(stage_of(settings), lambda folder: _encode(settings, task, folder)))
    queries, documents = task.collection.queries, [document.content for document in task.collection.documents]
    if settings.kind == "late_interaction":
        return LateInteractionTeacher(_multi_vector_encoder(settings.model, task.offline), queries, documents)
    from retriever.rerank import CrossEncoderReranker

    reranker = CrossEncoderReranker(settings.model, offline=task.offline, precision=settings.precision)
    return CrossEncoderTeacher(reranker, queries, documents)


def stage_of(settings: TeacherSettings) -> str:
    """Return the name of the stage that holds a bi-encoder's vectors."""
    return f"teacher-{hashlib.sha256(f'{settings.model} {settings.precision}'.encode()).hexdigest()[:8]}"


def score_matrix(teacher: Teacher, query_rows: Rows, document_rows: Rows) -> Scores:
    """Return (B, D): a teacher's scores of each query with each document."""
    if isinstance(teacher, VectorTeacher | LateInteractionTeacher):
        return teacher.matrix(query_rows, document_rows)
    shape = len(query_rows), len(document_rows)
    return teacher.scores(np.repeat(query_rows, shape[1]), np.tile(document_rows, shape[0])).reshape(shape)


def _encode(settings: TeacherSettings, task: Task[Any], folder: Path) -> dict[str, Any]:
    from retriever.encoder import load_encoder

    encode(load_encoder(settings.model, precision=settings.precision, offline=task.offline), task.collection, folder)
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
