"""POST /v1/search and POST /v1/indexes/{name}/search."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter, Request

from retriever.errors import ModelFault
from retriever.types import Answer, Facets, Hit
from server.dependencies import PreparedService, Service
from server.errors import SEARCH_RESPONSES
from server.pipelines import choose_pipeline
from server.schemas import (
    ExplanationBody,
    FacetsBody,
    FacetValue,
    HitBody,
    IndexName,
    IndexState,
    Result,
    SearchRequest,
    SearchResponse,
)
from server.served_index import ServedIndex

router = APIRouter()

# A deadline that has passed already; BM25 still runs, which no model can hold up.
PASSED_MS = 1e-3


# Plain defs on purpose: scoring holds the CPU, so it runs in the thread pool and health checks go on.
@router.post("/v1/search", responses=SEARCH_RESPONSES, tags=["search"])
def search(body: SearchRequest, request: Request, service: PreparedService) -> SearchResponse:
    """Return the best documents of the default index for each query, best first, with the score of every stage."""
    return _search(body, request, service, service.index)


@router.post("/v1/indexes/{name}/search", responses=SEARCH_RESPONSES, tags=["search"])
def search_index(name: IndexName, body: SearchRequest, request: Request, service: PreparedService) -> SearchResponse:
    """Return the best documents of an index, or of the one that an alias stands for, for each query."""
    return _search(body, request, service, service.indexes.find(name))


def _search(body: SearchRequest, request: Request, service: Service, served: ServedIndex) -> SearchResponse:
    waited = request.state.waited_ms
    deadline = body.deadline_ms or service.settings.limits.deadline_ms
    began = time.time_ns()
    with served.lease() as index:
        name, spec = choose_pipeline(index, service.settings, body.pipeline, body.without)
        answers = index.batch_search(
            body.texts,
            body.k,
            pipeline=spec,
            field_weights=body.field_weights,
            filter=body.filter,
            group_by_parent=body.group_by_parent,
            highlight=body.highlight,
            documents=body.include_documents,
            offset=body.offset,
            deadline_ms=max(deadline - waited, PASSED_MS),
            syntax=body.syntax,
            facets=body.facets,
            facet_values=body.facet_values,
            explain=body.explain,
            min_relevance=body.min_relevance,
        )
        state = IndexState(name=served.name, generation=index.generation, fingerprint=index.fingerprint)
    service.metrics.observe_answers(answers)
    shadow = service.indexes.shadow(served.name)
    if shadow is not None:
        shadow.offer(body, answers)
    service.recall.offer(served, body, spec)
    _note_stages(request, answers, began)
    request.state.notes |= {
        "index": served.name,
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
        stages=[*spec.first, *(name for name in ("local", "rerank") if getattr(spec, name))],
        index=state,
        request_id=request.state.request_id,
    )


def _note_stages(request: Request, answers: Sequence[Answer], began: int) -> None:
    """Note the stages of each query one after another: their lengths were measured, beginnings follow from them."""
    stages = request.state.stages
    stages.add("queue", began - int(request.state.waited_ms * 1e6), request.state.waited_ms)
    for number, answer in enumerate(answers):
        for stage, milliseconds in answer.timings.items():
            if stage != "total":
                began = stages.add(stage, began, milliseconds, **{"retriever.query": number})


def _result(answer: Answer, include_documents: bool) -> Result:
    return Result(
        hits=[_hit(hit, include_documents) for hit in answer.hits],
        status=answer.status,
        exact=answer.exact,
        truncated=answer.truncated,
        degraded=answer.degraded,
        warnings=answer.warnings,
        timings={stage: round(milliseconds, 3) for stage, milliseconds in answer.timings.items()},
        facets=_facets(answer.facets) if answer.facets else None,
        usage=answer.usage,
    )


def _facets(facets: Facets) -> FacetsBody:
    return FacetsBody(
        fields={
            name: [FacetValue(value=value, count=count) for value, count in counts]
            for name, counts in facets.counts.items()
        },
        documents=facets.documents,
        complete=facets.complete,
    )


def _hit(hit: Hit, include_documents: bool) -> HitBody:
    if not all(math.isfinite(score) for score in (hit.score, *hit.scores.values())):
        raise ModelFault(f"a stage scored {hit.id!r} with a number that is not finite: {hit.scores}.")
    body = HitBody(id=hit.id, score=hit.score, scores=hit.scores, relevance=hit.relevance, highlights=hit.highlights)
    if hit.explanation is not None:
        body.explanation = ExplanationBody.model_validate(asdict(hit.explanation))
    document = hit.document
    if document is not None and include_documents:
        body.title = document.title
        body.text = document.text
        body.metadata = dict(document.metadata)
        body.parent = document.parent
        body.span = document.span
        body.chunk = document.id if document.id != hit.id else None
    return body
