"""What goes in and what comes out: documents, hits and answers.

Letters for array dimensions, used in every docstring: B batch, Q queries, D documents, N corpus,
S query tokens, T document tokens, H width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Run = dict[str, list[tuple[str, float]]]
"""Ranked lists by query id, best first; larger scores are better and ties stand in order of id."""


@dataclass(frozen=True, slots=True)
class Document:
    """One unit of retrieval: a whole document, or a chunk of one.

    A chunk has `parent`, the id of the document it was cut from, and `span`, the half-open range of
    characters of the parent's text that it covers; the spans of all chunks of a parent cover its text.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    span: tuple[int, int] | None = None

    @property
    def content(self) -> str:
        """Title and text joined by one space: what every analyser, encoder and reranker sees."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a test collection."""

    id: str
    text: str


@dataclass(slots=True)
class Hit:
    """One document of an answer.

    `scores` holds the score that each stage gave ("bm25", "dense", "fusion", "rerank"); a stage that
    did not see the document is absent. `score` is the one that ranks.
    `highlights` are half-open character ranges of the document's text where query terms occur.
    """

    id: str
    score: float
    scores: dict[str, float] = field(default_factory=dict)
    document: Document | None = None
    highlights: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """The result of one query, and how far it can be trusted.

    exact       every stage that chooses candidates looked at every document that the filter allows
                (an ANN index without exact fallback makes this False)
    truncated   the query was cut to the encoder's maximum length
    degraded    stages that failed and were left out, such as "rerank_failed"; empty when all is well
    timings     milliseconds by stage, and "total"
    """

    hits: list[Hit]
    pipeline: str
    generation: int
    exact: bool = True
    truncated: bool = False
    degraded: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """One word for all of it, the worst that applies: degraded, truncated, approximate or exact."""
        if self.degraded:
            return "degraded"
        if self.truncated:
            return "truncated"
        return "exact" if self.exact else "approximate"

    def ranking(self) -> Sequence[tuple[str, float]]:
        """Return (id, score) pairs, best first: the common currency of runs."""
        return [(hit.id, hit.score) for hit in self.hits]
