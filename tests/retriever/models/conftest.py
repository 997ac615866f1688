"""A cache of its own, an index of its own, and no way out."""

import socket
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def default_encoder() -> Path:
    """Return the folder of the default encoder in the user's own cache, pulled on first use."""
    from retriever.models import resolve

    return resolve("all-MiniLM-L6-v2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder; the hub's local cache is empty too."""
    from huggingface_hub import constants

    monkeypatch.setenv("RETRIEVER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one folder where pip looks for wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def ways_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse sockets and processes, and return the list of attempts: a swallowed error still counts."""
    attempts: list[str] = []

    def refuse(what: str) -> object:
        def call(*args: object, **kwargs: object) -> None:
            attempts.append(f"{what} {args[-1] if args else ''}")
            raise OSError(f"{what} is refused by the test")

        return call

    monkeypatch.setattr(socket.socket, "connect", refuse("connect"))
    monkeypatch.setattr(socket.socket, "connect_ex", refuse("connect_ex"))
    monkeypatch.setattr(socket.socket, "sendto", refuse("sendto"))
    monkeypatch.setattr(socket, "create_connection", refuse("create_connection"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse("getaddrinfo"))
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse("process"))
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda process: None)
    return attempts
