"""Language models as a stage of searches over HTTP: offered by the operator alone, bounded, and accounted for."""

import pytest

from tests.retriever.llm.models import save_model


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama", window=2048)


def test_a_language_model_joins_the_default_pipeline(make_client, language_model):
    client = make_client(reranker=f"pairwise:{language_model}", rerank_depth=4)
    info = client.get("/v1/info").json()
    assert info["default_pipeline"] == "hybrid+rerank"
    assert info["reranker"] == "tiny-llama"
    # The rerank routes are those of cross-encoders.
    assert client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).status_code == 503
    body = {"query": "read a file", "k": 6, "deadline_ms": 120_000}
    (result,) = client.post("/v1/search", json=body).json()["results"]
    assert result["usage"]["calls"] == 6
    assert result["usage"]["comparisons"] == 3
    assert result["usage"]["prompt_tokens"] > 100
    (plain,) = client.post("/v1/search", json=body | {"without": ["rerank"]}).json()["results"]
    assert plain["usage"] == {}
    assert {hit["id"] for hit in result["hits"][:4]} == {hit["id"] for hit in plain["hits"][:4]}

    rerank = info["pipelines"]["hybrid+rerank"]["rerank"]
    asked = {"first": ["bm25"], "rerank": rerank | {"strategy": "all_pairs", "depth": 3}}
    (result,) = client.post("/v1/search", json=body | {"pipeline": asked}).json()["results"]
    assert result["usage"]["comparisons"] == 3
    # Neither another use of the model nor an endpoint was offered.
    for other in ({"kind": "yes_no", "model": rerank["model"]}, {"kind": "pairwise", "model": "x"},
                  {"kind": "pairwise", "backend": "endpoint", "model": rerank["model"]}):  # fmt: skip
        refused = client.post("/v1/search", json=body | {"pipeline": {"first": ["bm25"], "rerank": other}})
        assert refused.status_code == 422
        assert "pipeline.rerank.model must be pairwise:" in refused.json()["error"]["message"]
