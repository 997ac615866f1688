"""A teacher's scores of all relevant documents and candidates, asked for once, before training."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.progress import Progress
from training.candidates import Candidates
from training.negatives import Rows
from training.task import Task
from training.teacher_settings import TeacherSettings, open_teacher
from training.teachers import Scores

SCORES = "scores.npy"
# Pairs that are scored between two saves, and the rest of their last query.
PORTION = 8192

PairScores = Callable[[Rows, Rows], Scores]
"""Of query rows and document rows, of pairs that were scored before, the teacher's scores times its scale."""


def pair_scores(task: Task[Any], candidates: Candidates, settings: TeacherSettings, stage: str) -> PairScores:
    """Ask a teacher about the relevant documents and the candidates of each query as a stage that goes on."""
    judgments = task.collection.judgments
    queries = np.concatenate([np.repeat(np.arange(len(candidates)), np.diff(judgments.offsets)), candidates.queries])
    documents = np.concatenate([judgments.documents, candidates.documents]).astype(np.int64)
    width = len(task.collection.documents)
    keys = np.unique(queries * width + documents)
    queries, documents = keys // width, keys % width

    def work(folder: Path) -> dict[str, Any]:
        scores = _begun(folder / SCORES, len(keys))
        teacher = open_teacher(settings, task)
        with Progress("scoring pairs", len(keys), quiet=False) as progress:
            for part in _portions(queries):
                if np.isnan(scores[part]).any():
                    scores[part] = teacher.scores(queries[part], documents[part])
                    scores.flush()
                progress.advance(len(queries[part]))
        return {"teacher": settings.model_dump(mode="json"), "pairs": len(keys)}

    values = np.float32(settings.scale) * np.load(task.stages.run(stage, work) / SCORES, allow_pickle=False)

    def scores_of(query_rows: Rows, document_rows: Rows) -> Scores:
        known: Scores = values[np.searchsorted(keys, query_rows * width + document_rows)]
        return known

    return scores_of


def _portions(queries: NDArray[np.int64]) -> Iterator[slice]:
    """Yield ranges of pairs, sorted by query, that hold whole queries: an ensemble compares a query's documents."""
    start = 0
    while start < len(queries):
        last = queries[min(start + PORTION, len(queries)) - 1]
        end = int(np.searchsorted(queries, last, side="right"))
        yield slice(start, end)
        start = end


def _begun(path: Path, count: int) -> "np.memmap[Any, np.dtype[np.float32]]":
    """Return the scores in a file, NaN where there is none yet; what is assigned is written."""
    if not path.is_file():
        temporary = path.with_name(f".{path.name}.part.npy")
        np.save(temporary, np.full(count, np.nan, np.float32), allow_pickle=False)
        temporary.replace(path)
    scores: np.memmap[Any, np.dtype[np.float32]] = np.lib.format.open_memmap(path, "r+")
    return scores
