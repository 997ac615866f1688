"""Waiting for a batch without holding a thread, and without computing for a client that has left."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from fastapi import Request

from server.admission import ClientLeft
from server.batching import Ticket

Result = TypeVar("Result")

# Tokenizers count on these; a GPU's work and the event loop go on meanwhile.
COUNTING_THREADS = 2

# About what a tokenizer reads in a millisecond.
FEW_CHARACTERS = 2048


class Waiting:
    """Runs what takes a thread for a moment, and waits for what a batcher computes; of one event loop."""

    def __init__(self) -> None:
        self._counting = anyio.CapacityLimiter(COUNTING_THREADS)

    async def counted(self, count: Callable[[], Result], characters: int) -> Result:
        """Count tokens of so many characters, beside the event loop unless that takes longer than counting."""
        if characters <= FEW_CHARACTERS:
            return count()
        return await anyio.to_thread.run_sync(count, limiter=self._counting)

    async def results(self, ticket: Ticket[Result], request: Request) -> list[Result]:
        """Return a ticket's results.

        Raises what went wrong with it; ClientLeft, after cancelling it, when the client hung up.
        """
        done = asyncio.wrap_future(ticket.future)
        leaving = asyncio.create_task(_disconnected(request))
        either: set[asyncio.Future[Any]] = {done, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientLeft
            return done.result()
        finally:
            leaving.cancel()
            if not done.done():
                ticket.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
