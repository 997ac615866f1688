"""What a ranking by a language model cost, and when it has to stop."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields


@dataclass(slots=True)
class Usage:
    """Counts of one ranking.

    calls        prompts that the model was given
    cached       prompts whose answer was known
    comparisons  pairs of documents that were decided, each by one prompt or, in both orders, two
    ties         comparisons that decided nothing, among them those where the two orders disagree
    invalid      prompts whose answer was none of those asked for
    prompt_tokens, answer_tokens  what the model read and wrote; an answer that is scored counts as written
    """

    calls: int = 0
    cached: int = 0
    comparisons: int = 0
    ties: int = 0
    invalid: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class OutOfTime(Exception):
    """The deadline passed; what was found until then is the caller's to use."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of time.perf_counter(), or None for as long as it takes."""

    moment: float | None = None

    @property
    def seconds(self) -> float | None:
        """What is left; None without end."""
        return None if self.moment is None else self.moment - time.perf_counter()

    def require(self) -> None:
        """Raise OutOfTime when the moment has passed."""
        left = self.seconds
        if left is not None and left <= 0:
            raise OutOfTime


@contextmanager
def turn(lock: threading.Lock, deadline: Deadline) -> Iterator[None]:
    """Wait for what the lock guards, such as a model, and keep it. Raises OutOfTime."""
    deadline.require()
    left = deadline.seconds
    if not lock.acquire(timeout=-1 if left is None else min(max(left, 0.0), threading.TIMEOUT_MAX)):
        raise OutOfTime
    try:
        yield
    finally:
        lock.release()
