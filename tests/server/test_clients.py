"""The clients that people have, unchanged, against a live service: openai, cohere and mteb (extra `clients`)."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from server.batching import TOLERANCE

pytestmark = [
    pytest.mark.agreement,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("openai", "cohere", "mteb")),
        reason="openai, cohere or mteb is not installed; the extra [clients] brings them",
    ),
]

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["how are tokens counted", "a zip archive", "parse a date", "word " * 400]


@pytest.fixture
def openai_client(service_url: str) -> Any:
    import openai

    with openai.OpenAI(base_url=f"{service_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(encoder: Any, texts: list[str]) -> Any:
    from retriever.types import Document

    return encoder.encode_documents([Document(text, text) for text in texts])


def test_openai_embeds(openai_client: Any, encoder: Any) -> None:
    # Without encoding_format it asks for base64 and unpacks it.
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"user": "someone"}):
        response = openai_client.embeddings.create(model=MODEL, input=TEXTS[:3], **options)
        if options.get("encoding_format") != "base64":
            found = [part.embedding for part in response.data]
            np.testing.assert_allclose(found, expected(encoder, TEXTS[:3]), atol=TOLERANCE)
        assert [part.index for part in response.data] == [0, 1, 2]
        assert response.usage.prompt_tokens == response.usage.total_tokens == sum(encoder.count_tokens(TEXTS[:3]))


def test_openai_sends_token_ids_dimensions_and_what_is_ours(openai_client: Any, encoder: Any) -> None:
    ids = [encoder.model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS[:3]]
    for given, texts in ((ids, TEXTS[:3]), (ids[0], TEXTS[:1])):
        response = openai_client.embeddings.create(model=MODEL, input=given)
        found = [part.embedding for part in response.data]
        np.testing.assert_allclose(found, expected(encoder, texts), atol=TOLERANCE)
    (part,) = openai_client.embeddings.create(model=MODEL, input="zip", dimensions=64).data
    assert np.linalg.norm(part.embedding) == pytest.approx(1)
    assert len(part.embedding) == 64
    extra = {"input_type": "query", "truncate": True}
    response = openai_client.embeddings.create(model=MODEL, input=TEXTS[3], extra_body=extra)
    assert response.truncated == [0]


def test_openai_lists_models(openai_client: Any) -> None:
    assert [model.id for model in openai_client.models.list()] == [MODEL, "tiny-reranker"]


def test_openai_raises_its_own_errors(openai_client: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.embeddings.create(model="text-embedding-3-small", input="a")
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    for wrong in ({"input": ""}, {"input": []}, {"input": "a", "dimensions": 100_000}, {"input": ["a"] * 2049}):
        with pytest.raises(openai.BadRequestError):
            openai_client.embeddings.create(model=MODEL, **wrong)


def test_sixty_four_openai_clients_at_once(service_url: str, encoder: Any) -> None:
    import openai

    texts = [f"text {number} of several" for number in range(64)]

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{service_url}/v1", api_key="none", max_retries=0) as client:
            requests = (client.embeddings.create(model=MODEL, input=text) for text in texts)
            return [response.data[0].embedding for response in await asyncio.gather(*requests)]

    np.testing.assert_allclose(asyncio.run(ask()), expected(encoder, texts), atol=TOLERANCE)


@pytest.fixture
def connection() -> Iterator[httpx.Client]:
    """Return a connection for cohere's clients, which do not close their own."""
    with httpx.Client(timeout=60) as client:
        yield client


def test_cohere_reranks(service_url: str, connection: httpx.Client) -> None:
    import cohere

    documents = ["a zip archive", "decode a json document", "parse arguments", "a date and a time"]
    request = {"query": "decode json", "documents": documents, "model": "tiny-reranker"}
    jina = httpx.post(f"{service_url}/v1/rerank", json=request, timeout=60).json()
    order = [(part["index"], pytest.approx(part["relevance_score"], abs=1e-4)) for part in jina["results"]]
    client = cohere.ClientV2(api_key="none", base_url=service_url, httpx_client=connection)
    response = client.rerank(**request)
    assert [(part.index, part.relevance_score) for part in response.results] == order
    assert response.id
    assert response.meta is not None
    assert response.meta.billed_units is not None
    assert response.meta.billed_units.search_units == 1
    top = client.rerank(**request, top_n=2, max_tokens_per_doc=512, priority=0)
    assert [part.index for part in top.results] == [index for index, _ in order[:2]]
    with pytest.raises(cohere.NotFoundError, match="tiny-reranker"):
        client.rerank(model="rerank-v3.5", query="q", documents=["a"])
    with pytest.raises(cohere.BadRequestError, match="query"):
        client.rerank(model="tiny-reranker", query=" ", documents=["a"])
    with pytest.raises(cohere.BadRequestError, match="documents"):
        client.rerank(model="tiny-reranker", query="q", documents=[])


def test_coheres_first_client_reranks(service_url: str, connection: httpx.Client) -> None:
    import cohere

    documents = ["a zip archive", "decode a json document"]
    client = cohere.Client(api_key="none", base_url=service_url, httpx_client=connection)
    response = client.rerank(model="tiny-reranker", query="decode json", documents=documents, return_documents=True)
    assert sorted(part.index for part in response.results) == [0, 1]
    for part in response.results:
        assert part.document is not None
        assert part.document.text == documents[part.index]


def test_mteb_evaluates_the_live_service(service_url: str, shared_data: Path, tmp_path: Path) -> None:
    """The same task by mteb's own wrappers: the service over HTTP, and sentence-transformers in mteb's process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.mteb_task", service_url, MODEL, str(shared_data / "scifact")],
        capture_output=True, text=True, cwd=tmp_path, timeout=280,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MTEB_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["service"]["ndcg_at_10"] == pytest.approx(found["library"]["ndcg_at_10"], abs=1e-4)
    assert found["service"]["recall_at_100"] == pytest.approx(found["library"]["recall_at_100"], abs=1e-4)
    # Twenty of SciFact's claims among a few hundred abstracts are easy for this model.
    assert found["service"]["ndcg_at_10"] > 0.8
    assert found["documents"] == 200
    assert len(found["reranked"]) == 3
    assert all(0 <= score <= 1 for score in found["reranked"])
