"""When a request is made again, and after how long."""

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

import httpx

from retriever.errors import InvalidInput

# The service turned the request away before it did anything.
TURNED_AWAY = frozenset({429, 503})


class Repeat(Enum):
    """What may have happened already without harm when a request is made again."""

    ALWAYS = "anything: it only reads, or leaves the same behind"
    UNSENT = "nothing: an answer that is lost may have been a success"


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently requests are made again.

    times     how often at most, after the first attempt; 0 for never
    first     seconds before the first repetition; each further wait is twice as long, less a random part of up to half
    longest   seconds that such a wait is at most
    patience  a service that asks for a wait (Retry-After) longer than so many seconds is not waited for
    """

    times: int = 4
    first: float = 0.25
    longest: float = 8.0
    patience: float = 60.0

    def __post_init__(self) -> None:
        if self.times < 0 or min(self.first, self.longest, self.patience) < 0:
            raise InvalidInput(f"retries take numbers of at least 0, got {self}.")

    def delay(self, repetition: int, retry_after: float | None = None) -> float | None:
        """Return the seconds before a repetition, counted from 0; None when there is to be none.

        retry_after  seconds that the service asked for; fewer are never waited
        """
        if repetition >= self.times or (retry_after is not None and retry_after > self.patience):
            return None
        # Spread out, so that clients that failed together do not come back together.
        spread = random.uniform(0.5, 1)  # noqa: S311 (only spreads clients out, no secret)
        wait = min(self.longest, self.first * 2.0 ** min(repetition, 60)) * spread
        return max(wait, retry_after or 0.0)


def seconds_asked(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header, given as a number or as a date; None for none that can be read."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def repeatable_answer(status: int, repeat: Repeat) -> bool:
    """Tell whether a request that was answered so may be made again."""
    # 502 is a proxy's: the request may have reached the service.
    return status in TURNED_AWAY or (status == 502 and repeat is Repeat.ALWAYS)


def repeatable_failure(error: httpx.TransportError, repeat: Repeat) -> bool:
    """Tell whether a request that failed so may be made again."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return True
    # After a timeout the service may still be at it; asking again would only add to its work.
    broken = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
    return broken and repeat is Repeat.ALWAYS
