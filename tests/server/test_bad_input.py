"""Requests, moments and keys that go wrong; what is not here stands in the test of the file that refuses it.

queries that are empty, long or of unknown words      here, test_search
k, offset and other numbers out of bounds             here, test_search
content types, encodings, JSON, sizes, slow bodies    test_bodies, test_service
vectors, which no request may hold                    here (an unknown field)
filters: unknown fields, types, clauses, regex        here, tests/retriever/test_filters.py
filters that leave few or nothing                     here
one faulty query or document of many                  here, test_documents
documents to rerank: none, odd, many, equal, long     here, test_models, test_python_client
names that lead out or look alike                     here, test_indexes
keys, hosts, origins, headers with line ends          test_access, test_service
memory that is short, lost devices                    test_batching, test_health, test_hanging_models
slow or hanging models, scores of no use              test_hanging_models, test_batching, test_search
full queues, clients that leave                       test_admission, test_batching, test_soak
stop signals, kill -9                                 test_service, test_durability
clocks that jump, logs that cannot be written         here
whatever else                                         test_fuzz, test_openapi
"""

import io
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from server.logs import JsonFormatter
from tests.server.conftest import Client, MakeClient


def message(response: Any, status: int = 422) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize("stage", ["bm25", "dense", "hybrid"])
def test_a_query_of_a_hundred_thousand_characters_is_cut_and_says_so(client: Client, stage: str) -> None:
    (result,) = client.search("json " * 20_000, pipeline=stage, k=2).json()["results"]
    assert (result["truncated"], result["status"]) == (True, "truncated")
    assert len(result["hits"]) == 2


@pytest.mark.parametrize("query", ["🎉", "the of and", "...", "zqxjkv", "\u200b", "\x00"])
def test_a_query_without_a_known_word_is_answered(client: Client, query: str) -> None:
    response = client.search(query, pipeline="bm25")
    (result,) = response.json()["results"]
    assert result["hits"] == []
    assert result["warnings"] == ["no_terms"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 0}, "k"), ({"k": -1}, "k"), ({"k": 1.5}, "k"), ({"k": 10**9}, "1000"), ({"k": "3"}, "k"),
        ({"k": True}, "k"), ({"offset": -1}, "offset"), ({"offset": 10_001}, "10000"),
        ({"k": 1000, "offset": 9001}, "k + offset"), ({"k": 10**400}, "k"), ({"offset": 2**63}, "offset"),
        ({"deadline_ms": 0}, "deadline_ms"), ({"deadline_ms": 1e9}, "deadline_ms"), ({"min_relevance": 2}, "min_relevance"),
        ({"vector": [0.1] * 384}, "vector"), ({"facets": ["colour"]}, "colour"), ({"facet_values": 0}, "facet_values"),
    ],
)  # fmt: skip
def test_numbers_out_of_bounds_and_unknown_names(client: Client, options: dict[str, Any], word: str) -> None:
    assert word in message(client.search(**options))


def test_one_faulty_query_of_a_batch_is_named_and_none_is_answered(client: Client) -> None:
    assert "item 1" in message(client.post("/v1/search", json={"queries": ["json", " ", "zip"]}))


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        ({"colour": "red"}, "colour"), ({"lines": "many"}, "lines"), ({"kind": {"gte": None}}, "kind"),
        ({"and": [{"lines": n} for n in range(10_000)]}, "256 clauses"),
        ({"kind": {"regex": "(a+)+$"}}, "regex"), ({"lines": {"in": list(range(10_001))}}, "10000"),
        ({"not": {"not": {"lines": {"between": [1, 2]}}}}, "between"),
    ],
)  # fmt: skip
def test_faulty_filters_name_the_field_or_the_limit(client: Client, condition: Any, word: str) -> None:
    assert word.replace("10000", "10") in message(client.search(filter=condition)).replace(",", "")


@pytest.fixture(scope="module")
def approximate(
    make_client: MakeClient, pydocs: Path, encoder: Any, tmp_path_factory: pytest.TempPathFactory
) -> Client:
    path = tmp_path_factory.mktemp("indexes") / "approximate"
    build_index(
        open_corpus(str(pydocs)), path, BuildSettings(fields={"lines": "number"}, dense="hnsw"), encoder=encoder
    )
    return make_client(path)


def test_a_filter_that_leaves_few_is_answered_exactly(approximate: Client) -> None:
    def asked(**options: Any) -> Any:
        return approximate.search(pipeline="dense", k=5, **options).json()["results"][0]

    assert asked()["status"] == "approximate"
    few = asked(filter={"lines": {"gte": 20}})
    assert (few["status"], few["exact"], len(few["hits"])) == ("exact", True, 5)
    assert all(hit["metadata"]["lines"] >= 20 for hit in few["hits"])
    none = asked(filter={"lines": {"lt": 0}})
    assert (none["exact"], none["hits"]) == (True, [])


def test_odd_documents_to_rerank(reranking_client: Client) -> None:
    def rerank(documents: list[str]) -> Any:
        return reranking_client.post("/v1/rerank", json={"query": "json", "documents": documents})

    assert "1000" in message(rerank(["a"] * 5000))
    assert [part["index"] for part in rerank(["", "", ""]).json()["results"]] == [0, 1, 2]
    assert [part["truncated"] for part in rerank(["word " * 5000]).json()["results"]] == [True]


@pytest.mark.parametrize(
    "name",
    ["%2e%2e", "%2e%2e%2fsmall", "/etc/passwd", "sma\u217cl", "ѕmall", "small\u200b", "small%00", "SMALL"],
)
def test_names_that_look_like_the_index_are_no_index(client: Client, name: str) -> None:
    for response in (
        client.get(f"/v1/indexes/{name}"),
        client.post(f"/v1/indexes/{name}/search", json={"query": "json"}),
    ):
        # What is not known to only read counts as a write, which this service refuses before it looks at names.
        assert response.status_code in (403, 404, 405), response.text
        assert "passwd" not in response.text.replace(name, "")


def test_output_that_no_model_has_is_refused(client: Client) -> None:
    for output in ("multi_vector", "sparse"):
        body = {"model": "all-MiniLM-L6-v2", "input": "a", "output": output}
        assert "all-MiniLM-L6-v2 gives dense output" in message(client.post("/v1/embeddings", json=body), 400)


def test_a_clock_that_jumps_harms_nothing(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(readiness_seconds=0)
    real = time.time
    for jump in (-10 * 365 * 86_400, 365 * 86_400):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert client.search(deadline_ms=60_000).json()["results"][0]["degraded"] == []
        assert client.get("/readyz").status_code == 200


class FullDisk(io.StringIO):
    """A log file on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_costs_no_request(client: Client) -> None:
    handler = logging.StreamHandler(FullDisk())
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("server.access")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        assert client.search().status_code == 200
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
