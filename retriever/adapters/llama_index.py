"""A LlamaIndex retriever over a service or an open index; extra `llama-index`.

Example:
    from retriever.adapters.llama_index import EngineRetriever
    from retriever.client import Client

    nodes = EngineRetriever(Client(), k=5, options={"pipeline": "hybrid"}).retrieve("swept wings")
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from retriever.adapters.extras import missing
from retriever.adapters.metadata import metadata_of
from retriever.client import AsyncClient
from retriever.errors import InvalidInput
from retriever.types import Answer, Hit

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise missing("llama-index-core", "llama-index") from error


class EngineRetriever(BaseRetriever):
    """Returns the k best documents as nodes, best first; errors are those of the searcher."""

    def __init__(
        self,
        searcher: Any = None,
        *,
        async_searcher: AsyncClient | None = None,
        k: int = 10,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Bind what searches.

        searcher        what has `search(query, k, **options)`: a `retriever.client.Client` or a `retriever.Index`
        async_searcher  an AsyncClient for `aretrieve`; without one that runs the searcher in a thread
        options         of every search, such as {"index": "docs", "pipeline": "hybrid", "filter": {"year": 2020}}
        settings        LlamaIndex's own, such as callback_manager
        """
        if searcher is None and async_searcher is None:
            raise InvalidInput("give a searcher, such as retriever.client.Client(), or an async_searcher.")
        if k < 1:
            raise InvalidInput(f"k must be at least 1, got {k}.")
        super().__init__(**settings)
        self._searcher = searcher
        self._async_searcher = async_searcher
        self._k = k
        self._options = dict(options or {})

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._searcher is None:
            raise InvalidInput("this retriever has an async_searcher alone; use aretrieve, or give it a searcher too.")
        return _nodes(self._searcher.search(query_bundle.query_str, self._k, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_searcher is None:
            return await asyncio.to_thread(self._retrieve, query_bundle)
        return _nodes(await self._async_searcher.search(query_bundle.query_str, self._k, **self._options))


def _nodes(answer: Answer) -> list[NodeWithScore]:
    return [_node(hit, answer.status) for hit in answer.hits]


def _node(hit: Hit, status: str) -> NodeWithScore:
    metadata = metadata_of(hit, status)
    node = TextNode(id_=hit.id, text=hit.document.text if hit.document else "", metadata=metadata)
    # For people, not for the model that reads the text.
    node.excluded_llm_metadata_keys = ["retrieval"]
    node.excluded_embed_metadata_keys = ["retrieval"]
    return NodeWithScore(node=node, score=hit.score)
