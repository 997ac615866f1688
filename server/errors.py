"""From an error to what the client sees: one table, one body.

Every error, the framework's own included, has the form that OpenAI's clients read; routes that stand in for other
APIs have those APIs' (`server.error_shapes`):

    {"error": {"message": "...", "type": "...", "code": "...", "param": null}, "request_id": "..."}
"""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from retriever.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    IndexCorrupt,
    IndexLocked,
    IndexMismatch,
    InvalidInput,
    ModelFault,
    ModelOverloaded,
    ModelUnavailable,
    OutOfMemory,
    PromptTooLong,
    RetrievalError,
    StorageFull,
    UnknownIndex,
)
from server.error_shapes import SHAPES, ErrorBody, ErrorDetail
from server.metrics import Metrics

log = logging.getLogger("server.errors")

STATUS: dict[type[RetrievalError], tuple[int, str]] = {
    InvalidInput: (422, "invalid_input"),
    PromptTooLong: (422, "prompt_too_long"),
    UnknownIndex: (404, "unknown_index"),
    ModelFault: (424, "model_fault"),
    IndexMismatch: (503, "index_mismatch"),
    IndexCorrupt: (503, "index_corrupt"),
    IndexLocked: (503, "index_locked"),
    BackendUnavailable: (503, "backend_unavailable"),
    ModelUnavailable: (503, "not_ready"),
    ModelOverloaded: (429, "overloaded"),
    DeadlineExceeded: (504, "deadline_exceeded"),
    StorageFull: (507, "storage_full"),
    OutOfMemory: (507, "out_of_memory"),
    RetrievalError: (500, "retrieval_error"),
}
"""Status and code of each class; a class that is missing takes those of its nearest parent."""

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    421: "unknown_host",
    422: "invalid_input",
    429: "overloaded",
    503: "not_ready",
}

MAX_COMPLAINTS = 5


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body is not JSON that this service reads.",
        401: "The API key is missing or wrong.",
        403: "The key, or the service, may only read.",
        404: "There is no such thing here.",
        408: "The body took too long to arrive.",
        413: "The body is too large.",
        415: "The body is not uncompressed JSON.",
        421: "The Host header is not a name of this service.",
        422: "A value is not allowed; the message names it.",
        424: "A model gave unusable numbers.",
        429: "Too many requests are waiting; try again after Retry-After seconds.",
        503: "The index or a model cannot be used now.",
        507: "The disk is full; nothing was changed.",
    }.items()
}
"""The errors of a route that takes a body, for its OpenAPI description."""

LOOKING: dict[int | str, dict[str, Any]] = {status: RESPONSES[status] for status in (401, 421)}
"""The errors of a route that takes no body and no thread."""

SEARCH_RESPONSES = RESPONSES | {
    504: {"model": ErrorBody, "description": "The deadline passed before there was anything to answer with."},
    507: {"model": ErrorBody, "description": "The device has too little memory for this request."},
}
"""The errors of a search."""


def responses_of(path: str) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a model route, in the shape of its API."""
    shape = SHAPES[path]
    statuses = RESPONSES.keys() - {403}
    return {status: {**RESPONSES[status], "model": shape.model} for status in sorted(statuses, key=int)} | {
        504: {"model": shape.model, "description": "The model did not come back with a batch in time."},
        507: {"model": shape.model, "description": "The device has too little memory for this request."},
    }


class ErrorResponse(JSONResponse):
    """An error in the one form that all errors have, or in that of the API whose route was asked."""

    def __init__(self, status: int, body: ErrorBody, headers: Mapping[str, str]) -> None:
        super().__init__(body.model_dump(), status_code=status, headers=dict(headers))
        self._error = body
        self._given = dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shape = SHAPES.get(scope["path"])
        if shape is None:
            await super().__call__(scope, receive, send)
            return
        status = shape.status(self.status_code)
        answer = JSONResponse(shape.render(status, self._error), status_code=status, headers=self._given)
        await answer(scope, receive, send)


class Refusal(Exception):
    """A request that is turned away before it reaches the engine."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or CODES.get(status, "error")
        self.param = param
        self.headers = dict(headers or {})


def status_of(error: RetrievalError) -> tuple[int, str]:
    """Return the HTTP status and the code of an engine's error."""
    for parent in type(error).__mro__:
        if parent in STATUS:
            return STATUS[parent]
    return STATUS[RetrievalError]


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error in the one form that all errors have."""
    detail = ErrorDetail(
        # A message may quote what the client sent, which need not be encodable.
        message=message.encode("utf-8", "replace").decode("utf-8"),
        type="invalid_request_error" if status < 500 else "server_error",
        code=code or CODES.get(status, "error"),
        param=param,
    )
    return ErrorResponse(status, ErrorBody(error=detail, request_id=request_id), headers or {})


def refusal_response(refusal: Refusal, request_id: str | None) -> JSONResponse:
    """Return the answer that a refusal stands for."""
    return error_response(
        refusal.status,
        refusal.message,
        code=refusal.code,
        param=refusal.param,
        request_id=request_id,
        headers=refusal.headers,
    )


def add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Make an app answer engine errors, refusals and the framework's own errors in the one form.

    metrics  count refusals for want of room; what a model's queue turns away counts there
    """

    @app.exception_handler(RetrievalError)
    def on_retrieval_error(request: Request, error: RetrievalError) -> JSONResponse:
        status, code = status_of(error)
        # What the state of a model costs each request is in the metrics; a line for each would flood the log.
        if status >= 500 and not isinstance(error, ModelUnavailable | DeadlineExceeded):
            log.error("%s: %s", type(error).__name__, error, extra={"request_id": _request_id(request)})
        headers = {"Retry-After": "5"} if status == 503 else {}
        if isinstance(error, ModelUnavailable):
            headers = {"Retry-After": str(error.retry_after)}
        return error_response(status, str(error), code=code, request_id=_request_id(request), headers=headers)

    @app.exception_handler(Refusal)
    def on_refusal(request: Request, refusal: Refusal) -> JSONResponse:
        if refusal.status == 429:
            metrics.rejected.inc()
        return refusal_response(refusal, _request_id(request))

    @app.exception_handler(RequestValidationError)
    def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        complaints = [_complaint(entry) for entry in error.errors()]
        message = "; ".join(f"{param}: {text}" if param else text for param, text in complaints[:MAX_COMPLAINTS])
        if len(complaints) > MAX_COMPLAINTS:
            message += f"; and {len(complaints) - MAX_COMPLAINTS} more"
        return error_response(422, message, param=complaints[0][0] or None, request_id=_request_id(request))

    @app.exception_handler(HTTPException)
    def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(
            error.status_code, str(error.detail), request_id=_request_id(request), headers=error.headers
        )


def _request_id(request: Request) -> str | None:
    found = request.scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None


def _complaint(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return the parameter's path and what is wrong with its value."""
    place = [str(part) for part in entry["loc"] if part != "body"]
    text = str(entry["msg"]).removeprefix("Value error, ")
    value = entry.get("input")
    if isinstance(value, str | int | float | bool) and entry["type"] != "extra_forbidden":
        shown = repr(value)
        text += f", got {shown if len(shown) <= 80 else shown[:77] + '...'}"
    return ".".join(place), text
