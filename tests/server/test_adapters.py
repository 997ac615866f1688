"""The retrievers for LangChain and LlamaIndex, in the real frameworks, over a live service and a local index."""

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retriever.client import AsyncClient, Client, Refused
from retriever.index.sealed import open_index

OPTIONS = {"pipeline": "hybrid", "filter": {"kind": "function"}}

pytestmark = pytest.mark.agreement

langchain = pytest.mark.skipif(
    importlib.util.find_spec("langchain_core") is None,
    reason="langchain-core is not installed; the extra [langchain] brings it",
)
llama_index = pytest.mark.skipif(
    importlib.util.find_spec("llama_index") is None,
    reason="llama-index-core is not installed; the extra [llama-index] brings it",
)


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as made:
        yield made


@langchain
def test_langchain_retrieves(client: Client, service_url: str) -> None:
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableLambda

    from retriever.adapters.langchain import EngineRetriever

    made = EngineRetriever(searcher=client, k=4, options=OPTIONS)
    assert isinstance(made, BaseRetriever)
    found = made.invoke("parse a message")
    expected = client.search("parse a message", 4, pipeline="hybrid", filter={"kind": "function"})
    assert [document.id for document in found] == [hit.id for hit in expected.hits]
    for document, hit in zip(found, expected.hits, strict=True):
        assert hit.document is not None
        assert document.page_content == hit.document.text
        assert document.metadata["title"] == hit.document.title
        assert document.metadata["kind"] == "function"
        assert document.metadata["retrieval"] == {
            "id": hit.id, "score": pytest.approx(hit.score), "scores": pytest.approx(hit.scores), "relevance": None,
            "status": "exact",
        }  # fmt: skip
    # As a part of a chain, over several questions.
    chain = made | RunnableLambda(lambda documents: [document.id for document in documents])
    first, second = chain.batch(["parse a message", "open a zip archive"])
    assert first == [document.id for document in found]
    assert second != first
    # Without a client of its own the asynchronous way runs the other one in a thread.
    assert asyncio.run(made.ainvoke("parse a message")) == found

    async def ask() -> Any:
        async with AsyncClient(service_url) as asynchronous:
            return await EngineRetriever(async_searcher=asynchronous, k=4, options=OPTIONS).ainvoke("parse a message")

    assert asyncio.run(ask()) == found
    with pytest.raises(Refused, match="nonesuch"):
        EngineRetriever(searcher=client, options={"pipeline": "nonesuch"}).invoke("a")


@langchain
def test_langchain_retrieves_from_a_local_index_and_refuses_nothing_to_search(small_index: Path, encoder: Any) -> None:
    from retriever.adapters.langchain import EngineRetriever

    with open_index(small_index, encoder=encoder) as index:
        found = EngineRetriever(searcher=index, k=3).invoke("decode json")
        assert [document.id for document in found] == [hit.id for hit in index.search("decode json", 3).hits]
    with pytest.raises(ValueError, match="give a searcher"):
        EngineRetriever()
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        EngineRetriever(searcher=index, k=0)
    with pytest.raises(ValueError, match="use ainvoke"):
        EngineRetriever(async_searcher=AsyncClient()).invoke("a")


@llama_index
def test_llama_index_retrieves(client: Client, service_url: str) -> None:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import MetadataMode

    from retriever.adapters.llama_index import EngineRetriever

    made = EngineRetriever(client, k=4, options=OPTIONS)
    assert isinstance(made, BaseRetriever)
    found = made.retrieve("parse a message")
    expected = client.search("parse a message", 4, pipeline="hybrid", filter={"kind": "function"})
    assert [(part.node.node_id, part.score) for part in found] == [
        (hit.id, pytest.approx(hit.score)) for hit in expected.hits
    ]
    for part, hit in zip(found, expected.hits, strict=True):
        assert hit.document is not None
        assert part.node.get_content() == hit.document.text
        assert part.node.metadata["title"] == hit.document.title
        assert part.node.metadata["retrieval"]["scores"] == pytest.approx(hit.scores)
        assert "retrieval" not in part.node.get_content(MetadataMode.LLM)
    assert [part.node.node_id for part in asyncio.run(made.aretrieve("parse a message"))] == [
        part.node.node_id for part in found
    ]

    async def ask() -> Any:
        async with AsyncClient(service_url) as asynchronous:
            other = EngineRetriever(async_searcher=asynchronous, k=4, options=OPTIONS)
            return await other.aretrieve("parse a message")

    assert [part.node.node_id for part in asyncio.run(ask())] == [part.node.node_id for part in found]
    with pytest.raises(Refused, match="nonesuch"):
        EngineRetriever(client, options={"pipeline": "nonesuch"}).retrieve("a")


@llama_index
def test_llama_index_retrieves_from_a_local_index_and_refuses_nothing_to_search(
    small_index: Path, encoder: Any
) -> None:
    from retriever.adapters.llama_index import EngineRetriever

    with open_index(small_index, encoder=encoder) as index:
        found = EngineRetriever(index, k=3).retrieve("decode json")
        assert [part.node.node_id for part in found] == [hit.id for hit in index.search("decode json", 3).hits]
        with pytest.raises(ValueError, match="at least 1"):
            EngineRetriever(index, k=0)
    with pytest.raises(ValueError, match="give a searcher"):
        EngineRetriever()
    with pytest.raises(ValueError, match="use aretrieve"):
        EngineRetriever(async_searcher=AsyncClient()).retrieve("a")
