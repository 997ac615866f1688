"""GET /v1/models, POST /v1/embeddings and POST /v1/rerank: the models of the index, by themselves."""

import base64
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.index.sealed import Index
from retriever.protocols import Encoder
from retriever.types import Document
from server.dependencies import AnyService, PreparedService
from server.errors import RESPONSES, Refusal
from server.schemas import (
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    ModelBody,
    ModelList,
    RerankedDocument,
    RerankRequest,
    RerankResponse,
    RerankResult,
    Usage,
)

router = APIRouter()


def public_name(model: str) -> str:
    """Return the name under which a model is offered: its hub or pinned name, or its folder's last part."""
    path = Path(model)
    return path.name if path.is_absolute() or model.startswith((".", "~")) else model


def encoder_name(index: Index) -> str | None:
    """Return the name under which the index's encoder is offered, or None."""
    dense = index.manifest.dense
    return public_name(dense.encoder) if dense else None


@router.get("/v1/models", responses={401: RESPONSES[401]}, tags=["models"])
def models(service: AnyService) -> ModelList:
    """Return the encoder of the index and the reranker, in the form of OpenAI's API."""
    with service.index.lease() as index:
        created = int(datetime.fromisoformat(index.manifest.created).timestamp())
        encoder = encoder_name(index)
    found = [ModelBody(id=encoder, created=created, task="embedding")] if encoder else []
    if service.settings.reranker is not None:
        found.append(ModelBody(id=public_name(service.settings.reranker), created=created, task="rerank"))
    return ModelList(data=found)


@router.post("/v1/embeddings", responses=RESPONSES, tags=["models"])
def embeddings(body: EmbeddingRequest, request: Request, service: PreparedService) -> EmbeddingResponse:
    """Return the vectors that the index's encoder gives, in the form of OpenAI's API."""
    with service.index.lease() as index:
        encoder, name = index.encoder, encoder_name(index)
        if encoder is None or name is None:
            raise BackendUnavailable("this index has no vectors, so no encoder; build it with --parts bm25,dense.")
        _require_model(body.model, name)
        _require_width(body.dimensions, encoder.width)
        counts = encoder.count_tokens(body.input)
        vectors = _encode(encoder, body)
    if not np.isfinite(vectors).all():
        raise ModelFault("the encoder gave a vector that is not finite.")
    read = [min(count, encoder.max_tokens) for count in counts]
    truncated = [position for position, count in enumerate(counts) if count > encoder.max_tokens]
    service.metrics.truncated.labels("embedding").inc(len(truncated))
    request.state.notes |= {"inputs": len(body.input), "tokens": sum(read)}
    return EmbeddingResponse(
        data=[
            Embedding(index=position, embedding=_packed(vector, body.encoding_format))
            for position, vector in enumerate(vectors)
        ],
        model=name,
        usage=Usage(prompt_tokens=sum(read), total_tokens=sum(read)),
        truncated=truncated,
    )


def _encode(encoder: Encoder, body: EmbeddingRequest) -> NDArray[np.float32]:
    if body.input_type == "query":
        return encoder.encode_queries(body.input)
    return encoder.encode_documents([Document(id=str(i), text=text) for i, text in enumerate(body.input)])


def _packed(vector: NDArray[np.float32], form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = vector.tolist()
    return values


def _require_model(asked: str, offered: str) -> None:
    if asked != offered:
        raise Refusal(
            404,
            f"the model {asked[:80]!r} is not here; this service offers {offered!r}.",
            code="model_not_found",
            param="model",
        )


def _require_width(asked: int | None, width: int) -> None:
    if asked is not None and asked != width:
        raise InvalidInput(f"dimensions must be {width}, got {asked}: the encoder was not trained for shorter vectors.")


@router.post("/v1/rerank", responses=RESPONSES, tags=["models"])
def rerank(body: RerankRequest, request: Request, service: PreparedService) -> RerankResponse:
    """Return documents in the order of their relevance to a query, in the form of Jina's API."""
    model = service.settings.reranker
    if model is None:
        raise BackendUnavailable(
            "no reranker is configured; start the service with --reranker MODEL or RETRIEVER__RERANKER=MODEL."
        )
    name = public_name(model)
    if body.model is not None:
        _require_model(body.model, name)
    texts = body.texts
    scores: Sequence[float] = []
    truncated = 0
    if texts:
        documents = [Document(id=str(i), text=text) for i, text in enumerate(texts)]
        with service.index.lease() as index:
            found, truncated = index.reranker(model).score(body.query, documents)
        scores = found.tolist()
        _require_a_ranking(scores, texts)
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))[: body.top_n]
    service.metrics.truncated.labels("rerank").inc(truncated)
    request.state.notes |= {"documents": len(texts)}
    return RerankResponse(
        model=name,
        results=[
            RerankResult(
                index=i,
                relevance_score=_probability(scores[i]),
                document=RerankedDocument(text=texts[i]) if body.return_documents else None,
            )
            for i in order
        ],
        truncated=truncated,
    )


def _probability(logit: float) -> float:
    """Return a logit as a number from 0 to 1, the range that this API's clients expect."""
    # In float64, where logits up to 36 stay apart; the order is that of the logits in any case.
    power = math.exp(-abs(logit))
    return (1 if logit >= 0 else power) / (1 + power)


def _require_a_ranking(scores: Sequence[float], texts: Sequence[str]) -> None:
    if not np.isfinite(scores).all():
        raise ModelFault("the reranker gave a score that is not finite; its order was not used.")
    # Copies of one text rightly score the same.
    if len(set(texts)) > 2 and len(set(scores)) == 1:
        raise ModelFault(f"the reranker gave all documents the score {scores[0]}; its order was not used.")
