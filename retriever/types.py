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


@dataclass(frozen=True, slots=True)
class TermScore:
    """What one analysed term of a query adds to the BM25 score of a document.

    weight     of the term in the query: how often it occurs there, times its boost and its field's weight
    frequency  how often it occurs in the document's field
    score      what it adds; the float64 sum over all terms, rounded to float32, is the BM25 score
    """

    term: str
    weight: float
    idf: float
    frequency: int
    score: float
    field: str = "contents"


@dataclass(slots=True)
class Explanation:
    """Where a score comes from.

    ranks  the document's place, from 1, in the list of each stage that scored it
    terms  what each term adds to the score of "bm25", the largest first; empty where that stage did not score the
           document, or where the query has more to it than terms (phrases, prefixes, nested groups)
    """

    ranks: dict[str, int] = field(default_factory=dict)
    terms: list[TermScore] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Facets:
    """How often the values of declared fields occur in the documents that match a query.

    counts     by field: (value, documents) pairs, the most frequent first, ties in order of value
    documents  how many documents were counted: with the query syntax all that fulfil the query; otherwise all
               that hold one of its terms, where a pipeline searches by words, together with the best `depth` of
               each stage that searches by a model; always within the filter, chunks counted one by one
    complete   False where such a stage gave no more than its `depth`, so that there may be others as good
    """

    counts: dict[str, list[tuple[str | float, int]]]
    documents: int
    complete: bool


@dataclass(slots=True)
class Hit:
    """One document of an answer.

    `scores` holds the score that each stage gave ("bm25", "dense", "fusion", "rerank"); a stage that
    did not see the document is absent. `score` is the one that ranks.
    `highlights` are half-open character ranges of the document's text where query terms occur.
    `relevance` is the probability of being relevant where the pipeline is calibrated and its last stage scored the hit.
    """

    id: str
    score: float
    scores: dict[str, float] = field(default_factory=dict)
    document: Document | None = None
    highlights: list[tuple[int, int]] = field(default_factory=list)
    explanation: Explanation | None = None
    relevance: float | None = None


@dataclass(slots=True)
class Answer:
    """The result of one query, and how far it can be trusted.

    exact       every stage that chooses candidates looked at every document that the filter allows
                (an ANN index without exact fallback makes this False)
    truncated   the query was cut to the encoder's maximum length
    degraded    stages that failed and were left out, such as "rerank_failed"; empty when all is well
    timings     milliseconds by stage, and "total"
    facets      counts over what matches, when they were asked for
    usage       what a language model that reranks was asked, see `retriever.llm.usage.Usage`; empty without one
    """

    hits: list[Hit]
    pipeline: str
    generation: int
    exact: bool = True
    truncated: bool = False
    degraded: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    facets: Facets | None = None
    usage: dict[str, int] = field(default_factory=dict)

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
