"""How much work is taken on: a few requests run, some wait, the others are told to come back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import Refusal, refusal_response
from server.metrics import Metrics
from server.settings import Limits


class ClientLeft(Exception):
    """The client hung up while its request was waiting, so nobody wants the answer."""


class Admission:
    """Lets as many requests that do work run as there are threads, and as many wait as the queue holds.

    batched  paths that take no thread but wait in the queues of `server.batching`, which bound them
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, batched: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.batched = batched
        self._slots = asyncio.Semaphore(limits.threads)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not takes_thread(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        # A body that is read piece by piece takes a thread for each piece; its route bounds how many there are.
        if scope["path"] in self.batched or scope["state"].get("streamed"):
            with contextlib.suppress(ClientLeft):
                await self.app(scope, receive, send)
            return
        arrived = time.perf_counter()
        messages = _Buffered(receive)
        try:
            async with self._slot(messages):
                scope["state"]["waited_ms"] = (time.perf_counter() - arrived) * 1e3
                await self.app(scope, messages.receive, send)
        except Refusal as refusal:
            self.metrics.rejected.inc()
            await refusal_response(refusal, scope["state"]["request_id"])(scope, receive, send)
        except ClientLeft:
            return

    @asynccontextmanager
    async def _slot(self, messages: "_Buffered") -> AsyncIterator[None]:
        if self._slots.locked():
            await self._queue(messages)
        else:
            await self._slots.acquire()
        self.metrics.running.inc()
        try:
            yield
        finally:
            self.metrics.running.dec()
            self._slots.release()

    async def _queue(self, messages: "_Buffered") -> None:
        """Wait for a slot and take it."""
        if self._waiting >= self.limits.queue:
            raise self._overloaded()
        self._waiting += 1
        self.metrics.waiting.inc()
        acquiring = asyncio.create_task(self._slots.acquire())
        leaving = asyncio.create_task(messages.until_disconnect())
        try:
            await asyncio.wait(
                {acquiring, leaving},
                timeout=self.limits.queue_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not acquiring.done():
                raise ClientLeft if leaving.done() else self._overloaded()
        except BaseException:
            if acquiring.done() and not acquiring.cancelled():
                # Cancelled in the moment in which the slot came.
                self._slots.release()
            raise
        finally:
            self._waiting -= 1
            self.metrics.waiting.dec()
            leaving.cancel()
            acquiring.cancel()

    def _overloaded(self) -> Refusal:
        return Refusal(
            429,
            f"{self.limits.threads} requests are running and {self._waiting} waiting; try again later.",
            headers={"Retry-After": "1"},
        )


def takes_thread(method: str, path: str) -> bool:
    """Tell whether a request does work; what only looks at the service is answered in any case."""
    return method in ("POST", "PUT", "DELETE") or (method == "GET" and path.startswith(("/v1/indexes", "/v1/info")))


class _Buffered:
    """A receive channel that can be watched for a disconnect without losing what comes before it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []

    async def until_disconnect(self) -> None:
        while True:
            message = await self._receive()
            self._messages.append(message)
            if message["type"] == "http.disconnect":
                return

    async def receive(self) -> Message:
        return self._messages.pop(0) if self._messages else await self._receive()
