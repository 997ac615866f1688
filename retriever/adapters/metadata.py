"""What other frameworks are told of a hit beside its text."""

from typing import Any

from retriever.types import Hit


def metadata_of(hit: Hit, status: str) -> dict[str, Any]:
    """Return a document's own metadata with `title` and, under `retrieval`, how it was found; see the retrievers."""
    own = {} if hit.document is None else {"title": hit.document.title, **hit.document.metadata}
    found = {
        "id": hit.id,
        "score": hit.score,
        "scores": hit.scores,
        "relevance": hit.relevance,
        "status": status,
    }
    return {**own, "retrieval": found}
