"""POST /v1/search: what comes back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retriever.index.sealed import open_index
from tests.server.conftest import Client, MakeClient


def result(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (found,) = response.json()["results"]
    return found


def refusal(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["request_id"] == response.headers["x-request-id"]
    return body["error"]


def test_answer_is_that_of_the_engine_with_every_stage_score(client: Client) -> None:
    found = result(client.search("decode a json document", k=5, highlight=True))
    with client.service.index.lease() as index:
        expected = index.search("decode a json document", 5, highlight=True)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == list(expected.ranking())
    for hit, wanted in zip(found["hits"], expected.hits, strict=True):
        assert hit["scores"] == wanted.scores
        assert hit["text"] == wanted.document.text
        assert hit["metadata"] == wanted.document.metadata
        assert [tuple(span) for span in hit["highlights"]] == wanted.highlights
    assert found["status"] == "exact"
    assert found["exact"] is True
    assert found["truncated"] is False
    assert found["degraded"] == []
    assert {"encode", "dense", "bm25", "fusion", "total"} <= found["timings"].keys()


def test_response_names_index_pipeline_and_stages(client: Client) -> None:
    body = client.search().json()
    with client.service.index.lease() as index:
        assert body["index"] == {"name": "small", "generation": index.generation, "fingerprint": index.fingerprint}
    assert body["pipeline"] == "hybrid"
    assert body["stages"] == ["bm25", "dense"]


def test_several_queries_are_answered_in_order(client: Client) -> None:
    queries = ["decode json", "parse command line arguments", "zip archive"]
    body = client.post("/v1/search", json={"queries": queries, "k": 3}).json()
    assert len(body["results"]) == 3
    for query, found in zip(queries, body["results"], strict=True):
        alone = result(client.search(query, k=3))
        assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in alone["hits"]]


def test_offset_continues_the_list(client: Client) -> None:
    whole = [hit["id"] for hit in result(client.search(k=6))["hits"]]
    rest = [hit["id"] for hit in result(client.search(k=4, offset=2))["hits"]]
    assert rest == whole[2:]


def test_limit_is_another_name_for_k(client: Client) -> None:
    assert len(result(client.search(limit=3))["hits"]) == 3


def test_k_beyond_the_matching_documents_gives_all_of_them(client: Client) -> None:
    with client.service.index.lease() as index:
        module, documents = index.facets("module")[-1]
    found = result(client.search(k=1000, filter={"module": module}, without=["bm25"]))
    assert len(found["hits"]) == documents < 1000


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"without": ["dense"]}, ["bm25"]),
        ({"without": ["bm25"]}, ["dense"]),
        ({"without": ["rerank"]}, ["bm25", "dense"]),
        ({"pipeline": "bm25"}, ["bm25"]),
        ({"pipeline": {"first": ["dense"]}}, ["dense"]),
        ({"pipeline": {"first": ["dense", "bm25"], "fusion": {"method": "rrf"}}}, ["dense", "bm25"]),
    ],
)
def test_stages_that_run_are_those_asked_for(client: Client, options: dict[str, Any], stages: list[str]) -> None:
    response = client.search(**options)
    assert response.json()["stages"] == stages
    for hit in result(response)["hits"]:
        assert hit["scores"].keys() - {"fusion"} <= set(stages)
        assert ("fusion" in hit["scores"]) == (len(stages) > 1)


def test_documents_can_be_left_out(client: Client) -> None:
    hit = result(client.search(k=1, include_documents=False))["hits"][0]
    assert hit["id"]
    assert hit["title"] is hit["text"] is hit["metadata"] is None


def test_filter_holds_for_every_hit(client: Client) -> None:
    condition = {"kind": "class", "lines": {"gte": 20}}
    hits = result(client.search("json", filter=condition))["hits"]
    assert hits
    assert all(hit["metadata"]["kind"] == "class" and hit["metadata"]["lines"] >= 20 for hit in hits)


def test_query_beyond_the_encoders_length_is_truncated_and_says_so(client: Client) -> None:
    found = result(client.search("json " * 2000))
    assert found["truncated"] is True
    assert found["status"] == "truncated"


def test_query_of_unknown_words_warns(client: Client) -> None:
    found = result(client.search("xqzzt", pipeline="bm25"))
    assert found["hits"] == []
    assert found["warnings"] == ["no_terms"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "query or queries"),
        ({"query": "a", "queries": ["b"]}, "query or queries"),
        ({"query": ""}, "empty"),
        ({"query": " \t\n"}, "empty"),
        ({"query": 7}, "string"),
        ({"queries": []}, "at least 1"),
        ({"queries": ["a"] * 65}, "at most 64"),
        ({"queries": ["fine", " "]}, "item 1"),
        ({"query": "a", "k": 0}, "greater than or equal to 1, got 0"),
        ({"query": "a", "k": -1}, "got -1"),
        ({"query": "a", "k": 1001}, "less than or equal to 1000"),
        ({"query": "a", "k": 10**9}, "less than or equal to 1000"),
        ({"query": "a", "k": 10**400}, "k"),
        ({"query": "a", "k": 2.5}, "k"),
        ({"query": "a", "k": "10"}, "k"),
        ({"query": "a", "k": True}, "k"),
        ({"query": "a", "k": None}, "k"),
        ({"query": "a", "k": 3, "limit": 4}, "limit"),
        ({"query": "a", "offset": -1}, "offset"),
        ({"query": "a", "offset": 10_000}, "k + offset must be at most 10000"),
        ({"query": "a", "size": 3}, "size"),
        ({"query": "a", "pipeline": "nope"}, "hybrid"),
        ({"query": "a", "pipeline": {"first": []}}, "first"),
        ({"query": "a", "pipeline": {"first": ["bm25"], "depth": 100_000}}, "depth"),
        ({"query": "a", "pipeline": {"first": ["bm25"], "more": 1}}, "more"),
        ({"query": "a", "without": ["fusion"]}, "without"),
        ({"query": "a", "without": ["bm25", "dense"]}, "first stage"),
        ({"query": "a", "filter": []}, "filter"),
        ({"query": "a", "filter": {}}, "filter"),
        ({"query": "a", "filter": {"colour": "red"}}, "colour"),
        ({"query": "a", "filter": {"lines": "many"}}, "lines"),
        ({"query": "a", "filter": {"lines": {"gt": 10**400}}}, "lines"),
        ({"query": "a", "filter": {"or": [{"kind": "class"}] * 300}}, "clauses"),
        ({"query": "a", "deadline_ms": 0}, "deadline_ms"),
        ({"query": "a", "deadline_ms": 1e12}, "deadline_ms"),
        ([], "object"),
        ("json", "object"),
    ],
)
def test_faulty_requests_are_refused_with_a_reason(client: Client, body: Any, word: str) -> None:
    error = refusal(client.post("/v1/search", json=body), 422)
    assert word in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_faulty_value_is_named(client: Client) -> None:
    assert refusal(client.search(k=0), 422)["param"] == "k"
    assert refusal(client.post("/v1/search", json={"queries": ["a", 1]}), 422)["param"] == "queries.1"


def test_models_from_outside_are_refused(client: Client, reranking_client: Client) -> None:
    asked = {"first": ["bm25"], "rerank": {"model": "/etc", "depth": 5}}
    assert "--reranker" in refusal(client.search(pipeline=asked), 422)["message"]
    assert "/etc" in refusal(reranking_client.search(pipeline=asked), 422)["message"]


def test_rerank_depth_of_a_client_is_bounded(make_client: MakeClient, tiny_reranker: Any) -> None:
    client = make_client(reranker=str(tiny_reranker), limits={"rerank_depth": 3})
    asked = {"first": ["bm25"], "rerank": {"model": str(tiny_reranker), "depth": 4}}
    assert "at most 3" in refusal(client.search(pipeline=asked), 422)["message"]
    asked["rerank"]["depth"] = 3
    assert result(client.search(pipeline=asked))["degraded"] == []


def test_a_configured_reranker_joins_the_default_pipeline(reranking_client: Client) -> None:
    response = reranking_client.search(k=12)
    assert response.json()["pipeline"] == "hybrid+rerank"
    assert response.json()["stages"] == ["bm25", "dense", "rerank"]
    hits = result(response)["hits"]
    assert [("rerank" in hit["scores"]) for hit in hits] == [True] * 8 + [False] * 4
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_reranking_can_be_left_out(reranking_client: Client, client: Client) -> None:
    response = reranking_client.search(without=["rerank"])
    assert response.json()["stages"] == ["bm25", "dense"]
    expected = result(client.search())["hits"]
    assert [hit["id"] for hit in result(response)["hits"]] == [hit["id"] for hit in expected]


def test_a_deadline_that_passes_degrades_the_answer_and_the_metrics_count_it(reranking_client: Client) -> None:
    found = result(reranking_client.search(deadline_ms=0.001))
    assert found["degraded"] == ["dense_timeout", "rerank_timeout"]
    assert found["status"] == "degraded"
    assert all("bm25" in hit["scores"] for hit in found["hits"])
    assert found["hits"]
    assert 'retriever_degraded_total{reason="rerank_timeout"}' in reranking_client.get("/metrics").text


class FaultyReranker:
    name = "faulty"

    def __init__(self, score: float | None) -> None:
        self._score = score

    def score(self, query: str, documents: Any) -> Any:
        if self._score is None:
            raise RuntimeError("the device fell off the bus")
        return np.full(len(documents), self._score, np.float32), 0


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (float("nan"), "rerank_constant_or_nan"),
        (float("inf"), "rerank_constant_or_nan"),
        (0.5, "rerank_constant_or_nan"),
        (None, "rerank_failed"),
    ],
)
def test_nonsense_of_a_reranker_never_leaves(
    make_client: MakeClient, tiny_reranker: Any, score: float | None, reason: str
) -> None:
    client = make_client(reranker=str(tiny_reranker))
    with client.service.index.lease() as index:
        index.use_reranker(str(tiny_reranker), FaultyReranker(score))
    response = client.search()
    found = result(response)
    assert found["degraded"] == [reason]
    assert all("rerank" not in hit["scores"] for hit in found["hits"])
    assert "NaN" not in response.text
    json.loads(response.text, parse_constant=pytest.fail)


def test_hits_bear_calibrated_relevance_and_may_be_cut_by_it(
    make_client: MakeClient, own_index: Path, pydocs: Path
) -> None:
    from indexing.change import store_calibration
    from retriever.evaluation.calibration import calibrate
    from retriever.evaluation.collections import open_collection

    client = make_client(own_index)
    assert client.search(pipeline="bm25", min_relevance=0.1).status_code == 422
    split = next((pydocs / "qrels").glob("*.tsv")).stem
    with open_index(own_index) as index:
        found = calibrate(index, open_collection(str(pydocs), split), index.pipelines["bm25"])
    store_calibration(own_index, found)
    hits = client.search(pipeline="bm25", k=20).json()["results"][0]["hits"]
    assert all(0 <= hit["relevance"] <= 1 for hit in hits)
    least = hits[3]["relevance"]
    cut = client.search(pipeline="bm25", k=20, min_relevance=least).json()["results"][0]["hits"]
    assert [hit["id"] for hit in cut] == [hit["id"] for hit in hits if hit["relevance"] >= least]
    response = client.search(pipeline="dense", min_relevance=0.1)
    assert response.status_code == 422
    assert "retriever index calibrate" in response.json()["error"]["message"]
    assert client.search(pipeline="dense").json()["results"][0]["hits"][0]["relevance"] is None
    info = client.get("/v1/info").json()
    # The page compares the two.
    assert [part["pipeline"] for part in info["index"]["calibrations"]] == [info["pipelines"]["bm25"]]
