"""The only place where the service is wired together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from fastapi import FastAPI
from starlette.middleware import Middleware

from retriever.index.sealed import Index, open_index
from server.access import Access
from server.admission import Admission
from server.bodies import BodyGuard
from server.dependencies import Service
from server.errors import add_error_handlers
from server.metrics import Metrics
from server.observation import Observation
from server.readiness import Readiness
from server.routes import health, models, search
from server.routes.page import page_router
from server.served_index import ServedIndex
from server.settings import Settings

log = logging.getLogger("server.index")

DESCRIPTION = """
Search over one sealed index, the index's encoder in the form of OpenAI's API, and a reranker in the form of
Jina's. Every answer says how far it can be trusted.
"""


def create_app(settings: Settings, index: Index | None = None) -> FastAPI:
    """Return the app for one index, opened from the settings unless it is given.

    Models are loaded when the app starts; until the canaries agree nothing is answered. The app closes the
    index when it stops. Raises UnknownIndex, IndexCorrupt or IndexMismatch.
    """
    if index is None:
        index = open_index(settings.index, encoder=settings.encoder, device=settings.device, offline=settings.offline)
    metrics = Metrics()
    served = ServedIndex(index, settings.reranker, metrics)
    key = settings.api_key_sha256

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Admitted requests, and a few for routes that take no body.
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.limits.threads + 2
        await anyio.to_thread.run_sync(served.prepare)
        yield
        served.close()

    app = FastAPI(
        title="retriever",
        version=version("retriever-engine"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # The usual documentation pages fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Observation, metrics=metrics),
            Middleware(
                Access,
                host_names=settings.host_names,
                key_sha256=key.get_secret_value() if key else None,
            ),
            Middleware(BodyGuard, limits=settings.limits),
            Middleware(Admission, limits=settings.limits, metrics=metrics),
        ],
    )
    readiness = Readiness(served, settings.readiness_seconds)
    app.state.service = Service(settings, served, metrics, readiness)
    add_error_handlers(app)
    for router in (search.router, models.router, health.router, page_router()):
        app.include_router(router)
    return app
