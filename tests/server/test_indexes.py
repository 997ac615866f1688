"""Several indexes under one root: found by name and alias, swapped, compared, and nothing beyond the root."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from indexing.build import build_index
from indexing.plan import BuildSettings
from retriever.commands.search import search as search_command
from retriever.errors import IndexCorrupt, InvalidInput, UnknownIndex
from retriever.models import resolve
from retriever.types import Document
from server.access import is_write
from server.aliases import FILE
from server.app import create_app
from server.settings import Settings
from server.shadow import overlap
from tests.factories import ListCorpus
from tests.server.conftest import Client

FIELDS = {"kind": "keyword", "year": "number"}


def build(path: Path, *texts: str) -> Path:
    documents = [
        Document(f"d{number}", text, "", {"kind": "even" if number % 2 == 0 else "odd", "year": number})
        for number, text in enumerate(texts)
    ]
    build_index(ListCorpus(documents), path, BuildSettings(parts=("bm25",), fields=FIELDS))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of two indexes, an alias, and things that are no index."""
    folder = tmp_path / "root"
    build(folder / "animals", "quokka wombat", "wombat numbat", "quokka quokka")
    build(folder / "plants", "wattle banksia", "wombat berry", "waratah")
    (folder / "notes").mkdir()
    (folder / "README.md").write_text("no index")
    (folder / FILE).write_text(json.dumps({"live": "animals"}))
    build(tmp_path / "outside", "secret wombat")
    return folder


@pytest.fixture
def start() -> Iterator[Any]:
    with ExitStack() as stack:

        def make(path: Path, **settings: Any) -> Client:
            app = create_app(Settings(index=path, **settings))
            return stack.enter_context(Client(app, base_url="http://localhost", raise_server_exceptions=False))

        yield make


def search(client: Client, name: str, query: str = "wombat", **options: Any) -> Any:
    return client.post(f"/v1/indexes/{name}/search", json={"query": query, **options})


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json()["results"][0]["hits"]]


def test_indexes_are_searched_by_name_and_alias(start: Any, root: Path) -> None:
    client = start(root)
    assert ids(search(client, "animals")) == ["d0", "d1"]
    assert ids(search(client, "plants")) == ["d1"]
    answer = search(client, "live").json()
    assert answer["index"]["name"] == "animals"
    # Without the alias `default`, the first by name answers routes that name none.
    assert client.post("/v1/search", json={"query": "wombat"}).json()["index"]["name"] == "animals"
    assert (
        start(root, default_index="plants").post("/v1/search", json={"query": "x"}).json()["index"]["name"] == "plants"
    )
    assert client.get("/readyz").status_code == 200


def test_indexes_are_listed_and_described(start: Any, root: Path) -> None:
    client = start(root)
    found = {entry["name"]: entry for entry in client.get("/v1/indexes").json()["indexes"]}
    assert set(found) == {"animals", "plants"}
    assert found["animals"]["aliases"] == ["live"]
    assert (found["animals"]["is_default"], found["plants"]["is_default"]) == (True, False)
    assert found["plants"]["documents"] == 3
    description = client.get("/v1/indexes/live").json()
    assert description["name"] == "animals"
    assert description["fields"] == FIELDS
    assert description["pending_encoding"] == 0
    assert str(root) not in client.get("/v1/indexes/live").text


def test_facets_explanations_and_min_relevance(start: Any, root: Path) -> None:
    client = start(root)
    body = search(client, "animals", "quokka wombat", k=1, facets=["kind", "year"], facet_values=2, explain=True).json()
    (result,) = body["results"]
    assert result["facets"] == {
        "fields": {
            "kind": [{"value": "even", "count": 2}, {"value": "odd", "count": 1}],
            "year": [{"value": 0.0, "count": 1}, {"value": 1.0, "count": 1}],
        },
        "documents": 3,
        "complete": True,
    }
    (hit,) = result["hits"]
    assert hit["explanation"]["ranks"] == {"bm25": 1}
    assert {part["term"] for part in hit["explanation"]["terms"]} == {"quokka", "wombat"}
    assert sum(part["score"] for part in hit["explanation"]["terms"]) == pytest.approx(hit["score"], rel=1e-6)
    for options, word in (
        ({"facets": ["colour"]}, "colour"),
        ({"min_relevance": 0.5}, "retriever index calibrate"),
        ({"explain": True, "k": 101}, "at most 100"),
        ({"k": 1001}, "1000"),
    ):
        refused = search(client, "animals", **options)
        assert refused.status_code == 422
        assert word in refused.json()["error"]["message"]


