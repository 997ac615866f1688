"""What follows on an attempt that was no success: another one after a while, or an error."""

import httpx

from retriever.client.problems import TimedOut, Unreachable, problem_of
from retriever.client.retries import Repeat, Retries, repeatable_answer, repeatable_failure, seconds_asked
from retriever.errors import RetrievalError


def wait_after(
    got: httpx.Response | httpx.TransportError, url: str, repeat: Repeat, retries: Retries, repetition: int
) -> float:
    """Return the seconds until the next attempt. Raises the error that the attempt stands for when there is none."""
    retry_after = None
    problem: RetrievalError
    if isinstance(got, httpx.Response):
        retry_after = seconds_asked(got)
        problem = problem_of(got, retry_after)
        again = repeatable_answer(got.status_code, repeat)
    else:
        again = repeatable_failure(got, repeat)
        if isinstance(got, httpx.TimeoutException):
            problem = TimedOut(f"{url} did not answer in time ({type(got).__name__}).")
        else:
            problem = Unreachable(f"cannot reach {url}: {got or type(got).__name__}.")
        problem.__cause__ = got
    delay = retries.delay(repetition, retry_after) if again else None
    if delay is None:
        raise problem
    return delay
