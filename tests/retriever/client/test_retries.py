"""When and how long the client waits."""

import time
from email.utils import formatdate

import httpx
import pytest

from retriever.client.problems import Busy, Forbidden, NoRoom, NotFound, Refused, ServiceError, problem_of
from retriever.client.retries import Repeat, Retries, repeatable_answer, repeatable_failure, seconds_asked
from retriever.errors import BackendUnavailable, InvalidInput, RetrievalError, StorageFull


def answered(status: int = 503, content: bytes = b"", **headers: str) -> httpx.Response:
    request = httpx.Request("GET", "http://localhost/v1/info")
    return httpx.Response(status, content=content, headers=headers, request=request)


def test_waits_double_up_to_the_longest() -> None:
    retries = Retries(times=6, first=1.0, longest=5.0)
    for repetition, most in enumerate((1, 2, 4, 5, 5, 5)):
        waits = [retries.delay(repetition) for _ in range(50)]
        assert all(wait is not None and most / 2 <= wait <= most for wait in waits)
        assert len(set(waits)) > 1
    assert retries.delay(6) is None
    assert Retries(times=0).delay(0) is None
    # Beyond the range of floats.
    assert Retries(times=10**6).delay(10**5) == pytest.approx(6, abs=2)


def test_the_service_is_obeyed_within_patience() -> None:
    retries = Retries(times=1, first=0.1, longest=0.1, patience=30)
    assert retries.delay(0, retry_after=20) == 20
    assert retries.delay(0, retry_after=31) is None
    assert retries.delay(0, retry_after=0) is not None
    with pytest.raises(InvalidInput, match="at least 0"):
        Retries(first=-1)


def test_retry_after_is_a_number_or_a_date() -> None:
    assert seconds_asked(answered(**{"Retry-After": "7"})) == 7
    assert seconds_asked(answered(**{"Retry-After": formatdate(time.time() + 100, usegmt=True)})) == pytest.approx(
        100, abs=5
    )
    assert seconds_asked(answered(**{"Retry-After": formatdate(time.time() - 100, usegmt=True)})) == 0
    for nonsense in ("", "soon", "-3", "1.5", "٣", "Mon, 99 Foo 2026 00:00:00 GMT"):
        assert seconds_asked(answered(**{"Retry-After": nonsense} if nonsense.isascii() else {})) is None


def test_what_is_repeated_depends_on_what_may_have_happened() -> None:
    for repeat in Repeat:
        assert all(repeatable_answer(status, repeat) for status in (429, 503))
        assert not any(repeatable_answer(status, repeat) for status in (400, 401, 404, 413, 422, 500, 504, 507))
        assert repeatable_failure(httpx.ConnectError(""), repeat)
        assert repeatable_failure(httpx.ConnectTimeout(""), repeat)
        assert not repeatable_failure(httpx.ReadTimeout(""), repeat)
    for error in (httpx.ReadError(""), httpx.WriteError(""), httpx.RemoteProtocolError("")):
        assert repeatable_failure(error, Repeat.ALWAYS)
        assert not repeatable_failure(error, Repeat.UNSENT)
    assert repeatable_answer(502, Repeat.ALWAYS)
    assert not repeatable_answer(502, Repeat.UNSENT)


@pytest.mark.parametrize(
    ("status", "kind", "engine"),
    [
        (401, Forbidden, RetrievalError), (403, Forbidden, RetrievalError), (404, NotFound, RetrievalError),
        (413, Refused, InvalidInput), (422, Refused, ValueError), (429, Busy, BackendUnavailable),
        (424, ServiceError, RetrievalError), (500, ServiceError, RetrievalError), (503, Busy, BackendUnavailable),
        (507, NoRoom, StorageFull),
    ],
)  # fmt: skip
def test_problems_are_also_the_engines_errors(status: int, kind: type, engine: type) -> None:
    body = b'{"error": {"message": "no", "type": "x", "code": "c", "param": "k"}, "request_id": "r1"}'
    problem = problem_of(answered(status, body), 3.0)
    assert type(problem) is kind
    assert isinstance(problem, engine)
    assert (str(problem), problem.status, problem.code, problem.param) == ("no", status, "c", "k")
    assert (problem.request_id, problem.retry_after) == ("r1", 3.0)
    assert 1 <= problem.exit_code <= 10


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"[1]", b'{"error": "no"}', b"[" * 100_000, b"\xff"])
def test_any_other_body_is_quoted(content: bytes) -> None:
    problem = problem_of(answered(502, content), None)
    assert type(problem) is Busy
    assert "http://localhost/v1/info answered 502" in str(problem)
    assert len(str(problem)) < 400
    assert problem.code == ""
