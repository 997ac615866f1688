"""GET /v1/models, POST /v1/embeddings, POST /v1/rerank."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retriever.types import Document
from server.routes.models import public_name
from tests.server.conftest import Client, MakeClient

MODEL = "all-MiniLM-L6-v2"


def embed(client: Client, **body: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": MODEL, **body})


def test_models_are_listed(client: Client, reranking_client: Client) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(model["id"], model["task"]) for model in body["data"]] == [(MODEL, "embedding")]
    listed = reranking_client.get("/v1/models").json()["data"]
    # A folder's place on the disk is nobody's business.
    assert [(model["id"], model["task"]) for model in listed] == [(MODEL, "embedding"), ("tiny-reranker", "rerank")]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("owner/name", "owner/name"),
        ("/srv/models/mine", "mine"),
        ("./mine", "mine"),
    ],
)
def test_public_name_hides_folders(model: str, name: str) -> None:
    assert public_name(model) == name


def test_embeddings_are_those_of_the_encoder(client: Client, encoder: Any) -> None:
    texts = ["how are tokens counted", "a zip archive"]
    body = embed(client, input=texts).json()
    assert body["object"] == "list"
    assert body["model"] == MODEL
    assert [part["index"] for part in body["data"]] == [0, 1]
    expected = encoder.encode_documents([Document(text, text) for text in texts])
    np.testing.assert_allclose([part["embedding"] for part in body["data"]], expected, atol=1e-6)


def test_query_and_document_embeddings_use_the_encoders_own_sides(client: Client, encoder: Any) -> None:
    vector = embed(client, input="zip", input_type="query").json()["data"][0]["embedding"]
    np.testing.assert_allclose(vector, encoder.encode_queries(["zip"])[0], atol=1e-6)


def test_base64_holds_the_same_numbers(client: Client) -> None:
    plain = embed(client, input="zip").json()["data"][0]["embedding"]
    packed = embed(client, input="zip", encoding_format="base64").json()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.array(plain, np.float32))


def test_usage_counts_tokens_that_were_read(client: Client) -> None:
    # [CLS] a zip archive [SEP]
    body = embed(client, input="a zip archive").json()
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert body["truncated"] == []
    # 256 is what the model reads at most.
    body = embed(client, input=["zip", "zip " * 1000]).json()
    assert body["usage"]["total_tokens"] == 3 + 256
    assert body["truncated"] == [1]


def test_native_dimensions_are_accepted(client: Client) -> None:
    assert len(embed(client, input="zip", dimensions=384).json()["data"][0]["embedding"]) == 384


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"input": ""}, "empty"),
        ({"input": []}, "at least 1"),
        ({"input": ["fine", ""]}, "item 1"),
        ({"input": ["a"] * 257}, "at most 256"),
        ({"input": [101, 102]}, "token ids"),
        ({"input": [[101, 102]]}, "token ids"),
        ({"input": [True]}, "token ids"),
        ({"input": {"text": "a"}}, "list"),
        ({}, "input"),
        ({"input": "a", "dimensions": 128}, "384"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "base64"),
        ({"input": "a", "input_type": "passage"}, "document"),
        ({"input": "a", "unknown": 1}, "unknown"),
    ],
)
def test_faulty_embedding_requests_are_refused_in_openais_form(client: Client, body: dict[str, Any], word: str) -> None:
    response = embed(client, **body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert word in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_input"


def test_another_model_is_not_found(client: Client) -> None:
    response = embed(client, input="a", model="text-embedding-3-small")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert MODEL in response.json()["error"]["message"]


def test_an_index_without_vectors_has_no_encoder(
    make_client: MakeClient, pydocs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from indexing.build import build_index
    from indexing.corpora import open_corpus
    from indexing.plan import BuildSettings

    path = tmp_path_factory.mktemp("sparse") / "index"
    build_index(open_corpus(str(pydocs)), path, BuildSettings(parts=("bm25",)))
    client = make_client(path)
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/models").json()["data"] == []
    assert client.search().json()["results"][0]["hits"]
    response = embed(client, input="a")
    assert response.status_code == 503
    assert "no vectors" in response.json()["error"]["message"]
    assert client.search(pipeline={"first": ["dense"]}).status_code == 422


def rerank(client: Client, **body: Any) -> Any:
    return client.post("/v1/rerank", json={"query": "decode json", **body})


DOCUMENTS = ["a zip archive", "decode a json document", "parse arguments", "a date and a time"]


def test_without_a_reranker_the_answer_says_how_to_get_one(client: Client) -> None:
    response = rerank(client, documents=DOCUMENTS)
    assert response.status_code == 503
    assert "--reranker" in response.json()["error"]["message"]


def test_reranking_orders_by_the_models_scores(reranking_client: Client, tiny_reranker: Path) -> None:
    body = rerank(reranking_client, documents=DOCUMENTS).json()
    assert body["model"] == "tiny-reranker"
    with reranking_client.service.index.lease() as index:
        logits, _ = index.reranker(str(tiny_reranker)).score(
            "decode json", [Document(text, text) for text in DOCUMENTS]
        )
    assert [part["index"] for part in body["results"]] == np.argsort(-logits, kind="stable").tolist()
    for part in body["results"]:
        assert part["document"]["text"] == DOCUMENTS[part["index"]]
        assert part["relevance_score"] == pytest.approx(1 / (1 + np.exp(-np.float64(logits[part["index"]]))))


def test_documents_may_be_objects_and_need_not_come_back(reranking_client: Client) -> None:
    plain = rerank(reranking_client, documents=DOCUMENTS, return_documents=False).json()["results"]
    objects = rerank(reranking_client, documents=[{"text": text} for text in DOCUMENTS]).json()["results"]
    assert [part["index"] for part in plain] == [part["index"] for part in objects]
    assert all(part["document"] is None for part in plain)


def test_top_n_cuts_the_list(reranking_client: Client) -> None:
    whole = rerank(reranking_client, documents=DOCUMENTS).json()["results"]
    assert rerank(reranking_client, documents=DOCUMENTS, top_n=2).json()["results"] == whole[:2]
    assert rerank(reranking_client, documents=DOCUMENTS, top_n=99).json()["results"] == whole


def test_edges_of_reranking_are_defined(reranking_client: Client) -> None:
    assert rerank(reranking_client, documents=[]).json()["results"] == []
    assert len(rerank(reranking_client, documents=["one"]).json()["results"]) == 1
    # Equal documents score the same and stay in the order sent.
    results = rerank(reranking_client, documents=["same", "same", "same"]).json()["results"]
    assert [part["index"] for part in results] == [0, 1, 2]
    assert len(rerank(reranking_client, documents=["", "word"]).json()["results"]) == 2


def test_cut_documents_are_counted(reranking_client: Client) -> None:
    body = rerank(reranking_client, documents=["short", "long " * 500]).json()
    assert body["truncated"] == 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"documents": DOCUMENTS, "query": " "}, "empty"),
        ({"documents": DOCUMENTS, "query": "a" * 32_769}, "32768"),
        ({"documents": ["a"] * 1001}, "at most 1000"),
        ({"documents": [1]}, "documents"),
        ({"documents": [{"txt": "a"}]}, "documents"),
        ({"documents": DOCUMENTS, "top_n": 0}, "top_n"),
        ({"documents": DOCUMENTS, "texts": []}, "texts"),
    ],
)
def test_faulty_rerank_requests_are_refused(reranking_client: Client, body: dict[str, Any], word: str) -> None:
    response = rerank(reranking_client, **body)
    assert response.status_code == 422
    assert word in response.json()["error"]["message"]


class Constant:
    name = "constant"

    def score(self, query: str, documents: Any) -> Any:
        return np.ones(len(documents), np.float32), 0


def test_constant_scores_of_different_documents_are_a_fault(make_client: MakeClient, tiny_reranker: Path) -> None:
    client = make_client(reranker=str(tiny_reranker))
    with client.service.index.lease() as index:
        index.use_reranker(str(tiny_reranker), Constant())
    assert rerank(client, documents=["a", "a", "a"]).status_code == 200
    response = rerank(client, documents=["a", "b", "c"])
    assert response.status_code == 424
    assert response.json()["error"]["code"] == "model_fault"
