"""Request bodies that are too large, too deep, or not what they claim to be."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from server.bodies import MAX_NESTING, check_json
from server.errors import Refusal
from tests.server.conftest import Client, MakeClient

JSON = {"Content-Type": "application/json"}


def post(client: Client, content: bytes, **headers: str) -> tuple[int, str]:
    given = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.post("/v1/search", content=content, headers=given)
    if response.status_code != 200:
        assert response.json()["error"]["message"]
    return response.status_code, response.text


QUERY = b'{"query": "json"}'


@pytest.mark.parametrize(
    "kind", ["application/json", "APPLICATION/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_in_utf8_is_read(client: Client, kind: str) -> None:
    assert post(client, QUERY, Content_Type=kind)[0] == 200


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp",
     "application/json; charset=utf-16"],
)  # fmt: skip
def test_other_content_types_are_refused(client: Client, kind: str) -> None:
    assert post(client, QUERY, Content_Type=kind)[0] == 415


def test_packed_bodies_are_refused_unopened(client: Client) -> None:
    for encoding in ("gzip", "br", "deflate", "gzip, identity"):
        assert post(client, gzip.compress(QUERY), Content_Encoding=encoding)[0] == 415
    assert post(client, QUERY, Content_Encoding="identity")[0] == 200


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "line 1"),
        (b'{"query": "a",}', "not JSON"),
        (b'{"query": "a"} {}', "Extra data"),
        (b'{"query": "a", "k": NaN}', "NaN"),
        (b'{"query": "a", "k": -Infinity}', "Infinity"),
        (b'{"query": "a", "query": "b"}', "twice"),
        (b'{"query": "a", "filter": {"x": 1, "x": 2}}', "twice"),
        (b'{"query": "\xff"}', "0xff"),
        (b'{"query": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"query": "\\ud800"}', "surrogate"),
        (b'{"query": "a\x00b"}', "control character"),
        (b"\xef\xbb\xbf" + QUERY, "not JSON"),
        (QUERY.decode().encode("utf-16"), "UTF-8"),
        (b'{"k": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"query": "a", "filter": ' + b'{"not": ' * 100 + b"1" + b"}" * 100 + b"}", "deeper"),
        (b"[" * 1_000_000, "deeper"),
        (b'{"a":' * 200_000, "deeper"),
    ],
)
def test_what_is_not_strict_json_is_refused(client: Client, content: bytes, word: str) -> None:
    status, text = post(client, content)
    assert status == 400
    assert word in text


def test_brackets_in_strings_are_not_nesting() -> None:
    check_json(json.dumps({"query": "[" * 1000 + '\\"' + "{" * 1000}).encode())
    check_json(b"[" * MAX_NESTING + b"]" * MAX_NESTING)
    check_json(b"[" + b",".join([b"[]"] * 1000) + b"]")
    with pytest.raises(Refusal):
        check_json(b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1))


def test_a_whole_surrogate_pair_is_a_character(client: Client) -> None:
    assert post(client, b'{"query": "\\ud83d\\ude00 json"}')[0] == 200


def test_size_is_bounded_to_the_byte(make_client: MakeClient) -> None:
    client = make_client(limits={"body_bytes": 2000})
    padded = QUERY + b" " * (2000 - len(QUERY))
    assert post(client, padded)[0] == 200
    assert post(client, padded + b" ")[0] == 413


def test_size_is_bounded_without_a_content_length(make_client: MakeClient) -> None:
    client = make_client(limits={"body_bytes": 2000})
    assert client.portal is not None
    status, pieces = client.portal.call(send_pieces, client, [b" " * 500] * 1000)
    assert status == 413
    assert pieces == 5


@pytest.mark.parametrize("length", ["99999999", "9" * 5000, "-1", "1e3", "", " 5"])
def test_a_claimed_length_is_checked_before_reading(client: Client, length: str) -> None:
    assert post(client, QUERY, Content_Length=length)[0] == 413


def test_a_body_that_does_not_arrive_times_out(make_client: MakeClient) -> None:
    client = make_client(limits={"body_seconds": 0.05})

    assert client.portal is not None
    assert client.portal.call(send_pieces, client, [b'{"query', None])[0] == 408


def test_a_client_that_leaves_gets_nothing(client: Client) -> None:
    assert client.portal is not None
    assert client.portal.call(send_pieces, client, [b'{"query'])[0] == 0


async def send_pieces(client: Client, pieces: list[bytes | None]) -> tuple[int, int]:
    """Send a body in pieces, None for a pause without end, then hang up; return the status and pieces read."""
    scope = {"type": "http", "method": "POST", "path": "/v1/search", "raw_path": b"/v1/search",
             "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
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
