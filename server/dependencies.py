"""What routes may ask for."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.errors import Refusal
from server.indexes import Indexes
from server.metrics import Metrics
from server.models import Models
from server.readiness import Readiness
from server.recall import RecallMeter
from server.served_index import ServedIndex
from server.settings import Settings
from server.waiting import Waiting


@dataclass(frozen=True)
class Service:
    """Everything that one app is made of."""

    settings: Settings
    indexes: Indexes
    models: Models
    metrics: Metrics
    readiness: Readiness
    waiting: Waiting
    recall: RecallMeter

    @property
    def index(self) -> ServedIndex:
        """The default index, which routes without a name answer from."""
        return self.indexes.default


async def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


AnyService = Annotated[Service, Depends(_service)]


async def _prepared(service: AnyService) -> Service:
    if not service.indexes.prepared:
        raise Refusal(503, "models are being loaded; try again in a few seconds.", headers={"Retry-After": "2"})
    return service


PreparedService = Annotated[Service, Depends(_prepared)]
"""The service once the canaries agreed; before that, vectors could be wrong and nothing is answered."""
