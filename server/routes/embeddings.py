"""POST /v1/embeddings in the form of OpenAI's API, and POST /embed in that of Text Embeddings Inference."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic_core import to_json

from retriever.errors import InvalidInput, ModelFault
from server.dependencies import PreparedService, Service
from server.errors import Refusal, responses_of
from server.model_schemas import EmbeddingRequest, EmbeddingResponse, EmbedRequest
from server.models import BatchedEncoder, BatchedTokenVectorEncoder, Embedder, Side
from server.schemas import MAX_INPUTS

router = APIRouter()

PATHS = frozenset({"/v1/embeddings", "/embed"})

# How many numbers are written in the time in which one character is counted.
NUMBERS_PER_CHARACTER = 8

# Of all token vectors of one answer: 16 MiB of float32, five times as much as text.
MAX_NUMBERS = 4 * 1024 * 1024


@router.post(
    "/v1/embeddings", responses=responses_of("/v1/embeddings"), response_model=EmbeddingResponse, tags=["models"]
)
async def embeddings(body: EmbeddingRequest, request: Request, service: PreparedService) -> Response:
    """Return what an encoder makes of texts, in the form of OpenAI's API."""
    name, model = service.models.embedder(body.model)
    if body.output != model.output:
        raise InvalidInput(
            f"{name} gives {model.output} output and no {body.output} one; ask for it with output={model.output!r}."
        )
    texts, counts = await service.waiting.counted(lambda: measured(model, body.inputs), size_of(body.inputs))
    longest = model.longest(body.input_type)
    truncated = [position for position, count in enumerate(counts) if count > longest]
    if truncated and not body.truncate:
        raise InvalidInput(_too_long(longest, counts, truncated))
    keep = _kept(name, model, body.dimensions)
    if isinstance(model, BatchedTokenVectorEncoder):
        require_few_numbers(model, body.input_type, counts)
    rows = await _computed(service, request, model, body.input_type, texts, counts)
    tokens = sum(min(count, longest) for count in counts)

    def written() -> bytes:
        data = [_item(i, row, keep, body.encoding_format) for i, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": name, "usage": usage, "truncated": truncated}
        return to_json(answer)

    return await _answer(service, rows, written)


@router.post("/embed", responses=responses_of("/embed"), response_model=list[list[float]], tags=["models"])
async def embed(body: EmbedRequest, request: Request, service: PreparedService) -> Response:
    """Return the vectors of texts by the first encoder, in the form of Text Embeddings Inference."""
    name, model = service.models.embedder(None)
    inputs = body.texts
    require_some(len(inputs), MAX_INPUTS, "`inputs`")
    texts, counts = await service.waiting.counted(lambda: measured(model, inputs), size_of(inputs))
    if not all(text.strip() for text in texts):
        raise Refusal(400, "`inputs` cannot be empty", code="empty")
    truncated = [position for position, count in enumerate(counts) if count > model.max_tokens]
    if truncated and not body.truncate:
        raise Refusal(413, _too_long(model.max_tokens, counts, truncated), code="too_long")
    assert isinstance(model, BatchedEncoder)
    if model.normalises and not body.normalize:
        raise InvalidInput(f"unit length is part of the recipe of {name}; normalize must be true.")
    keep = _kept(name, model, body.dimensions, normalise=body.normalize)
    side: Side = "plain" if body.prompt_name is None else "query" if body.prompt_name == "query" else "document"
    rows = await _computed(service, request, model, side, texts, counts)
    return await _answer(service, rows, lambda: to_json([keep(row).tolist() for row in rows]))


def measured(model: Embedder, inputs: Sequence[str | list[int]]) -> tuple[list[str], list[int]]:
    """Return inputs as texts, and their numbers of tokens, special tokens included."""
    texts = [part if isinstance(part, str) else model.text_of(part) for part in inputs]
    return texts, model.count_tokens(texts)


def size_of(inputs: Sequence[str | list[int]]) -> int:
    """Return the characters of inputs, token ids counted as a few."""
    return sum(len(part) if isinstance(part, str) else 4 * len(part) for part in inputs)


def require_some(count: int, most: int, what: str) -> None:
    """Refuse no inputs (400) and too many (413), as Text Embeddings Inference does."""
    if count == 0:
        raise Refusal(400, f"{what} cannot be empty", code="empty")
    if count > most:
        raise Refusal(413, f"batch size {count} > maximum allowed batch size {most}", code="too_many")


def require_few_numbers(model: BatchedTokenVectorEncoder, side: Side, counts: Sequence[int]) -> None:
    """Refuse texts whose vectors, one a token, would be more than an answer may hold; clients may halve them."""
    numbers = sum(model.computed_tokens(side, counts)) * model.width
    if numbers > MAX_NUMBERS:
        raise Refusal(
            400,
            f"a vector for each token of these {len(counts)} texts is up to {numbers} numbers, {MAX_NUMBERS} are given "
            "at once; send fewer or shorter texts.",
            code="too_many_numbers",
            param="input",
        )


def _too_long(longest: int, counts: Sequence[int], truncated: Sequence[int]) -> str:
    place = truncated[0]
    return f"input {place} has {counts[place]} tokens, {longest} are read; shorten it, or set truncate to true."


async def _computed(
    service: Service, request: Request, model: Embedder, side: Side, texts: list[str], counts: list[int]
) -> list[Any]:
    with request.state.stages.timed("embed", inputs=len(texts)):
        rows = await service.waiting.results(model.submit(side, texts, counts), request)
    longest = model.longest(side)
    cut = sum(count > longest for count in counts)
    service.metrics.truncated.labels("embedding").inc(cut)
    tokens = sum(min(count, longest) for count in counts)
    request.state.notes |= {"inputs": len(texts), "tokens": tokens, "truncated": cut}
    values = [list(row.values()) for row in rows] if model.output == "sparse" else rows
    if not all(np.isfinite(row).all() for row in values):
        raise ModelFault("the encoder gave a number that is not finite.")
    return rows


async def _answer(service: Service, rows: Sequence[Any], written: Callable[[], bytes]) -> Response:
    content = await service.waiting.counted(written, sum(map(_numbers, rows)) // NUMBERS_PER_CHARACTER)
    return Response(content, media_type="application/json")


def _numbers(row: Any) -> int:
    return row.size if isinstance(row, np.ndarray) else len(row)


Keep = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _kept(name: str, model: Embedder, dimensions: int | None, *, normalise: bool | None = None) -> Keep:
    """Return what shortens and scales a vector. Raises InvalidInput for more dimensions than the model has."""
    if not isinstance(model, BatchedEncoder):
        if dimensions is not None:
            raise InvalidInput(f"{name} gives {model.output} output; dimensions is for dense vectors.")
        return lambda row: row
    if dimensions is not None and dimensions > model.width:
        raise InvalidInput(f"dimensions must be at most {model.width}, the width of {name}; got {dimensions}.")
    normalised = model.normalises if normalise is None else normalise
    whole = dimensions in (None, model.width) and normalised == model.normalises

    def keep(row: NDArray[np.float32]) -> NDArray[np.float32]:
        row = row[:dimensions]
        norm = np.linalg.norm(row) if normalised else 0
        return row / norm if norm > 0 else row

    return (lambda row: row) if whole else keep


def _item(index: int, row: Any, keep: Keep, form: str) -> dict[str, Any]:
    if isinstance(row, dict):
        weights = dict(sorted(row.items(), key=lambda pair: (-pair[1], pair[0])))
        sparse = {"terms": list(weights), "weights": list(weights.values())}
        return {"object": "embedding", "index": index, "embedding": [], "sparse": sparse}
    if row.ndim == 2:
        vectors = [_packed(vector, form) for vector in row]
        return {"object": "embedding", "index": index, "embedding": [], "multi_vector": vectors}
    return {"object": "embedding", "index": index, "embedding": _packed(keep(row), form)}


def _packed(vector: NDArray[np.float32], form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return vector.tolist()
