"""Stopping without dropping a request: first not ready, then not listening, then done."""

import signal
import threading
from types import FrameType

import uvicorn

from server.readiness import Readiness


class DrainingServer(uvicorn.Server):
    """Turns /readyz to 503 at SIGTERM and goes on for a while, so that load balancers look elsewhere."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness, drain_seconds: float) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal, or Ctrl-C, does not wait."""
        wait = sig == signal.SIGTERM and not self._readiness.draining and self._drain_seconds > 0
        self._readiness.draining = True
        if not wait:
            super().handle_exit(sig, frame)
            return
        timer = threading.Timer(self._drain_seconds, super().handle_exit, (sig, None))
        timer.daemon = True
        timer.start()
