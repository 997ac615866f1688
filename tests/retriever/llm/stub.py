"""A judge with known utilities: each document's is the number in its text."""

import math
import re

from retriever.llm.model import WRITTEN_TOKENS


class Stub:
    """Fits `retriever.llm.model.LanguageModel`; larger numbers are better.

    bias  what is added for the passage shown first
    stop  prompts after which the deadline is held to have passed
    """

    name = "stub"

    def __init__(self, bias=0.0, stop=None, value=None):
        self.bias = bias
        self.stop = stop
        self.value = value
        self.asked = 0

    def cut(self, text, tokens):
        return " ".join(text.split()[:tokens])

    def _numbers(self, prompt):
        return [float(found) for found in re.findall(r"Passage[ AB]*: (-?[\d.]+)", prompt.user)]

    def _count(self, prompts, usage):
        from retriever.llm.usage import OutOfTime

        if self.stop is not None and self.asked + len(prompts) > self.stop:
            raise OutOfTime
        self.asked += len(prompts)
        usage.prompt_tokens += sum(len(prompt.user.split()) for prompt in prompts)
        usage.answer_tokens += len(prompts)

    def likelihoods(self, prompts, answers, deadline, usage):
        self._count(prompts, usage)
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            (number,) = self._numbers(prompt)
            found.append([number if self.value is None else self.value] * len(answer.split()))
        return found

    def choose(self, prompts, options, deadline, usage):
        self._count(prompts, usage)
        return [self._difference(prompt) for prompt in prompts]

    def _difference(self, prompt):
        if self.value is not None:
            return self.value
        numbers = self._numbers(prompt)
        return numbers[0] - (numbers[1] if len(numbers) > 1 else 0.0) + self.bias

    def write(self, prompts, deadline, usage):
        assert WRITTEN_TOKENS >= 2
        self._count(prompts, usage)
        differences = [self._difference(prompt) for prompt in prompts]
        return [
            "Neither." if not value or math.isnan(value) else f" Passage {'A' if value > 0 else 'B'}."
            for value in differences
        ]
