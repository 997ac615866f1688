"""The Python client against a service in a process of its own, and through a proxy that fails on purpose."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from indexing.build import build_index
from indexing.plan import BuildSettings
from retriever.client import (
    AsyncClient,
    Busy,
    Client,
    Delete,
    Forbidden,
    NotFound,
    Refused,
    Retries,
    SearchOptions,
    ServiceAnswer,
    TimedOut,
    UnexpectedAnswer,
    Unreachable,
    calls,
    results,
    wire,
)
from retriever.errors import InvalidInput, RetrievalError
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec
from retriever.types import Document, Explanation, TermScore
from server import document_schemas, model_schemas, schemas, shadow_schemas
from server.batching import TOLERANCE
from tests.factories import ListCorpus
from tests.server.conftest import serve_process, wait_for_address

READ_KEY, WRITE_KEY = "read me", "write me"
QUICK = Retries(times=3, first=0.01, longest=0.02)
START = [
    Document("a", "a quokka of Rottnest Island", "quokka", {"year": 2000}),
    Document("b/c?d#e%f+ü..", "a numbat eats termites", "numbat", {"year": 2010}),
]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def writable_url(late_interaction: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a service with two small indexes, which those with the key may change, and SPLADE."""
    root = tmp_path_factory.mktemp("writable")
    for name in ("words", "other"):
        settings = BuildSettings(parts=("bm25",), fields={"year": "number"})
        build_index(ListCorpus(START), root / "indexes" / name, settings)
    digests = {
        f"RETRIEVER__{name}_SHA256": hashlib.sha256(key.encode()).hexdigest()
        for name, key in (("API_KEY", READ_KEY), ("WRITE_KEY", WRITE_KEY))
    }
    with (root / "log").open("w") as log:
        flags = ["--writable", "--default-index", "words"]
        flags += ["--embedding-model", "splade-tiny", "--embedding-model", str(late_interaction)]
        process = serve_process(root / "indexes", log, *flags, **digests)
        try:
            yield wait_for_address(process, root / "log")
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url, retries=QUICK) as made:
        yield made


@pytest.fixture
def writer(writable_url: str) -> Iterator[Client]:
    with Client(writable_url, api_key=WRITE_KEY, retries=QUICK) as made:
        yield made


