"""Documents over HTTP: put, read, deleted, many at once; and what is refused."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexing import merging
from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents
from indexing.plan import BuildSettings
from retriever.errors import BackendUnavailable
from retriever.index.manifest import read_manifest
from retriever.storage import exclusive_lock
from retriever.types import Document
from server import served_index
from server import writer as writer_module
from server.indexes import BULK_AT_ONCE
from tests.factories import ListCorpus
from tests.server.conftest import Client, MakeClient

FIELDS = {"year": "number", "kind": "keyword"}
START = [
    Document("a", "a quokka of Rottnest Island", "quokka", {"year": 2000, "kind": "animal"}),
    Document("b/c", "a numbat eats termites", "numbat", {"year": 2010, "kind": "animal"}),
]
LINES = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Return an index of two documents without vectors."""
    path = tmp_path / "words"
    build_index(ListCorpus(START), path, BuildSettings(parts=("bm25",), fields=FIELDS))
    return path


@pytest.fixture
def writable(make_client: MakeClient, words: Path) -> Iterator[Client]:
    client = make_client(words, writable=True)
    yield client
    client.service.indexes.close()


def ids(client: Client, query: str, index: str = "words", **options: Any) -> list[str]:
    response = client.post(f"/v1/indexes/{index}/search", json={"query": query, **options})
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json()["results"][0]["hits"]]


