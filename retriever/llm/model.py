"""What a ranker asks of a language model, wherever it runs."""

from collections.abc import Sequence
from typing import Protocol

from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, Usage

WRITTEN_TOKENS = 8
"""Longest answer that is written when one of two is asked for."""


class LanguageModel(Protocol):
    """Answers prompts. All calls are bounded by a deadline and raise OutOfTime beyond it.

    Raises BackendUnavailable when the model cannot be reached or does not offer what is asked, ModelFault for numbers
    that are not finite, PromptTooLong for what does not fit into its window.
    """

    @property
    def name(self) -> str: ...

    def cut(self, text: str, tokens: int) -> str:
        """Return the beginning of a text that has about so many tokens."""
        ...

    def likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[str], deadline: Deadline, usage: Usage
    ) -> list[list[float]]:
        """Return log p of each token of each answer behind its prompt."""
        ...

    def choose(
        self, prompts: Sequence[Prompt], options: tuple[str, str], deadline: Deadline, usage: Usage
    ) -> list[float]:
        """Return for each prompt log p(first option) - log p(second); 0 where the model considers neither."""
        ...

    def write(self, prompts: Sequence[Prompt], deadline: Deadline, usage: Usage) -> list[str]:
        """Return the likeliest answers, of at most WRITTEN_TOKENS tokens."""
        ...
