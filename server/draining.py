"""Stopping without dropping a request: first not ready, then not listening, then done."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from server.readiness import Readiness

log = logging.getLogger("server.errors")

# uvicorn ticks ten times a second.
TICKS_A_SECOND = 10


class DrainingServer(uvicorn.Server):
    """Turns /readyz to 503 at SIGTERM and goes on for a while, so that load balancers look elsewhere.

    broken  asked every second why the process has to be started anew; a reason stops it likewise
    """

    def __init__(
        self,
        config: uvicorn.Config,
        readiness: Readiness,
        drain_seconds: float,
        broken: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._drain_seconds = drain_seconds
        self._broken = broken
        self.failure: str | None = None
        """Why the service stopped by itself, if it did."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal, or Ctrl-C, does not wait."""
        wait = sig == signal.SIGTERM and not self._readiness.draining and self._drain_seconds > 0
        self._readiness.draining = True
        if not wait:
            super().handle_exit(sig, frame)
            return
        self._exit_later()

    async def on_tick(self, counter: int) -> bool:
        """Look whether a device was lost; return whether to stop now."""
        if self.failure is None and counter % TICKS_A_SECOND == 0:
            self.failure = self._broken()
            if self.failure is not None:
                log.critical("stopping, so that the service is started anew: %s", self.failure)
                self._readiness.draining = True
                self._exit_later()
        return await super().on_tick(counter)

    def _exit_later(self) -> None:
        timer = threading.Timer(self._drain_seconds, super().handle_exit, (signal.SIGTERM, None))
        timer.daemon = True
        timer.start()
