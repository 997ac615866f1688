"""Requests to an OpenAI-compatible `/chat/completions`: several at a time, patient, bounded."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.llm.usage import Deadline, OutOfTime

KEY_VARIABLE = "OPENAI_API_KEY"

# Seconds that an endpoint may take for one answer.
PATIENCE = 60.0
# Seconds before an endpoint that turned a request away is asked again, unless it names them itself.
PAUSES = (0.5, 2.0)
LONGEST_PAUSE = 20.0
TURNED_AWAY = (429, 502, 503, 504)

MOST_BYTES = 1_000_000


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
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"the address of an endpoint begins with http:// or https://, got {url!r}.")
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
        import httpx

        key = os.environ.get(KEY_VARIABLE)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with (
            httpx.Client(headers=headers, follow_redirects=False) as client,
            ThreadPoolExecutor(min(self._concurrent, max(len(bodies), 1))) as pool,
        ):
            asked = [pool.submit(self._ask, client, body, read, deadline) for body in bodies]
            try:
                return [future.result() for future in asked]
            except BaseException:
                pool.shutdown(cancel_futures=True, wait=False)
                raise

    def _ask(
        self, client: Any, body: dict[str, Any], read: Callable[[dict[str, Any]], Any], deadline: Deadline
    ) -> Completion:
        response = self._post(client, {"model": self.model, **body}, deadline)
        try:
            content = response.json()
            tokens = content.get("usage") or {}
            return Completion(
                read(content["choices"][0]),
                int(tokens.get("prompt_tokens") or 0),
                int(tokens.get("completion_tokens") or 0),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise BackendUnavailable(
                f"{self.url} does not answer as OpenAI's chat completions do: {error!r}"
            ) from error

    def _post(self, client: Any, body: dict[str, Any], deadline: Deadline) -> Any:
        import httpx

        for pause in (*PAUSES, None):
            deadline.require()
            left = deadline.seconds
            try:
                response = client.post(
                    f"{self.url}/chat/completions",
                    json=body,
                    timeout=PATIENCE if left is None else min(PATIENCE, left),
                )
            except httpx.TimeoutException as error:
                deadline.require()
                raise BackendUnavailable(f"{self.url} gave no answer within {PATIENCE:g} s.") from error
            except httpx.HTTPError as error:
                raise BackendUnavailable(
                    f"{self.url} cannot be reached: {error}; start it or check the address."
                ) from error
            if response.status_code not in TURNED_AWAY or pause is None:
                break
            _wait(_asked_pause(response, pause), deadline)
        if not response.is_success:
            raise BackendUnavailable(
                f"{self.url} answered {response.status_code} for {self.model}: {response.text[:200]}"
            )
        if len(response.content) > MOST_BYTES:
            raise BackendUnavailable(
                f"{self.url} answered with {len(response.content)} bytes; that is no short answer."
            )
        return response


def _asked_pause(response: Any, usual: float) -> float:
    try:
        asked = float(response.headers.get("retry-after", usual))
    except ValueError:
        # A date is allowed too, and rare.
        return usual
    return min(asked, LONGEST_PAUSE) if asked >= 0 else usual


def _wait(seconds: float, deadline: Deadline) -> None:
    left = deadline.seconds
    if left is not None and left <= seconds:
        raise OutOfTime
    time.sleep(seconds)
