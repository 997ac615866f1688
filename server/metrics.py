"""What the service counts, in Prometheus' form; each app has a registry of its own."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from retriever.types import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("retriever_requests", "Requests answered.", ("route", "status"), registry=self.registry)
        self.request_seconds = Histogram(
            "retriever_request_seconds",
            "Time to answer, waiting included.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "retriever_stage_seconds",
            "Time of one stage for one query.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queries = Counter("retriever_queries", "Queries answered.", registry=self.registry)
        self.hits = Counter("retriever_hits", "Documents returned.", registry=self.registry)
        self.degraded = Counter(
            "retriever_degraded", "Stages left out of answers.", ("reason",), registry=self.registry
        )
        self.truncated = Counter(
            "retriever_truncated", "Inputs cut to a model's length.", ("input",), registry=self.registry
        )
        self.rejected = Counter("retriever_rejected", "Requests turned away with 429.", registry=self.registry)
        self.reload_failures = Counter(
            "retriever_reload_failures",
            "New generations of the index that could not be served.",
            registry=self.registry,
        )
        self.running = Gauge("retriever_running_requests", "Requests being worked on.", registry=self.registry)
        self.waiting = Gauge("retriever_waiting_requests", "Requests waiting for a thread.", registry=self.registry)
        self.generation = Gauge(
            "retriever_index_generation", "Generation of the index that is served.", registry=self.registry
        )
        self.documents = Gauge(
            "retriever_index_documents", "Documents of the index that is served.", registry=self.registry
        )

    def observe_answers(self, answers: Sequence[Answer]) -> None:
        """Count what a search returned."""
        self.queries.inc(len(answers))
        for answer in answers:
            self.hits.inc(len(answer.hits))
            for reason in answer.degraded:
                self.degraded.labels(reason).inc()
            if answer.truncated:
                self.truncated.labels("query").inc()
            for stage, milliseconds in answer.timings.items():
                self.stage_seconds.labels(stage).observe(milliseconds / 1e3)

    def observe_index(self, generation: int, documents: int) -> None:
        """Record which index is served."""
        self.generation.set(generation)
        self.documents.set(documents)

    def expose(self) -> bytes:
        """Return all numbers in the text format."""
        return generate_latest(self.registry)
