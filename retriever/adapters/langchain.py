"""A LangChain retriever over a service or an open index; extra `langchain`.

Example:
    from retriever.adapters.langchain import EngineRetriever
    from retriever.client import Client

    documents = EngineRetriever(searcher=Client(), k=5, options={"pipeline": "hybrid"}).invoke("swept wings")
"""

from typing import Any

from retriever.adapters.extras import missing
from retriever.adapters.metadata import metadata_of
from retriever.client import AsyncClient
from retriever.types import Answer, Hit

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import Field, model_validator
except ImportError as error:
    raise missing("langchain-core", "langchain") from error


class EngineRetriever(BaseRetriever):
    """Returns the k best documents, best first; errors are those of the searcher.

    searcher        what has `search(query, k, **options)`: a `retriever.client.Client` or a `retriever.Index`
    async_searcher  an AsyncClient for `ainvoke`; without one that runs the searcher in a thread
    options         of every search, such as {"index": "docs", "pipeline": "hybrid", "filter": {"year": 2020}}

    The metadata of a document are its own, with `title` and, under `retrieval`, id, score, the score of each stage,
    relevance (None without a calibration) and the status of the answer.
    """

    searcher: Any = None
    async_searcher: AsyncClient | None = None
    k: int = Field(default=10, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_at_least(self) -> "EngineRetriever":
        if self.searcher is None and self.async_searcher is None:
            raise ValueError("give a searcher, such as retriever.client.Client(), or an async_searcher")
        return self

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        if self.searcher is None:
            raise ValueError("this retriever has an async_searcher alone; use ainvoke, or give it a searcher too")
        return _documents(self.searcher.search(query, self.k, **self.options))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_searcher is None:
            found: list[Document] = await super()._aget_relevant_documents(query, run_manager=run_manager)
            return found
        return _documents(await self.async_searcher.search(query, self.k, **self.options))


def _documents(answer: Answer) -> list[Document]:
    return [_document(hit, answer.status) for hit in answer.hits]


def _document(hit: Hit, status: str) -> Document:
    metadata = metadata_of(hit, status)
    return Document(id=hit.id, page_content=hit.document.text if hit.document else "", metadata=metadata)
