"""How errors look to the clients of each API that the model routes stand in for.

The routes that are our own, and /v1/embeddings, give the body of `server.errors.ErrorBody`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

TeiErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class ErrorDetail(BaseModel):
    """What went wrong, in a sentence that says what to do about it."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
    request_id: str | None = None


class JinaErrorBody(ErrorBody):
    """The same, with the sentence where Jina's clients look for it."""

    detail: str


class CohereErrorBody(BaseModel):
    """The error of Cohere's API."""

    id: str | None
    message: str


class TeiErrorBody(BaseModel):
    """The error of Text Embeddings Inference."""

    error: str
    error_type: TeiErrorType


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """The errors of one API.

    invalid  the status of a request with a value that is not allowed
    render   gives the body
    model    the body's description
    """

    invalid: int
    render: Callable[[int, ErrorBody], dict[str, Any]]
    model: type[BaseModel]

    def status(self, status: int) -> int:
        """Return the status that this API has for one of ours."""
        return self.invalid if status == 422 else status


def _own(status: int, body: ErrorBody) -> dict[str, Any]:
    return body.model_dump()


def _jina(status: int, body: ErrorBody) -> dict[str, Any]:
    return {"detail": body.error.message, **body.model_dump()}


def _cohere(status: int, body: ErrorBody) -> dict[str, Any]:
    return {"id": body.request_id, "message": body.error.message}


TEI_TYPES: dict[int, TeiErrorType] = {
    400: "Empty",
    424: "Backend",
    429: "Overloaded",
    503: "Unhealthy",
    504: "Backend",
    507: "Backend",
}


def _tei(status: int, body: ErrorBody) -> dict[str, Any]:
    return {"error": body.error.message, "error_type": TEI_TYPES.get(status, "Validation")}


OPENAI = ErrorShape(400, _own, ErrorBody)
JINA = ErrorShape(422, _jina, JinaErrorBody)
COHERE = ErrorShape(400, _cohere, CohereErrorBody)
TEI = ErrorShape(422, _tei, TeiErrorBody)

SHAPES: dict[str, ErrorShape] = {
    "/v1/embeddings": OPENAI,
    "/v1/rerank": JINA,
    "/v2/rerank": COHERE,
    "/rerank": TEI,
    "/embed": TEI,
}
"""By path, for errors may come from before the routes."""
