"""POST /v1/search."""

import math

from fastapi import APIRouter, Request

from retriever.errors import ModelFault
from retriever.types import Answer, Hit
from server.dependencies import PreparedService
from server.errors import RESPONSES
from server.pipelines import choose_pipeline
from server.schemas import HitBody, IndexState, Result, SearchRequest, SearchResponse

router = APIRouter()

# A deadline that has passed already; the first stages still run, since without them there is no answer.
PASSED_MS = 1e-3


@router.post("/v1/search", responses=RESPONSES, tags=["search"])
def search(body: SearchRequest, request: Request, service: PreparedService) -> SearchResponse:
    """Return the best documents for each query, best first, with the score that every stage gave."""
    # A plain def on purpose: scoring holds the CPU, so it runs in the thread pool and health checks go on.
    waited = request.state.waited_ms
    deadline = body.deadline_ms or service.settings.limits.deadline_ms
    with service.index.lease() as index:
        name, spec = choose_pipeline(index, service.settings, body.pipeline, body.without)
        answers = index.batch_search(
            body.texts,
            body.k,
            pipeline=spec,
            filter=body.filter,
            group_by_parent=body.group_by_parent,
            highlight=body.highlight,
            documents=body.include_documents,
            offset=body.offset,
            deadline_ms=max(deadline - waited, PASSED_MS),
            syntax=body.syntax,
        )
        state = IndexState(generation=index.generation, fingerprint=index.fingerprint)
    service.metrics.observe_answers(answers)
    request.state.notes |= {
        "pipeline": name,
        "queries": len(answers),
        "hits": sum(len(answer.hits) for answer in answers),
        "answers": sorted({answer.status for answer in answers}),
        "waited_ms": round(waited, 2),
    }
    if service.settings.log_queries:
        request.state.notes["texts"] = body.texts
    return SearchResponse(
        results=[_result(answer, body.include_documents) for answer in answers],
        pipeline=name,
        stages=[*spec.first, *(["rerank"] if spec.rerank else [])],
        index=state,
        request_id=request.state.request_id,
    )


def _result(answer: Answer, include_documents: bool) -> Result:
    return Result(
        hits=[_hit(hit, include_documents) for hit in answer.hits],
        status=answer.status,
        exact=answer.exact,
        truncated=answer.truncated,
        degraded=answer.degraded,
        warnings=answer.warnings,
        timings={stage: round(milliseconds, 3) for stage, milliseconds in answer.timings.items()},
    )


def _hit(hit: Hit, include_documents: bool) -> HitBody:
    if not all(math.isfinite(score) for score in (hit.score, *hit.scores.values())):
        raise ModelFault(f"a stage scored {hit.id!r} with a number that is not finite: {hit.scores}.")
    body = HitBody(id=hit.id, score=hit.score, scores=hit.scores, highlights=hit.highlights)
    document = hit.document
    if document is not None and include_documents:
        body.title = document.title
        body.text = document.text
        body.metadata = dict(document.metadata)
        body.parent = document.parent
        body.span = document.span
        body.chunk = document.id if document.id != hit.id else None
    return body
