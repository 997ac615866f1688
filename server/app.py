"""The only place where the service is wired together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from fastapi import FastAPI
from starlette.middleware import Middleware

from retriever.index.sealed import Index
from server.access import Access
from server.admission import Admission
from server.bodies import BodyGuard
from server.dependencies import Service
from server.errors import add_error_handlers
from server.indexes import Indexes
from server.metrics import Metrics
from server.models import Models
from server.observation import Observation
from server.readiness import Readiness
from server.recall import RecallMeter
from server.routes import aliases, documents, embeddings, health, rerank, search, shadow
from server.routes import indexes as index_routes
from server.routes import models as model_routes
from server.routes.page import page_router
from server.settings import Settings
from server.tracing import Tracing, start_tracing
from server.waiting import Waiting

log = logging.getLogger("server.index")

DESCRIPTION = """
Search over sealed indexes; encoders and rerankers in the forms of OpenAI's, Jina's, Cohere's and Text Embeddings
Inference's APIs. Every answer says how far it can be trusted.
"""


def create_app(settings: Settings, index: Index | None = None, tracing: Tracing | None = None) -> FastAPI:
    """Return the app for the index or the folder of indexes that the settings name, or for the index given.

    Models are loaded when the app starts; until the canaries agree nothing is answered. The app closes the
    indexes when it stops. Raises UnknownIndex, IndexCorrupt, IndexMismatch, or BackendUnavailable.

    tracing  where spans go instead of where the settings say
    """
    metrics = Metrics()
    if tracing is None and settings.otel:
        tracing = start_tracing()
    models = Models(settings, metrics)
    if index is not None:
        models.adopt(index)
    indexes = Indexes(settings, metrics, index, models)
    key, write_key = settings.api_key_sha256, settings.write_key_sha256

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Admitted requests, and a few for routes that take no body.
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.limits.threads + 2
        await anyio.to_thread.run_sync(indexes.prepare)
        await anyio.to_thread.run_sync(models.prepare)
        yield
        recall.close()
        await anyio.to_thread.run_sync(indexes.close)
        await anyio.to_thread.run_sync(models.close)
        if tracing is not None:
            await anyio.to_thread.run_sync(tracing.close)

    app = FastAPI(
        title="retriever",
        version=version("retriever-engine"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # The usual documentation pages fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Observation, metrics=metrics, tracing=tracing),
            Middleware(
                Access,
                host_names=settings.host_names,
                key_sha256=key.get_secret_value() if key else None,
                write_key_sha256=write_key.get_secret_value() if write_key else None,
                writable=settings.writable,
            ),
            Middleware(BodyGuard, limits=settings.limits),
            Middleware(Admission, limits=settings.limits, metrics=metrics, batched=embeddings.PATHS | rerank.PATHS),
        ],
    )
    recall = RecallMeter(settings.ann_recall_sample, metrics)
    readiness = Readiness(indexes, models, settings)
    app.state.service = Service(settings, indexes, models, metrics, readiness, Waiting(), recall)
    add_error_handlers(app, metrics)
    # Routes are tried in this order, so those that are asked most stand first.
    routes = (search, embeddings, rerank, index_routes, documents, shadow, aliases, model_routes, health)
    for router in (*(module.router for module in routes), page_router()):
        app.include_router(router)
    return app