class Proxy(ThreadingHTTPServer):
    """Forwards to a service, but first does what `faults` say, one a request.

    A number is a status, with Retry-After 0; "drop" closes the connection unanswered; "lose" forwards the request and
    closes the connection then; "hang" waits; bytes are the body of a 200.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.faults: list[int | str | bytes] = []
        self.seen: list[str] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.command} {self.path}")
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self._answer(fault, b"", {"Retry-After": "0"})
        elif isinstance(fault, bytes):
            self._answer(200, fault, {})
        elif fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault == "hang":
            self.server.released.wait(20)
            self.close_connection = True
        else:
            self._forward(content, lost=fault == "lose")

    def _forward(self, content: bytes, lost: bool) -> None:
        kept = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        found = httpx.request(self.command, self.server.target + self.path, content=content, headers=kept, timeout=30)
        if lost:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._answer(found.status_code, found.content, {})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def make_proxy() -> Iterator[Callable[[str], Proxy]]:
    made: list[Proxy] = []

    def make(target: str) -> Proxy:
        proxy = Proxy(target)
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        proxy.released.set()
        proxy.shutdown()
        proxy.server_close()


def test_a_search_gives_what_the_index_gives(client: Client, small_index: Path, encoder: Any) -> None:
    options: Any = {"pipeline": "hybrid", "highlight": True, "explain": True, "facets": ["kind"]}
    found = client.search("decode a json document", 4, **options)
    with open_index(small_index, encoder=encoder) as index:
        expected = index.search("decode a json document", 4, **options)
    assert found.generation > 0
    assert (found.index, found.stages, found.status) == ("index", ["bm25", "dense"], "exact")
    assert found.request_id
    for ours, theirs in zip(found.hits, expected.hits, strict=True):
        assert (ours.id, ours.highlights, ours.document) == (theirs.id, theirs.highlights, theirs.document)
        assert ours.score == pytest.approx(theirs.score, abs=1e-3)
        assert ours.explanation is not None
        assert theirs.explanation is not None
        assert [part.term for part in ours.explanation.terms] == [part.term for part in theirs.explanation.terms]
    assert found.facets is not None
    assert set(found.facets.counts) == {"kind"}


def test_client_and_service_know_the_same_names() -> None:
    """A new option of searches belongs into the client too; answers may have more than the client reads."""
    request = set(schemas.SearchRequest.model_fields)
    assert set(SearchOptions.__annotations__) == request - {"query", "queries", "k"}
    for ours, theirs in (
        (results.Written, document_schemas.WriteResponse),
        (results.BulkItem, document_schemas.BulkItem),
        (results.StoredDocument, document_schemas.DocumentResponse),
        (results.IndexSummary, schemas.IndexSummary),
        (results.IndexDescription, schemas.IndexDescription),
        (results.ShadowReport, shadow_schemas.ShadowReport),
        (results.Latency, shadow_schemas.Latency),
        (results.Model, model_schemas.ModelBody),
        (results.Ranked, model_schemas.JinaRerankResult),
        (Explanation, schemas.ExplanationBody),
        (TermScore, schemas.TermBody),
    ):
        assert {field.name for field in fields(ours)} <= set(theirs.model_fields), ours
    assert {field.name for field in fields(wire._Hit)} == set(schemas.HitBody.model_fields)


def test_searches_take_every_option(client: Client) -> None:
    spec = PipelineSpec(first=("bm25",), depth=50)
    found = client.search("json", 3, pipeline=spec, filter={"kind": "class"}, include_documents=False, index="index")
    assert found.pipeline == "custom"
    assert [hit.id for hit in found.hits] == ["json.decoder.JSONDecodeError"]
    assert all(hit.document is None for hit in found.hits)
    answers = client.batch_search(["json", "zip archive"], 2, without=["rerank"], deadline_ms=5000.0)
    assert [len(answer.hits) for answer in answers] == [2, 2]
    assert all(isinstance(answer, ServiceAnswer) for answer in answers)
    assert answers[0].ranking() != answers[1].ranking()


def test_refusals_hold_the_services_words(client: Client) -> None:
    with pytest.raises(Refused, match="k: .*1000") as caught:
        client.search("json", 100_000)
    assert (caught.value.status, caught.value.code, caught.value.param) == (422, "invalid_input", "k")
    assert caught.value.request_id
    assert isinstance(caught.value, InvalidInput)
    with pytest.raises(NotFound, match="no-such") as missing:
        client.search("json", index="no-such")
    assert missing.value.code == "unknown_index"
    with pytest.raises(NotFound) as gone:
        client.get_document("index", "no such document")
    assert gone.value.code == "document_not_found"
    with pytest.raises(Forbidden, match="only reads"):
        client.put_document("index", Document("a", "b"))
    with pytest.raises(InvalidInput, match="JSON"):
        client.search("json", filter={"lines": {"gte": float("nan")}})
    with pytest.raises(InvalidInput, match="empty"):
        client.get_document("index", "")


def test_models_embed_and_rerank(client: Client, encoder: Any) -> None:
    assert {model.id for model in client.models()} == {"all-MiniLM-L6-v2", "tiny-reranker"}
    texts = [f"text {number} of many" for number in range(calls.PORTION_TEXTS + 3)]
    texts[-1] = "word " * 400
    found = client.embed(iter(texts), model="all-MiniLM-L6-v2")
    assert found.vectors.shape == (len(texts), 384)
    assert found.vectors.dtype == np.float32
    assert found.truncated == [len(texts) - 1]
    assert found.sparse == []
    expected = encoder.encode_documents([Document(text, text) for text in (texts[0], texts[-2])])
    np.testing.assert_allclose(found.vectors[[0, -2]], expected, atol=TOLERANCE)
    query = client.embed(["a zip archive"], model="all-MiniLM-L6-v2", input_type="query", dimensions=64)
    assert query.vectors.shape == (1, 64)
    with pytest.raises(Refused, match="at least 1"):
        client.embed([], model="all-MiniLM-L6-v2")
    with pytest.raises(NotFound, match="nonesuch"):
        client.embed(["a"], model="nonesuch")
    documents = ["a zip archive", "decode a json document", "parse arguments"]
    ranked = client.rerank("decode json", documents, top_n=2)
    assert ranked.model == "tiny-reranker"
    assert len(ranked.results) == 2
    assert ranked.results[0].relevance_score >= ranked.results[1].relevance_score
    assert client.rerank("decode json", []).results == []


def test_a_learned_sparse_encoder_gives_terms(writer: Client) -> None:
    found = writer.embed(["a zip archive", "decode json"], model="splade-tiny", output="sparse")
    assert found.vectors.shape == (2, 0)
    assert [len(weights) > 3 for weights in found.sparse] == [True, True]
    assert max(found.sparse[0], key=lambda term: found.sparse[0][term]) in ("zip", "archive")
    assert list(found.sparse[0].values()) == sorted(found.sparse[0].values(), reverse=True)
    with pytest.raises(Refused, match="sparse"):
        writer.embed(["a"], model="splade-tiny")


def test_a_late_interaction_encoder_gives_a_vector_for_each_token(writer: Client) -> None:
    texts = ["zip " * (number % 20 + 1) for number in range(calls.PORTION_TOKEN_TEXTS + 2)]
    found = writer.embed(texts, model="late-interaction", output="multi_vector")
    assert found.vectors.shape == (len(texts), 0)
    # Beside the words: [CLS], two of the prompt, [SEP].
    assert [rows.shape for rows in found.multi_vector] == [(len(text.split()) + 4, 32) for text in texts]
    np.testing.assert_allclose(np.linalg.norm(found.multi_vector[-1], axis=1), 1, atol=1e-5)
    alone = writer.embed(texts[-1:], model="late-interaction", output="multi_vector").multi_vector[0]
    np.testing.assert_allclose(found.multi_vector[-1], alone, atol=TOLERANCE)


def test_indexes_and_the_service_are_described(client: Client) -> None:
    (summary,) = client.indexes()
    assert (summary.name, summary.is_default, summary.error) == ("index", True, None)
    described = client.index("index")
    assert described.documents == summary.documents == 301
    assert dict(described.fields) == {"module": "keyword", "kind": "keyword", "lines": "number"}
    assert "hybrid" in described.pipelines
    assert client.info()["default_pipeline"] == described.default_pipeline
    client.ready()


def test_documents_live_and_die(writer: Client) -> None:
    made = Document("x/y?z#1%20ü;=", "a wombat digs", "wombat", {"year": 2020, "tags": ["a", "b"]})
    assert writer.put_document("words", made, wait=True).result == "created"
    assert writer.put_document("words", made).result == "updated"
    read = writer.get_document("words", made.id)
    assert (read.id, read.text, read.title, dict(read.metadata)) == (made.id, made.text, made.title, made.metadata)
    assert [hit.id for hit in writer.search("wombat", index="words").hits] == [made.id]
    for document in START:
        assert writer.get_document("words", document.id).text == document.text
    assert writer.delete_document("words", made.id, wait=True).searchable
    with pytest.raises(NotFound):
        writer.delete_document("words", made.id)


def test_many_changes_have_an_answer_each(writer: Client) -> None:
    count = calls.PORTION_LINES + 20
    changes: list[Any] = [{"id": f"d{n}", "text": f"dunnart number{n}", "year": n} for n in range(count)]
    changes[3] = {"id": "bad", "text": "a", "year": "not a number"}
    changes[7] = Document("seven", "the seventh dunnart", metadata={"year": 7})
    changes[count - 2] = Delete("d0")
    changes[count - 1] = Delete("never there")
    items = list(writer.bulk_items("other", iter(changes), wait=True))
    assert [item.line for item in items] == list(range(1, count + 1))
    assert [item.line for item in items if item.error] == [4, count]
    assert "year" in str(items[3].error)
    assert items[7].id == "seven"
    assert items[count - 2].result == "deleted"
    assert [hit.id for hit in writer.search("seventh", index="other").hits] == ["seven"]
    report = writer.bulk("other", changes[:5])
    assert (report.taken, [item.line for item in report.failures]) == (4, [4])
    assert writer.bulk("other", []).taken == 0
    long = {"id": "long", "text": "x" * 3_000_000}
    report = writer.bulk("other", [changes[1], long, changes[2]])
    assert (report.taken, [item.line for item in report.failures]) == (2, [2])
    assert "longer than" in str(report.failures[0].error)


def test_aliases_are_set_swapped_and_removed(writer: Client) -> None:
    assert writer.set_alias("live", "words") is None
    assert writer.set_alias("live", "other") == "words"
    assert writer.aliases() == {"live": "other"}
    assert writer.search("quokka", index="live").index == "other"
    writer.remove_alias("live")
    assert writer.aliases() == {}


def test_shadow_traffic_is_started_reported_and_stopped(writer: Client, writable_url: str) -> None:
    with pytest.raises(NotFound, match="no shadow"):
        writer.shadow_report("words")
    begun = writer.start_shadow("words", "other", fraction=1, k=3)
    assert (begun.index, begun.shadow, begun.fraction, begun.k, begun.queries) == ("words", "other", 1, 3, 0)
    writer.search("quokka", index="words")
    deadline = time.monotonic() + 30
    while (report := writer.shadow_report("words")).queries == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (report.queries, report.failed, report.last_error) == (1, 0, None)
    assert report.latency is not None
    assert report.latency.p95_ms > 0

    async def others() -> None:
        async with AsyncClient(writable_url, api_key=WRITE_KEY, retries=QUICK) as other:
            assert (await other.shadow_report("words")).mean_overlap == report.mean_overlap
            assert (await other.stop_shadow("words")).queries == 1
            assert (await other.start_shadow("words", "other")).fraction == 0.1

    run(others())
    assert writer.stop_shadow("words").queries == 0
    with Client(writable_url, api_key=READ_KEY, retries=QUICK) as reader, pytest.raises(Forbidden):
        reader.start_shadow("words", "other")


def test_keys_open_what_they_should(writable_url: str) -> None:
    with Client(writable_url, api_key=READ_KEY) as reader:
        assert reader.search("quokka").hits
        with pytest.raises(Forbidden, match="may only read"):
            reader.delete_document("words", "a")
        assert READ_KEY not in repr(reader)
    with Client(writable_url) as nobody, pytest.raises(Forbidden, match="missing or wrong"):
        nobody.search("quokka")
    for key in ("", " ", "ключ", "a\nb"):
        with pytest.raises(InvalidInput, match="printable"):
            Client(writable_url, api_key=key)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(InvalidInput, match="looks like"):
        Client(url)


def test_reads_are_made_again(service_url: str, make_proxy: Callable[[str], Proxy]) -> None:
    proxy = make_proxy(service_url)
    with Client(proxy.url, retries=QUICK) as client:
        for fault in (503, 429, 502, "drop", "lose"):
            proxy.faults, proxy.seen = [fault, fault], []
            assert client.search("json", 2, pipeline="bm25").hits
            assert proxy.seen == ["POST /v1/search"] * 3
        proxy.faults = [503] * 10
        with pytest.raises(Busy) as caught:
            client.indexes()
        assert (caught.value.status, caught.value.retry_after) == (503, 0)
        assert len(proxy.faults) == 10 - 4
        for fault in (500, 504, 404, 507):
            proxy.faults, proxy.seen = [fault], []
            with pytest.raises(RetrievalError):
                client.indexes()
            assert len(proxy.seen) == 1


def test_a_service_that_does_not_answer_is_not_asked_again(
    service_url: str, make_proxy: Callable[[str], Proxy]
) -> None:
    proxy = make_proxy(service_url)
    proxy.faults = ["hang", "hang"]
    with Client(proxy.url, retries=QUICK, timeout=0.2) as client, pytest.raises(TimedOut, match="in time"):
        client.search("json")
    assert len(proxy.seen) == 1

    async def ask() -> None:
        async with AsyncClient(proxy.url, retries=QUICK, timeout=0.2) as client:
            await client.search("json")

    with pytest.raises(TimedOut):
        run(ask())


def test_changes_are_made_again_where_that_leaves_the_same(
    writable_url: str, make_proxy: Callable[[str], Proxy]
) -> None:
    proxy = make_proxy(writable_url)
    with Client(proxy.url, api_key=WRITE_KEY, retries=QUICK) as client:
        proxy.faults = ["lose", 503, "drop"]
        assert client.put_document("words", Document("again", "bilby")).result == "updated"
        proxy.faults = ["lose"]
        assert client.bulk("words", [Document("again", "bilby"), Document("more", "potoroo")]).taken == 2
        # Turned away, so it did not happen.
        proxy.faults = [503, 429]
        assert client.delete_document("words", "more").result == "deleted"
        # It did happen, and asking again would say that there is no such document.
        proxy.faults, proxy.seen = ["lose"], []
        with pytest.raises(Unreachable):
            client.delete_document("words", "again")
        assert len(proxy.seen) == 1
        with pytest.raises(NotFound):
            client.get_document("words", "again")
        client.put_document("words", Document("again", "bilby"))
        proxy.faults, proxy.seen = ["lose"], []
        with pytest.raises(Unreachable):
            client.bulk("words", [Delete("again")])
        assert len(proxy.seen) == 1


def test_nobody_there_is_tried_again_and_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url, retries=QUICK) as client, pytest.raises(Unreachable, match="cannot reach"):
        client.ready()


@pytest.mark.parametrize(
    "content",
    [b"<html>welcome</html>", b"{}", b'{"results": []}', b'{"results": 3, "pipeline": []}', b"\xff\xfe", b"[" * 5000],
)
def test_what_is_not_this_service_is_an_error(
    service_url: str, make_proxy: Callable[[str], Proxy], content: bytes
) -> None:
    proxy = make_proxy(service_url)
    with Client(proxy.url, retries=QUICK) as client:
        proxy.faults = [content, content, content]
        with pytest.raises(UnexpectedAnswer, match="cannot read"):
            client.search("json")
        with pytest.raises(UnexpectedAnswer):
            client.embed(["a"], model="all-MiniLM-L6-v2")
        with pytest.raises(UnexpectedAnswer):
            client.bulk("index", [Document("a", "b")])


def test_the_asynchronous_client_does_the_same(
    service_url: str, writable_url: str, client: Client, make_proxy: Callable[[str], Proxy]
) -> None:
    proxy = make_proxy(service_url)

    async def read() -> None:
        async with AsyncClient(proxy.url, retries=QUICK) as other:
            proxy.faults = [503, "drop"]
            queries = ["json", "zip archive", "parse a date"]
            found = await asyncio.gather(*(other.search(query, 3, pipeline="dense") for query in queries))
            expected = client.batch_search(queries, 3, pipeline="dense")
            assert [[hit.id for hit in a.hits] for a in found] == [[hit.id for hit in a.hits] for a in expected]
            assert [a.hits for a in await other.batch_search(queries, 3, pipeline="bm25")] == [
                a.hits for a in client.batch_search(queries, 3, pipeline="bm25")
            ]
            texts = ["a zip archive", "a date"]
            ours = await other.embed(texts, model="all-MiniLM-L6-v2")
            np.testing.assert_allclose(
                ours.vectors, client.embed(texts, model="all-MiniLM-L6-v2").vectors, atol=TOLERANCE
            )
            assert (await other.rerank("json", texts)).results == client.rerank("json", texts).results
            assert await other.indexes() == client.indexes()
            assert (await other.index("index")).encoder == "all-MiniLM-L6-v2"
            assert await other.models() == client.models()
            assert (await other.info())["default_pipeline"] == client.info()["default_pipeline"]
            await other.ready()
            with pytest.raises(Refused):
                await other.search(" ")

    async def documents() -> AsyncIterator[Document]:
        for number in range(3):
            yield Document(f"async{number}", f"kowari{number}")

    async def write() -> None:
        async with AsyncClient(writable_url, api_key=WRITE_KEY, retries=QUICK) as other:
            assert (await other.put_document("words", Document("a1", "pademelon"), wait=True)).result == "created"
            assert (await other.get_document("words", "a1")).text == "pademelon"
            assert (await other.delete_document("words", "a1")).result == "deleted"
            assert (await other.bulk("words", documents(), wait=True)).taken == 3
            items = [item async for item in other.bulk_items("words", [Delete("async0"), Delete("async0")])]
            assert [(item.line, item.result) for item in items] == [(1, "deleted"), (2, None)]
            assert await other.set_alias("a", "words") is None
            assert await other.aliases() == {"a": "words"}
            await other.remove_alias("a")

    run(read())
    run(write())
