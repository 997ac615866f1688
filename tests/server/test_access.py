"""Keys, Host headers, request ids, and what the log holds."""

import hashlib
import hmac
import logging
import re

import pytest

from server.access import host_name
from tests.server.conftest import Client, MakeClient

KEY = "correct horse battery staple"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
RIGHT = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def locked(make_client: MakeClient) -> Client:
    return make_client(api_key_sha256=DIGEST)


CLOSED = ("/v1/info", "/v1/models", "/metrics", "/openapi.json", "/nowhere")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/page/page.js", "/page/page.css"])
def test_health_and_the_page_need_no_key(locked: Client, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_needs_the_key(locked: Client, path: str) -> None:
    response = locked.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "unauthorized"
    assert locked.get(path, headers=RIGHT).status_code in (200, 404)


def test_searching_needs_the_key(locked: Client) -> None:
    assert locked.search().status_code == 401
    assert locked.post("/v1/search", json={"query": "json"}, headers=RIGHT).status_code == 200
    # Turned away before the body is looked at.
    assert locked.post("/v1/search", content=b"\xff" * 10_000_000).status_code == 401


@pytest.mark.parametrize(
    "given",
    [
        "", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, f"Bearer {DIGEST}",
        "Bearer é",
    ],
)  # fmt: skip
def test_wrong_keys_are_refused(locked: Client, given: str) -> None:
    assert locked.get("/v1/info", headers=[("Authorization", given.encode())]).status_code == 401


def test_every_key_is_compared_in_constant_time(locked: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(first: str, second: str) -> bool:
        compared.append((first, second))
        return original(first, second)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    found = []
    for key in (KEY, f"{KEY[:-1]}x", "x", ""):
        locked.get("/v1/info", headers={"Authorization": f"Bearer {key}"})
        found.append([(len(first), len(second)) for first, second in compared])
        compared.clear()
    # Digests of one length, as often for a wrong key as for the right one.
    assert found[0]
    assert found == [found[0]] * 4
    assert set(found[0]) == {(64, 64)}


def test_the_key_is_read_from_the_header_alone(locked: Client) -> None:
    assert locked.get("/v1/info", params={"api_key": KEY, "token": KEY}).status_code == 401


def test_the_scheme_is_any_case(locked: Client) -> None:
    assert locked.get("/v1/info", headers={"Authorization": f"bearer {KEY}"}).status_code == 200


def test_keys_are_never_logged(locked: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        locked.get(f"/v1/info?key={KEY}", headers=RIGHT)
        locked.get("/v1/info", headers={"Authorization": "Bearer almost-right"})
    for record in caplog.records:
        if record.name.startswith("server"):
            shown = str(vars(record))
            assert KEY not in shown
            assert "almost-right" not in shown
            assert DIGEST not in shown


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"), ("LocalHost:8080", "localhost"), ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:8080", "::1"), ("evil.example", "evil.example"), ("localhost:80:80", ""),
        ("localhost@evil", "localhost@evil"), ("", ""), ("localhost:x", ""),
    ],
)  # fmt: skip
def test_host_names(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.0.7:8080", ""])
def test_without_a_key_only_loopback_names_are_served(client: Client, host: str) -> None:
    response = client.get("/v1/info", headers={"Host": host})
    assert response.status_code == 421
    assert "RETRIEVER__ALLOWED_HOSTS" in response.json()["error"]["message"]
    # A kubelet asks by address.
    assert client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080"])
def test_loopback_names_are_served(client: Client, host: str) -> None:
    assert client.get("/v1/info", headers={"Host": host}).status_code == 200


def test_names_can_be_allowed(make_client: MakeClient) -> None:
    client = make_client(allowed_hosts=["Search.Example"])
    assert client.get("/v1/info", headers={"Host": "search.example:8080"}).status_code == 200
    assert client.get("/v1/info", headers={"Host": "localhost"}).status_code == 421


def test_with_a_key_any_name_is_served(locked: Client) -> None:
    assert locked.get("/v1/info", headers=RIGHT | {"Host": "search.example"}).status_code == 200


def test_other_origins_may_not_read(client: Client) -> None:
    response = client.options(
        "/v1/search", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_a_sane_request_id_is_kept(client: Client) -> None:
    response = client.get("/livez", headers={"X-Request-ID": "order-7.A_b"})
    assert response.headers["x-request-id"] == "order-7.A_b"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "-lead", "<script>", "a;b", "é", "a\r\nX-Sent: 1", "a\nb"])
def test_other_request_ids_are_replaced(client: Client, given: str) -> None:
    response = client.get("/livez", headers=[("X-Request-ID", given.encode())])
    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])
    assert "x-sent" not in response.headers


def access_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "server.access"]


def test_the_access_log_tells_everything_but_the_query(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server.access"):
        response = client.search("a private question", k=3)
    (line,) = access_lines(caplog)
    assert line.request_id == response.headers["x-request-id"]
    assert (line.method, line.path, line.status) == ("POST", "/v1/search", 200)
    assert (line.queries, line.hits, line.pipeline) == (1, 3, "hybrid")
    assert "private" not in str(vars(line))


def test_queries_are_logged_on_request(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(log_queries=True)
    with caplog.at_level(logging.INFO, "server.access"):
        client.search("a public question")
    (line,) = access_lines(caplog)
    assert line.texts == ["a public question"]
