"""Whether requests should come here: models loaded, canaries agreed, queries with known answers answered just now."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from retriever.errors import DeadlineExceeded, ModelOverloaded, RetrievalError
from retriever.index.sealed import Index
from retriever.pipeline import FirstStage, PipelineSpec
from retriever.types import Document
from server.indexes import Indexes
from server.models import Models
from server.settings import Settings

# A query that means nothing in particular, for an index none of whose documents finds itself.
CANARY_QUERY = "the quick brown fox"

# Documents that are tried as known answers; copies and very short texts may not come out first.
TRIED = 20
WORDS = 24
TOP = 10

# What is given to a check beyond the deadline of its queries, which bounds nothing but models.
GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Canary:
    """A document's own words, which have to find it by one stage alone."""

    stage: FirstStage
    query: str
    id: str

    def stands(self, index: Index) -> bool:
        document = index.get(self.id)
        return document is not None and _words(document) == self.query

    def found(self, index: Index, deadline: float) -> bool:
        """Ask the index; deadline: moment of time.monotonic(). Raises DeadlineExceeded."""
        spec = PipelineSpec(first=(self.stage,))
        answer = index.search(self.query, TOP, pipeline=spec, documents=False, deadline_ms=_left(deadline))
        return any(hit.id == self.id for hit in answer.hits)


class Readiness:
    """Answers with the reason why the service is not ready, or None."""

    def __init__(self, indexes: Indexes, models: Models, settings: Settings) -> None:
        self._indexes = indexes
        self._models = models
        self._reuse_seconds = settings.readiness_seconds
        self._canary_seconds = settings.canary_seconds
        self._batch_seconds = settings.limits.batch_seconds
        self._checked_at = float("-inf")
        self._reason: str | None = None
        self._check: Future[None] | None = None
        self._begun_at = 0.0
        self._canaries: list[_Canary] = []
        self._canaries_of: str | None = None
        self.draining = False
        """Set when the service is about to stop."""

    async def reason(self) -> str | None:
        """Return why requests should go elsewhere, or None; the outcome is reused for a short time.

        There is one check at a time, in a thread of its own: probes that come while one hangs begin no other.
        """
        if self.draining:
            return "the service is stopping"
        if not self._indexes.prepared:
            return "models are being loaded"
        if self._check is None or self._check.done():
            if time.monotonic() - self._checked_at < self._reuse_seconds:
                return self._reason
            self._check, self._begun_at = Future(), time.monotonic()
            # A hanging model must not keep the process.
            threading.Thread(target=self._run, args=(self._check,), name="readiness", daemon=True).start()
        check = self._check
        left = self._begun_at + self._canary_seconds + GRACE_SECONDS - time.monotonic()
        if left > 0:
            await asyncio.wait([asyncio.wrap_future(check)], timeout=left)
        if not check.done():
            return f"the canary query has not been answered for {time.monotonic() - self._begun_at:.0f} seconds"
        check.result()
        return self._reason

    def _run(self, check: "Future[None]") -> None:
        try:
            self._reason = self._ask()
            self._checked_at = time.monotonic()
            check.set_result(None)
        except BaseException as error:
            check.set_exception(error)

    def _ask(self) -> str | None:
        broken = self._models.broken()
        if broken is not None:
            return f"a model's device failed, start the service anew: {broken}"
        hanging = self._models.hanging(self._batch_seconds)
        if hanging is not None:
            return f"{hanging} has not come back with a batch for {self._batch_seconds:g} seconds"
        try:
            with self._indexes.default.lease() as index:
                return self._ask_index(index, time.monotonic() + self._canary_seconds)
        except (ModelOverloaded, DeadlineExceeded):
            return self._hung()
        except (RetrievalError, RuntimeError) as error:
            return f"the canary query failed: {error}"

    def _hung(self) -> str | None:
        """Return which model keeps a canary query waiting, or None when the queue moves.

        Busy is not broken: requests that find no room are told so one by one.
        """
        seconds = self._canary_seconds / 2
        hanging = self._models.hanging(seconds)
        return hanging and f"the canary query was late, {hanging} has been at one batch for over {seconds:g} seconds"

    def _ask_index(self, index: Index, deadline: float) -> str | None:
        spec = index.pipelines[index.default_pipeline].without("rerank")
        answer = index.search(CANARY_QUERY, 1, pipeline=spec, documents=False, deadline_ms=_left(deadline))
        if any(note.endswith(("_overloaded", "_timeout")) for note in (*answer.warnings, *answer.degraded)):
            return self._hung()
        if answer.degraded:
            return f"the canary query was degraded: {', '.join(answer.degraded)}"
        if "dense" in spec.first and not answer.hits and len(index) > index.manifest.unencoded:
            # Documents have vectors, so a dense search finds some.
            return "the canary query found nothing"
        if self._canaries_of != index.fingerprint:
            fresh = choose_canaries(index, spec.first, deadline)
            # Where no document finds itself now though one did: that one still has to, while it stands as it was.
            lacking = set(spec.first) - {canary.stage for canary in fresh}
            old = [canary for canary in self._canaries if canary.stage in lacking and canary.stands(index)]
            self._canaries, self._canaries_of = fresh + old, index.fingerprint
        for canary in self._canaries:
            if not canary.found(index, deadline):
                return f"the canary query of {canary.stage} does not find its document {canary.id[:80]!r} any more"
        return None


def choose_canaries(index: Index, stages: Sequence[FirstStage], deadline: float) -> list[_Canary]:
    """Return for each stage a document that its own first words find; none where no document does.

    deadline  moment of time.monotonic(); raises DeadlineExceeded
    """
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
            if query and (canary := _Canary(stage, query, document.id)).found(index, deadline):
                chosen.append(canary)
                break
    return chosen


def _words(document: Document) -> str:
    return " ".join(document.content.split()[:WORDS])


def _left(deadline: float) -> float:
    """Return the milliseconds until a moment of time.monotonic(), at least a very few."""
    return max((deadline - time.monotonic()) * 1e3, 1e-3)
