"""POST, GET and DELETE /v1/indexes/{name}/shadow: a second index beside one in service, and how it compares."""

from fastapi import APIRouter

from server.dependencies import PreparedService
from server.errors import RESPONSES, Refusal
from server.schemas import IndexName
from server.shadow import Shadow
from server.shadow_schemas import ShadowReport, ShadowRequest

router = APIRouter(prefix="/v1/indexes", tags=["indexes"])


@router.post("/{name}/shadow", responses=RESPONSES)
def start_shadow(name: IndexName, body: ShadowRequest, service: PreparedService) -> ShadowReport:
    """Ask a share of an index's queries of a second index too, in the background; begins a new report."""
    served, target = service.indexes.find(name), service.indexes.find(body.index)
    if served is target:
        raise Refusal(422, f"{name!r} and {body.index!r} are the same index; compare with another one.")
    shadow = Shadow(served.name, target, float(body.fraction), body.k, service.settings)
    service.indexes.set_shadow(served.name, shadow)
    return shadow.report()


@router.get("/{name}/shadow", responses=RESPONSES)
def shadow_report(name: IndexName, service: PreparedService) -> ShadowReport:
    """Return how the second index compares so far."""
    return _shadow(name, service).report()


@router.delete("/{name}/shadow", responses=RESPONSES)
def stop_shadow(name: IndexName, service: PreparedService) -> ShadowReport:
    """Stop comparing; return the last report."""
    shadow = _shadow(name, service)
    service.indexes.set_shadow(shadow.source, None)
    return shadow.report()


def _shadow(name: str, service: PreparedService) -> Shadow:
    served = service.indexes.find(name)
    shadow = service.indexes.shadow(served.name)
    if shadow is None:
        raise Refusal(404, f"the index {served.name!r} has no shadow; start one with POST.", code="no_shadow")
    return shadow
