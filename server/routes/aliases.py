"""GET /v1/aliases, PUT and DELETE /v1/aliases/{alias}: names that are swapped from one index to another."""

from typing import Annotated

from fastapi import APIRouter, Path

from server.dependencies import AnyService, PreparedService
from server.errors import LOOKING, RESPONSES
from server.schemas import AliasBody, AliasList, AliasRequest

router = APIRouter(tags=["indexes"])

AliasName = Annotated[str, Path(max_length=1000, description="1 to 64 letters, digits, dots, dashes, underscores.")]


@router.get("/v1/aliases", responses=LOOKING)
def aliases(service: AnyService) -> AliasList:
    """Return what each alias stands for."""
    return AliasList(aliases=service.indexes.all_aliases())


@router.put("/v1/aliases/{alias}", responses=RESPONSES)
def set_alias(alias: AliasName, body: AliasRequest, service: PreparedService) -> AliasBody:
    """Let an alias stand for an index; requests that have begun finish on the old one, and none fails."""
    before = service.indexes.set_alias(alias, body.index)
    return AliasBody(alias=alias, index=body.index, before=before)


@router.delete("/v1/aliases/{alias}", status_code=204, responses=RESPONSES)
def remove_alias(alias: AliasName, service: PreparedService) -> None:
    """Remove an alias; the index stays."""
    service.indexes.set_alias(alias, None)