NAMES = [
    "../outside", "%2e%2e", "%2e%2e%2foutside", "..%2foutside", "..%5coutside", "%2fetc%2fpasswd", "animals%00", "%00",
    "animals%2f..%2fplants", "%2e", "%2e%2fanimals", "link", "notes", "README.md", "аnimals", "ａnimals", "animals%20",
    "%20animals", "animals%0a", "x" * 65, "x" * 900, "-animals", ".hidden", "aliases.json", "%252e%252e%252foutside",
]  # fmt: skip


def test_no_name_leads_out_of_the_root(start: Any, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside", target_is_directory=True)
    shutil.copytree(root.parent / "outside", root / ".hidden")
    client = start(root, writable=True)
    for name in NAMES:
        for response in (
            search(client, name),
            client.get(f"/v1/indexes/{name}"),
            client.put(f"/v1/indexes/{name}/documents/x", json={"text": "x"}),
        ):
            assert response.status_code in (404, 405), (name, response.text)
            assert "secret" not in response.text
            assert str(root) not in response.text
        assert client.put("/v1/aliases/way-out", json={"index": name[:64]}).status_code == 404, name
    assert search(client, "x" * 5000).status_code == 422
    assert client.get("/v1/aliases").json()["aliases"] == {"live": "animals"}
    assert {path.name for path in root.parent.iterdir()} == {"root", "outside"}


def test_an_alias_is_swapped_for_the_next_request(start: Any, root: Path) -> None:
    client = start(root, writable=True)
    with client.service.indexes.find("live").lease() as index:
        answer = client.put("/v1/aliases/live", json={"index": "plants"}).json()
        assert answer == {"alias": "live", "index": "plants", "before": "animals"}
        assert search(client, "live").json()["index"]["name"] == "plants"
        # A request that had begun goes on with the old index.
        assert [hit.id for hit in index.search("wombat", 5).hits] == ["d0", "d1"]
    assert json.loads((root / FILE).read_text()) == {"live": "plants"}
    assert client.put("/v1/aliases/new", json={"index": "animals"}).json()["before"] is None
    assert client.get("/v1/aliases").json()["aliases"] == {"live": "plants", "new": "animals"}
    assert client.delete("/v1/aliases/new").status_code == 204
    assert search(client, "new").status_code == 404
    assert client.delete("/v1/aliases/new").status_code == 404


@pytest.mark.parametrize(
    ("alias", "index", "status"),
    [
        ("live", "nothing", 404), ("animals", "plants", 422), ("x", "live", 422), ("..", "plants", 404),
        ("a b", "plants", 422), ("x" * 65, "plants", 422), ("x%00", "plants", 422), ("live", "../outside", 404),
    ],
)  # fmt: skip
def test_faulty_aliases_change_nothing(start: Any, root: Path, alias: str, index: str, status: int) -> None:
    client = start(root, writable=True)
    assert client.put(f"/v1/aliases/{alias}", json={"index": index}).status_code == status
    assert client.get("/v1/aliases").json()["aliases"] == {"live": "animals"}


def test_aliases_changed_by_hand_are_seen_and_faulty_ones_are_not_used(start: Any, root: Path) -> None:
    client = start(root)
    (root / FILE).write_text(json.dumps({"live": "plants"}))
    assert search(client, "live").json()["index"]["name"] == "plants"
    for content in ("{", "[]", '{"live": "../outside"}', '{"live": 1}', ""):
        (root / FILE).write_text(content)
        assert search(client, "live").json()["index"]["name"] == "plants"


def test_a_default_alias_that_leads_nowhere_does_not_hide_the_indexes(start: Any, root: Path) -> None:
    (root / FILE).write_text(json.dumps({"default": "plants"}))
    client = start(root)
    (root / FILE).write_text(json.dumps({"default": "nowhere-at-all"}))
    found = {entry["name"]: entry for entry in client.get("/v1/indexes").json()["indexes"]}
    assert [entry["is_default"] for entry in found.values()] == [False, False]
    assert found["plants"]["documents"] == 3
    assert client.post("/v1/search", json={"query": "wombat"}).status_code == 404
    (root / FILE).write_text(json.dumps({"default": "animals"}))
    assert client.post("/v1/search", json={"query": "wombat"}).json()["index"]["name"] == "animals"


def test_swaps_under_load_fail_no_request(start: Any, root: Path) -> None:
    client = start(root, writable=True)
    stop = threading.Event()
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        while not stop.is_set():
            response = search(client, "live")
            answers.append((response.status_code, response.text))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30):
        assert client.put("/v1/aliases/live", json={"index": ("animals", "plants")[number % 2]}).status_code == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert answers
    assert {status for status, _ in answers} == {200}


