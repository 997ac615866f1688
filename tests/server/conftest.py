"""Apps in this process, and one service in a process of its own, over real indexes."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from fastapi.testclient import TestClient

from retriever.index.sealed import open_index
from retriever.types import Document
from server.app import create_app
from server.settings import Settings
from tests.factories import ListCorpus

EVIL = Document(
    id="evil.<b>id</b>",
    title="<img src=x onerror=\"document.title='pwned'\">",
    text="🎉𝒳 zanzibar <script>document.title='pwned'</script> "
    "<img src=x onerror=\"document.title='pwned'\"> after zanzibar",
    metadata={"module": "<script>document.title='pwned'</script>", "kind": "function", "lines": 3},
)
"""Markup in every place, and characters outside the basic plane before the words that are marked."""

SERVING = re.compile(r"at (http://\S+)/")


class Client(TestClient):
    """A test client that knows its app, so that tests can reach what the app is made of."""

    @property
    def service(self) -> Any:
        return self.app.state.service

    def search(self, query: str = "decode json", **options: Any) -> httpx.Response:
        return self.post("/v1/search", json={"query": query, **options})


MakeClient = Callable[..., Client]


@pytest.fixture(scope="session")
def make_client(small_index: Path, encoder: Any) -> Iterator[MakeClient]:
    """Return a function that starts an app with the settings given, over `small_index` or another index."""
    with ExitStack() as stack:

        def make(index: Path = small_index, opened: Any = None, **settings: Any) -> Client:
            opened = opened or open_index(index, encoder=encoder)
            app = create_app(Settings(index=index, **settings), opened)
            return stack.enter_context(Client(app, base_url="http://localhost", raise_server_exceptions=False))

        yield make


@pytest.fixture(scope="session")
def client(make_client: MakeClient) -> Client:
    """Return a client of an app with the usual settings."""
    return make_client()


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a cross-encoder with two layers, the real tokenizer and weights of chance."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from retriever.models import resolve

    folder = tmp_path_factory.mktemp("models") / "tiny-reranker"
    tokenizer = AutoTokenizer.from_pretrained(str(resolve("all-MiniLM-L6-v2")), model_max_length=128)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reranking_client(make_client: MakeClient, tiny_reranker: Path) -> Client:
    """Return a client of an app with a reranker."""
    return make_client(reranker=str(tiny_reranker), rerank_depth=8)


@pytest.fixture(scope="session")
def late_interaction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a multi-vector encoder: the real body of all-MiniLM-L6-v2 and a projection of chance.

    Queries are filled up to 16 tokens, documents cut at 24, and punctuation in documents has no vector.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    from retriever.models import resolve

    torch.manual_seed(0)
    expansion = {"strategy": "fixed", "attend": False, "length": 16}
    body = Transformer(str(resolve("all-MiniLM-L6-v2")), document_length=24, query_expansion=expansion)
    inner = {"module_input_name": "token_embeddings"}
    projection = Dense(384, 32, bias=False, activation_function=torch.nn.Identity(), **inner)
    modules = [body, projection, MultiVectorMask(skiplist_words=list(".,;")), Normalize(**inner)]
    prompts = {"query": "query: ", "document": "document: "}
    folder = tmp_path_factory.mktemp("models") / "late-interaction"
    MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts).save_pretrained(str(folder))
    return folder


@pytest.fixture
def own_index(small_index: Path, tmp_path: Path) -> Path:
    """Return a copy of the index that a test may change."""
    return shutil.copytree(small_index, tmp_path / "index")


@pytest.fixture(scope="session")
def service_url(
    small_index: Path, encoder: Any, tiny_reranker: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Return the address of `retriever serve` in a process of its own; its index holds EVIL too."""
    from indexing.build import add_documents

    folder = tmp_path_factory.mktemp("service")
    index = shutil.copytree(small_index, folder / "index")
    add_documents(ListCorpus([EVIL]), index, encoder=encoder)
    with (folder / "log").open("w+") as log:
        process = serve_process(index, log, "--reranker", str(tiny_reranker), "--rerank-depth", "10", "--threads", "8")
        try:
            yield wait_for_address(process, folder / "log")
        finally:
            process.terminate()
            process.wait(30)


def serve_process(index: Path, log: IO[str], *flags: str, **variables: str) -> "subprocess.Popen[bytes]":
    """Start `retriever serve` on a free port, writing standard error to `log`."""
    command = [sys.executable, "-m", "retriever.cli", "serve", str(index)]
    return subprocess.Popen(
        [*command, "--port", "0", "--offline", "--device", "cpu", *flags],
        stderr=log,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )


def wait_for_address(process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> str:
    """Return the address that a service announces, once it is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = SERVING.search(log.read_text())
        if found:
            try:
                if httpx.get(f"{found[1]}/readyz").status_code == 200:
                    return found[1]
            except httpx.TransportError:
                pass
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"not ready after {seconds} s: {log.read_text()}")
