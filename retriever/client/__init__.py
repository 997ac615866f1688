"""A client of the service, synchronous and asynchronous.

Example:
    from retriever.client import Client

    with Client("http://localhost:8080") as client:
        for hit in client.search("how are tokens counted", k=5).hits:
            print(hit.score, hit.id, hit.document.title)
"""

from retriever.client.asynchronous import AsyncClient
from retriever.client.calls import Delete, SearchOptions
from retriever.client.problems import (
    Busy,
    Forbidden,
    NoRoom,
    NotFound,
    Refused,
    ServiceError,
    TimedOut,
    UnexpectedAnswer,
    Unreachable,
)
from retriever.client.results import (
    BulkItem,
    BulkReport,
    Embeddings,
    IndexDescription,
    IndexSummary,
    Latency,
    Model,
    Ranked,
    Reranking,
    ServiceAnswer,
    ShadowReport,
    StoredDocument,
    Written,
)
from retriever.client.retries import Retries
from retriever.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "BulkItem",
    "BulkReport",
    "Busy",
    "Client",
    "Delete",
    "Embeddings",
    "Forbidden",
    "IndexDescription",
    "IndexSummary",
    "Latency",
    "Model",
    "NoRoom",
    "NotFound",
    "Ranked",
    "Refused",
    "Reranking",
    "Retries",
    "SearchOptions",
    "ServiceAnswer",
    "ServiceError",
    "ShadowReport",
    "StoredDocument",
    "TimedOut",
    "UnexpectedAnswer",
    "Unreachable",
    "Written",
]
