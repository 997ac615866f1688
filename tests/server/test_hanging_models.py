"""Models that hang, have too much to do or lost their device: what is answered without them, and what is said."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from retriever.errors import ModelOverloaded
from retriever.index.sealed import open_index
from tests.server.conftest import Client, MakeClient


class Hanging:
    """The real encoder, whose queries do not come back while `go` is not set."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.go = threading.Event()
        self.go.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def replica(self) -> "Hanging":
        return self

    def encode_queries(self, queries: Any) -> Any:
        assert self.go.wait(120)
        return self._encoder.encode_queries(queries)


@pytest.fixture
def hanging(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Return an encoder that a test may let hang, in the one thread that it has; what hangs goes on at the end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = Hanging(encoder)
    yield made
    made.go.set()


def start(make_client: MakeClient, index: Path, hanging: Hanging, **settings: Any) -> Client:
    client = make_client(index, open_index(index, encoder=hanging), **settings)
    hanging.go.clear()
    return client


def alone(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    return dict(result)


def test_an_encoder_that_hangs_costs_its_stage_and_alone_the_answer(
    make_client: MakeClient, small_index: Path, hanging: Hanging
) -> None:
    client = start(make_client, small_index, hanging)
    result = alone(client.search(deadline_ms=100))
    assert (result["degraded"], result["status"]) == (["dense_timeout"], "degraded")
    assert result["hits"]
    response = client.search(deadline_ms=100, pipeline="dense")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "100 ms" in response.json()["error"]["message"]


def test_searches_that_hang_do_not_keep_the_threads(
    make_client: MakeClient, small_index: Path, hanging: Hanging
) -> None:
    client = start(make_client, small_index, hanging, limits={"threads": 2, "queue": 8, "deadline_ms": 300})
    with ThreadPoolExecutor(6) as pool:
        stuck = [pool.submit(client.search, pipeline="dense") for _ in range(6)]
        assert [future.result(60).status_code for future in stuck] == [504] * 6
    assert alone(client.search(pipeline="bm25"))["status"] == "exact"


def test_an_embedding_that_hangs_is_given_up(make_client: MakeClient, small_index: Path, hanging: Hanging) -> None:
    client = start(make_client, small_index, hanging, limits={"batch_seconds": 5.0})
    body = {"model": "all-MiniLM-L6-v2", "input": "a", "input_type": "query"}
    response = client.post("/v1/embeddings", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    # And from now on nobody waits for it at all.
    response = client.post("/v1/embeddings", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")
    assert alone(client.search())["warnings"] == ["dense_unavailable"]


def test_probes_of_a_service_that_hangs_are_answered_and_hold_one_thread(
    make_client: MakeClient, small_index: Path, hanging: Hanging
) -> None:
    client = start(make_client, small_index, hanging, readiness_seconds=0, canary_seconds=0.3)
    for _ in range(3):
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "all-MiniLM-L6-v2 has been at one batch" in response.json()["error"]["message"]
    hanging.go.set()
    deadline = time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline


def test_a_check_that_heeds_no_deadline_is_not_begun_twice(
    make_client: MakeClient, small_index: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(small_index, open_index(small_index, encoder=hanging), readiness_seconds=0, canary_seconds=0.1)

    def hang(*_: Any) -> Any:
        assert hanging.go.wait(120)
        return [5]

    hanging.go.clear()
    # A tokenizer, which no deadline reaches.
    monkeypatch.setattr(hanging, "count_tokens", hang, raising=False)
    for _ in range(4):
        assert "has not been answered" in client.get("/readyz").json()["error"]["message"]
    assert [thread.name for thread in threading.enumerate()].count("readiness") == 1


def rejected(client: Client) -> float:
    name = 'retriever_batch_rejected_total{model="all-MiniLM-L6-v2"} '
    return next(float(line.split()[1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name))


def test_a_full_queue_costs_a_stage_is_counted_and_alone_is_429(
    make_client: MakeClient, small_index: Path, hanging: Hanging
) -> None:
    client = start(make_client, small_index, hanging, limits={"batch_queue": 1})
    _, model = client.service.models.embedder("all-MiniLM-L6-v2")
    while not model.batcher.hanging(0.0):
        with contextlib.suppress(ModelOverloaded):
            model.submit("query", ["a"], [3])
        time.sleep(0.01)
    with contextlib.suppress(ModelOverloaded):
        model.submit("query", ["b"], [3])
    before = rejected(client)
    result = alone(client.search())
    assert (result["degraded"], result["warnings"]) == (["dense_failed"], ["dense_overloaded"])
    assert result["hits"]
    response = client.search(pipeline="dense")
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert rejected(client) == before + 2
    assert 'retriever_degraded_total{reason="dense_failed"} 1.0' in client.get("/metrics").text


def test_a_lost_device_costs_its_stages(
    make_client: MakeClient, small_index: Path, hanging: Hanging, tiny_reranker: Path
) -> None:
    opened = open_index(small_index, encoder=hanging)
    client = make_client(small_index, opened, reranker=str(tiny_reranker), rerank_depth=8)
    for batcher in client.service.models._batchers():
        batcher._note_lost(RuntimeError("CUDA error: unspecified launch failure"))
    result = alone(client.search())
    assert result["degraded"] == ["dense_failed", "rerank_failed"]
    assert result["warnings"] == ["dense_unavailable", "rerank_unavailable"]
    assert result["hits"]
    response = client.search(pipeline="dense")
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")
