"""Dense and sparse retrieval over one sealed index.

Example:
    import retriever

    with retriever.open("my-index") as index:
        for hit in index.search("how are tokens counted", k=5).hits:
            print(hit.score, hit.id, hit.document.title)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retriever.index.sealed import Index
    from retriever.index.sealed import open_index as open
    from retriever.pipeline import Fusion, PipelineSpec, Rerank
    from retriever.types import Answer, Document, Hit, Query, Run

__all__ = ["Answer", "Document", "Fusion", "Hit", "Index", "PipelineSpec", "Query", "Rerank", "Run", "open"]

_PLACES = {
    "Index": "retriever.index.sealed",
    "open": "retriever.index.sealed",
    "Fusion": "retriever.pipeline",
    "PipelineSpec": "retriever.pipeline",
    "Rerank": "retriever.pipeline",
} | dict.fromkeys(("Answer", "Document", "Hit", "Query", "Run"), "retriever.types")


def __getattr__(name: str) -> Any:
    # Imported when they are used: a client of a service needs no engine.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), "open_index" if name == "open" else name)
