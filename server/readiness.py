"""Whether requests should come here: models loaded, canaries agreed, and a real query answered just now."""

import threading
import time

from retriever.errors import RetrievalError
from server.errors import Refusal
from server.indexes import Indexes
from server.models import Models

CANARY_QUERY = "the quick brown fox"


class Readiness:
    """Answers with the reason why the service is not ready, or None."""

    def __init__(self, indexes: Indexes, models: Models, reuse_seconds: float) -> None:
        self._indexes = indexes
        self._models = models
        self._reuse_seconds = reuse_seconds
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._reason: str | None = None
        self.draining = False
        """Set when the service is about to stop."""

    def reason(self) -> str | None:
        """Return why requests should go elsewhere, or None; the outcome is reused for a short time."""
        if self.draining:
            return "the service is stopping"
        if not self._indexes.prepared:
            return "models are being loaded"
        with self._lock:
            if time.monotonic() - self._checked_at >= self._reuse_seconds:
                self._reason = self._ask()
                self._checked_at = time.monotonic()
            return self._reason

    def _ask(self) -> str | None:
        broken = self._models.broken()
        if broken is not None:
            return f"a model's device failed, start the service anew: {broken}"
        try:
            with self._indexes.default.lease() as index:
                spec = index.pipelines[index.default_pipeline].without("rerank")
                answer = index.search(CANARY_QUERY, 1, pipeline=spec, documents=False)
                # Documents have vectors, so a dense search of an index that is not empty finds some.
                expected = "dense" in spec.first and len(index) > 0
        except (RetrievalError, RuntimeError) as error:
            return f"the canary query failed: {error}"
        except Refusal as refusal:
            # Busy is not broken: requests that find no room are told so one by one.
            return None if refusal.status == 429 else f"the canary query was refused: {refusal.message}"
        if answer.degraded:
            return f"the canary query was degraded: {', '.join(answer.degraded)}"
        return "the canary query found nothing" if expected and not answer.hits else None
