"""Settings: from the environment, overridden by flags, documented, and safe."""

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from retriever.errors import InvalidInput
from server.commands import bind, describe_settings, read_settings, serve
from server.settings import Limits, Settings, is_loopback

DIGEST = hashlib.sha256(b"key").hexdigest()


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("RETRIEVER__"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("model", [Settings, Limits])
def test_every_setting_is_documented(model: Any) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_environment_gives_and_flags_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER__PORT", "9000")
    monkeypatch.setenv("RETRIEVER__LIMITS__QUEUE", "7")
    monkeypatch.setenv("RETRIEVER__LIMITS__THREADS", "3")
    settings = read_settings(index=Path("i"), port=None, limits={"threads": 5})
    assert settings.port == 9000
    assert settings.limits.queue == 7
    assert settings.limits.threads == 5
    assert read_settings(index=Path("i"), port=1).port == 1


def test_a_faulty_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER__LIMITS__QUEUE", "many")
    with pytest.raises(InvalidInput, match="RETRIEVER__LIMITS__QUEUE"):
        read_settings(index=Path("i"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com", "localhost.example", ""])
def test_a_public_address_needs_a_key(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InvalidInput, match="RETRIEVER__API_KEY_SHA256"):
        read_settings(index=Path("i"), host=host)
    assert read_settings(index=Path("i"), host=host, api_key_sha256=DIGEST).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert read_settings(index=Path("i"), host=host).api_key_sha256 is None


@pytest.mark.parametrize("value", ["", "hunter2", DIGEST[:-1], DIGEST + "0", "g" * 64])
def test_a_key_that_is_no_digest_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_settings(index=Path("i"), api_key_sha256=value)
    assert "sha256sum" in str(caught.value)
    assert not value or value not in str(caught.value)


def test_the_digest_is_not_shown_either() -> None:
    settings = Settings(index=Path("i"), api_key_sha256=DIGEST)
    assert DIGEST not in repr(settings)
    assert DIGEST not in json.dumps(describe_settings(settings))


def test_settings_do_not_change() -> None:
    settings = Settings(index=Path("i"))
    with pytest.raises(ValidationError):
        settings.port = 1


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(serve)
    return CliRunner().invoke(app, list(arguments))


def test_all_settings_can_be_printed() -> None:
    result = run("some-index", "--print-settings", "--threads", "3")
    printed = json.loads(result.stdout)
    assert printed["RETRIEVER__LIMITS__THREADS"]["value"] == 3
    assert set(printed) == {f"RETRIEVER__{name.upper()}" for name in Settings.model_fields if name != "limits"} | {
        f"RETRIEVER__LIMITS__{name.upper()}" for name in Limits.model_fields
    }


def test_a_missing_index_is_an_error_of_its_own(tmp_path: Path) -> None:
    from retriever.errors import UnknownIndex

    result = run(str(tmp_path / "nothing"), "--port", "0")
    assert isinstance(result.exception, UnknownIndex)


def test_a_port_in_use_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run(str(tmp_path / "nothing"), "--port", str(port))
    assert isinstance(result.exception, InvalidInput)
    assert str(port) in str(result.exception)


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(InvalidInput, match="cannot listen"):
        bind("203.0.113.1", 0)
    with pytest.raises(InvalidInput, match="cannot listen"):
        bind("no such host", 0)
