"""What routes may ask for."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from retriever.errors import BackendUnavailable
from server.metrics import Metrics
from server.readiness import Readiness
from server.served_index import ServedIndex
from server.settings import Settings


@dataclass(frozen=True)
class Service:
    """Everything that one app is made of."""

    settings: Settings
    index: ServedIndex
    metrics: Metrics
    readiness: Readiness


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


AnyService = Annotated[Service, Depends(_service)]


def _prepared(service: AnyService) -> Service:
    if not service.index.prepared:
        raise BackendUnavailable("models are being loaded; try again in a few seconds.")
    return service


PreparedService = Annotated[Service, Depends(_prepared)]
"""The service once the canaries agreed; before that, vectors could be wrong and nothing is answered."""
