"""GET /v1/indexes and /v1/indexes/{name}: what can be searched here."""

from typing import Any

from fastapi import APIRouter

from server.dependencies import AnyService, Service
from server.errors import LOOKING, RESPONSES
from server.pipelines import offered_pipelines
from server.routes.models import encoder_name
from server.schemas import IndexDescription, IndexList, IndexName, IndexSummary

router = APIRouter(tags=["indexes"])


@router.get("/v1/indexes", responses=LOOKING | {429: RESPONSES[429]})
def indexes(service: AnyService) -> IndexList:
    """Return all indexes, those that cannot be served included."""
    return IndexList(indexes=[IndexSummary(**_summary(service, name)) for name in service.indexes.names()])


@router.get("/v1/indexes/{name}", responses=RESPONSES)
def describe(name: IndexName, service: AnyService) -> IndexDescription:
    """Return what an index, or the one that an alias stands for, is made of."""
    served = service.indexes.find(name)
    with served.lease() as index:
        pipelines, default = offered_pipelines(index, service.settings)
        writer = service.indexes.find_writer(served.name)
        return IndexDescription(
            **_summary(service, served.name),
            pipelines=pipelines,
            default_pipeline=default,
            fields=dict(index.fields),
            encoder=encoder_name(index),
            writable=writer is not None,
            unapplied_writes=writer.unapplied if writer else 0,
            pending_encoding=index.manifest.unencoded,
            write_error=writer.error if writer else None,
            # Where the index lies is the operator's own business.
            index={part: value for part, value in index.describe().items() if part != "path"},
        )


def _summary(service: Service, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "aliases": [alias for alias, index in service.indexes.all_aliases().items() if index == name],
        "is_default": name == service.indexes.default_name,
        "error": service.indexes.failure(name),
    }
    served = service.indexes.get(name)
    if served is not None:
        with served.lease() as index:
            found |= {
                "documents": len(index),
                "generation": index.generation,
                "fingerprint": index.fingerprint,
                "error": served.reload_error,
            }
    return found
