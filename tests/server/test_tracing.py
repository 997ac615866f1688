"""Spans by the real OpenTelemetry SDK, kept in memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retriever.errors import BackendUnavailable
from retriever.index.sealed import open_index
from server.app import create_app
from server.settings import Settings
from server.tracing import MOST_STAGES, Stages, Tracing, start_tracing
from tests.server.conftest import Client

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter() -> Any:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(small_index: Path, encoder: Any, tiny_reranker: Path, exporter: Any) -> Iterator[Client]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings(index=small_index, reranker=str(tiny_reranker), rerank_depth=4)
    app = create_app(settings, open_index(small_index, encoder=encoder), Tracing(provider))
    with Client(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def spans(exporter: Any) -> Any:
    exporter.clear()
    return exporter.get_finished_spans


def test_a_search_is_a_span_with_one_for_each_stage(traced: Client, spans: Any) -> None:
    response = traced.search(k=3)
    *parts, whole = spans()
    assert whole.name == "POST /v1/search"
    assert whole.kind.name == "SERVER"
    assert whole.attributes["http.route"] == "/v1/search"
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.attributes["retriever.request_id"] == response.headers["x-request-id"]
    timings = response.json()["results"][0]["timings"]
    assert [part.name for part in parts] == ["queue", *(stage for stage in timings if stage != "total")]
    assert {"encode", "dense", "bm25", "fusion", "rerank", "documents"} <= {part.name for part in parts}
    for part in parts:
        assert part.parent.span_id == whole.context.span_id
        assert part.context.trace_id == whole.context.trace_id
        if part.name in timings:
            assert (part.end_time - part.start_time) / 1e6 == pytest.approx(timings[part.name], abs=0.002)
    assert "query" not in str(dict(whole.attributes)).replace("retriever.query", "")


def test_the_clients_trace_goes_on(traced: Client, spans: Any) -> None:
    traced.post("/v1/search", json={"query": "json"}, headers={"traceparent": PARENT})
    whole = spans()[-1]
    assert f"{whole.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{whole.parent.span_id:016x}" == "b7ad6b7169203331"


@pytest.mark.parametrize(
    "header", ["", "nonsense", "00-0-0-01", PARENT.replace("0af", "zzz"), "00-" + "0" * 32 + "-b7ad6b7169203331-01"]
)
def test_a_faulty_traceparent_begins_a_new_trace(traced: Client, spans: Any, header: str) -> None:
    response = traced.post("/v1/search", json={"query": "json"}, headers={"traceparent": header})
    assert response.status_code == 200
    assert spans()[-1].parent is None


def test_a_client_that_does_not_sample_is_not_traced(traced: Client, spans: Any) -> None:
    traced.post("/v1/search", json={"query": "json"}, headers={"traceparent": PARENT[:-2] + "00"})
    assert spans() == ()


def test_batches_and_errors(traced: Client, spans: Any) -> None:
    traced.post("/v1/search", json={"queries": ["json", "zip"], "pipeline": "bm25"})
    numbers = [part.attributes["retriever.query"] for part in spans() if part.name == "bm25"]
    assert numbers == [0, 1]
    traced.post("/v1/search", json={"query": ""})
    assert spans()[-1].attributes["http.response.status_code"] == 422
    assert spans()[-1].status.is_unset
    traced.get("/nowhere/secret")
    assert spans()[-1].name == "GET unmatched"


def test_model_routes_have_a_span_for_the_model(traced: Client, spans: Any) -> None:
    traced.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": ["a", "b"]})
    part, whole = spans()
    assert (part.name, part.attributes["inputs"], whole.name) == ("embed", 2, "POST /v1/embeddings")
    traced.post("/v1/rerank", json={"query": "a", "documents": ["a", "b", "c"]})
    assert [part.name for part in spans()[2:]] == ["rerank", "POST /v1/rerank"]


def test_stages_are_bounded() -> None:
    stages = Stages()
    for _ in range(2 * MOST_STAGES):
        stages.add("bm25", 0, 1.0)
    assert len(stages.found) == MOST_STAGES


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BackendUnavailable, match=r"retriever-engine\[otel\]"):
        start_tracing()


def test_spans_reach_a_collector_by_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        tracing = start_tracing()
        with tracing.request({"type": "http", "method": "GET", "headers": []}, Stages()) as span:
            span.answered("GET", "/livez", 200, "r-1")
        tracing.close()
        collector.shutdown()
    ((path, content),) = received
    assert path == "/v1/traces"
    assert b"GET /livez" in content
    assert b"retriever" in content


def test_without_the_extra_the_service_starts(small_index: Path) -> None:
    # None makes every import of it an ImportError; the API alone comes with FastAPI.
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.exporter'] = None\n"
        "from pathlib import Path; from server.app import create_app; from server.settings import Settings\n"
        f"create_app(Settings(index=Path({str(small_index)!r}))); print('started')"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "started"
