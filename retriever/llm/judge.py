"""Answers of a language model as numbers: counted, cached and within a deadline."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

from retriever.errors import ModelFault
from retriever.llm import prompts
from retriever.llm.cache import AnswerCache, key_of
from retriever.llm.model import LanguageModel
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, Usage

Mode = Literal["scoring", "generation"]
Reduction = Literal["sum", "mean"]

# Prompts that are given to the model at a time where there is a deadline, so that what was found in time is kept.
PORTION = 32
# And without one: what is found is in the cache when a call ends, for the next one if this one is broken off.
MOST_TOGETHER = 512

NAMED = re.compile(r"^\W*passage\W+([ab])\b", re.IGNORECASE)
LETTER = re.compile(r"^\W*([ab])\W*$", re.IGNORECASE)
MENTIONED = re.compile(r"\bpassage\W+([ab])\b", re.IGNORECASE)


class Judge:
    """One model and its cache, shared by all rankings."""

    def __init__(self, model: LanguageModel, cache: AnswerCache | None = None) -> None:
        self.model = model
        self._cache = AnswerCache() if cache is None else cache

    def query_likelihoods(
        self, query: str, documents: Sequence[str], reduction: Reduction, deadline: Deadline, usage: Usage
    ) -> list[float]:
        """Return log p(query | document), the sum or the mean over the query's tokens."""

        def ask(asked: Sequence[Prompt]) -> list[float]:
            found = self.model.likelihoods(asked, [query] * len(asked), deadline, usage)
            return [math.fsum(tokens) / (len(tokens) if reduction == "mean" else 1) for tokens in found]

        questions = [prompts.likelihood(document) for document in documents]
        return self._answers(f"likelihood {reduction}", query, questions, ask, deadline, usage)

    def relevance(self, query: str, documents: Sequence[str], deadline: Deadline, usage: Usage) -> list[float]:
        """Return log p(Yes) - log p(No) to whether each document answers the query."""

        def ask(asked: Sequence[Prompt]) -> list[float]:
            return self.model.choose(asked, prompts.YES_NO, deadline, usage)

        questions = [prompts.yes_no(query, document) for document in documents]
        return self._answers("yes or no", query, questions, ask, deadline, usage)

    def preferences(
        self, query: str, pairs: Sequence[tuple[str, str]], mode: Mode, deadline: Deadline, usage: Usage
    ) -> list[float]:
        """Return for each pair, shown in this order, a number above 0 where the first is preferred, below 0 the second.

        Scoring gives log p(Passage A) - log p(Passage B); generation 1, -1, or 0 for an answer that is neither.
        """

        def score(asked: Sequence[Prompt]) -> list[float]:
            return self.model.choose(asked, prompts.PASSAGES, deadline, usage)

        def generate(asked: Sequence[Prompt]) -> list[float]:
            return [preferred(answer) for answer in self.model.write(asked, deadline, usage)]

        questions = [prompts.pair(query, first, second) for first, second in pairs]
        ask = score if mode == "scoring" else generate
        found = self._answers(f"pair {mode}", query, questions, ask, deadline, usage)
        usage.invalid += sum(value == 0 for value in found)
        return found

    def _answers(
        self,
        kind: str,
        query: str,
        questions: Sequence[Prompt],
        ask: Callable[[Sequence[Prompt]], list[float]],
        deadline: Deadline,
        usage: Usage,
    ) -> list[float]:
        """Return the answer to each question; equal questions are asked once. Raises OutOfTime, ModelFault."""
        keys = [key_of(kind, self.model.name, query, question.user) for question in questions]
        values: dict[bytes, float | None] = {key: self._cache.get(key) for key in keys}
        unknown = {key: question for key, question in zip(keys, questions, strict=True) if values[key] is None}
        usage.cached += len(questions) - len(unknown)
        waiting = list(unknown)
        # Without one, the more there are the less of a batch is padding.
        size = PORTION if deadline.moment is not None else MOST_TOGETHER
        for start in range(0, len(waiting), size):
            portion = waiting[start : start + size]
            found = ask([unknown[key] for key in portion])
            usage.calls += len(portion)
            for key, value in zip(portion, found, strict=True):
                if not math.isfinite(value):
                    raise ModelFault(f"{self.model.name} gave an answer that is not finite for {query[:80]!r}.")
                values[key] = value
                self._cache.put(key, value)
        return [known for key in keys if (known := values[key]) is not None]


def preferred(answer: str) -> float:
    """Return 1 for an answer that names passage A, -1 for B, 0 for neither or both."""
    match = NAMED.match(answer) or LETTER.match(answer)
    letters = {match[1].lower()} if match else {letter.lower() for letter in MENTIONED.findall(answer)}
    if len(letters) != 1:
        return 0.0
    return 1.0 if letters == {"a"} else -1.0
