"""GET /v1/models, POST /v1/embeddings, POST /v1/rerank."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retriever.types import Document
from server.batching import TOLERANCE
from server.models import public_name
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


def test_fewer_dimensions_are_the_first_ones_at_unit_length(client: Client) -> None:
    whole = np.array(embed(client, input="zip").json()["data"][0]["embedding"], np.float32)
    assert len(embed(client, input="zip", dimensions=384).json()["data"][0]["embedding"]) == 384
    short = embed(client, input="zip", dimensions=128).json()["data"][0]["embedding"]
    np.testing.assert_allclose(short, whole[:128] / np.linalg.norm(whole[:128]), atol=1e-6)


def test_token_ids_stand_for_the_text_that_gives_them(client: Client, encoder: Any) -> None:
    text = "a zip archive, unzipped: naïve tokenization"
    ids = encoder.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = embed(client, input=text).json()
    one, several = embed(client, input=ids).json(), embed(client, input=[ids, ids[:2]]).json()
    assert one == expected
    assert several["data"][0]["embedding"] == pytest.approx(expected["data"][0]["embedding"], abs=TOLERANCE)
    assert len(several["data"]) == 2


@pytest.mark.parametrize(
    ("ids", "word"),
    [
        # What another tokenizer makes of a text; cut off in the middle of a word; special tokens.
        ([9906, 1917, 323, 1690, 810], "another|its own"),
        ([30_522], "30521"),
        ([2**31 - 1], "30521"),
    ],
)
def test_token_ids_of_another_tokenizer_are_refused(client: Client, ids: list[int], word: str) -> None:
    response = embed(client, input=ids)
    if response.status_code == 200:
        pytest.skip("these ids happen to be what this tokenizer gives")
    assert response.status_code == 400
    assert re.search(word, response.json()["error"]["message"])


def test_too_long_texts_are_refused_where_cutting_is_not_wanted(client: Client) -> None:
    response = embed(client, input=["zip", "zip " * 1000], truncate=False)
    assert response.status_code == 400
    assert "input 1 has 1002 tokens" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"input": ""}, "empty"),
        ({"input": []}, "at least 1"),
        ({"input": ["fine", ""]}, "item 1"),
        ({"input": ["a"] * 2049}, "at most 2048"),
        ({"input": [[]]}, "at least 1"),
        ({"input": [-1]}, "greater than or equal to 0"),
        ({"input": [True]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": {"text": "a"}}, "list"),
        ({}, "input"),
        ({"input": "a", "dimensions": 385}, "384"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "base64"),
        ({"input": "a", "input_type": "passage"}, "document"),
        ({"input": "a", "output": "sparse"}, "dense"),
        ({"input": "a", "unknown": 1}, "unknown"),
    ],
)
def test_faulty_embedding_requests_are_refused_in_openais_form(client: Client, body: dict[str, Any], word: str) -> None:
    response = embed(client, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert word in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_input"


def test_another_model_is_not_found(client: Client) -> None:
    response = embed(client, input="a", model="text-embedding-3-small")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert MODEL in response.json()["error"]["message"]


def test_the_publishers_name_stands_for_the_pinned_model(client: Client) -> None:
    response = embed(client, input="a", model="sentence-transformers/all-MiniLM-L6-v2")
    assert response.json()["model"] == MODEL


def test_a_learned_sparse_encoder_gives_weights_of_terms(make_client: MakeClient) -> None:
    from retriever.term_encoder import load_term_encoder

    client = make_client(embedding_models=["splade-tiny"])
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert listed["splade-tiny"]["output"] == "sparse"
    assert listed["splade-tiny"]["dimensions"] is None
    assert (listed[MODEL]["output"], listed[MODEL]["dimensions"], listed[MODEL]["max_model_len"]) == ("dense", 384, 256)
    texts = ["a zip archive", "how are tokens counted"]
    body = embed(client, model="splade-tiny", input=texts, output="sparse", input_type="query").json()
    expected = load_term_encoder("splade-tiny", device="cpu").encode_queries(texts)
    for part, weights in zip(body["data"], expected, strict=True):
        assert part["embedding"] == []
        assert part["sparse"]["weights"] == sorted(part["sparse"]["weights"], reverse=True)
        found = dict(zip(part["sparse"]["terms"], part["sparse"]["weights"], strict=True))
        assert found == pytest.approx(weights, abs=1e-4)
    response = embed(client, model="splade-tiny", input=texts)
    assert response.status_code == 400
    assert "output='sparse'" in response.json()["error"]["message"]
    assert embed(client, model="splade-tiny", input=texts, output="sparse", dimensions=8).status_code == 400


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


def tei(client: Client, **body: Any) -> Any:
    return client.post("/embed", json=body)


def test_texts_are_embedded_in_the_form_of_text_embeddings_inference(client: Client) -> None:
    texts = ["how are tokens counted", "a zip archive"]
    expected = [part["embedding"] for part in embed(client, input=texts).json()["data"]]
    np.testing.assert_allclose(tei(client, inputs=texts).json(), expected, atol=1e-6)
    np.testing.assert_allclose(tei(client, inputs=texts[0], prompt_name="query").json(), expected[:1], atol=TOLERANCE)
    assert len(tei(client, inputs="zip", dimensions=32).json()[0]) == 32
    assert tei(client, inputs="zip " * 1000, truncate=True).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": ""}, 400, "Empty"),
        ({"inputs": ["a"] * 2049}, 413, "Validation"),
        ({"inputs": "zip " * 1000}, 413, "Validation"),
        ({"inputs": 1}, 422, "Validation"),
        ({"inputs": [30_522]}, 422, "Validation"),
        ({"inputs": "a", "truncation_direction": "left"}, 422, "Validation"),
        ({"inputs": "a", "prompt_name": "clustering"}, 422, "Validation"),
        ({"inputs": "a", "normalize": False}, 422, "Validation"),
        ({"inputs": "a", "dimensions": 385}, 422, "Validation"),
    ],
)
def test_faulty_requests_are_refused_as_text_embeddings_inference_does(
    client: Client, body: dict[str, Any], status: int, kind: str
) -> None:
    response = tei(client, **body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "error_type"}
    assert response.json()["error_type"] == kind


def test_errors_from_before_the_routes_have_the_shape_of_their_api(client: Client) -> None:
    for path, names in {
        "/v1/embeddings": {"error", "request_id"},
        "/v1/rerank": {"detail", "error", "request_id"},
        "/v2/rerank": {"id", "message"},
        "/rerank": {"error", "error_type"},
        "/embed": {"error", "error_type"},
    }.items():
        response = client.post(path, content=b"{}")
        assert response.status_code == 415
        assert set(response.json()) == names, path
        response = client.post(path, json={"unknown": 1})
        assert response.status_code == (400 if path in ("/v1/embeddings", "/v2/rerank") else 422)
        assert set(response.json()) == names, path


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


def test_cohere_and_text_embeddings_inference_get_the_same_order(reranking_client: Client, tiny_reranker: Path) -> None:
    jina = rerank(reranking_client, documents=DOCUMENTS).json()
    request = {"query": "decode json", "documents": DOCUMENTS, "model": "tiny-reranker"}
    cohere = reranking_client.post("/v2/rerank", json=request).json()
    pairs = [(part["index"], part["relevance_score"]) for part in jina["results"]]
    assert [(part["index"], part["relevance_score"]) for part in cohere["results"]] == approximately(pairs)
    assert cohere["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    assert cohere["id"]
    body = {"query": "decode json", "texts": DOCUMENTS}
    ranks = reranking_client.post("/rerank", json={**body, "return_text": True}).json()
    assert [(part["index"], part["score"]) for part in ranks] == approximately(pairs)
    assert [part["text"] for part in ranks] == [DOCUMENTS[part["index"]] for part in ranks]
    raw = reranking_client.post("/rerank", json={**body, "raw_scores": True}).json()
    assert "text" not in raw[0]
    logistic = [1 / (1 + np.exp(-np.float64(part["score"]))) for part in raw]
    assert logistic == pytest.approx([score for _, score in pairs], abs=1e-4)


def approximately(pairs: list[tuple[int, float]]) -> list[tuple[int, Any]]:
    return [(index, pytest.approx(score, abs=1e-4)) for index, score in pairs]


def test_cohere_cuts_documents_to_the_tokens_asked_for(reranking_client: Client) -> None:
    request = {"query": "decode json", "model": "tiny-reranker"}
    long = [f"{text} and much more of the same" for text in DOCUMENTS]
    cut = reranking_client.post("/v2/rerank", json={**request, "documents": long, "max_tokens_per_doc": 2}).json()
    short = [" ".join(text.split()[:2]) for text in DOCUMENTS]
    expected = reranking_client.post("/v2/rerank", json={**request, "documents": short}).json()
    assert [part["index"] for part in cut["results"]] == [part["index"] for part in expected["results"]]
    assert "4 documents were cut" in cut["meta"]["warnings"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"documents": []},
        {"documents": ["a"] * 1001},
        {"documents": [{"text": "a"}]},
        {"query": " "},
        {"max_tokens_per_doc": 0},
        {"top_n": 0},
        {"model": None},
        {"relevant_spans": {"enabled": True}},
    ],
)
def test_faulty_requests_are_refused_as_cohere_does(reranking_client: Client, change: dict[str, Any]) -> None:
    request = {"query": "decode json", "documents": ["a"], "model": "tiny-reranker"} | change
    response = reranking_client.post("/v2/rerank", json=request)
    assert response.status_code == 400
    assert set(response.json()) == {"id", "message"}


def test_an_unknown_reranker_is_not_found_in_each_apis_shape(reranking_client: Client) -> None:
    request = {"query": "q", "documents": ["a"], "model": "rerank-v3.5"}
    response = reranking_client.post("/v2/rerank", json=request)
    assert response.status_code == 404
    assert "'tiny-reranker'" in response.json()["message"]
    response = reranking_client.post("/v1/rerank", json=request)
    assert response.status_code == 404
    assert response.json()["detail"] == response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"texts": []}, 400),
        ({"query": ""}, 400),
        ({"texts": ["a"] * 1001}, 413),
        ({"texts": ["long " * 500]}, 413),
        ({"texts": ["long " * 500], "truncate": True}, 200),
        ({"texts": [1]}, 422),
        ({"truncation_direction": "Left"}, 422),
    ],
)
def test_faulty_reranking_is_refused_as_text_embeddings_inference_does(
    reranking_client: Client, change: dict[str, Any], status: int
) -> None:
    response = reranking_client.post("/rerank", json={"query": "decode json", "texts": ["a"]} | change)
    assert response.status_code == status
    assert status == 200 or set(response.json()) == {"error", "error_type"}


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
    assert {part["index"]: part["truncated"] for part in body["results"]} == {0: False, 1: True}
    assert body["usage"]["total_tokens"] > 128


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


def test_constant_scores_of_different_documents_are_a_fault(
    make_client: MakeClient, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(reranker=str(tiny_reranker))
    _, model = client.service.models.cross_encoder(None)
    # Of the class, since each worker has a copy.
    kind = type(model.inner)
    monkeypatch.setattr(kind, "score_pairs", lambda self, pairs: np.ones(len(pairs), np.float32))
    assert rerank(client, documents=["a", "a", "a"]).status_code == 200
    response = rerank(client, documents=["a", "b", "c"])
    assert response.status_code == 424
    assert response.json()["error"]["code"] == "model_fault"
    monkeypatch.setattr(kind, "score_pairs", lambda self, pairs: np.full(len(pairs), np.nan, np.float32))
    assert rerank(client, documents=["a", "b", "c"]).status_code == 424


def test_a_vector_that_is_not_finite_never_leaves(make_client: MakeClient, own_index: Path) -> None:
    from indexing.build import build_index
    from indexing.plan import BuildSettings
    from retriever.index.sealed import open_index
    from server.app import create_app
    from server.settings import Settings
    from tests.factories import HashingEncoder, ListCorpus

    path = own_index.parent / "hashed"
    build_index(ListCorpus([Document("a", "fine")]), path, BuildSettings(), encoder=HashingEncoder())
    index = open_index(path, encoder=HashingEncoder(broken=["poison"]))
    with Client(create_app(Settings(index=path), index), base_url="http://localhost") as client:
        name = client.get("/v1/models").json()["data"][0]["id"]
        assert embed(client, model=name, input="fine").status_code == 200
        response = embed(client, model=name, input=["fine", "poison"])
        assert response.status_code == 424
        assert response.json()["error"]["code"] == "model_fault"
