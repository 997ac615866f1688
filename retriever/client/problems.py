"""What a service refuses or cannot do, as classes that hold its own words.

Each is also one of `retriever.errors`, so that code around a local index catches them unchanged.
"""

import json
from typing import Any

import httpx

from retriever.errors import BackendUnavailable, InvalidInput, RetrievalError, StorageFull

SHOWN = 200


class ServiceError(RetrievalError):
    """An answer that is no success.

    status       of HTTP
    code         the service's word for it, such as "unknown_index"; empty when something before the service answered
    param        the part of the request that is meant, or None
    request_id   under which the service's log has the request, or None
    retry_after  seconds after which the service asks to try again, or None
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class Refused(ServiceError, InvalidInput):
    """The request is not allowed as it is (400, 405, 413, 415, 421, 422); change it."""


class Forbidden(ServiceError):
    """The API key is missing, wrong, or may only read (401, 403)."""

    exit_code = InvalidInput.exit_code


class NotFound(ServiceError):
    """There is no such index, document, alias or model (404); `code` says which."""

    exit_code = 3


class Busy(ServiceError, BackendUnavailable):
    """Too much waits, or an index or a model cannot be used now (408, 429, 502, 503, 504)."""


class NoRoom(ServiceError, StorageFull):
    """The service's disk is full, or its device too small for the request (507)."""


class Unreachable(RetrievalError):
    """No answer came: no connection, or it broke. After a change that was sent, its outcome is not known."""

    exit_code = BackendUnavailable.exit_code


class TimedOut(Unreachable):
    """No answer came in time; the service may still be at it."""


class UnexpectedAnswer(RetrievalError):
    """What answered is not this service, or one of another time; compare the address and the versions."""


KINDS: dict[int, type[ServiceError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    408: Busy,
    429: Busy,
    502: Busy,
    503: Busy,
    504: Busy,
    507: NoRoom,
}


def problem_of(response: httpx.Response, retry_after: float | None) -> ServiceError:
    """Return the error that an answer other than a success stands for; its body must have been read."""
    status = response.status_code
    kind = KINDS.get(status, Refused if status < 500 and status != 424 else ServiceError)
    body = _body(response)
    detail = body.get("error")
    request_id = body.get("request_id") or response.headers.get("X-Request-ID")
    if not isinstance(detail, dict):
        # A proxy or another program.
        start = response.text[:SHOWN].strip()
        return kind(
            f"{response.request.url} answered {status} {response.reason_phrase}{': ' + start if start else ''}",
            status=status,
            request_id=request_id,
            retry_after=retry_after,
        )
    return kind(
        str(detail.get("message", f"status {status}")),
        status=status,
        code=str(detail.get("code", "")),
        param=detail.get("param"),
        request_id=request_id,
        retry_after=retry_after,
    )


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
