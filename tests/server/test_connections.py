"""Connections that never become requests, over real sockets."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn

from server.commands import bind, server_config
from tests.server.conftest import Client, MakeClient

Address = tuple[str, int]
Serve = Callable[..., Address]


@contextmanager
def serving(client: Client) -> Iterator[Address]:
    """Serve the app of a client, which has started already, as `retriever serve` does."""
    config = server_config(client.app, client.service.settings)
    config.lifespan = "off"
    server = uvicorn.Server(config)
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def serve(make_client: MakeClient) -> Iterator[Serve]:
    """Return a function that serves an app with the limits given and returns its address."""
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(serving(make_client(limits=limits)))


def seconds_until_closed(connection: socket.socket, began: float, drip: bytes = b"") -> float:
    """Return how long since `began` a service keeps a connection to which a few bytes are sent now and then."""
    connection.settimeout(0.05)
    while time.monotonic() - began < 30:
        try:
            connection.sendall(drip)
            if not connection.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"", b""),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", b"X-Slow: a\r\n"),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /livez"),
    ],
    ids=["silent", "dripping", "dripping after a first request"],
)
def test_a_head_that_does_not_arrive_is_cut_off_and_others_are_served(serve: Serve, begin: bytes, drip: bytes) -> None:
    address = serve(header_seconds=1.0)
    began = time.monotonic()
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(begin)
        if begin.endswith(b"\r\n\r\n"):
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
        assert httpx.get(f"http://127.0.0.1:{address[1]}/livez").json() == {"status": "alive"}
        assert 0.9 < seconds_until_closed(connection, began, drip) < 25
    assert httpx.get(f"http://127.0.0.1:{address[1]}/livez").status_code == 200


def test_a_request_whose_head_came_in_time_may_take_longer(serve: Serve) -> None:
    address = serve(header_seconds=0.3, body_seconds=30)
    body = b'{"query": "decode json", "k": 1}'
    with socket.create_connection(address, timeout=30) as connection:
        head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.6)
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_connection_too_many_is_turned_away(serve: Serve) -> None:
    address = serve(connections=2)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(address, timeout=30))
        with socket.create_connection(address, timeout=30) as third:
            assert b"503 Service Unavailable" in third.recv(1000)
            assert seconds_until_closed(third, time.monotonic()) < 5
    deadline = time.monotonic() + 30
    while True:
        try:
            assert httpx.get(f"http://127.0.0.1:{address[1]}/livez").status_code in (200, 503)
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
