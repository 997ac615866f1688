"""A language model behind an OpenAI-compatible endpoint, for rankings."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from retriever.errors import BackendUnavailable, ModelFault
from retriever.llm.chat import Chat
from retriever.llm.model import WRITTEN_TOKENS
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, Usage

URL_VARIABLE = "OPENAI_BASE_URL"

# What providers give at most.
TOP_LOGPROBS = 20

# No tokenizer makes fewer tokens of usual text.
CHARACTERS_PER_TOKEN = 6

# By how much rounding may lift a log-probability above 0.
ROUNDING = 0.01


class EndpointModel:
    """Fits `retriever.llm.model.LanguageModel`, without likelihoods of given answers, which chats do not offer.

    model       as the endpoint calls it
    url         such as http://127.0.0.1:8000/v1; None reads the environment variable OPENAI_BASE_URL. It never comes
                from an index or a request, which could send queries and the key anywhere.
    concurrent  requests under way at the same time

    See `Chat` for keys and patience.
    """

    def __init__(self, model: str, url: str | None = None, *, concurrent: int = 8) -> None:
        found = url or os.environ.get(URL_VARIABLE)
        if not found:
            raise BackendUnavailable(
                f"no endpoint is known; set {URL_VARIABLE} to its address, such as http://127.0.0.1:8000/v1."
            )
        self._chat = Chat(model, found, concurrent=concurrent)

    @property
    def name(self) -> str:
        return self._chat.model

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
        endpoint lists none, and ModelFault for a number that is no log-probability.
        """
        words = (_word(options[0].split()[-1]), _word(options[1].split()[-1]))
        extra = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return self._all(prompts, lambda choice: _difference(choice, words, self.name), extra, deadline, usage)

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
        common = {"max_tokens": WRITTEN_TOKENS, "temperature": 0, **extra}
        answers = self._chat.complete([common | {"messages": prompt.messages} for prompt in prompts], read, deadline)
        usage.prompt_tokens += sum(answer.prompt_tokens for answer in answers)
        usage.answer_tokens += sum(answer.answer_tokens for answer in answers)
        return [answer.found for answer in answers]


def _difference(choice: dict[str, Any], words: tuple[str, str], name: str) -> float:
    """Return the difference of log p where the first token stands that is one of two words; 0 where none does."""
    listed = (choice.get("logprobs") or {}).get("content")
    if not listed:
        raise BackendUnavailable(f"the endpoint lists no log-probabilities for {name}; use mode: generation.")
    for place in listed:
        if _word(place["token"]) not in words:
            continue
        tops = [(_word(top["token"]), _log_probability(top["logprob"], name)) for top in place["top_logprobs"]]
        least = min((value for _, value in tops), default=_log_probability(place["logprob"], name))
        # Variants of a word, such as with a space before it, add up.
        found = [_log_sum([value for other, value in tops if other == word] or [least]) for word in words]
        return found[0] - found[1]
    return 0.0


def _log_probability(value: Any, name: str) -> float:
    """Return a number that an endpoint lists. Raises ModelFault for one that is infinite, NaN or above 0."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number > ROUNDING:
        raise ModelFault(f"the endpoint lists {number} as a log-probability of {name}; use mode: generation.")
    return number


def _log_sum(values: Sequence[float]) -> float:
    """Return log sum exp, also of numbers whose exp is 0, such as the -9999 that stands for what is most unlikely."""
    most = max(values)
    return most + math.log(math.fsum(math.exp(value - most) for value in values))


def _word(token: Any) -> str:
    """Return a token's word, all in small letters unless it is a single one: an article is no passage A."""
    word = str(token).strip(" \n\t▁Ġ.:\"'*")
    return word if len(word) == 1 else word.lower()
