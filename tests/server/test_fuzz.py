"""Whatever a client sends, the answer is a result or a refusal, never a fault of the service."""

import json
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.model_schemas import (
    CohereRerankRequest,
    EmbeddingRequest,
    EmbedRequest,
    JinaRerankRequest,
    TeiRerankRequest,
)
from server.schemas import SearchRequest
from tests.server.conftest import Client

TEXTS = st.one_of(st.text(max_size=40), st.sampled_from(["json", "", " ", "\x00", "é" * 300, "\u202e", "-" * 2000]))
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**30, -(10**30), 10**400, 1e308, 2**63, 2**53 + 1]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)

OPERANDS = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(
        st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte", "in", "exists", "regex"]), VALUES, max_size=3
    ),
)
FILTERS = st.recursive(
    st.dictionaries(st.sampled_from(["module", "kind", "lines", "colour"]), OPERANDS, max_size=3),
    lambda inner: st.fixed_dictionaries({}, optional={"and": st.lists(inner, max_size=3), "not": inner, "or": VALUES}),
    max_leaves=6,
)
PIPELINES = st.fixed_dictionaries(
    {"first": st.lists(st.sampled_from(["bm25", "dense", "splade"]), max_size=3)},
    optional={
        "depth": NUMBERS,
        "fusion": st.fixed_dictionaries(
            {},
            optional={
                "method": st.sampled_from(["rrf", "minmax", "max"]),
                "constant": NUMBERS,
                "weights": st.dictionaries(st.sampled_from(["bm25", "dense", "other"]), NUMBERS, max_size=3),
            },
        ),
        "rerank": VALUES,
    },
)
SEARCHES = st.fixed_dictionaries(
    {"query": TEXTS},
    optional={
        "k": st.one_of(st.integers(1, 20), NUMBERS, SCALARS),
        "offset": st.one_of(st.integers(0, 20), SCALARS),
        "filter": st.one_of(FILTERS, VALUES),
        "pipeline": st.one_of(st.sampled_from(["bm25", "dense", "hybrid"]), PIPELINES, VALUES),
        "without": st.lists(st.sampled_from(["bm25", "dense", "rerank", "fusion"]), max_size=3),
        "deadline_ms": SCALARS,
        "highlight": SCALARS,
        "group_by_parent": SCALARS,
    },
)

many = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def require_no_fault(client: Client, path: str, body: Any) -> None:
    response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 422, 404), (body, response.text)
    answer = response.json()
    if response.status_code != 200:
        assert answer["error"]["message"]
        return
    for found in answer.get("results", []):
        scores = [hit["score"] for hit in found["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert all(math.isfinite(score) for score in scores)


@many
@given(body=st.one_of(SEARCHES, st.dictionaries(st.sampled_from([*SearchRequest.model_fields]), VALUES), VALUES))
def test_searches(client: Client, body: Any) -> None:
    require_no_fault(client, "/v1/search", body)


MODEL_ROUTES = {
    "/v1/embeddings": (EmbeddingRequest, {"model": "all-MiniLM-L6-v2", "input": "a"}),
    "/embed": (EmbedRequest, {"inputs": "a"}),
    "/v1/rerank": (JinaRerankRequest, {"query": "a", "documents": ["a", "b"]}),
    "/v2/rerank": (CohereRerankRequest, {"model": "tiny-reranker", "query": "a", "documents": ["a", "b"]}),
    "/rerank": (TeiRerankRequest, {"query": "a", "texts": ["a", "b"]}),
}


@many
@given(route=st.sampled_from([*MODEL_ROUTES]), data=st.data())
def test_model_routes(reranking_client: Client, route: str, data: st.DataObject) -> None:
    schema, request = MODEL_ROUTES[route]
    changes = data.draw(st.dictionaries(st.sampled_from([*schema.model_fields]), VALUES, max_size=3))
    body = json.dumps(request | changes)
    response = reranking_client.post(route, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404, 413, 422), (route, body, response.text)
    assert isinstance(response.json(), dict | list)


@many
@given(content=st.binary(max_size=200))
def test_bytes(client: Client, content: bytes) -> None:
    response = client.post("/v1/search", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), content
