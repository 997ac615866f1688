"""Evaluating a system and the record that is kept of it: everything needed to compare it later, or to doubt it."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection
from retriever.evaluation.measures import DEFAULT_MEASURES, measure
from retriever.index.sealed import Index
from retriever.storage import write_atomically
from retriever.types import Answer, Run

POLICIES = {
    "ties": "ranking order counts, ids ascending; tied scores are lowered to the next float32",
    "missing": "means are over all judged queries; one without results or without a text scores 0",
    "irrelevant": "a query whose judgments are all 0 or below counts and scores 0",
    "unjudged": "queries without judgments are not measured",
}
SELF = {
    True: "a document whose id is the query's stays in its ranking",
    False: "a document whose id is the query's is removed from its ranking",
}


class EvaluationSettings(BaseModel):
    """What is asked of the system and how it is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = 1000
    measures: tuple[str, ...] = DEFAULT_MEASURES
    keep_self: bool = False
    group_by_parent: bool = False


class Record(BaseModel):
    """One system on one collection."""

    model_config = ConfigDict(extra="forbid")

    collection: str
    split: str
    system: str
    settings: EvaluationSettings
    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries: dict[str, int]
    policies: dict[str, str]
    sha256: dict[str, str]
    latency_ms: dict[str, float] | None = None
    index: dict[str, Any] | None = None
    answers: dict[str, int] | None = None
    environment: dict[str, Any]
    created: str

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read a record. Raises InvalidInput when the file is none."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise InvalidInput(f"there is no record {path}; make it with `retriever eval run`.") from None
        except ValidationError as error:
            raise InvalidInput(f"{path} is no record of `retriever eval run`: {error}") from error


def evaluate_index(
    index: Index,
    collection: Collection,
    pipeline: str,
    settings: EvaluationSettings | None = None,
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Run, Record]:
    """Ask an index all judged queries of a collection and measure the answers.

    advance  is told after each batch how many queries it held
    Latencies are those of each query within its batch, so they are throughput figures for batch_size > 1.
    """
    settings = settings or EvaluationSettings()
    run: Run = {}
    answers: list[Answer] = []
    queries = list(collection.judged.items())
    if not queries:
        raise InvalidInput(f"no judged query of {collection.name} {collection.split} has a text; give its queries.")
    # What loads or compiles at the first query is no part of the latencies.
    index.batch_search([queries[0][1]], 1, pipeline=pipeline, documents=False)
    for start in range(0, len(queries), batch_size):
        batch = queries[start : start + batch_size]
        found = index.batch_search(
            [text for _, text in batch],
            # One more, so that k remain when the query's own document is removed.
            min(settings.k + (not settings.keep_self), 10_000),
            pipeline=pipeline,
            group_by_parent=settings.group_by_parent,
            documents=False,
        )
        for (id_, _), answer in zip(batch, found, strict=True):
            run[id_] = _without_self(answer.ranking(), id_, settings)
        answers += found
        advance(len(batch))
    timings = [answer.timings["total"] for answer in answers]
    description = index.describe()
    unknown = index.missing({document for graded in collection.qrels.values() for document in graded})
    record = _record(run, collection, pipeline, settings)
    record.queries["judged_documents_not_in_index"] = len(unknown)
    record.latency_ms = {
        "mean": float(np.mean(timings)),
        **{f"p{q}": float(np.percentile(timings, q)) for q in (50, 95, 99)},
        "batch_size": batch_size,
    }
    record.index = {
        "fingerprint": index.fingerprint,
        "generation": index.generation,
        "documents": len(index),
        "bytes": description["bytes"]["total"],
        "pipeline": index.pipelines[pipeline].model_dump(mode="json"),
    }
    record.answers = {
        "truncated": sum(answer.truncated for answer in answers),
        "degraded": sum(bool(answer.degraded) for answer in answers),
        "approximate": sum(not answer.exact for answer in answers),
        "no_terms": sum("no_terms" in answer.warnings for answer in answers),
    }
    return run, record


def evaluate_run(run: Run, collection: Collection, system: str, settings: EvaluationSettings | None = None) -> Record:
    """Measure a run from elsewhere by the same rules."""
    settings = settings or EvaluationSettings()
    cleaned = {query: _without_self(ranking, query, settings) for query, ranking in run.items()}
    return _record(cleaned, collection, system, settings)


def _without_self(
    ranking: Sequence[tuple[str, float]], query: str, settings: EvaluationSettings
) -> list[tuple[str, float]]:
    kept = [pair for pair in ranking if settings.keep_self or pair[0] != query]
    return kept[: settings.k]


def _record(run: Run, collection: Collection, system: str, settings: EvaluationSettings) -> Record:
    measured = measure(run, collection.qrels, settings.measures)
    judged = set(collection.qrels)
    return Record(
        collection=collection.name,
        split=collection.split,
        system=system,
        settings=settings,
        means=measured.means,
        per_query=measured.per_query,
        queries={
            "measured": measured.queries,
            "without_text": len(judged - collection.queries.keys()),
            "without_results": sum(not run.get(query) for query in judged),
            "without_relevant_documents": sum(
                all(grade <= 0 for grade in graded.values()) for graded in collection.qrels.values()
            ),
            "unjudged": len(collection.queries.keys() - judged),
        },
        policies=_policies(settings),
        sha256=collection.sha256,
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _policies(settings: EvaluationSettings) -> dict[str, str]:
    return {**POLICIES, "self": SELF[settings.keep_self]}


def environment() -> dict[str, Any]:
    """Return the machine and the versions that a number depends on."""
    packages = [
        "retriever-engine", "torch", "sentence-transformers", "transformers", "faiss-cpu", "faiss-gpu", "numba",
        "numpy", "ir-measures", "pytrec-eval-terrier",
    ]  # fmt: skip
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": sys.platform,
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def is_current(
    record: Record,
    index: Index,
    collection: Collection,
    pipeline: str,
    settings: EvaluationSettings,
    batch_size: int = 64,
) -> bool:
    """Return whether a record is of this very index, collection and settings, and made by today's policies."""
    return (
        record.index is not None
        and record.index["fingerprint"] == index.fingerprint
        and record.sha256 == collection.sha256
        and record.system == pipeline
        and record.settings == settings
        and record.policies == _policies(settings)
        # Another batch size gives other latencies.
        and (record.latency_ms or {}).get("batch_size") == batch_size
    )
