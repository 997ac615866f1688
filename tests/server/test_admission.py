"""Overload: some requests run, some wait, the others are told to come back."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.admission import Admission, takes_thread
from server.metrics import Metrics
from server.settings import Limits


class Gate:
    """An app whose requests all stop until they are let go."""

    def __init__(self) -> None:
        self.entered = 0
        self.most = 0
        self.inside = 0
        self.open = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.entered += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})


class Request:
    """One request and what came back."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.left = asyncio.Event()
        self._sent = False
        scope = {"type": "http", "method": "POST", "path": "/v1/search", "headers": [], "state": {"request_id": "r"}}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": b"mine", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.body += message.get("body", b"")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def admission(gate: Gate, metrics: Metrics | None = None, **limits: Any) -> Admission:
    return Admission(gate, Limits(**limits), metrics or Metrics())


def test_as_many_run_as_there_are_threads_and_the_rest_waits_its_turn() -> None:
    async def run() -> None:
        gate = Gate()
        app = admission(gate, threads=3, queue=10)
        requests = [Request(app) for _ in range(9)]
        await settle()
        assert gate.entered == 3
        gate.open.set()
        await asyncio.gather(*(request.task for request in requests))
        assert [request.status for request in requests] == [200] * 9
        assert all(request.body == b"mine" for request in requests)
        assert gate.most == 3

    asyncio.run(run())


def test_what_does_not_fit_the_queue_is_told_to_come_back() -> None:
    async def run() -> None:
        gate, metrics = Gate(), Metrics()
        app = admission(gate, metrics, threads=2, queue=3)
        requests = [Request(app) for _ in range(20)]
        await settle()
        refused = [request for request in requests if request.status == 429]
        assert len(refused) == 20 - 2 - 3
        assert refused[0].headers[b"retry-after"] == b"1"
        assert json.loads(refused[0].body)["error"]["code"] == "overloaded"
        assert b"retriever_rejected_total 15.0" in metrics.expose()
        assert b"retriever_waiting_requests 3.0" in metrics.expose()
        gate.open.set()
        await asyncio.gather(*(request.task for request in requests))
        assert gate.entered == 5
        assert b"retriever_running_requests 0.0" in metrics.expose()
        assert b"retriever_waiting_requests 0.0" in metrics.expose()

    asyncio.run(run())


def test_nobody_waits_for_ever() -> None:
    async def run() -> None:
        gate = Gate()
        app = admission(gate, threads=1, queue=5, queue_seconds=0.02)
        first, second = Request(app), Request(app)
        await second.task
        assert second.status == 429
        gate.open.set()
        await first.task
        third = Request(app)
        await third.task
        assert [first.status, third.status] == [200, 200]

    asyncio.run(run())


def test_work_that_nobody_waits_for_is_dropped() -> None:
    async def run() -> None:
        gate = Gate()
        app = admission(gate, threads=1, queue=5)
        first, gone, last = Request(app), Request(app), Request(app)
        await settle()
        gone.left.set()
        await gone.task
        assert gone.status is None
        gate.open.set()
        await asyncio.gather(first.task, last.task)
        assert [first.status, last.status] == [200, 200]
        assert gate.entered == 2

    asyncio.run(run())


def test_a_request_that_fails_gives_its_place_back() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    async def run() -> None:
        app = Admission(broken, Limits(threads=1, queue=0), Metrics())
        for _ in range(3):
            request = Request(app)
            await asyncio.wait([request.task])
            assert isinstance(request.task.exception(), RuntimeError)

    asyncio.run(run())


def test_other_methods_never_wait() -> None:
    async def run() -> None:
        gate = Gate()
        gate.open.set()
        app = admission(gate, threads=1, queue=0)
        await app._slots.acquire()
        scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [], "state": {}}
        answered = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            answered.append(message)

        await app(scope, receive, send)
        assert answered[0]["status"] == 200

    asyncio.run(run())


def test_a_request_that_is_cancelled_as_its_turn_comes_gives_the_slot_back() -> None:
    async def run() -> None:
        gate = Gate()
        app = admission(gate, threads=1, queue=10)
        first, second = Request(app), Request(app)
        await settle()
        assert gate.entered == 1
        gate.open.set()
        # The first one is done and its slot is taken for the second, which does not know it yet.
        while not first.task.done():
            await asyncio.sleep(0)
        second.task.cancel()
        await asyncio.gather(second.task, return_exceptions=True)
        await settle()
        third = Request(app)
        await asyncio.wait_for(third.task, 5)
        assert third.status == 200

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(1, 8))
def test_no_moment_of_cancelling_loses_a_slot(steps: int) -> None:
    async def run() -> None:
        gate = Gate()
        app = admission(gate, threads=1, queue=10)
        first, second = Request(app), Request(app)
        await settle()
        gate.open.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        second.task.cancel()
        await asyncio.gather(first.task, second.task, return_exceptions=True)
        third = Request(app)
        await asyncio.wait_for(third.task, 5)
        assert third.status == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("POST", "/v1/search", True), ("DELETE", "/v1/aliases/a", True), ("PUT", "/v1/indexes/a/documents/b", True),
        ("GET", "/v1/indexes/a/documents/b", True), ("GET", "/v1/indexes", True), ("GET", "/v1/info", True),
        ("GET", "/livez", False), ("GET", "/readyz", False), ("GET", "/metrics", False), ("GET", "/", False),
    ],
)  # fmt: skip
def test_reading_documents_waits_its_turn_too(method: str, path: str, takes: bool) -> None:
    assert takes_thread(method, path) is takes
