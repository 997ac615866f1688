"""The table of errors, and what happens outside it."""

import json
import logging

import pytest

import retriever.errors
from retriever.errors import InvalidInput, RetrievalError
from server.errors import STATUS, error_response, status_of
from server.logs import JsonFormatter
from tests.server.conftest import MakeClient


def every_error() -> list[type[RetrievalError]]:
    found = [value for value in vars(retriever.errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, RetrievalError)]


def test_the_table_has_every_error_of_the_engine() -> None:
    assert set(STATUS) == set(every_error())
    codes = [code for _, code in STATUS.values()]
    assert len(set(codes)) == len(codes)


def test_a_class_without_a_line_takes_its_parents() -> None:
    class TooLong(InvalidInput):
        pass

    assert status_of(TooLong("x")) == STATUS[InvalidInput]


@pytest.mark.parametrize("kind", every_error())
def test_each_error_reaches_the_client_with_its_message(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, kind: type[RetrievalError]
) -> None:
    client = make_client()

    def fail(*args: object, **kwargs: object) -> None:
        raise kind("what to do next")

    with client.service.index.lease() as index:
        monkeypatch.setattr(index, "batch_search", fail)
        response = client.search()
    status, code = STATUS[kind]
    assert response.status_code == status
    assert response.json()["error"]["message"] == "what to do next"
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_what_nobody_expected_is_logged_and_not_shown(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()

    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("an inner secret")

    with client.service.index.lease() as index:
        monkeypatch.setattr(index, "batch_search", fail)
        response = client.search()
    assert response.status_code == 500
    assert "secret" not in response.text
    request_id = response.headers["x-request-id"]
    assert request_id in response.json()["error"]["message"]
    (record,) = [record for record in caplog.records if record.name == "server.errors"]
    assert record.request_id == request_id
    assert "an inner secret" in str(record.exc_text or record.exc_info)
    assert 'route="/v1/search",status="500"' in client.get("/metrics").text
    assert client.get("/livez").status_code == 200


def test_messages_that_cannot_be_encoded_do_no_harm() -> None:
    assert json.loads(error_response(422, "half \ud800").body)["error"]["message"] == "half ?"


def test_a_log_line_is_one_json_object_whatever_it_holds() -> None:
    record = logging.makeLogRecord({"name": "server", "msg": "two\nlines", "path": "/\x1b[31m\u2028é"})
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["path"] == "/\x1b[31m\u2028é"
