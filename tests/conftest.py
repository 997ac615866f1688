"""Fixtures shared by all tests: where the real collections are, and one small real index."""

import os
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says something about the machine, not about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that; tests that interrupt one would
# wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real test collections in BEIR layout.

    They lie beside the repository or where RETRIEVER_TEST_DATA points. A user's machine has none, so tests
    skip there; in CI their absence is a failure.
    """
    folder = Path(os.environ.get("RETRIEVER_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"no test collections at {folder}; set RETRIEVER_TEST_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def encoder():
    """Return the default bi-encoder, loaded once."""
    from retriever.encoder import load_encoder

    return load_encoder("all-MiniLM-L6-v2", device="cpu")


@pytest.fixture(scope="session")
def pydocs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BEIR folder of 300 real docstrings of the standard library, with queries and judgments."""
    from tests.collections import write_small_pydocs

    folder = tmp_path_factory.mktemp("pydocs")
    write_small_pydocs(folder, documents=300)
    return folder


@pytest.fixture(scope="session")
def small_index(pydocs: Path, encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index over `pydocs` with BM25, MiniLM vectors and three fields; copy it to change it."""
    from indexing.build import build_index
    from indexing.corpora import open_corpus
    from indexing.plan import BuildSettings

    path = tmp_path_factory.mktemp("indexes") / "small"
    fields = {"module": "keyword", "kind": "keyword", "lines": "number"}
    build_index(open_corpus(str(pydocs)), path, BuildSettings(fields=fields), encoder=encoder)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every attempt to reach another host an error."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a network call was made: {args[:2]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
