"""GET /livez, /readyz, /metrics, /v1/info and /openapi.json."""

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from retriever.errors import IndexMismatch
from retriever.index.sealed import open_index
from server.app import create_app
from server.draining import DrainingServer
from server.settings import Settings
from tests.server.conftest import Client, MakeClient


def test_alive_and_ready(client: Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_before_the_models_are_loaded_nothing_is_answered(small_index: Path, encoder: Any) -> None:
    with open_index(small_index, encoder=encoder) as index:
        # Not entered, so the app has not started.
        client = TestClient(create_app(Settings(index=small_index), index), base_url="http://localhost")
        assert client.get("/livez").status_code == 200
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "not_ready"
        response = client.post("/v1/search", json={"query": "json"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"


def test_a_stopping_service_is_not_ready_but_answers(make_client: MakeClient) -> None:
    client = make_client()
    client.service.readiness.draining = True
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200
    assert client.search().status_code == 200


class Drifted:
    """The real encoder after something changed its vectors, or broke it."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.drift = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def replica(self) -> "Drifted":
        return self

    def encode_queries(self, queries: Any) -> Any:
        vectors = self._encoder.encode_queries(queries)
        return vectors + np.float32(self.drift) * np.roll(vectors, 1, axis=1)


def test_vectors_that_drifted_keep_the_service_from_starting(small_index: Path, encoder: Any) -> None:
    drifted = Drifted(encoder)
    drifted.drift = 0.5
    app = create_app(Settings(index=small_index), open_index(small_index, encoder=drifted))
    with pytest.raises(IndexMismatch, match="canary"), TestClient(app):
        pass
    app.state.service.index.close()


def test_a_model_that_breaks_later_turns_readiness_off(small_index: Path, encoder: Any) -> None:
    breaking = Drifted(encoder)
    app = create_app(Settings(index=small_index, readiness_seconds=0), open_index(small_index, encoder=breaking))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/readyz").status_code == 200
        breaking.drift = float("nan")
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "dense_failed" in response.json()["error"]["message"]
        breaking.drift = 0.0
        assert client.get("/readyz").status_code == 200


def test_metrics_count_what_happened(make_client: MakeClient) -> None:
    client = make_client()
    for _ in range(3):
        client.search(k=4)
    client.search(k=0)
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'retriever_requests_total{route="/v1/search",status="200"} 3.0' in text
    assert 'retriever_requests_total{route="/v1/search",status="422"} 1.0' in text
    assert 'retriever_requests_total{route="unmatched",status="404"} 1.0' in text
    assert "retriever_hits_total 12.0" in text
    assert "retriever_queries_total 3.0" in text
    assert 'retriever_stage_seconds_count{stage="bm25"} 3.0' in text
    assert 'retriever_request_seconds_count{route="/v1/search"} 4.0' in text
    assert "retriever_running_requests 0.0" in text
    with client.service.index.lease() as index:
        assert f'retriever_index_documents{{index="small"}} {float(len(index))}' in text
        assert 'retriever_index_generation{index="small"} ' + str(float(index.generation)) in text


def test_apps_count_apart(make_client: MakeClient) -> None:
    first, second = make_client(), make_client()
    first.search()
    assert "retriever_queries_total 1.0" in first.get("/metrics").text
    assert "retriever_queries_total 0.0" in second.get("/metrics").text


def test_info_describes_index_limits_and_pipelines(client: Client, small_index: Path) -> None:
    body = client.get("/v1/info").json()
    assert body["limits"]["k"] == 1000
    assert body["limits"]["body_bytes"] == 2 * 1024 * 1024
    assert body["fields"] == {"module": "keyword", "kind": "keyword", "lines": "number"}
    assert set(body["pipelines"]) == {"bm25", "dense", "hybrid"}
    assert body["default_pipeline"] == "hybrid"
    assert body["encoder"] == "all-MiniLM-L6-v2"
    assert body["reranker"] is None
    assert body["reload_error"] is None
    with client.service.index.lease() as index:
        assert body["index"]["documents"] == len(index)
    assert str(small_index) not in client.get("/v1/info").text


def test_openapi_describes_every_route_and_its_errors(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/search", "/v1/embeddings", "/v1/rerank", "/v1/models", "/v1/info", "/livez", "/readyz", "/metrics",
        "/v1/indexes", "/v1/indexes/{name}", "/v1/indexes/{name}/search", "/v1/aliases", "/v1/aliases/{alias}",
    }  # fmt: skip
    for path, errors in {
        "/v1/search": "ErrorBody",
        "/v1/embeddings": "ErrorBody",
        "/v1/rerank": "JinaErrorBody",
        "/v2/rerank": "CohereErrorBody",
        "/rerank": "TeiErrorBody",
        "/embed": "TeiErrorBody",
    }.items():
        responses = document["paths"][path]["post"]["responses"]
        assert {"200", "400", "401", "413", "415", "421", "422", "429", "503", "504"} <= set(responses)
        for status, response in responses.items():
            if status != "200":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": f"#/components/schemas/{errors}"}
    for path in ("/v1/info", "/v1/indexes", "/v1/aliases", "/v1/models", "/metrics"):
        assert {"401", "421"} <= set(document["paths"][path]["get"]["responses"])
    properties = document["components"]["schemas"]["SearchRequest"]["properties"]
    assert properties["k"]["maximum"] == 1000
    assert all("description" in entry for entry in properties.values())


def test_no_page_comes_from_elsewhere(client: Client) -> None:
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404
    for path in ("/", "/page/page.js", "/page/page.css", "/page/icon.svg"):
        response = client.get(path)
        assert response.status_code == 200
        found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+", response.text))
        # The name of the SVG namespace is no address.
        assert found <= {"http://www.w3.org"}, path
        assert response.headers["content-security-policy"].startswith("default-src 'self'")


def test_every_file_of_the_page_is_served() -> None:
    from server.routes.page import FILES, FOLDER

    assert {name for name, _ in FILES.values()} == {path.name for path in FOLDER.iterdir()}


def test_unknown_paths_and_methods_have_the_error_form(client: Client) -> None:
    for response, status, code in (
        (client.get("/v2/search"), 404, "not_found"),
        (client.get("/v1/../../etc/passwd"), 404, "not_found"),
        (client.get("/page/%2e%2e/app.py"), 404, "not_found"),
        (client.get("/v1/search"), 405, "method_not_allowed"),
        (client.post("/livez", json={}), 405, "method_not_allowed"),
    ):
        assert response.status_code == status
        assert response.json()["error"]["code"] == code


def test_a_service_whose_device_is_lost_stops_to_be_started_anew(make_client: MakeClient) -> None:
    client = make_client()
    reasons: list[str | None] = [None, "CUDA error: gone"]
    server = DrainingServer(
        uvicorn.Config(client.app, log_config=None), client.service.readiness, 0.0, lambda: reasons.pop(0)
    )

    async def run() -> None:
        await server.on_tick(0)
        assert server.failure is None
        assert not client.service.readiness.draining
        # Between two looks nothing is asked.
        await server.on_tick(5)
        await server.on_tick(10)
        while not server.should_exit:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert server.failure == "CUDA error: gone"
    assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize("broken", ["dense", "bm25"])
def test_a_stage_that_finds_other_documents_turns_readiness_off(
    small_index: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    changing = Drifted(encoder)
    app = create_app(Settings(index=small_index, readiness_seconds=0), open_index(small_index, encoder=changing))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/readyz").status_code == 200
        (index,) = [client.app.state.service.index._current.index]
        assert {canary.stage for canary in app.state.service.readiness._canaries} == {"bm25", "dense"}
        with monkeypatch.context() as patch:
            if broken == "dense":
                # Finite vectors of unit length all the same.
                patch.setattr(changing, "drift", 1e6)
            else:
                nothing = index.search_terms({"nowhere": 1.0}, 5, None)
                patch.setattr(type(index), "search_bm25", lambda *_: (nothing, ["nowhere"]))
            response = client.get("/readyz")
            assert response.status_code == 503
            assert f"canary query of {broken}" in response.json()["error"]["message"]
        assert client.get("/readyz").status_code == 200


def test_changed_documents_do_not_turn_readiness_off(make_client: MakeClient, own_index: Path, encoder: Any) -> None:
    from indexing.build import add_documents
    from retriever.types import Document
    from tests.factories import ListCorpus

    client = make_client(own_index, readiness_seconds=0)
    assert client.get("/readyz").status_code == 200
    before = list(client.service.readiness._canaries)
    changed = [Document(canary.id, "quite other words than those before") for canary in before]
    changed = list({document.id: document for document in changed}.values())
    add_documents(ListCorpus(changed), own_index, encoder=encoder, duplicates="overwrite")
    assert client.get("/readyz").status_code == 200
    assert client.service.readiness._canaries != before
