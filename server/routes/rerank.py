"""POST /v1/rerank in the form of Jina's API, /v2/rerank in Cohere's, /rerank in that of Text Embeddings Inference."""

import math
from collections.abc import Sequence

from fastapi import APIRouter, Request

from retriever.errors import ModelFault
from server.dependencies import PreparedService, Service
from server.errors import Refusal, responses_of
from server.model_schemas import (
    BilledUnits,
    CohereMeta,
    CohereRerankRequest,
    CohereRerankResponse,
    CohereRerankResult,
    JinaRerankRequest,
    JinaRerankResponse,
    JinaRerankResult,
    RerankedDocument,
    RerankUsage,
    TeiRank,
    TeiRerankRequest,
)
from server.models import BatchedReranker, Scored
from server.routes.embeddings import require_some
from server.schemas import MAX_RERANKED

router = APIRouter()

PATHS = frozenset({"/v1/rerank", "/v2/rerank", "/rerank"})

# What Cohere counts as one.
SEARCH_UNIT = 100


@router.post("/v1/rerank", responses=responses_of("/v1/rerank"), tags=["models"])
async def jina_rerank(body: JinaRerankRequest, request: Request, service: PreparedService) -> JinaRerankResponse:
    """Return documents in the order of their relevance to a query, in the form of Jina's API."""
    name, model = service.models.cross_encoder(body.model)
    texts = body.texts
    scored, logits = await _scored(service, request, model, body.query, texts)
    return JinaRerankResponse(
        model=name,
        usage=RerankUsage(total_tokens=scored.tokens),
        results=[
            JinaRerankResult(
                index=i,
                relevance_score=probability(logits[i]),
                document=RerankedDocument(text=texts[i]) if body.return_documents else None,
                truncated=scored.truncated[i],
            )
            for i in best_first(logits)[: body.top_n]
        ],
        truncated=sum(scored.truncated),
    )


@router.post("/v2/rerank", responses=responses_of("/v2/rerank"), response_model_exclude_none=True, tags=["models"])
async def cohere_rerank(body: CohereRerankRequest, request: Request, service: PreparedService) -> CohereRerankResponse:
    """Return documents in the order of their relevance to a query, in the form of Cohere's second API."""
    _, model = service.models.cross_encoder(body.model)
    most = body.max_tokens_per_doc
    texts, cut = body.documents, 0
    if most < model.max_tokens:
        texts = await service.waiting.counted(
            lambda: [model.inner.cut(text, most) for text in body.documents], sum(map(len, body.documents))
        )
        cut = sum(short != text for short, text in zip(texts, body.documents, strict=True))
    scored, logits = await _scored(service, request, model, body.query, texts)
    cut += sum(scored.truncated)
    return CohereRerankResponse(
        id=request.state.request_id,
        results=[
            CohereRerankResult(index=i, relevance_score=probability(logits[i]))
            for i in best_first(logits)[: body.top_n]
        ],
        meta=CohereMeta(
            billed_units=BilledUnits(search_units=math.ceil(len(texts) / SEARCH_UNIT)),
            warnings=[f"{cut} documents were cut to the length that was asked for or that the model has."]
            if cut
            else None,
        ),
    )


@router.post("/rerank", responses=responses_of("/rerank"), response_model_exclude_none=True, tags=["models"])
async def tei_rerank(body: TeiRerankRequest, request: Request, service: PreparedService) -> list[TeiRank]:
    """Return texts in the order of their relevance, by the first reranker, as Text Embeddings Inference does."""
    require_some(len(body.texts), MAX_RERANKED, "`texts`")
    if not body.query.strip():
        raise Refusal(400, "`query` cannot be empty", code="empty")
    _, model = service.models.cross_encoder(None)
    _, logits = await _scored(service, request, model, body.query, body.texts, truncate=bool(body.truncate))
    return [
        TeiRank(
            index=i,
            score=logits[i] if body.raw_scores else probability(logits[i]),
            text=body.texts[i] if body.return_text else None,
        )
        for i in best_first(logits)
    ]


async def _scored(
    service: Service,
    request: Request,
    model: BatchedReranker,
    query: str,
    texts: Sequence[str],
    *,
    truncate: bool = True,
) -> tuple[Scored, list[float]]:
    """Return how a request was computed, and the logits of its documents."""
    size = sum(map(len, texts)) + len(texts) * len(query)
    scored = await service.waiting.counted(lambda: model.submit(query, texts), size)
    cut = sum(scored.truncated)
    if cut and not truncate:
        scored.ticket.cancel()
        place = scored.truncated.index(True)
        raise Refusal(
            413,
            f"text {place} with the query has more tokens than the {model.max_tokens} that are read; shorten it, or "
            "set truncate to true.",
            code="too_long",
        )
    with request.state.stages.timed("rerank", documents=len(texts)):
        scores = await service.waiting.results(scored.ticket, request)
    logits = scored.logits(scores).tolist()
    require_a_ranking(logits, texts)
    service.metrics.truncated.labels("rerank").inc(cut)
    request.state.notes |= {"documents": len(texts), "tokens": scored.tokens, "truncated": cut}
    return scored, logits


def best_first(logits: Sequence[float]) -> list[int]:
    """Return positions in falling order of score; equal ones stay as they were."""
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))


def probability(logit: float) -> float:
    """Return a logit as a number from 0 to 1, the range that these APIs' clients expect."""
    # In float64, where logits up to 36 stay apart; the order is that of the logits in any case.
    power = math.exp(-abs(logit))
    return (1 if logit >= 0 else power) / (1 + power)


def require_a_ranking(logits: Sequence[float], texts: Sequence[str]) -> None:
    """Raise ModelFault for scores that are all equal though the texts are not."""
    # Copies of one text rightly score the same.
    if len(set(texts)) > 2 and len(set(logits)) == 1:
        raise ModelFault(f"the reranker gave all documents the score {logits[0]}; its order was not used.")
