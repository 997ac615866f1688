"""A language model behind an OpenAI-compatible `/chat/completions`."""

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.llm.model import WRITTEN_TOKENS
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, OutOfTime, Usage

URL_VARIABLE = "OPENAI_BASE_URL"
KEY_VARIABLE = "OPENAI_API_KEY"

# Seconds that an endpoint may take for one answer.
PATIENCE = 60.0
# Seconds before an endpoint that turned a request away is asked again, unless it names them itself.
PAUSES = (0.5, 2.0)
LONGEST_PAUSE = 20.0
TURNED_AWAY = (429, 502, 503, 504)

# What providers give at most.
TOP_LOGPROBS = 20

# No tokenizer makes fewer tokens of usual text.
CHARACTERS_PER_TOKEN = 6

MOST_BYTES = 1_000_000


class EndpointModel:
    """Fits `retriever.llm.model.LanguageModel`, without likelihoods of given answers, which chats do not offer.

    model       as the endpoint calls it
    url         such as http://127.0.0.1:8000/v1; None reads the environment variable OPENAI_BASE_URL. It never comes
                from an index or a request, which could send queries and the key anywhere.
    concurrent  requests under way at the same time

    A key, if one is needed, is read from OPENAI_API_KEY. What is turned away (429 and the like) is asked again twice.
    """

    def __init__(self, model: str, url: str | None = None, *, concurrent: int = 8) -> None:
        found = url or os.environ.get(URL_VARIABLE)
        if not found:
            raise BackendUnavailable(
                f"no endpoint is known; set {URL_VARIABLE} to its address, such as http://127.0.0.1:8000/v1."
            )
        if not found.startswith(("http://", "https://")):
            raise InvalidInput(f"the address of an endpoint begins with http:// or https://, got {found!r}.")
        if not 1 <= concurrent <= 256:
            raise InvalidInput(f"concurrent must be from 1 to 256, got {concurrent}.")
        self._url = found.rstrip("/")
        self._name = model
        self._concurrent = concurrent

    @property
    def name(self) -> str:
        return self._name

    def cut(self, text: str, tokens: int) -> str:
        return text[: tokens * CHARACTERS_PER_TOKEN]

    def likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[str], deadline: Deadline, usage: Usage
    ) -> list[list[float]]:
        raise BackendUnavailable(
            "chat completions do not tell how likely a given text is; use yes_no or pairwise with an endpoint, or "
            "query_likelihood with a model in this process."
        )

    def choose(
        self, prompts: Sequence[Prompt], options: tuple[str, str], deadline: Deadline, usage: Usage
    ) -> list[float]:
        """Compare the options' last words where the answer has one of them, by the log-probabilities listed there.

        One that is not listed counts as the least likely of those that are. Raises BackendUnavailable where the
        endpoint lists none.
        """
        words = (options[0].split()[-1].lower(), options[1].split()[-1].lower())
        extra = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return self._all(prompts, lambda choice: _difference(choice, words, self._name), extra, deadline, usage)

    def write(self, prompts: Sequence[Prompt], deadline: Deadline, usage: Usage) -> list[str]:
        return self._all(prompts, lambda choice: str(choice["message"]["content"] or ""), {}, deadline, usage)

    def _all(
        self,
        prompts: Sequence[Prompt],
        read: Callable[[dict[str, Any]], Any],
        extra: dict[str, Any],
        deadline: Deadline,
        usage: Usage,
    ) -> list[Any]:
        import httpx

        key = os.environ.get(KEY_VARIABLE)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with (
            httpx.Client(headers=headers, follow_redirects=False) as client,
            ThreadPoolExecutor(min(self._concurrent, max(len(prompts), 1))) as pool,
        ):
            asked = [pool.submit(self._ask, client, prompt, read, extra, deadline) for prompt in prompts]
            try:
                answers = [future.result() for future in asked]
            except BaseException:
                pool.shutdown(cancel_futures=True, wait=False)
                raise
        for _, tokens in answers:
            usage.prompt_tokens += tokens[0]
            usage.answer_tokens += tokens[1]
        return [found for found, _ in answers]

    def _ask(
        self,
        client: Any,
        prompt: Prompt,
        read: Callable[[dict[str, Any]], Any],
        extra: dict[str, Any],
        deadline: Deadline,
    ) -> tuple[Any, tuple[int, int]]:
        """Return what `read` makes of the answer, and the tokens read and written."""
        body = {"model": self._name, "messages": prompt.messages, "max_tokens": WRITTEN_TOKENS, "temperature": 0}
        response = self._post(client, body | extra, deadline)
        try:
            content = response.json()
            tokens = content.get("usage") or {}
            return read(content["choices"][0]), (
                int(tokens.get("prompt_tokens") or 0),
                int(tokens.get("completion_tokens") or 0),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise BackendUnavailable(
                f"{self._url} does not answer as OpenAI's chat completions do: {error!r}"
            ) from error

    def _post(self, client: Any, body: dict[str, Any], deadline: Deadline) -> Any:
        import httpx

        for pause in (*PAUSES, None):
            deadline.require()
            left = deadline.seconds
            try:
                response = client.post(
                    f"{self._url}/chat/completions",
                    json=body,
                    timeout=PATIENCE if left is None else min(PATIENCE, left),
                )
            except httpx.TimeoutException as error:
                deadline.require()
                raise BackendUnavailable(f"{self._url} gave no answer within {PATIENCE:g} s.") from error
            except httpx.HTTPError as error:
                raise BackendUnavailable(
                    f"{self._url} cannot be reached: {error}; start it or check {URL_VARIABLE}."
                ) from error
            if response.status_code not in TURNED_AWAY or pause is None:
                break
            _wait(_asked_pause(response, pause), deadline)
        if not response.is_success:
            raise BackendUnavailable(
                f"{self._url} answered {response.status_code} for {self._name}: {response.text[:200]}"
            )
        if len(response.content) > MOST_BYTES:
            raise BackendUnavailable(
                f"{self._url} answered with {len(response.content)} bytes; that is no short answer."
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


def _difference(choice: dict[str, Any], words: tuple[str, str], name: str) -> float:
    """Return the difference of log p where the first token stands that is one of two words; 0 where none does."""
    listed = (choice.get("logprobs") or {}).get("content")
    if not listed:
        raise BackendUnavailable(f"the endpoint lists no log-probabilities for {name}; use mode: generation.")
    for place in listed:
        if _word(place["token"]) not in words:
            continue
        tops = [(str(top["token"]), float(top["logprob"])) for top in place["top_logprobs"]]
        least = min((value for _, value in tops), default=float(place["logprob"]))
        # Variants of a word, such as with a space before it, add up.
        found = [
            math.log(sum(math.exp(value) for token, value in tops if _word(token) == word) or math.exp(least))
            for word in words
        ]
        return found[0] - found[1]
    return 0.0


def _word(token: Any) -> str:
    return str(token).strip(" \n\t▁Ġ.:\"'*").lower()
