"""Rerankers by language models: query likelihood, yes or no, and pairs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retriever.encoder import Precision
from retriever.errors import InvalidInput
from retriever.llm import orders
from retriever.llm.judge import Judge
from retriever.llm.orders import Pair
from retriever.llm.usage import Deadline, OutOfTime, Usage
from retriever.pipeline import MOST_ALL_PAIRS, Rerank
from retriever.types import Document

# Pointwise scores are asked for in portions from the top of the order before; what is scored in time is used.
PORTION = 8


@dataclass(frozen=True, slots=True)
class Ranked:
    """Scores of the first documents, larger is better; of all of them unless time ran out.

    truncated  how many documents were cut to what is read of each
    query_cut  whether the query was
    complete   False when the deadline passed: pointwise, documents without a score are missing at the end; pairwise,
               the scores tell the order so far, and none are there if nothing had been compared
    """

    scores: NDArray[np.float32]
    truncated: int
    query_cut: bool
    complete: bool
    usage: Usage


class LanguageRanker:
    """Ranks by a language model as a pipeline's `rerank` says; fits `retriever.protocols.Reranker`.

    query_likelihood  log p(query | document), arXiv:2204.07496
    yes_no            log p(Yes) - log p(No)
    pairwise          comparisons put in order by `retriever.llm.orders`, arXiv:2306.17563; a score is the number of
                      documents that stand below

    `usage` of an answer counts what it cost. Raises as `retriever.llm.model.LanguageModel` does.
    """

    def __init__(self, judge: Judge, settings: Rerank) -> None:
        if settings.kind == "cross_encoder":
            raise InvalidInput("a cross-encoder is no language model; give kind query_likelihood, yes_no or pairwise.")
        self._judge = judge
        self._settings = settings

    @property
    def name(self) -> str:
        return f"{self._settings.kind}:{self._judge.model.name}"

    def score(self, query: str, documents: Sequence[Document]) -> tuple[NDArray[np.float32], int]:
        ranked = self.rank(query, documents, None)
        return ranked.scores, ranked.truncated

    def rank(self, query: str, documents: Sequence[Document], deadline: float | None) -> Ranked:
        """Score documents that stand in the order of the stages before.

        deadline  moment of time.perf_counter(); None takes as long as it takes
        """
        settings = self._settings
        texts = [self._judge.model.cut(document.content, settings.document_tokens) for document in documents]
        truncated = sum(len(text) < len(document.content) for text, document in zip(texts, documents, strict=True))
        asked = self._judge.model.cut(query, settings.query_tokens)
        usage, until = Usage(), Deadline(deadline)
        if settings.kind == "pairwise":
            scores, complete = self._compared(asked, texts, until, usage)
        else:
            scores, complete = self._pointwise(asked, texts, until, usage)
        return Ranked(np.array(scores, np.float32), truncated, len(asked) < len(query), complete, usage)

    def _pointwise(
        self, query: str, texts: Sequence[str], deadline: Deadline, usage: Usage
    ) -> tuple[list[float], bool]:
        scores: list[float] = []
        # Without a deadline larger portions make fuller batches.
        portion = PORTION if deadline.moment is not None else max(len(texts), 1)
        try:
            for start in range(0, len(texts), portion):
                part = texts[start : start + portion]
                deadline.require()
                if self._settings.kind == "yes_no":
                    scores += self._judge.relevance(query, part, deadline, usage)
                else:
                    scores += self._judge.query_likelihoods(query, part, self._settings.reduction, deadline, usage)
        except OutOfTime:
            return scores, False
        return scores, True

    def _compared(self, query: str, texts: Sequence[str], deadline: Deadline, usage: Usage) -> tuple[list[float], bool]:
        settings, count = self._settings, len(texts)
        if settings.strategy == "all_pairs" and count > MOST_ALL_PAIRS:
            raise InvalidInput(f"all_pairs takes at most {MOST_ALL_PAIRS} documents, got {count}; use sliding or heap.")
        try:
            compare = self._comparing(query, texts, deadline, usage)
        except OutOfTime:
            return [], False
        if settings.strategy == "all_pairs":
            order, complete = orders.all_pairs(count, compare)
        elif settings.strategy == "heap":
            order, complete = orders.heap(count, compare, min(settings.best, count))
        else:
            order, complete = orders.sliding(count, compare, settings.passes)
        if not complete and not usage.comparisons:
            return [], False
        if count > 2 and complete and usage.comparisons == usage.ties:
            # Nothing was decided: constant scores say so, where an order would look like a ranking.
            return [0.0] * count, complete
        scores = [0.0] * count
        for place, document in enumerate(order):
            scores[document] = float(count - 1 - place)
        return scores, complete

    def _comparing(
        self, query: str, texts: Sequence[str], deadline: Deadline, usage: Usage
    ) -> Callable[[Sequence[Pair]], list[float]]:
        """Return the function that compares documents at pairs of places."""
        settings = self._settings

        def asked(pairs: Sequence[Pair]) -> list[float]:
            deadline.require()
            shown = [(texts[first], texts[second]) for first, second in pairs]
            return self._judge.preferences(query, shown, settings.mode, deadline, usage)

        offset = 0.0
        if settings.debias and len(texts) > 1:
            # What the model prefers of the place alone: the median over pairs in both orders, arXiv:2307.07889.
            offset = median(asked(_both_ways(self._probed(len(texts)))))

        def compare(pairs: Sequence[Pair]) -> list[float]:
            count = _likely if settings.soft else _agreed
            if settings.both_orders:
                found = [value - offset for value in asked(_both_ways(pairs))]
                results = [count(found[2 * i], found[2 * i + 1]) for i in range(len(pairs))]
            else:
                results = [count(value - offset, offset - value) for value in asked(pairs)]
            usage.comparisons += len(pairs)
            usage.ties += sum(result == 0.5 for result in results)
            return results

        return compare

    def _probed(self, count: int) -> list[Pair]:
        """Return the pairs that the offset is taken from, which are asked about anyway: neighbours, or all."""
        if self._settings.strategy == "all_pairs":
            return [(first, second) for first in range(count) for second in range(first + 1, count)]
        return [(place, place + 1) for place in range(count - 1)]


def _both_ways(pairs: Sequence[Pair]) -> list[Pair]:
    return [shown for first, second in pairs for shown in ((first, second), (second, first))]


def _agreed(shown_first: float, shown_second: float) -> float:
    """Return 1 or 0 where the answers in both orders agree on the first or the second document, else 1/2."""
    if shown_first > 0 > shown_second:
        return 1.0
    if shown_first < 0 < shown_second:
        return 0.0
    return 0.5


def _likely(shown_first: float, shown_second: float) -> float:
    """Return the probability of the first document, by the mean of the log-odds that it has at either place."""
    # The logistic function of half the difference, which overflows nowhere in this form.
    return (1 + math.tanh((shown_first - shown_second) / 4)) / 2


def open_judge(
    model: str,
    backend: Literal["transformers", "endpoint"],
    *,
    device: str | None = None,
    offline: bool = False,
    precision: Precision | None = None,
) -> Judge:
    """Return a language model with a cache for its answers. Raises BackendUnavailable."""
    if backend == "endpoint":
        from retriever.llm.endpoint import EndpointModel

        return Judge(EndpointModel(model))
    from retriever.llm.causal import CausalModel

    return Judge(CausalModel(model, device=device, offline=offline, precision=precision))
