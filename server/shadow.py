"""Shadow traffic: a share of an index's queries is asked of a second index too, and the answers are compared.

So a new encoder is judged on the queries of the day before any user sees its answers.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retriever.types import Answer
from server.pipelines import choose_pipeline
from server.sampling import Sampler
from server.schemas import SearchRequest
from server.served_index import ServedIndex
from server.settings import Settings
from server.shadow_schemas import Latency, ShadowReport

REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Comparison:
    text: str
    body: SearchRequest
    ids: list[str]
    milliseconds: float


class Shadow:
    """Compares two indexes on a share of the queries; the report is over the last REMEMBERED of them."""

    def __init__(self, source: str, target: ServedIndex, fraction: float, k: int, settings: Settings) -> None:
        """fraction: of the queries, above 0 and up to 1; k: how many hits are compared."""
        self.source = source
        self.target = target
        self.fraction = fraction
        self.k = k
        self._settings = settings
        self._lock = threading.Lock()
        self._compared = 0
        self._overlaps: deque[float] = deque(maxlen=REMEMBERED)
        self._firsts: deque[bool] = deque(maxlen=REMEMBERED)
        self._times: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._sampler = Sampler(f"shadow-{source}", self._compare, fraction)

    def offer(self, body: SearchRequest, answers: Sequence[Answer]) -> None:
        """Take a share of queries that were just answered; returns at once. Later pages are passed over."""
        if body.offset:
            return
        for text, answer in zip(body.texts, answers, strict=True):
            if self._sampler.due():
                ids = [hit.id for hit in answer.hits]
                self._sampler.put(_Comparison(text, body, ids, answer.timings.get("total", 0.0)))

    def _compare(self, comparison: _Comparison) -> None:
        body = comparison.body
        k = min(self.k, body.k)
        with self.target.lease() as index:
            asked = body.pipeline
            if isinstance(asked, str) and asked not in index.pipelines:
                # Such as the default with the configured reranker, which has the second index's own name there.
                asked = None
            _, spec = choose_pipeline(index, self._settings, asked, body.without)
            answer = index.search(
                comparison.text,
                k,
                pipeline=spec,
                field_weights=body.field_weights,
                filter=body.filter,
                group_by_parent=body.group_by_parent,
                documents=False,
                syntax=body.syntax,
            )
        mine, theirs = comparison.ids[:k], [hit.id for hit in answer.hits]
        with self._lock:
            self._compared += 1
            self._overlaps.append(overlap(mine, theirs))
            self._firsts.append(mine[:1] == theirs[:1])
            self._times.append((comparison.milliseconds, answer.timings["total"]))

    def report(self) -> ShadowReport:
        """Return what was found so far."""
        with self._lock:
            overlaps, firsts, times = list(self._overlaps), list(self._firsts), list(self._times)
            return ShadowReport(
                index=self.source,
                shadow=self.target.name,
                fraction=self.fraction,
                k=self.k,
                queries=self._compared,
                dropped=self._sampler.dropped,
                failed=self._sampler.failed,
                last_error=self._sampler.error,
                mean_overlap=float(np.mean(overlaps)) if overlaps else None,
                same_first=float(np.mean(firsts)) if firsts else None,
                latency=_latency([first for first, _ in times]),
                shadow_latency=_latency([second for _, second in times]),
            )

    def close(self) -> None:
        """Stop comparing; what waits is dropped."""
        self._sampler.close()


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of the longer list that both have; 1 when both are empty."""
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def _latency(milliseconds: Sequence[float]) -> Latency | None:
    if not milliseconds:
        return None
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Latency(mean_ms=float(np.mean(milliseconds)), p50_ms=float(p50), p95_ms=float(p95))
