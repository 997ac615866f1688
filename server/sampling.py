"""A share of what is answered, looked at again in the background."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

# The second look must not slow the answers: what does not fit is dropped and counted.
WAITING = 64


class Sampler(Generic[Item]):
    """Does work for a share of items, in one thread of its own; safe for concurrent use."""

    def __init__(self, name: str, work: Callable[[Item], None], fraction: float) -> None:
        """fraction: of the items, above 0 and up to 1. What `work` raises is counted and kept as `error`."""
        self._work = work
        self._fraction = fraction
        self._lock = threading.Lock()
        # Half at the start, so that a share of 1 in 10 takes the fifth item and not the tenth first.
        self._due = 0.5
        self._queue: queue.Queue[Item | None] = queue.Queue(WAITING)
        self.dropped = self.failed = 0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def due(self) -> bool:
        """Tell whether the next item is one of the share."""
        with self._lock:
            self._due += self._fraction
            if self._due < 1:
                return False
            self._due -= 1
            return True

    def put(self, item: Item) -> None:
        """Take an item; returns at once."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            with self._lock:
                self.dropped += 1

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._work(item)
            except Exception as error:
                # Whatever cannot be done is part of what is found.
                with self._lock:
                    self.failed += 1
                    self.error = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        """Stop after the item at hand; what waits is dropped."""
        while True:
            try:
                self._queue.put_nowait(None)
                break
            except queue.Full:
                # The thread may have emptied the queue meanwhile.
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
        self._thread.join(10.0)
