"""GET /v1/models."""

from fastapi import APIRouter

from retriever.index.sealed import Index
from server.dependencies import AnyService
from server.errors import LOOKING
from server.model_schemas import ModelBody, ModelList
from server.models import public_name

router = APIRouter()


def encoder_name(index: Index) -> str | None:
    """Return the name under which the index's encoder is offered, or None."""
    dense = index.manifest.dense
    return public_name(dense.encoder) if dense else None


@router.get("/v1/models", responses=LOOKING, tags=["models"])
async def models(service: AnyService) -> ModelList:
    """Return the encoders and rerankers of the service, in the form of OpenAI's API."""
    return ModelList(
        data=[
            ModelBody(
                id=model.name,
                created=model.created,
                task=model.task,
                output=model.output,
                dimensions=model.width,
                max_model_len=model.max_tokens,
            )
            for model in service.models.offered()
        ]
    )
