"""The hub's client against a server of this machine that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.retriever.models.factories import CONFIG, WEIGHTS

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "d" * 40
REPOSITORIES = {
    "some/model": {
        "config.json": CONFIG,
        "model.safetensors": WEIGHTS,
        "1_Pooling/config.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "modeling_custom.py": b"raise SystemExit",
        "onnx/model.safetensors": b"other",
    },
    "some/pickled": {"config.json": CONFIG, "pytorch_model.bin": b"pickle"},
    "sentence-transformers/all-MiniLM-L6-v2": {"config.json": CONFIG, "model.safetensors": WEIGHTS},
}


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks when it fetches a snapshot."""

    def log_message(self, *arguments: object) -> None: ...

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.asked.append(path)
        for name, files in REPOSITORIES.items():
            if path.startswith(f"api/models/{name}/tree/"):
                entries = [
                    {
                        "type": "file",
                        "path": file,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for file, content in files.items()
                ]
                return self.reply(json.dumps(entries).encode(), Content_Type="application/json")
            if path.startswith(f"api/models/{name}"):
                info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                return self.reply(json.dumps(info).encode(), Content_Type="application/json")
            prefix = f"{name}/resolve/{COMMIT}/"
            if path.startswith(prefix) and (content := files.get(path[len(prefix) :])) is not None:
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                return self.reply(content, ETag=etag, X_Repo_Commit=COMMIT)
        return self.reply(b"{}", 404, X_Error_Code="RepoNotFound")


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def resolve_with(endpoint: str, home: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Resolve in another process: the hub's client reads its environment once, when it is imported."""
    script = "import sys; from retriever.models import resolve; print(resolve(sys.argv[1]))"
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hub"), "RETRIEVER_HOME": str(home)}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, name],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_safetensors_come_and_nothing_that_runs(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    result = resolve_with(address(hub), tmp_path, "some/model")
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert folder.name == COMMIT
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    assert found == {"config.json": CONFIG, "model.safetensors": WEIGHTS, "1_Pooling/config.json": b"{}"}
    asked = len(hub.asked)
    assert resolve_with(address(hub), tmp_path, "some/model").stdout == result.stdout
    assert len(hub.asked) == asked, "the second time it comes from the local cache"


def test_a_model_of_pickles_alone_is_refused_before_any_file(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    result = resolve_with(address(hub), tmp_path, "some/pickled")
    assert "InvalidInput: The hub's model 'some/pickled' has no safetensors weights" in result.stderr
    assert not any("/resolve/" in path for path in hub.asked)


def test_an_unknown_model_is_told(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    result = resolve_with(address(hub), tmp_path, "some/absent")
    assert "InvalidInput: The hub has no public model 'some/absent'." in result.stderr


def test_other_weights_under_a_pinned_name_give_way_to_the_wheel(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    result = resolve_with(address(hub), tmp_path, "sentence-transformers/all-MiniLM-L6-v2")
    assert result.stdout.strip() == str(tmp_path / "models" / "all-MiniLM-L6-v2"), result.stderr
    assert any("/resolve/" in path for path in hub.asked)


def test_a_hub_that_never_answers_is_given_up_soon(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        result = resolve_with(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, "some/model")
        waited = time.monotonic() - start
    assert "BackendUnavailable: The model 'some/model' is not on this machine and the hub cannot be reached" in (
        result.stderr
    )
    # Its own limit is 10 s; without it the client waits for minutes, so this is no matter of speed.
    assert waited < 60
