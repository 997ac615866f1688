"""Changes to one index over HTTP: promised at once, applied within moments, encoded when there is time."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from indexing.change import Merged
from indexing.journal import Journal, Operation
from indexing.live import Encoded, add_vectors, apply_operations, encode_waiting
from indexing.merging import large_segments, merge_large, merge_small, put_merged
from retriever.errors import RetrievalError
from retriever.types import Document
from server.errors import Refusal
from server.metrics import Metrics
from server.served_index import ServedIndex

log = logging.getLogger("server.writer")

# Each batch makes a generation; fewer of them cost less, more of them are searchable sooner.
APPLY_SECONDS = 0.25
APPLIED_TOGETHER = 2000
APPLIED_BYTES = 8 * 1024 * 1024
RETRY_SECONDS = 1.0

# What is promised and not applied is held in memory.
MOST_UNAPPLIED = 50_000
MOST_UNAPPLIED_BYTES = 256 * 1024 * 1024


class Writer:
    """The one writer of an index in service: a journal, and threads that apply it, encode, and merge what is large."""

    def __init__(self, served: ServedIndex, metrics: Metrics) -> None:
        """Open the journal. Raises IndexLocked when another service has it, InvalidInput when it is read-only."""
        self._served = served
        self._metrics = metrics
        self._path = served.path
        with served.lease() as index:
            self._journal = Journal(self._path, index.manifest.applied)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: dict[str, str] = {}
        self._merged: Merged | None = None
        self._encoded: list[Encoded] = []

    def start(self) -> None:
        """Apply what an earlier service promised, then go on in the background."""
        self._run_once("apply", self._apply_all)
        for name, work in (("apply", self._apply_all), ("encode", self._encode), ("merge", self._merge)):
            thread = threading.Thread(target=self._loop, args=(name, work), name=f"{name}-{self._served.name}")
            # A hanging model must not keep the process; what is promised is on disk.
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    @property
    def unapplied(self) -> int:
        """How many promised changes are not searchable yet."""
        return self._journal.backlog[0]

    @property
    def error(self) -> str | None:
        """Why changes are not being applied, encoded or merged at the moment, if so."""
        return "; ".join(self._errors.values()) or None

    @property
    def full(self) -> bool:
        """Whether further changes have to wait for those before them."""
        operations, size = self._journal.backlog
        return operations >= MOST_UNAPPLIED or size >= MOST_UNAPPLIED_BYTES

    def write(self, changes: Sequence[tuple[str, Document | None]]) -> int:
        """Promise changes, (id, document or None to delete), and return the number of the last one.

        They survive the end of the process, however it comes. Raises StorageFull; Refusal (429) when too many
        wait to be applied.
        """
        if self.full:
            raise Refusal(
                429,
                f"{self.unapplied} changes wait to be applied; try again later."
                + (f" The reason: {self.error}" if self.error else ""),
                headers={"Retry-After": "2"},
            )
        number = self._journal.append(changes)
        for _, document in changes:
            self._metrics.writes.labels(self._served.name, "delete" if document is None else "put").inc()
        self._metrics.unapplied.labels(self._served.name).set(self.unapplied)
        return number

    def latest(self, id_: str) -> Operation | None:
        """Return the last promised change of an id that is not searchable yet, or None."""
        return self._journal.latest(id_)

    def wait(self, number: int, seconds: float) -> bool:
        """Wait until changes up to `number` are searchable; return whether they are."""
        return self._journal.wait_applied(number, seconds)

    def close(self) -> None:
        """Stop after the batch at hand; what is left is applied at the next start."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10.0)
        self._journal.close()

    def _loop(self, name: str, work: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            if name == "apply":
                self._journal.wait_for_work(APPLY_SECONDS)
            began = time.monotonic()
            pause = APPLY_SECONDS if self._run_once(name, work) else RETRY_SECONDS
            self._stopping.wait(max(0.0, began + pause - time.monotonic()))

    def _run_once(self, name: str, work: Callable[[], None]) -> bool:
        """Do work and note how it went; return whether it went well."""
        try:
            work()
        except Exception as error:
            # A thread that ended would leave all later changes waiting.
            if self._errors.get(name) != str(error):
                level = logging.WARNING if isinstance(error, RetrievalError) else logging.ERROR
                log.log(level, "cannot %s changes of %s now: %s", name, self._served.name, error, exc_info=error)
            self._errors[name] = str(error)
            self._metrics.write_failures.labels(self._served.name, name).inc()
            return False
        self._errors.pop(name, None)
        return True

    def _apply_all(self) -> None:
        while self.unapplied and not self._stopping.is_set():
            with self._served.changing():
                # What has come into service only now is not applied a second time.
                self._forget_served()
                operations = self._journal.pending(APPLIED_TOGETHER, APPLIED_BYTES)
                if operations:
                    self._apply(operations)
            self._forget_served()
            with self._served.changing():
                merge_small(self._path)

    def _apply(self, operations: Sequence[Operation]) -> None:
        with self._served.lease() as index:
            encoder = index.encoder if index.manifest.chunking else None
        apply_operations(self._path, operations, encoder=encoder)

    def _forget_served(self) -> None:
        """Forget what the generation in service holds; what is only on disk is still read from the journal."""
        self._journal.done(self._served.applied)
        self._metrics.unapplied.labels(self._served.name).set(self.unapplied)

    def _encode(self) -> None:
        with self._served.lease() as index:
            waiting = index.manifest.unencoded
            self._metrics.pending_encoding.labels(self._served.name).set(waiting)
            if not waiting:
                return
            encoder, term_encoder, local = index.encoder, index.sparse_encoder, index.local_encoder
        if not self._encoded:
            # Vectors that cannot be put in place would be made again and again.
            self._served.require_newest()
            self._encoded = encode_waiting(
                self._path, encoder, term_encoder, local_encoder=local, stopped=self._stopping.is_set
            )
        if self._encoded:
            # Where a command has the lock for long, vectors wait for it.
            with self._served.changing():
                add_vectors(self._path, self._encoded)
            self._encoded = []

    def _merge(self) -> None:
        if self._merged is None:
            with self._served.lease() as index:
                if not large_segments(index.manifest):
                    return
            self._served.require_newest()
            self._merged = merge_large(self._path)
        if self._merged is not None:
            # Where a command has the lock for long, what was made of the segments waits for it.
            with self._served.changing():
                put_merged(self._path, self._merged)
            self._merged = None