def test_an_index_that_appears_is_served_and_a_faulty_one_is_not(start: Any, root: Path) -> None:
    client = start(root, writable=True)
    build(root / "birds", "wombat no kookaburra yes")
    assert ids(search(client, "birds")) == ["d0"]
    put = client.put("/v1/indexes/birds/documents/new", json={"text": "emu"}, params={"wait": True})
    assert put.json()["searchable"] is True
    assert ids(search(client, "birds", "emu")) == ["new"]
    broken = build(root / "broken", "wombat")
    (broken / "CURRENT").write_text("manifest-000001.json 0000\n")
    for _ in range(2):
        assert search(client, "broken").status_code == 503
    entry = next(e for e in client.get("/v1/indexes").json()["indexes"] if e["name"] == "broken")
    assert "altered" in entry["error"]
    assert client.put("/v1/aliases/live", json={"index": "broken"}).status_code == 503
    assert search(client, "live").json()["index"]["name"] == "animals"


def test_a_faulty_index_at_the_start_leaves_the_others(root: Path, start: Any) -> None:
    (root / "animals" / "CURRENT").write_text("manifest-000001.json 0000\n")
    with pytest.raises(IndexCorrupt):
        create_app(Settings(index=root, default_index="animals"))
    client = start(root, default_index="plants")
    assert ids(search(client, "plants")) == ["d1"]
    assert search(client, "animals").status_code == 503


def test_what_is_neither_index_nor_root(tmp_path: Path, root: Path) -> None:
    for path in (tmp_path / "none", root / "notes"):
        with pytest.raises(UnknownIndex):
            create_app(Settings(index=path))
    with pytest.raises(UnknownIndex):
        create_app(Settings(index=root, default_index="nothing"))
    for flag in ("encoder", "sparse_encoder", "local_encoder"):
        with pytest.raises(InvalidInput, match=f"--{flag.replace('_', '-')} names .* several"):
            create_app(Settings(index=root, **{flag: "all-MiniLM-L6-v2"}))


def test_models_that_are_elsewhere_now_are_named_by_settings(tmp_path: Path, start: Any) -> None:
    models = {"encoder": "all-MiniLM-L6-v2", "local_encoder": "all-MiniLM-L6-v2", "sparse_encoder": "splade-tiny"}
    for part, model in models.items():
        (tmp_path / part).symlink_to(resolve(model, offline=True))
    settings = BuildSettings(parts=("dense", "sparse"), **{part: str(tmp_path / part) for part in models})
    build_index(ListCorpus([Document("d0", "a wombat")]), tmp_path / "index", settings, offline=True)
    for part in models:
        (tmp_path / part).rename(tmp_path / f"{part}-moved")
    moved = {part: f"{tmp_path / part}-moved" for part in models}
    client = start(tmp_path / "index", **moved, offline=True)
    (hit,) = search(client, "index").json()["results"][0]["hits"]
    assert set(hit["scores"]) == {"dense", "local"}
    (hit,) = search(client, "index", pipeline={"first": ["sparse"]}).json()["results"][0]["hits"]
    assert set(hit["scores"]) == {"sparse"}
    # The same by the command.
    flags = [f"--{part.replace('_', '-')}={place}" for part, place in moved.items()]
    app = Typer()
    app.command()(search_command)
    done = CliRunner().invoke(app, [str(tmp_path / "index"), "wombat", "-p", "sparse", "--json", "--offline", *flags])
    assert json.loads(done.stdout)["hits"][0]["id"] == "d0", done.output


def test_one_index_has_a_name_and_no_aliases(start: Any, root: Path) -> None:
    client = start(root / "animals", writable=True)
    assert ids(search(client, "animals")) == ["d0", "d1"]
    assert search(client, "plants").status_code == 404
    assert client.get("/v1/aliases").json() == {"aliases": {}}
    assert client.put("/v1/aliases/live", json={"index": "animals"}).status_code == 422
    assert not (root / "animals" / FILE).exists()


def test_shadow_traffic_is_compared(start: Any, root: Path) -> None:
    client = start(root, writable=True)
    assert client.get("/v1/indexes/animals/shadow").json()["error"]["code"] == "no_shadow"
    assert client.post("/v1/indexes/animals/shadow", json={"index": "live"}).status_code == 422
    assert client.post("/v1/indexes/animals/shadow", json={"index": "nothing"}).status_code == 404
    assert client.post("/v1/indexes/animals/shadow", json={"index": "plants", "fraction": 0}).status_code == 422
    started = client.post("/v1/indexes/live/shadow", json={"index": "plants", "fraction": 0.5, "k": 2}).json()
    assert (started["index"], started["shadow"], started["queries"]) == ("animals", "plants", 0)
    # wombat: d0 d1 against d1, so half; quokka: d2 d0 against nothing.
    for _ in range(4):
        for query in ("wombat", "wombat", "quokka", "quokka"):
            assert search(client, "animals", query).status_code == 200
    # Later pages are not compared.
    search(client, "animals", offset=1)
    for _ in range(200):
        report = client.get("/v1/indexes/animals/shadow").json()
        if report["queries"] == 8:
            break
        threading.Event().wait(0.05)
    assert (report["queries"], report["failed"], report["dropped"]) == (8, 0, 0)
    assert report["mean_overlap"] == pytest.approx(0.25)
    assert report["same_first"] == 0
    assert report["latency"]["mean_ms"] > 0
    assert report["shadow_latency"]["p95_ms"] >= report["shadow_latency"]["p50_ms"] > 0
    assert client.delete("/v1/indexes/animals/shadow").json()["queries"] == 8
    assert client.get("/v1/indexes/animals/shadow").status_code == 404


