"""What the service counts, in Prometheus' form; each app has a registry of its own."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from retriever.types import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


# Shares of what should have been found.
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)

# Sizes of batches, in inputs and in tokens.
INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class BatchMetrics:
    """The numbers of one model's batches."""

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self.queue_requests = metrics.queue_requests.labels(model)
        self.queue_tokens = metrics.queue_tokens.labels(model)
        self.wait_seconds = metrics.batch_wait_seconds.labels(model)
        self.rejected = metrics.batch_rejected.labels(model)
        self.abandoned = metrics.abandoned.labels(model)
        self.out_of_memory = metrics.out_of_memory.labels(model)
        self._inputs = metrics.batch_inputs.labels(model)
        self._tokens = metrics.batch_tokens.labels(model)
        self._seconds = metrics.batch_seconds.labels(model)
        self._read = metrics.model_tokens.labels(model)
        self._padding = metrics.padding_tokens.labels(model)

    def observe(self, inputs: int, tokens: int, padded: int, seconds: float) -> None:
        """Count a batch that was computed."""
        self._inputs.observe(inputs)
        self._tokens.observe(tokens)
        self._seconds.observe(seconds)
        self._read.inc(tokens)
        self._padding.inc(padded - tokens)


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
        self.rejected = Counter(
            "retriever_rejected", "Requests turned away with 429 before they reached a model.", registry=self.registry
        )
        self.reload_failures = Counter(
            "retriever_reload_failures",
            "New generations of an index that could not be served.",
            ("index",),
            registry=self.registry,
        )
        self.writes = Counter("retriever_writes", "Changes promised.", ("index", "operation"), registry=self.registry)
        self.write_failures = Counter(
            "retriever_write_failures",
            "Attempts to apply or encode changes that failed and are made again.",
            ("index", "step"),
            registry=self.registry,
        )
        self.unapplied = Gauge(
            "retriever_unapplied_writes", "Changes promised and not searchable yet.", ("index",), registry=self.registry
        )
        self.pending_encoding = Gauge(
            "retriever_pending_encoding", "Documents that wait for their vectors.", ("index",), registry=self.registry
        )
        self.running = Gauge("retriever_running_requests", "Requests being worked on.", registry=self.registry)
        self.waiting = Gauge("retriever_waiting_requests", "Requests waiting for a thread.", registry=self.registry)
        self.generation = Gauge(
            "retriever_index_generation", "Generation of the index that is served.", ("index",), registry=self.registry
        )
        self.documents = Gauge(
            "retriever_index_documents", "Documents of the index that is served.", ("index",), registry=self.registry
        )

        self.recall = Histogram(
            "retriever_ann_recall",
            "Share of the 10 best documents that approximate dense search found, of sampled queries.",
            ("index", "filtered"),
            buckets=SHARES,
            registry=self.registry,
        )
        self.recall_dropped = Counter(
            "retriever_ann_recall_dropped",
            "Sampled queries that were not measured, too many waited.",
            registry=self.registry,
        )
        self._add_batches()

    def _add_batches(self) -> None:
        model, registry = ("model",), self.registry
        self.queue_requests = Gauge(
            "retriever_queue_requests", "Requests that wait for a model.", model, registry=registry
        )
        self.queue_tokens = Gauge("retriever_queue_tokens", "Tokens that wait for a model.", model, registry=registry)
        self.batch_inputs = Histogram(
            "retriever_batch_inputs", "Texts of a batch.", model, buckets=INPUTS, registry=registry
        )
        self.batch_tokens = Histogram(
            "retriever_batch_tokens", "Tokens of a batch, without padding.", model, buckets=TOKENS, registry=registry
        )
        self.batch_seconds = Histogram(
            "retriever_batch_seconds", "Time to compute a batch.", model, buckets=SECONDS, registry=registry
        )
        self.batch_wait_seconds = Histogram(
            "retriever_batch_wait_seconds",
            "Time from a request's arrival at a model until its first text is computed.",
            model,
            buckets=SECONDS,
            registry=registry,
        )
        self.model_tokens = Counter("retriever_model_tokens", "Tokens that a model read.", model, registry=registry)
        self.padding_tokens = Counter(
            "retriever_padding_tokens", "Tokens of padding that a model computed.", model, registry=registry
        )
        self.batch_rejected = Counter(
            "retriever_batch_rejected",
            "Requests, or stages of searches, that a model's queue turned away.",
            model,
            registry=registry,
        )
        self.abandoned = Counter(
            "retriever_abandoned", "Requests whose client left before a model was done.", model, registry=registry
        )
        self.out_of_memory = Counter(
            "retriever_out_of_memory", "Batches that did not fit into memory.", model, registry=registry
        )

    def batches(self, model: str) -> BatchMetrics:
        """Return the numbers of one model's batches."""
        return BatchMetrics(self, model)

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

    def observe_index(self, name: str, generation: int, documents: int) -> None:
        """Record which generation of an index is served."""
        self.generation.labels(name).set(generation)
        self.documents.labels(name).set(documents)

    def expose(self) -> bytes:
        """Return all numbers in the text format."""
        return generate_latest(self.registry)
