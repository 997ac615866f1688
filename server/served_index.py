"""The index in service, which may be replaced underneath while requests run."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from retriever.errors import BackendUnavailable
from retriever.index.sealed import Index
from retriever.pipeline import Rerank
from server.heap import Heap
from server.metrics import Metrics

log = logging.getLogger("server.index")

# How long a generation that could not be served is left alone before it is tried again.
RETRY_SECONDS = 5.0


@dataclass
class _Generation:
    index: Index
    leases: int = 0


class ServedIndex:
    """Lends the newest usable generation; a replaced one is closed when its last borrower is done."""

    def __init__(self, name: str, index: Index, reranker: str | None, metrics: Metrics) -> None:
        self.name = name
        self.path = index.path
        self._current = _Generation(index)
        self._reranker = reranker
        self._metrics = metrics
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._retry_at = 0.0
        self._prepared = False
        self._heap = Heap()
        self.reload_error: str | None = None
        """Why the generation on disk is not the one in service, if so."""

    @property
    def prepared(self) -> bool:
        """Whether models are loaded and the canaries agreed."""
        return self._prepared

    @property
    def applied(self) -> int:
        """The number of the last change over HTTP that the generation in service holds."""
        return self._current.index.manifest.applied

    def prepare(self) -> None:
        """Load the models and compare the canaries; does nothing the second time.

        Raises IndexMismatch or BackendUnavailable.
        """
        if not self._prepared:
            self._prepare(self._current.index)
            self._prepared = True

    def _prepare(self, index: Index, canaries: bool = True) -> None:
        index.warm()
        if canaries:
            index.check_canaries()
        if self._reranker is not None:
            index.ranker(Rerank.read(self._reranker))
        self._metrics.observe_index(self.name, index.generation, len(index))

    @contextmanager
    def lease(self) -> Iterator[Index]:
        """Lend the newest generation for the time of one request."""
        self._renew()
        with self._lock:
            generation = self._current
            generation.leases += 1
        try:
            yield generation.index
        finally:
            with self._lock:
                generation.leases -= 1
                done = generation is not self._current and generation.leases == 0
            if done:
                self._let_go(generation.index)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make a new generation meanwhile; it is in service afterwards. Requests go on with the one before it.

        A generation of which only documents are new is not held against the canaries again.
        Raises BackendUnavailable, and nothing is made, while the newest generation cannot be served: the more were
        made on it, the more changes would be in none that is.
        """
        with self._renewing:
            self._try_to_change_over()
            self.require_newest()
            yield
            self._try_to_change_over(own=True)

    def require_newest(self) -> None:
        """Raise BackendUnavailable when the newest generation was tried and cannot be served."""
        if self.reload_error is not None:
            raise BackendUnavailable(f"the newest generation of {self.name} cannot be served: {self.reload_error}")

    def _renew(self) -> None:
        # One thread changes over; the others go on with what there is.
        if not self._renewing.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._retry_at:
                self._try_to_change_over()
        finally:
            self._renewing.release()

    def _try_to_change_over(self, own: bool = False) -> None:
        try:
            self._change_over(own)
        except Exception as error:
            # Whatever it was, a full queue of the encoder included: requests go on with the generation in service.
            self._retry_at = time.monotonic() + RETRY_SECONDS
            known, self.reload_error = self.reload_error, str(error) or type(error).__name__
            self._metrics.reload_failures.labels(self.name).inc()
            # A service that writes tries every second.
            level = logging.DEBUG if self.reload_error == known else logging.ERROR
            log.log(level, "the new generation of %s cannot be served, the old one stays: %s", self.name, error)

    def _change_over(self, own: bool) -> None:
        old = self._current
        fresh = old.index.latest()
        if fresh is old.index:
            self.reload_error = None
            return
        try:
            self._prepare(fresh, canaries=not (own and fresh.manifest.dense == old.index.manifest.dense))
        except BaseException:
            fresh.close()
            raise
        with self._lock:
            self._current = _Generation(fresh)
            unused = old.leases == 0
        self.reload_error = None
        log.log(
            logging.DEBUG if own else logging.INFO,
            "generation %d of %s replaces %d",
            fresh.generation,
            self.name,
            old.index.generation,
        )
        if unused:
            self._let_go(old.index)

    def _let_go(self, index: Index) -> None:
        index.close()
        self._heap.trim()

    def close(self) -> None:
        """Close the index in service."""
        self._current.index.close()
