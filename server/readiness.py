"""Whether requests should come here: models loaded, canaries agreed, queries with known answers answered just now."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retriever.errors import RetrievalError
from retriever.index.sealed import Index
from retriever.pipeline import FirstStage, PipelineSpec
from retriever.types import Document, Hit
from server.errors import Refusal
from server.indexes import Indexes
from server.models import Models

# A query that means nothing in particular, for an index none of whose documents finds itself.
CANARY_QUERY = "the quick brown fox"

# Documents that are tried as known answers; copies and very short texts may not come out first.
TRIED = 20
WORDS = 24
TOP = 10


@dataclass(frozen=True, slots=True)
class _Canary:
    """A document's own words, which have to find it by one stage alone."""

    stage: FirstStage
    query: str
    id: str

    def stands(self, index: Index) -> bool:
        document = index.get(self.id)
        return document is not None and _words(document) == self.query

    def found(self, index: Index) -> bool:
        return any(hit.id == self.id for hit in _asked(index, self.stage, self.query))


class Readiness:
    """Answers with the reason why the service is not ready, or None."""

    def __init__(self, indexes: Indexes, models: Models, reuse_seconds: float) -> None:
        self._indexes = indexes
        self._models = models
        self._reuse_seconds = reuse_seconds
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._reason: str | None = None
        self._canaries: list[_Canary] = []
        self._canaries_of: str | None = None
        self.draining = False
        """Set when the service is about to stop."""

    def reason(self) -> str | None:
        """Return why requests should go elsewhere, or None; the outcome is reused for a short time."""
        if self.draining:
            return "the service is stopping"
        if not self._indexes.prepared:
            return "models are being loaded"
        with self._lock:
            if time.monotonic() - self._checked_at >= self._reuse_seconds:
                self._reason = self._ask()
                self._checked_at = time.monotonic()
            return self._reason

    def _ask(self) -> str | None:
        broken = self._models.broken()
        if broken is not None:
            return f"a model's device failed, start the service anew: {broken}"
        try:
            with self._indexes.default.lease() as index:
                return self._ask_index(index)
        except (RetrievalError, RuntimeError) as error:
            return f"the canary query failed: {error}"
        except Refusal as refusal:
            # Busy is not broken: requests that find no room are told so one by one.
            return None if refusal.status == 429 else f"the canary query was refused: {refusal.message}"

    def _ask_index(self, index: Index) -> str | None:
        spec = index.pipelines[index.default_pipeline].without("rerank")
        answer = index.search(CANARY_QUERY, 1, pipeline=spec, documents=False)
        if answer.degraded:
            return f"the canary query was degraded: {', '.join(answer.degraded)}"
        if "dense" in spec.first and not answer.hits and len(index) > index.manifest.unencoded:
            # Documents have vectors, so a dense search finds some.
            return "the canary query found nothing"
        if self._canaries_of != index.fingerprint:
            fresh = choose_canaries(index, spec.first)
            # Where no document finds itself now though one did: that one still has to, while it stands as it was.
            lacking = set(spec.first) - {canary.stage for canary in fresh}
            old = [canary for canary in self._canaries if canary.stage in lacking and canary.stands(index)]
            self._canaries, self._canaries_of = fresh + old, index.fingerprint
        for canary in self._canaries:
            if not canary.found(index):
                return f"the canary query of {canary.stage} does not find its document {canary.id[:80]!r} any more"
        return None


def choose_canaries(index: Index, stages: Sequence[FirstStage]) -> list[_Canary]:
    """Return for each stage a document that its own first words find; none where no document does."""
    documents: list[Document] = []
    for segment in index.segments:
        if not segment.entry.unencoded:
            live = np.arange(segment.documents) if segment.live is None else np.flatnonzero(segment.live)
            rows = [segment.row(ordinal) for ordinal in live[: TRIED - len(documents)].tolist()]
            documents += index.documents(rows).values()
        if len(documents) >= TRIED:
            break
    chosen = []
    for stage in stages:
        for document in documents:
            query = _words(document)
            if query and (canary := _Canary(stage, query, document.id)).found(index):
                chosen.append(canary)
                break
    return chosen


def _words(document: Document) -> str:
    return " ".join(document.content.split()[:WORDS])


def _asked(index: Index, stage: FirstStage, query: str) -> list[Hit]:
    return index.search(query, TOP, pipeline=PipelineSpec(first=(stage,)), documents=False).hits
