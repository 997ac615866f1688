"""Requests to an OpenAI-compatible `/chat/completions`: several at a time, patient, bounded."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.llm.usage import Deadline, OutOfTime

KEY_VARIABLE = "OPENAI_API_KEY"

# Seconds that an endpoint may take for one answer, to its last byte.
PATIENCE = 60.0
# Seconds before an endpoint that turned a request away is asked again, unless it names them itself.
PAUSES = (0.5, 2.0)
LONGEST_PAUSE = 20.0
TURNED_AWAY = (429, 502, 503, 504)

MOST_BYTES = 1_000_000
MOST_TOKENS = 1_000_000_000

Found = TypeVar("Found")


class Completion(NamedTuple):
    """What was made of an answer, and the tokens that were read and written for it."""

    found: Any
    prompt_tokens: int
    answer_tokens: int


class Chat:
    """A model as an endpoint calls it.

    url         such as http://127.0.0.1:8000/v1
    concurrent  requests under way at the same time

    A key, if one is needed, is read from OPENAI_API_KEY. What is turned away (429 and the like) is asked again twice.
    """

    def __init__(self, model: str, url: str, *, concurrent: int = 8) -> None:
        import httpx

        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"the address of an endpoint begins with http:// or https://, got {url!r}.")
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{url!r} is no address of an endpoint: {error}.") from error
        if not parsed.host or (parsed.port is not None and not 1 <= parsed.port <= 65_535):
            raise InvalidInput(f"{url!r} is no address of an endpoint; give one such as http://127.0.0.1:8000/v1.")
        if not 1 <= concurrent <= 256:
            raise InvalidInput(f"concurrent must be from 1 to 256, got {concurrent}.")
        self.url = url.rstrip("/")
        self.model = model
        self._concurrent = concurrent

    def complete(
        self, bodies: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], Any], deadline: Deadline
    ) -> list[Completion]:
        """Ask with each body, which lacks the model alone, and return what `read` makes of each first choice.

        Raises BackendUnavailable when the endpoint cannot be reached, refuses, or does not answer as it should, and
        OutOfTime at the deadline.
        """
        return _apart(self._all(bodies, read, deadline))

    async def _all(
        self, bodies: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], Any], deadline: Deadline
    ) -> list[Completion]:
        import httpx

        key = _key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        turns = asyncio.Semaphore(self._concurrent)
        # This time begins anew with each read, so that drops without end would outlast it; `_post` reads the clock.
        async with httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            timeout=PATIENCE,
            limits=httpx.Limits(max_connections=self._concurrent),
        ) as client:
            asked = [asyncio.create_task(self._ask(client, body, read, deadline, turns)) for body in bodies]
            try:
                return await asyncio.gather(*asked)
            finally:
                # Where one failed, nobody waits for the others.
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)

    async def _ask(
        self,
        client: Any,
        body: dict[str, Any],
        read: Callable[[dict[str, Any]], Any],
        deadline: Deadline,
        turns: asyncio.Semaphore,
    ) -> Completion:
        async with turns:
            answer = await self._post(client, {"model": self.model, **body}, deadline)
        try:
            content = json.loads(answer)
            tokens = content.get("usage") or {}
            return Completion(
                read(content["choices"][0]),
                _count(tokens.get("prompt_tokens")),
                _count(tokens.get("completion_tokens")),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BackendUnavailable(
                f"{self.url} does not answer as OpenAI's chat completions do: {error!r}"
            ) from error

    async def _post(self, client: Any, body: dict[str, Any], deadline: Deadline) -> bytes:
        import httpx

        for pause in (*PAUSES, None):
            deadline.require()
            left = deadline.seconds
            try:
                async with asyncio.timeout(PATIENCE if left is None else min(PATIENCE, left)):
                    response, content = await self._exchange(client, body)
            except (TimeoutError, httpx.TimeoutException) as error:
                if left is not None and left <= PATIENCE:
                    raise OutOfTime from error
                raise BackendUnavailable(f"{self.url} gave no whole answer within {PATIENCE:g} s.") from error
            except httpx.HTTPError as error:
                raise BackendUnavailable(
                    f"{self.url} cannot be reached: {error}; start it or check the address."
                ) from error
            if response.status_code not in TURNED_AWAY or pause is None:
                break
            await _wait(_asked_pause(response, pause), deadline)
        if not response.is_success:
            said = content[:800].decode("utf-8", "replace")[:200]
            raise BackendUnavailable(f"{self.url} answered {response.status_code} for {self.model}: {said}")
        return content

    async def _exchange(self, client: Any, body: dict[str, Any]) -> tuple[Any, bytes]:
        """Return a response and what it holds, of which no more is read than a short answer can be."""
        content = bytearray()
        async with client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise BackendUnavailable(
                        f"{self.url} answered with over {MOST_BYTES} bytes; that is no short answer."
                    )
        return response, bytes(content)


def _key() -> str:
    """Return the key, without the line break that a file of it ends in. Raises BackendUnavailable."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        # Without the key: messages are shown and logged.
        raise BackendUnavailable(f"{KEY_VARIABLE} holds letters that no key has; set it again.")
    return key


def _apart(work: Coroutine[Any, Any, Found]) -> Found:
    """Run a coroutine in a thread, for the caller's may have an event loop; what interrupts the caller ends it."""
    started: Future[Callable[[], object]] = Future()

    async def run() -> Found:
        loop = asyncio.get_running_loop()
        task: Any = asyncio.current_task()
        started.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        return await work

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, run())
        try:
            return running.result()
        except BaseException:
            if started.done():
                # The loop is closed where it was the work that failed.
                with suppress(RuntimeError):
                    started.result()()
            raise


def _count(value: Any) -> int:
    """Return how many tokens an endpoint says it read or wrote; 0 where it does not. Raises ValueError."""
    count = int(value or 0)
    if not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"a number of tokens from 0 to {MOST_TOKENS} was expected, got {str(value)[:40]}")
    return count


def _asked_pause(response: Any, usual: float) -> float:
    try:
        asked = float(response.headers.get("retry-after", usual))
    except ValueError:
        # A date is allowed too, and rare.
        return usual
    return min(asked, LONGEST_PAUSE) if asked >= 0 else usual


async def _wait(seconds: float, deadline: Deadline) -> None:
    left = deadline.seconds
    if left is not None and left <= seconds:
        raise OutOfTime
    await asyncio.sleep(seconds)
