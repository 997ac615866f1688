"""`retriever serve` as a process, over loopback."""

import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from server.commands import allow_open_files
from tests.server.conftest import EVIL, serve_process, wait_for_address


def post(url: str, **body: object) -> httpx.Response:
    return httpx.post(f"{url}/v1/search", json=body, timeout=60)


def test_the_served_page_and_api_answer(service_url: str) -> None:
    assert httpx.get(f"{service_url}/readyz").json() == {"status": "ready"}
    assert "<title>Search</title>" in httpx.get(f"{service_url}/").text
    body = post(service_url, query="decode a json document", k=3).json()
    assert body["pipeline"] == "hybrid+rerank"
    assert len(body["results"][0]["hits"]) == 3
    info = httpx.get(f"{service_url}/v1/info").json()
    assert info["reranker"] == "tiny-reranker"
    assert post(service_url, query="zanzibar", without=["rerank"]).json()["results"][0]["hits"][0]["id"] == EVIL.id


# Some are longer than the encoder reads: threads that share a tokenizer must not undo each other's truncation.
QUERIES = ["decode json", "parse line " * 300, "zip", "a date and a time " * 150, "csv dialect", "fractions"]


def test_concurrent_answers_are_those_of_one_at_a_time(service_url: str) -> None:
    def ids(query: str) -> list[tuple[str, float]]:
        response = post(service_url, query=query, k=5, pipeline="dense")
        assert response.status_code == 200, response.text
        (found,) = response.json()["results"]
        assert found["degraded"] == []
        return [(hit["id"], pytest.approx(hit["score"], rel=1e-4)) for hit in found["hits"]]

    alone = {query: ids(query) for query in QUERIES}
    many = QUERIES * 40
    with ThreadPoolExecutor(16) as pool:
        for query, found in zip(many, pool.map(ids, many), strict=True):
            assert found == alone[query]


def test_a_body_without_an_end_is_cut_off(service_url: str) -> None:
    parts = urlsplit(service_url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 64:
                connection.sendall(chunk)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_nonsense_on_the_line_does_not_stop_the_service(service_url: str) -> None:
    parts = urlsplit(service_url)
    assert parts.hostname is not None
    for content in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    ):
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1024)
    assert httpx.get(f"{service_url}/livez").status_code == 200


def test_a_stop_signal_lets_requests_finish_and_turns_readiness_off_first(small_index: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = serve_process(small_index, stderr, "--threads", "1", RETRIEVER__DRAIN_SECONDS="2")
    try:
        url = wait_for_address(process, log)
        answers: list[httpx.Response] = []
        # Long enough to be in progress when the signal comes.
        queries = ["decode a json document " * 60] * 64
        request = threading.Thread(target=lambda: answers.append(post(url, queries=queries, k=1)))
        request.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        # Still listening, and saying that others should be asked.
        assert httpx.get(f"{url}/readyz", timeout=30).status_code == 503
        assert httpx.get(f"{url}/livez", timeout=30).status_code == 200
        request.join(60)
        assert answers[0].status_code == 200
        assert len(answers[0].json()["results"]) == 64
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line["message"] == f"Finished server process [{process.pid}]" for line in lines)
    assert not any(line["level"] == "error" for line in lines)


def test_a_missing_index_ends_with_its_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retriever.cli", "serve", str(tmp_path / "none"), "--port", "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("error: no index at")
    assert "Traceback" not in done.stderr


def test_a_public_address_without_a_key_ends_with_its_exit_code(small_index: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retriever.cli", "serve", str(small_index), "--host", "0.0.0.0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "RETRIEVER__API_KEY_SHA256" in done.stderr


@pytest.mark.parametrize(("soft", "hard"), [(256, 2048), (2048, 2048)])
def test_a_service_opens_as_many_files_as_it_may(soft: int, hard: int) -> None:
    script = (
        "import resource\n"
        "from server.commands import allow_open_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "allow_open_files()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(hard), str(hard)]


@pytest.mark.parametrize(("soft", "then"), [(256, 10_240), (65_536, 65_536)])
def test_a_system_without_a_bound_that_refuses_to_go_without_one(
    monkeypatch: pytest.MonkeyPatch, soft: int, then: int
) -> None:
    """As macOS does. What somebody asked for before is not taken back."""
    limits = [(soft, resource.RLIM_INFINITY)]

    def change(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] == resource.RLIM_INFINITY:
            raise ValueError("not that many")
        limits.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", change)
    allow_open_files()
    assert limits[-1] == (then, resource.RLIM_INFINITY)
