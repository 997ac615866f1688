"""A new generation under a running service."""

import threading
from pathlib import Path
from typing import Any

import pytest

from indexing.build import add_documents
from indexing.change import delete_documents
from retriever.errors import IndexCorrupt
from retriever.types import Document
from server import served_index
from server.batching import Batcher
from server.errors import Refusal
from tests.factories import ListCorpus
from tests.server.conftest import Client, MakeClient

ADDED = Document("added.document", "The quokka is a small macropod of Rottnest Island.", "quokka")


def hits(client: Client, query: str = "quokka") -> list[str]:
    response = client.search(query, k=3, without=["dense"])
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json()["results"][0]["hits"]]


def test_the_next_request_sees_what_was_added_and_deleted(
    make_client: MakeClient, own_index: Path, encoder: Any
) -> None:
    client = make_client(own_index)
    before = client.search().json()["index"]
    assert hits(client) == []
    add_documents(ListCorpus([ADDED]), own_index, encoder=encoder)
    assert hits(client) == [ADDED.id]
    after = client.search().json()["index"]
    assert after["generation"] == before["generation"] + 1
    assert after["fingerprint"] != before["fingerprint"]
    assert f'retriever_index_generation{{index="index"}} {float(after["generation"])}' in client.get("/metrics").text
    delete_documents(own_index, [ADDED.id])
    assert hits(client) == []


def test_a_request_in_progress_keeps_its_generation(make_client: MakeClient, own_index: Path, encoder: Any) -> None:
    client = make_client(own_index)
    served = client.service.index
    with served.lease() as old:
        documents = len(old)
        add_documents(ListCorpus([ADDED]), own_index, encoder=encoder)
        assert hits(client) == [ADDED.id]
        with served.lease() as new:
            assert new.generation == old.generation + 1
        # The old generation is still whole.
        assert len(old) == documents
        assert old.search("decode json", 1).hits[0].document is not None
        assert old.get(ADDED.id) is None
        closed = threading.Event()
        close = old.close
        old.close = lambda: (close(), closed.set())
        assert not closed.is_set()
    assert closed.is_set()


def test_a_broken_generation_is_not_served(
    make_client: MakeClient, own_index: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(own_index)
    generation = client.search().json()["index"]["generation"]
    add_documents(ListCorpus([ADDED]), own_index, encoder=encoder)
    pointer = (own_index / "CURRENT").read_text()
    manifest = next(own_index.glob("manifest-*2.json"))
    content = manifest.read_bytes()
    manifest.write_bytes(content[:-10])
    assert client.search().json()["index"]["generation"] == generation
    error = client.get("/v1/info").json()["reload_error"]
    assert manifest.name in error
    assert 'retriever_reload_failures_total{index="index"} 1.0' in client.get("/metrics").text
    assert client.get("/readyz").status_code == 200
    # Mended, it is served after the pause that spares the disk.
    manifest.write_bytes(content)
    assert (own_index / "CURRENT").read_text() == pointer
    assert client.search().json()["index"]["generation"] == generation
    monkeypatch.setattr(client.service.index, "_retry_at", 0.0)
    assert client.search().json()["index"]["generation"] == generation + 1
    assert client.get("/v1/info").json()["reload_error"] is None


def test_a_generation_whose_vectors_drifted_is_not_served(
    make_client: MakeClient, own_index: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(own_index)
    add_documents(ListCorpus([ADDED]), own_index, encoder=encoder)

    def drifted(self: object) -> None:
        raise IndexCorrupt("the canaries disagree")

    monkeypatch.setattr(served_index.Index, "check_canaries", drifted)
    assert hits(client) == []
    assert client.get("/v1/info").json()["reload_error"] == "the canaries disagree"


@pytest.mark.parametrize("error", [Refusal(429, "too much is waiting"), RuntimeError("cannot schedule new futures")])
def test_a_busy_encoder_keeps_the_generation_in_service(
    make_client: MakeClient, own_index: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    client = make_client(own_index)
    generation = client.search(without=["dense"]).json()["index"]["generation"]
    add_documents(ListCorpus([ADDED]), own_index, encoder=encoder)
    asked = []

    def refuse(*_: object, **__: object) -> None:
        asked.append(1)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Batcher, "submit", refuse)
        for _ in range(3):
            assert hits(client) == []
        assert client.search(without=["dense"]).json()["index"]["generation"] == generation
        # Not every request tries again.
        assert len(asked) == 1
        assert client.get("/v1/info").json()["reload_error"] == str(error)
    monkeypatch.setattr(client.service.index, "_retry_at", 0.0)
    assert hits(client) == [ADDED.id]
    assert client.get("/v1/info").json()["reload_error"] is None


def test_many_threads_change_over_once(make_client: MakeClient, own_index: Path, encoder: Any) -> None:
    client = make_client(own_index)
    served = client.service.index
    add_documents(ListCorpus([ADDED]), own_index, encoder=encoder)
    start = threading.Barrier(8)
    seen: list[Any] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            start.wait()
            for _ in range(20):
                with served.lease() as index:
                    seen.append(index)
                    assert index.search("decode json", 1, pipeline="bm25").hits
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({id(index) for index in seen}) <= 2
    assert served._current.leases == 0
