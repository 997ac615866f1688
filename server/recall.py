"""The live recall of approximate search: a share of queries is searched exactly too, outside of the answer's path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retriever.pipeline import PipelineSpec
from retriever.search import MAX_QUERY_CHARACTERS, Request
from server.metrics import Metrics
from server.sampling import Sampler
from server.schemas import SearchRequest
from server.served_index import ServedIndex

# Recall at so many documents.
K = 10


@dataclass(frozen=True, slots=True)
class _Query:
    served: ServedIndex
    text: str
    depth: int
    filter: Mapping[str, Any] | None


class RecallMeter:
    """Compares dense searches that were not exact with exact ones, and counts it in the metrics."""

    def __init__(self, fraction: float, metrics: Metrics) -> None:
        """fraction: of the queries with a dense stage; 0 measures nothing and starts no thread."""
        self._metrics = metrics
        self._sampler = Sampler("ann-recall", self._measure, fraction) if fraction > 0 else None

    def offer(self, served: ServedIndex, body: SearchRequest, spec: PipelineSpec) -> None:
        """Take a share of queries that were just answered; returns at once. Those in the syntax are passed over."""
        if self._sampler is None or "dense" not in spec.first or body.syntax:
            return
        request = Request(body.k, spec, body.filter, body.group_by_parent, False, False, body.offset, None)
        for text in body.texts:
            if self._sampler.due():
                dropped = self._sampler.dropped
                self._sampler.put(_Query(served, text[:MAX_QUERY_CHARACTERS], request.depth, body.filter))
                self._metrics.recall_dropped.inc(self._sampler.dropped - dropped)

    def _measure(self, query: _Query) -> None:
        with query.served.lease() as index:
            if all(segment.dense is None or segment.dense.is_exact for segment in index.segments):
                return
            encoder = index.encoder
            if encoder is None:
                return
            vectors = encoder.encode_queries([query.text])
            mask = None if query.filter is None else index.mask(query.filter)
            (found,), exact = index.search_dense(vectors, query.depth, mask)
            if exact:
                # A filter left so few documents that all were looked at.
                return
            (best,), _ = index.search_dense(vectors, K, mask, exact=True)
        share = recall(list(found.scores), list(best.scores))
        if share is not None:
            filtered = "no" if query.filter is None else "yes"
            self._metrics.recall.labels(query.served.name, filtered).observe(share)

    def close(self) -> None:
        """Stop measuring; what waits is dropped."""
        if self._sampler is not None:
            self._sampler.close()


def recall(found: Sequence[float], best: Sequence[float]) -> float | None:
    """Return the share of the `best` that was found, by scores: one as good as the last counts."""
    if not best:
        return None
    # Other orders of summation change the last bits.
    least = best[-1] - 1e-5
    return sum(score >= least for score in found[: len(best)]) / len(best)
