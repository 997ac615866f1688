"""Late-interaction models at /v1/embeddings: a vector for each token, as the library gives them."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from retriever.client import AsyncClient, Refused
from retriever.client import Client as PythonClient
from retriever.client.results import Embeddings
from retriever.types import Document
from server.batching import TOLERANCE
from server.routes import embeddings
from tests.server.conftest import Client, MakeClient

MODEL = "late-interaction"
TEXTS = ["a zip archive, unzipped.", "how are tokens counted", "zip"]


@pytest.fixture(scope="module")
def client(make_client: MakeClient, late_interaction: Path) -> Client:
    return make_client(embedding_models=[str(late_interaction)], device="cpu", offline=True)


@pytest.fixture(scope="module")
def library(late_interaction: Path) -> Any:
    """Return the model as sentence-transformers itself opens it."""
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(late_interaction), device="cpu", local_files_only=True)


def embed(client: Client, **body: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": MODEL, "output": "multi_vector", **body})


def matrices(response: Any) -> list[Any]:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert all(part["embedding"] == [] for part in data)
    return [np.array(part["multi_vector"], np.float32) for part in data]


def test_documents_have_the_librarys_vectors(client: Client, library: Any) -> None:
    found = matrices(embed(client, input=TEXTS))
    expected = library.encode_document(TEXTS, convert_to_numpy=True)
    # [CLS] document : a zip archive un ##zip ##ped [SEP]; the comma and the stop have none.
    assert [part.shape for part in found] == [(10, 32), (9, 32), (5, 32)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_queries_have_the_librarys_vectors_expansion_included(client: Client, library: Any) -> None:
    found = matrices(embed(client, input=TEXTS, input_type="query"))
    assert [part.shape for part in found] == [(16, 32)] * 3
    for ours, theirs in zip(found, library.encode_query(TEXTS, convert_to_numpy=True), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_base64_holds_the_same_numbers(client: Client) -> None:
    plain = matrices(embed(client, input=TEXTS[:1]))[0]
    (part,) = embed(client, input=TEXTS[:1], encoding_format="base64").json()["data"]
    packed = np.stack([np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in part["multi_vector"]])
    assert np.array_equal(packed, plain)


def test_lengths_are_those_of_each_side(client: Client) -> None:
    long = "word " * 40
    # Two of each are the prompt's.
    for side, read in (("document", 22), ("query", 14)):
        body = embed(client, input=["zip", long], input_type=side).json()
        assert body["truncated"] == [1]
        assert body["usage"]["total_tokens"] == 3 + read
        assert [len(part["multi_vector"]) for part in body["data"]][1] == read + 2
        refused = embed(client, input=["zip", long], input_type=side, truncate=False)
        assert refused.status_code == 400
        assert f"42 tokens, {read} are read" in refused.json()["error"]["message"]
    # A document that is just read whole, and one token more.
    assert embed(client, input=["word " * 20, "word " * 21]).json()["truncated"] == [1]
    assert embed(client, input=["word " * 12, "word " * 13], input_type="query").json()["truncated"] == [1]


def test_what_a_model_gives_is_listed_and_nothing_else_is_given(client: Client) -> None:
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}[MODEL]
    assert (listed["output"], listed["dimensions"], listed["max_model_len"]) == ("multi_vector", 32, 22)
    for options, word in (
        ({"output": "dense"}, "output='multi_vector'"),
        ({"output": "sparse"}, "no sparse"),
        ({"dimensions": 8}, "dimensions is for dense"),
        ({"model": "all-MiniLM-L6-v2"}, "gives dense output and no multi_vector"),
    ):
        response = embed(client, input="zip", **options)
        assert response.status_code == 400
        assert word in response.json()["error"]["message"]


def test_more_numbers_than_an_answer_may_hold_are_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MAX_NUMBERS", 2 * 16 * 32)
    assert embed(client, input=["zip"] * 2, input_type="query").status_code == 200
    response = embed(client, input=["zip"] * 3, input_type="query")
    assert response.status_code == 400
    assert "up to 1536 numbers, 1024 are given" in response.json()["error"]["message"]
    # [CLS] document : zip [SEP]
    monkeypatch.setattr(embeddings, "MAX_NUMBERS", 2 * 5 * 32)
    assert [part.shape for part in matrices(embed(client, input=["zip"] * 2))] == [(5, 32)] * 2
    response = embed(client, input=["zip"] * 3)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "too_many_numbers"
    assert "up to 480 numbers, 320 are given" in response.json()["error"]["message"]


def test_what_is_computed_of_a_text_is_counted_with_prompt_and_expansion(
    client: Client, late_interaction: Path
) -> None:
    from retriever.multi_vector_encoder import TokenVectorEncoder, load_multi_vector_encoder

    model = client.service.models.embedder(MODEL)[1]
    assert model.computed_tokens("document", [3, 22, 23]) == [5, 24, 24]
    assert model.computed_tokens("query", [3, 14, 15]) == [16, 16, 16]
    encoder = load_multi_vector_encoder(late_interaction, device="cpu", offline=True)
    encoder.model[0].query_expansion = None
    plain = TokenVectorEncoder(encoder.model, name="plain")
    assert plain.computed_query_tokens([3, 14]) == [5, 16]
    assert len(plain.encode_queries(["zip"])[0]) == 5


def test_batches_are_made_of_what_is_computed(
    late_interaction: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retriever.multi_vector_encoder import load_multi_vector_encoder

    encoder = load_multi_vector_encoder(late_interaction, device="cpu", offline=True)
    sizes: list[int] = []

    def watched(encode: Any) -> Any:
        def call(texts: list[str], **options: Any) -> Any:
            sizes.append(len(texts))
            return encode(texts, **options)

        return call

    for name in ("encode_query", "encode_document"):
        monkeypatch.setattr(encoder.model, name, watched(getattr(encoder.model, name)))
    # Two queries of 16 tokens, or six documents of 5; of the words alone it would be ten.
    monkeypatch.setattr(encoder, "_batch_tokens", 32)
    found = encoder.encode_queries(["zip"] * 5)
    assert sizes == [2, 2, 1]
    np.testing.assert_allclose(found, library.encode_query(["zip"] * 5, convert_to_numpy=True), atol=TOLERANCE)
    sizes.clear()
    encoder.encode_documents([Document(str(number), "zip") for number in range(8)])
    assert sizes == [6, 2]


class Through(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Brings requests to an app in this process, and notes how many texts each of them had and how it ended."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: list[tuple[int, int]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        found = self.client.request(request.method, request.url.path, content=body, headers=request.headers)
        self.seen.append((len(json.loads(body)["input"]), found.status_code))
        return httpx.Response(found.status_code, headers=found.headers, content=found.content, request=request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await asyncio.to_thread(self.handle_request, request)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_python_clients_halve_what_is_too_much_at_once(
    client: Client, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    texts = ["zip " * (number % 5 + 1) for number in range(7)]
    expected = matrices(embed(client, input=texts))
    # Of 5 to 9 tokens: 3 short texts, or 2 of any length.
    monkeypatch.setattr(embeddings, "MAX_NUMBERS", 18 * 32)
    through = Through(client)

    def ask(texts: list[str]) -> Embeddings:
        if not asynchronous:
            with PythonClient("http://localhost", transport=through) as sync:
                return sync.embed(texts, model=MODEL, output="multi_vector")

        async def asked() -> Embeddings:
            async with AsyncClient("http://localhost", transport=through) as other:
                return await other.embed(texts, model=MODEL, output="multi_vector")

        return asyncio.run(asked())

    found = ask(texts)
    assert through.seen == [(7, 400), (3, 200), (4, 400), (2, 200), (2, 200)]
    assert (found.tokens, found.truncated) == (sum(len(text.split()) + 2 for text in texts), [])
    for ours, theirs in zip(found.multi_vector, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    # One text cannot be halved, and other refusals are no reason to.
    monkeypatch.setattr(embeddings, "MAX_NUMBERS", 4 * 32)
    through.seen.clear()
    with pytest.raises(Refused, match="up to 160 numbers"):
        ask(["zip", "zip"])
    assert through.seen == [(2, 400), (1, 400)]
    through.seen.clear()
    with pytest.raises(Refused, match="the text is empty"):
        ask(["zip", " "])
    assert through.seen == [(2, 400)]


def test_an_index_cannot_use_it(client: Client, late_interaction: Path) -> None:
    from retriever.errors import BackendUnavailable

    models = client.service.models
    for load in (models.encoder, models.term_encoder):
        with pytest.raises(BackendUnavailable, match="multi_vector output"):
            load(str(late_interaction), device="cpu", offline=True)


def test_the_recipe_of_token_vectors_is_in_the_fingerprint(client: Client, late_interaction: Path) -> None:
    from retriever.multi_vector_encoder import TokenVectorEncoder, load_multi_vector_encoder

    encoder = load_multi_vector_encoder(late_interaction, device="cpu", offline=True)
    assert encoder.fingerprint() == client.service.models.embedder(MODEL)[1].fingerprint()
    encoder.model[0].query_expansion = None
    changed = TokenVectorEncoder(encoder.model, name="changed")
    differing = {part for part, value in changed.fingerprint().items() if value != encoder.fingerprint()[part]}
    assert differing == {"token_vectors"}
    assert (changed.min_query_tokens, changed.max_query_tokens) == (0, 510)