def put(client: Client, id_: str, text: str, **options: Any) -> Any:
    params = {"wait": options.pop("wait", True)}
    response = client.put(f"/v1/indexes/words/documents/{id_}", json={"text": text, **options}, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def bulk(client: Client, content: bytes, **params: Any) -> Any:
    return client.post("/v1/indexes/words/documents", content=content, headers=LINES, params=params)


def test_a_document_lives_and_dies(writable: Client) -> None:
    made = put(writable, "new", "a bilby digs", title="bilby", metadata={"year": 2020})
    assert made == {"index": "words", "id": "new", "result": "created", "sequence": 1, "searchable": True}
    assert ids(writable, "bilby") == ["new"]
    assert ids(writable, "bilby", filter={"year": 2020}) == ["new"]
    found = writable.get("/v1/indexes/words/documents/new").json()
    assert (found["title"], found["text"], found["metadata"]) == ("bilby", "a bilby digs", {"year": 2020})
    assert put(writable, "new", "a wombat digs")["result"] == "updated"
    assert ids(writable, "bilby") == []
    assert ids(writable, "wombat") == ["new"]
    gone = writable.delete("/v1/indexes/words/documents/new", params={"wait": True}).json()
    assert (gone["result"], gone["searchable"]) == ("deleted", True)
    assert ids(writable, "wombat") == []
    for response in (
        writable.get("/v1/indexes/words/documents/new"),
        writable.delete("/v1/indexes/words/documents/new"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "document_not_found"


def test_a_document_is_found_soon_without_waiting_for_it(writable: Client) -> None:
    """A second is what is promised, and measured by benchmarks/service/search.py; machines that test are busier."""
    for number in range(3):
        put(writable, f"new{number}", f"bilby{number}", wait=False)
        until(lambda number=number: ids(writable, f"bilby{number}") == [f"new{number}"], seconds=5.0)


def test_ids_may_hold_slashes(writable: Client) -> None:
    assert writable.get("/v1/indexes/words/documents/b/c").json()["title"] == "numbat"
    assert writable.get("/v1/indexes/words/documents/b%2Fc").json()["title"] == "numbat"
    put(writable, "https://example.org/x?y", "zebra")
    assert put(writable, "b/c", "zebra")["result"] == "updated"
    assert ids(writable, "zebra") == ["b/c", "https://example.org/x"]


def test_what_was_promised_is_read_before_it_is_searchable(writable: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    real = writer_module.apply_operations

    def slow(*args: Any, **kwargs: Any) -> int:
        begun.set()
        assert go.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(writer_module, "apply_operations", slow)
    assert put(writable, "new", "a bilby digs", wait=False)["searchable"] is False
    assert begun.wait(30)
    assert put(writable, "new", "a wombat digs", wait=False)["result"] == "updated"
    assert writable.delete("/v1/indexes/words/documents/a").json()["result"] == "deleted"
    found = writable.get("/v1/indexes/words/documents/new").json()
    assert (found["text"], found["searchable"]) == ("a wombat digs", False)
    assert writable.get("/v1/indexes/words/documents/a").status_code == 404
    # Searches go on with what there is.
    assert ids(writable, "bilby wombat quokka") == ["a"]
    description = writable.get("/v1/indexes/words").json()
    assert (description["writable"], description["unapplied_writes"]) == (True, 3)
    assert 'retriever_unapplied_writes{index="words"} 3.0' in writable.get("/metrics").text
    go.set()
    put(writable, "last", "x")
    assert ids(writable, "bilby wombat quokka") == ["new"]
    assert writable.get("/v1/indexes/words").json()["unapplied_writes"] == 0


def test_many_documents_and_an_answer_for_each_line(writable: Client) -> None:
    lines = [
        b'{"_id": "n1", "title": "one", "text": "bilby one", "year": 1}',
        b"",
        b'{"id": "n2", "contents": "bilby two"}\r',
        b'{"delete": "a"}',
        b'{"delete": "a"}',
        b'{"id": "n3"}',
        b'{"id": "n4", "text": "x", "year": "new"}',
        b"{not json",
        b'{"id": "n5", "text": "half \\ud800"}',
        b'{"id": "n6", "id": "n7", "text": "x"}',
        b"\xff\xfe",
        b"[]",
        b'{"delete": 7}',
        b'{"id": "n1", "text": "bilby again"}',
    ]
    answer = bulk(writable, b"\n".join(lines), wait=True).json()
    results = {item["line"]: item["result"] or item["error"] for item in answer["items"]}
    assert {line: result for line, result in results.items() if result in ("created", "updated", "deleted")} == {
        1: "created", 3: "created", 4: "deleted", 14: "updated",
    }  # fmt: skip
    for line, word in ((5, "no document"), (6, "no text"), (7, "declared as a number"), (8, "not JSON"),
                       (9, "surrogate"), (10, "twice"), (11, "UTF-8"), (12, "JSON object"), (13, "a string")):  # fmt: skip
        assert word in results[line], (line, results[line])
    assert (answer["taken"], answer["failed"], answer["sequence"], answer["searchable"]) == (4, 9, 4, True)
    assert 2 not in results
    assert ids(writable, "bilby") == ["n1", "n2"]
    assert ids(writable, "quokka") == []
    nothing = bulk(writable, b"\n\n").json()
    assert (nothing["taken"], nothing["items"], nothing["sequence"]) == (0, [], None)


def test_lines_may_be_cut_anywhere(writable: Client) -> None:
    lines = "".join(json.dumps({"id": f"é{n}", "text": f"bilby {n} é"}) + "\n" for n in range(40)).encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(lines), 7):
            yield lines[start : start + 7]

    response = writable.post("/v1/indexes/words/documents?wait=true", content=pieces(), headers=LINES)
    assert response.json()["taken"] == 40
    assert len(ids(writable, "bilby", k=100)) == 40


def test_bodies_of_many_documents_are_bounded(make_client: MakeClient, words: Path) -> None:
    client = make_client(words, writable=True, limits={"body_bytes": 1024, "bulk_bytes": 6000, "bulk_lines": 30})
    line = b'{"id": "x", "text": "%s"}\n' % (b"y" * 150)
    try:
        assert bulk(client, line * 30).json()["taken"] == 30
        too_large = bulk(client, line * 40)
        assert too_large.status_code == 413
        many = bulk(client, b'{"id": "x", "text": "y"}\n' * 31)
        assert many.status_code == 413
        assert "30 lines" in many.json()["error"]["message"]
        long = bulk(client, b'{"id": "x", "text": "%s"}\n' % (b"y" * 2000))
        assert long.status_code == 200
        assert "longer than 1024" in long.json()["items"][0]["error"]
        assert client.portal is not None
        status, read = client.portal.call(send_lines, client, [b"x" * 500] * 100)
        assert status == 413
        assert read < 15
    finally:
        client.service.indexes.close()


def test_a_body_that_does_not_go_on_times_out(make_client: MakeClient, words: Path) -> None:
    client = make_client(words, writable=True, limits={"body_seconds": 0.1})
    try:
        assert client.portal is not None
        assert client.portal.call(send_lines, client, [b'{"id": "x"', None])[0] == 408
        # The client hung up: what had arrived in whole batches may have been taken, nothing breaks.
        client.portal.call(send_lines, client, [b'{"id": "x"'])
        assert client.get("/livez").status_code == 200
    finally:
        client.service.indexes.close()


async def send_lines(client: Client, pieces: list[bytes | None]) -> tuple[int, int]:
    """Send a body in pieces, None for a pause without end, then hang up; return the status and pieces read."""
    path = "/v1/indexes/words/documents"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": [(b"host", b"localhost"), (b"content-type", b"application/x-ndjson")],
             "client": None}  # fmt: skip
    status = read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read == len(pieces):
            return {"type": "http.disconnect"}
        piece = pieces[read]
        read += 1
        if piece is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await client.app(scope, receive, send)
    return status, read


def test_a_service_reads_only_unless_told_otherwise(make_client: MakeClient, words: Path) -> None:
    client = make_client(words)
    for response in (
        client.put("/v1/indexes/words/documents/x", json={"text": "x"}),
        client.delete("/v1/indexes/words/documents/a"),
        bulk(client, b'{"id": "x", "text": "x"}'),
        client.put("/v1/aliases/x", json={"index": "words"}),
        client.post("/v1/indexes/words/shadow", json={"index": "words"}),
    ):
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "read_only"
    assert client.get("/v1/indexes/words/documents/a").json()["title"] == "quokka"
    assert client.get("/v1/indexes/words").json()["writable"] is False
    assert not (words / "journal").exists()


@pytest.mark.parametrize(
    ("id_", "body", "word"),
    [
        ("x", {}, "text"),
        ("x", {"text": 7}, "text"),
        ("x", {"text": "x", "colour": 1}, "colour"),
        ("x", {"text": "x", "metadata": {"year": "new"}}, "declared as a number"),
        ("x%20y", {"text": "x"}, "white space"),
        ("x%00", {"text": "x"}, "control characters"),
        ("é" * 300, {"text": "x"}, "longer than 512 bytes"),
    ],
)
def test_faulty_documents_are_refused(writable: Client, id_: str, body: Any, word: str) -> None:
    response = writable.put(f"/v1/indexes/words/documents/{id_}", json=body)
    assert response.status_code == 422, response.text
    assert word in response.json()["error"]["message"]


def test_lines_need_their_content_type(writable: Client) -> None:
    for kind in ("application/json", "text/plain", ""):
        response = writable.post("/v1/indexes/words/documents", content=b"{}", headers={"Content-Type": kind})
        assert response.status_code == 415
    packed = writable.post("/v1/indexes/words/documents", content=b"{}", headers=LINES | {"Content-Encoding": "gzip"})
    assert packed.status_code == 415


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Make generations that come from now on fail when they are to be served, until `undo`."""

    def broken(self: object) -> None:
        raise BackendUnavailable("the disk is slow today")

    with monkeypatch.context() as patched:
        patched.setattr(served_index.Index, "warm", broken)
        yield patched


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write_error(client: Client) -> str | None:
    error: str | None = client.get("/v1/indexes/words").json()["write_error"]
    return error


def test_what_cannot_be_served_is_still_promised(writable: Client, unserved: pytest.MonkeyPatch, words: Path) -> None:
    assert put(writable, "new", "a bilby digs", wait=False)["searchable"] is False
    assert writable.delete("/v1/indexes/words/documents/a").json()["result"] == "deleted"
    until(lambda: read_manifest(words)[0].applied > 0)
    until(lambda: "slow today" in str(write_error(writable)))
    # On the disk or not, what is not in service is still to be applied.
    assert writable.get("/v1/indexes/words/documents/new").json()["searchable"] is False
    assert writable.get("/v1/indexes/words/documents/a").status_code == 404
    assert writable.get("/v1/indexes/words").json()["unapplied_writes"] == 2
    assert writable.delete("/v1/indexes/words/documents/new").json()["result"] == "deleted"
    assert put(writable, "newer", "a bilby rests", wait=False)["result"] == "created"
    assert (ids(writable, "bilby"), ids(writable, "quokka")) == ([], ["a"])
    unserved.undo()
    assert put(writable, "last", "a bilby sleeps")["searchable"] is True
    assert (set(ids(writable, "bilby")), ids(writable, "quokka")) == ({"newer", "last"}, [])
    assert writable.get("/v1/indexes/words/documents/newer").json()["searchable"] is True
    description = writable.get("/v1/indexes/words").json()
    assert (description["unapplied_writes"], description["write_error"]) == (0, None)


def test_what_is_in_service_stays_whole_while_newer_generations_fail(
    writable: Client, unserved: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, words: Path
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.05)
    generation = read_manifest(words)[0].generation
    # Each change replaces the document whose record would be the first to go.
    for number in range(4):
        put(writable, "a", f"a quokka {number}", wait=False)
        failures = writable.service.metrics.reload_failures.labels("words")._value
        before = failures.get()
        until(lambda before=before, failures=failures: failures.get() >= before + 3)
    assert read_manifest(words)[0].generation == generation + 1
    assert writable.get("/v1/indexes/words/documents/b/c").json()["title"] == "numbat"
    for grouped in (False, True):
        body = {"query": "quokka numbat", "group_by_parent": grouped}
        response = writable.post("/v1/indexes/words/search", json=body)
        assert response.status_code == 200, response.text
        found = {hit["id"]: hit["text"] for hit in response.json()["results"][0]["hits"]}
        assert found == {document.id: document.text for document in START}
    unserved.undo()
    put(writable, "a", "a wombat")
    assert ids(writable, "wombat") == ["a"]


def test_commands_remove_nothing_that_is_in_service(
    writable: Client, unserved: pytest.MonkeyPatch, words: Path
) -> None:
    delete_documents(words, ["a"])
    compact_index(words)
    delete_documents(words, ["b/c"])
    response = writable.post("/v1/indexes/words/search", json={"query": "quokka numbat"}).json()
    found = {hit["id"]: hit["text"] for hit in response["results"][0]["hits"]}
    assert found == {document.id: document.text for document in START}
    unserved.undo()
    until(lambda: ids(writable, "quokka") == [])


def test_too_many_waiting_changes_are_refused(writable: Client, monkeypatch: pytest.MonkeyPatch, words: Path) -> None:
    monkeypatch.setattr(writer_module, "MOST_UNAPPLIED", 3)
    # Another writer has the index, so nothing can be applied; what is promised waits.
    with exclusive_lock(words):
        for number in range(3):
            put(writable, f"n{number}", "bilby", wait=False)
        response = writable.put("/v1/indexes/words/documents/n9", json={"text": "x"})
        assert response.status_code == 429
        assert response.headers["retry-after"]
        assert ids(writable, "quokka") == ["a"]
    put(writable, "b/c", "numbat") if writable.service.indexes.find_writer("words").wait(3, 30) else pytest.fail(
        "stuck"
    )
    assert ids(writable, "bilby") == ["n0", "n1", "n2"]
    assert writable.get("/v1/indexes/words").json()["write_error"] is None


def test_bodies_that_find_no_room_are_counted(writable: Client) -> None:
    slots = writable.service.indexes.bulk
    for _ in range(BULK_AT_ONCE):
        assert slots.acquire(blocking=False)
    try:
        response = bulk(writable, b'{"id": "x", "text": "y"}')
    finally:
        slots.release(BULK_AT_ONCE)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert "retriever_rejected_total 1.0" in writable.get("/metrics").text


def test_vectors_follow(make_client: MakeClient, own_index: Path) -> None:
    client = make_client(own_index, writable=True)
    try:
        url = "/v1/indexes/index/documents/zanzibar"
        assert client.put(url, json={"text": "An archipelago off East Africa."}, params={"wait": True}).json()[
            "searchable"
        ]
        assert "zanzibar" in ids(client, "archipelago", "index", pipeline="bm25")
        deadline = threading.Event()
        for _ in range(300):
            if client.get("/v1/indexes/index").json()["pending_encoding"] == 0:
                break
            deadline.wait(0.1)
        assert ids(client, "islands of Tanzania in the Indian Ocean", "index", pipeline="dense", k=1) == ["zanzibar"]
    finally:
        client.service.indexes.close()


def test_vectors_wait_for_a_command_that_is_writing(
    make_client: MakeClient, own_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, made, command = writer_module.encode_waiting, [], contextlib.ExitStack()

    def noted(path: Path, *models: Any, **options: Any) -> list[Any]:
        found = encode(path, *models, **options)
        if found:
            command.enter_context(exclusive_lock(path))
            made.append(found)
        return found

    monkeypatch.setattr(writer_module, "encode_waiting", noted)
    client = make_client(own_index, writable=True)
    try:
        client.put("/v1/indexes/index/documents/zanzibar", json={"text": "An archipelago off East Africa."})
        until(lambda: "is being written" in str(client.get("/v1/indexes/index").json()["write_error"]))
        assert client.get("/v1/indexes/index").json()["pending_encoding"] == 1
        command.close()
        until(lambda: client.get("/v1/indexes/index").json()["pending_encoding"] == 0)
        assert len(made) == 1
    finally:
        command.close()
        client.service.indexes.close()


def test_what_was_promised_is_applied_at_the_next_start(make_client: MakeClient, words: Path) -> None:
    client = make_client(words, writable=True)
    with exclusive_lock(words):
        put(client, "new", "a bilby digs", wait=False)
        client.service.indexes.close()
    reader = make_client(words)
    assert ids(reader, "bilby") == []
    again = make_client(words, writable=True)
    try:
        assert ids(again, "bilby") == ["new"]
    finally:
        again.service.indexes.close()


def test_large_segments_are_merged_in_the_background(
    writable: Client, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MERGED_DOCUMENTS", 8)
    for number in range(12):
        lines = [json.dumps({"id": f"n{number}-{place}", "text": "bilby"}) for place in range(5)]
        assert bulk(writable, "\n".join(lines).encode(), wait=True).json()["searchable"] is True
    until(lambda: len(read_manifest(words)[0].segments) < 10)
    until(lambda: max(part.documents for part in read_manifest(words)[0].segments) >= 40)
    assert len(ids(writable, "bilby", k=100)) == 60


def test_two_services_do_not_write_to_one_index(make_client: MakeClient, writable: Client, words: Path) -> None:
    from retriever.errors import IndexLocked

    with pytest.raises(IndexLocked):
        make_client(words, writable=True)


def test_commands_may_write_between(writable: Client, words: Path) -> None:
    put(writable, "new", "a bilby digs")
    for _ in range(20):
        try:
            add_documents(ListCorpus([Document("cli", "a bilby too")]), words)
            break
        except Exception:
            threading.Event().wait(0.2)
    assert ids(writable, "bilby") == ["new", "cli"] or ids(writable, "bilby") == ["cli", "new"]
    put(writable, "third", "one more bilby")
    assert set(ids(writable, "bilby")) == {"new", "cli", "third"}


def test_what_is_applied_while_a_deletion_looks_for_it_is_found(
    writable: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promised document is there, waiting or applied, whatever happens between two looks."""
    sequence = put(writable, "new", "a bilby digs", wait=False)["sequence"]
    latest = writer_module.Writer.latest

    def later(self: Any, id_: str) -> Any:
        assert self.wait(sequence, 30.0)
        return latest(self, id_)

    monkeypatch.setattr(writer_module.Writer, "latest", later)
    response = writable.delete("/v1/indexes/words/documents/new")
    assert response.status_code == 200, response.text
    assert response.json()["result"] == "deleted"
