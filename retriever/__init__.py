"""Dense and sparse retrieval over one sealed index.

Example:
    import retriever

    with retriever.open("my-index") as index:
        for hit in index.search("how are tokens counted", k=5).hits:
            print(hit.score, hit.id, hit.document.title)
"""

from retriever.index.sealed import Index
from retriever.index.sealed import open_index as open
from retriever.pipeline import Fusion, PipelineSpec, Rerank
from retriever.types import Answer, Document, Hit, Query, Run

__all__ = ["Answer", "Document", "Fusion", "Hit", "Index", "PipelineSpec", "Query", "Rerank", "Run", "open"]
