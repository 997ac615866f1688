"""Language models as a stage of searches over HTTP: offered by the operator alone, bounded, and accounted for."""

import pytest

from indexing.build import build_index
from indexing.change import store_pipelines
from indexing.plan import BuildSettings
from retriever.index.sealed import open_index
from retriever.llm import chat
from retriever.llm.bottleneck import QueryWriter, save_query_writer
from retriever.pipeline import Local, PipelineSpec
from retriever.types import Document
from tests.factories import ListCorpus
from tests.retriever.llm.chat_server import served
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


def test_an_endpoint_that_does_not_answer_costs_only_its_stage(make_client, monkeypatch):
    """Turned away until given up, and dripping: by the deadline, or before it by patience."""

    def ask(client, **options):
        body = {"query": "read a file", "k": 6, **options}
        (result,) = client.post("/v1/search", json=body).json()["results"]
        return result

    with served() as address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        fine, closed, dripping = (
            make_client(reranker=f"pairwise+endpoint:{model}", rerank_depth=4)
            for model in ("longer", "closed", "dripping")
        )
        assert ask(fine)["usage"]["calls"] == 6
        plain = [hit["id"] for hit in ask(fine, without=["rerank"])["hits"]]
        answers = [ask(closed), ask(dripping, deadline_ms=400)]
        monkeypatch.setattr(chat, "PATIENCE", 0.3)
        answers.append(ask(dripping, deadline_ms=60_000))
    assert [answer["degraded"] for answer in answers] == [["rerank_failed"], ["rerank_timeout"], ["rerank_failed"]]
    assert all([hit["id"] for hit in answer["hits"]] == plain for answer in answers)


def test_depth_of_local_vectors_that_a_language_model_reads_is_bounded(make_client, tmp_path):
    model = save_model(tmp_path / "writer")
    save_query_writer(model, QueryWriter(document_tokens=16, query_tokens=8))
    settings = BuildSettings(parts=("bm25",), local_encoder=str(model))
    documents = [Document(f"d{number}", f"read file {number}") for number in range(12)]
    place = tmp_path / "index"
    build_index(ListCorpus(documents), place, settings, device="cpu", offline=True)

    def ask(client, depth, **rest):
        body = {"query": "read a file", "k": 12, "deadline_ms": 120_000}
        return client.post(
            "/v1/search", json=body | {"pipeline": {"first": ["bm25"], "local": {"depth": depth}}} | rest
        )

    def message(response):
        assert response.status_code == 422, response.text
        return response.json()["error"]["message"]

    # What the index's own pipeline reads, and no more.
    client = make_client(place, opened=open_index(place, device="cpu", offline=True), limits={"rerank_depth": 3})
    assert client.post("/v1/search", json={"query": "file", "pipeline": "local"}).status_code == 200
    response = ask(client, 100)
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert (len(result["hits"]), result["degraded"]) == (12, [])
    assert message(ask(client, 101)) == "pipeline.local.depth must be at most 100, got 101."

    # Where that is less than a search may have reranked, the limit of the latter.
    store_pipelines(place, {"local": PipelineSpec(first=("bm25",), local=Local(depth=2))})
    client = make_client(place, opened=open_index(place, device="cpu", offline=True), limits={"rerank_depth": 3})
    (result,) = ask(client, 3).json()["results"]
    assert ["local" in hit["scores"] for hit in result["hits"]] == [True] * 3 + [False] * 9
    assert message(ask(client, 4)) == "pipeline.local.depth must be at most 3, got 4."
    assert "at most 3" in message(ask(client, 1000))


def lose_device(monkeypatch, model):
    """Make all layers of a language model fail from now on, as after an illegal access of a GPU's memory."""

    def lost(*arguments, **options):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(model, "forward", lost)


def test_a_lost_device_of_a_language_model_makes_the_service_not_ready(make_client, language_model, monkeypatch):
    client = make_client(reranker=f"yes_no:{language_model}", rerank_depth=4, readiness_seconds=0)
    assert client.get("/readyz").status_code == 200
    (judge,) = client.service.models._judges.values()
    lose_device(monkeypatch, judge.model._model)
    (result,) = client.search("read a file", deadline_ms=120_000).json()["results"]
    assert (result["degraded"], len(result["hits"])) == (["rerank_failed"], 10)
    assert client.service.models.broken() == "CUDA error: an illegal memory access was encountered"
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "illegal memory access" in response.json()["error"]["message"]


def test_a_lost_device_of_local_vectors_makes_the_service_not_ready(make_client, tmp_path, monkeypatch):
    model = save_model(tmp_path / "writer")
    save_query_writer(model, QueryWriter(document_tokens=16, query_tokens=8))
    documents = [Document(f"d{number}", f"read file {number}") for number in range(12)]
    settings = BuildSettings(parts=("bm25",), local_encoder=str(model))
    build_index(ListCorpus(documents), tmp_path / "index", settings, device="cpu", offline=True)
    client = make_client(tmp_path / "index", opened=open_index(tmp_path / "index", device="cpu", offline=True))
    (writer,) = client.service.models._writers.values()
    lose_device(monkeypatch, writer._model.base_model)
    (result,) = client.search("read file", pipeline="local", deadline_ms=120_000).json()["results"]
    assert (result["degraded"], len(result["hits"])) == (["local_failed"], 10)
    assert "illegal memory access" in client.get("/readyz").json()["error"]["message"]
