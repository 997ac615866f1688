"""GET /livez, /readyz, /metrics and /v1/info."""

import platform
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Response

from retriever.pipeline import Rerank
from server.dependencies import AnyService
from server.errors import LOOKING, RESPONSES, Refusal
from server.models import public_name
from server.pipelines import offered_pipelines
from server.routes.models import encoder_name
from server.schemas import Bounds, HealthResponse, InfoResponse

router = APIRouter()

SHOWN_VERSIONS = ("torch", "sentence-transformers", "transformers", "numpy", "numba", "faiss-cpu", "fastapi")


@router.get("/livez", tags=["health"])
async def livez() -> HealthResponse:
    """Say that the process runs; says nothing about the index."""
    return HealthResponse(status="alive")


@router.get("/readyz", responses={503: RESPONSES[503]}, tags=["health"])
async def readyz(service: AnyService) -> HealthResponse:
    """Say that models are loaded, the canaries agreed and a real query was answered; 503 with the reason."""
    reason = await service.readiness.reason()
    if reason is not None:
        raise Refusal(503, reason, headers={"Retry-After": "2"})
    return HealthResponse(status="ready")


@router.get("/metrics", responses=LOOKING, tags=["health"], response_class=Response)
async def metrics(service: AnyService) -> Response:
    """Return all numbers in Prometheus' text format."""
    return Response(service.metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/info", responses=LOOKING | {status: RESPONSES[status] for status in (404, 429, 503)}, tags=["health"])
def info(service: AnyService) -> InfoResponse:
    """Return limits, versions, pipelines, fields and what the index is made of."""
    settings = service.settings
    with service.index.lease() as index:
        pipelines, default = offered_pipelines(index, settings)
        # Where the index lies is the operator's own business.
        description = {name: value for name, value in index.describe().items() if name != "path"}
        return InfoResponse(
            version=version("retriever-engine"),
            versions=_versions(),
            limits=Bounds(
                rerank_depth=settings.limits.rerank_depth,
                body_bytes=settings.limits.body_bytes,
                default_deadline_ms=settings.limits.deadline_ms,
                concurrent_requests=settings.limits.threads,
                waiting_requests=settings.limits.queue,
            ),
            pipelines=pipelines,
            default_pipeline=default,
            fields=dict(index.fields),
            encoder=encoder_name(index),
            reranker=public_name(Rerank.read(settings.reranker).model) if settings.reranker else None,
            index=description,
            reload_error=service.index.reload_error,
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in SHOWN_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