def test_what_the_second_index_cannot_answer_is_counted(start: Any, root: Path) -> None:
    build_index(ListCorpus([Document("x", "wombat")]), root / "bare", BuildSettings(parts=("bm25",)))
    client = start(root, writable=True)
    client.post("/v1/indexes/animals/shadow", json={"index": "bare", "fraction": 1})
    assert search(client, "animals", filter={"kind": "even"}).status_code == 200
    for _ in range(200):
        report = client.get("/v1/indexes/animals/shadow").json()
        if report["failed"]:
            break
        threading.Event().wait(0.05)
    assert (report["queries"], report["failed"]) == (0, 1)
    assert "kind" in report["last_error"]


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [("", "", 1), ("ab", "ab", 1), ("ab", "ba", 1), ("ab", "bc", 0.5), ("ab", "", 0), ("abcd", "a", 0.25)],
)
def test_overlap(first: str, second: str, share: float) -> None:
    assert overlap(first, second) == share


@pytest.mark.parametrize(
    ("method", "path", "writes"),
    [
        ("GET", "/v1/indexes", False), ("POST", "/v1/indexes/a/search", False), ("POST", "/v1/search", False),
        ("POST", "/v1/embeddings", False), ("GET", "/v1/indexes/a/documents/b", False), ("HEAD", "/v1/indexes/a", False),
        ("PUT", "/v1/indexes/a/documents/b", True), ("DELETE", "/v1/indexes/a/documents/b", True),
        ("POST", "/v1/indexes/a/documents", True), ("POST", "/v1/indexes/a/documents/search", True),
        ("POST", "/v1/indexes/a/b/search", True), ("PATCH", "/v1/indexes/a/search", True),
        ("POST", "/v1/indexes/a/search/", True), ("PUT", "/v1/aliases/a", True), ("POST", "/v1/indexes/a/shadow", True),
        ("PUT", "/v1/indexes/a/search", True), ("POST", "/v1/indexes", True), ("GET", "/v1/aliases", False),
    ],
)  # fmt: skip
def test_what_is_not_known_to_read_only_writes(method: str, path: str, writes: bool) -> None:
    assert is_write(method, path) is writes


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_writing_takes_its_own_key(start: Any, root: Path) -> None:
    client = start(root, writable=True, api_key_sha256=digest("reader"), write_key_sha256=digest("writer"))

    def status(method: str, path: str, key: str | None, **options: Any) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return int(client.request(method, path, headers=headers, **options).status_code)

    document = "/v1/indexes/plants/documents/x"
    assert status("PUT", document, None, json={"text": "x"}) == 401
    assert status("PUT", document, "wrong", json={"text": "x"}) == 401
    assert status("PUT", document, "reader", json={"text": "x"}) == 403
    assert status("PUT", document, "writer", json={"text": "x"}) == 200
    for key in ("reader", "writer"):
        assert status("GET", document, key) == 200
        assert status("POST", "/v1/indexes/plants/search", key, json={"query": "x"}) == 200
    assert status("GET", document, "wrong") == status("GET", document, None) == 401
    assert status("DELETE", document, "reader") == 403
    assert status("PUT", "/v1/aliases/live", "reader", json={"index": "plants"}) == 403
    # Turned away before the body is looked at.
    assert status("PUT", document, "reader", content=b"\xff") == 403


def test_on_loopback_reading_may_be_open_and_writing_not(start: Any, root: Path) -> None:
    client = start(root, writable=True, write_key_sha256=digest("writer"))
    assert search(client, "plants").status_code == 200
    body = {"json": {"text": "x"}}
    assert client.put("/v1/indexes/plants/documents/x", **body).status_code == 401
    headers = {"Authorization": "Bearer writer"}
    assert client.put("/v1/indexes/plants/documents/x", headers=headers, **body).status_code == 200


def test_a_reading_key_alone_does_not_open_writing(root: Path) -> None:
    with pytest.raises(ValueError, match="RETRIEVER__WRITE_KEY_SHA256"):
        Settings(index=root, writable=True, api_key_sha256=digest("reader"))
    with pytest.raises(ValueError, match="another one"):
        Settings(index=root, api_key_sha256=digest("a"), write_key_sha256=digest("a"))
