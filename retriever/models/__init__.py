"""Finding models by name, and the pinned ones that need no hub."""

from retriever.models.catalogue import CATALOGUE, DEFAULT_ENCODER, PinnedModel
from retriever.models.description import describe
from retriever.models.resolve import locate, resolve

__all__ = ["CATALOGUE", "DEFAULT_ENCODER", "PinnedModel", "describe", "locate", "resolve"]
