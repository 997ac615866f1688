"""Memory that the process has freed and the C library keeps, given back to the system."""

import ctypes
import threading
import time

# It takes some milliseconds, in which other threads wait for memory.
SECONDS = 30.0


class Heap:
    """Gives freed memory back, no more often than every `SECONDS`.

    Generations that come and go leave holes; glibc keeps them, and the process seems to grow until they are of all
    sizes. Other C libraries have no such call, and nothing is done.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._again_at = 0.0
        self._lock = threading.Lock()

    def trim(self) -> None:
        """Give back what is free, unless that was done a moment ago."""
        with self._lock:
            if self._trim is None or time.monotonic() < self._again_at:
                return
            self._again_at = time.monotonic() + SECONDS
        self._trim(0)
