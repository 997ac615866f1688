"""Bodies of requests and responses. Their bounds are part of the API and stand in /openapi.json.

Requests are strict: a name that is not known, a number in quotes or 10.0 where a whole number is meant is
refused, since guessing hides mistakes.
"""

from typing import Annotated, Any, Literal, Self

from fastapi import Path
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from retriever.fields import MOST_FIELDS
from retriever.pipeline import PipelineSpec
from retriever.search import MAX_K, MAX_QUERY_CHARACTERS

MAX_HITS = 1000
MAX_QUERIES = 64
MAX_INPUTS = 2048
MAX_RERANKED = 1000
MAX_DEADLINE_MS = 600_000
MAX_FACETS = 16
MAX_FACET_VALUES = 1000
MAX_EXPLAINED = 100

Stage = Literal["bm25", "sparse", "dense", "local", "rerank"]


# Any text is taken, so that what cannot be a name is no index (404) rather than a fault of the request.
IndexName = Annotated[str, Path(max_length=1000, description="An index or an alias; GET /v1/indexes lists them.")]


class Body(BaseModel):
    """A request body: unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(Body):
    """One query or several, and what to do with them."""

    query: StrictStr | None = Field(
        default=None,
        description=f"What to look for. What is over {MAX_QUERY_CHARACTERS} characters or the encoder's "
        "length is left out, and `truncated` says so.",
    )
    queries: list[StrictStr] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_QUERIES,
        description="Several queries instead of one; if one of them is faulty none is answered.",
    )
    k: StrictInt = Field(
        10,
        ge=1,
        le=MAX_HITS,
        validation_alias=AliasChoices("k", "limit"),
        description="How many hits for each query; `limit` is accepted as another name.",
    )
    offset: StrictInt = Field(0, ge=0, le=MAX_K, description=f"Hits to pass over; k + offset may be {MAX_K} at most.")
    pipeline: StrictStr | PipelineSpec | None = Field(
        default=None,
        description="A name that /v1/info lists, or the stages themselves; null for the default.",
    )
    field_weights: dict[StrictStr, StrictInt | StrictFloat] | None = Field(
        default=None,
        max_length=MOST_FIELDS + 1,
        description="Instead of those of the pipeline: BM25 is the sum over these fields of weight times that of the "
        'field, such as {"title": 2, "contents": 1}. An index has the fields that it was built with, and `contents`.',
    )
    without: list[Stage] = Field(default_factory=list, max_length=8, description="Stages of the pipeline to leave out.")
    filter: dict[str, Any] | None = Field(
        default=None,
        description='Condition on metadata, such as {"year": {"gte": 2010}, "lang": {"in": ["en", "de"]}}.',
    )
    group_by_parent: StrictBool = Field(False, description="One hit for each document that was cut into chunks.")
    highlight: StrictBool = Field(False, description="Say where query terms stand in each text.")
    syntax: StrictBool = Field(
        False,
        description='Read each query in the query syntax (docs/query-syntax.md): +word -word "a phrase" retriev* '
        "fuzzy~1. Otherwise such signs are plain text.",
    )
    facets: list[StrictStr] = Field(
        default_factory=list,
        max_length=MAX_FACETS,
        description="Declared fields whose values are counted over all documents that match, not only those returned.",
    )
    facet_values: StrictInt = Field(10, ge=1, le=MAX_FACET_VALUES, description="How many values of each facet.")
    explain: StrictBool = Field(
        False,
        description=f"Say for each hit its place in each stage and what each term adds; k may be {MAX_EXPLAINED} then.",
    )
    min_relevance: StrictInt | StrictFloat | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least probability of being relevant; other hits are left out before `offset` is counted. Refused "
        "unless the index holds a calibration for the pipeline (`retriever index calibrate`).",
    )
    include_documents: StrictBool = Field(True, description="Return titles, texts and metadata.")
    deadline_ms: StrictInt | StrictFloat | None = Field(
        default=None,
        gt=0,
        le=MAX_DEADLINE_MS,
        description="Time for all queries together, waiting included. Reranking that takes longer, and encoding where "
        "another first stage is left, are left out, and `degraded` says so; where none is left the answer is 504.",
    )

    @field_validator("query")
    @classmethod
    def _query_not_empty(cls, query: str | None) -> str | None:
        if query is not None:
            _require_text(query)
        return query

    @field_validator("queries")
    @classmethod
    def _queries_not_empty(cls, queries: list[str] | None) -> list[str] | None:
        for position, query in enumerate(queries or []):
            _require_text(query, f"item {position}: ")
        return queries

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        if self.k + self.offset > MAX_K:
            raise ValueError(f"k + offset must be at most {MAX_K}, got {self.k + self.offset}")
        if self.explain and self.k > MAX_EXPLAINED:
            raise ValueError(f"k must be at most {MAX_EXPLAINED} with explain, got {self.k}")
        return self

    @property
    def texts(self) -> list[str]:
        """The queries, however they were given."""
        return [self.query] if self.query is not None else self.queries or []


def _require_text(text: str, place: str = "") -> None:
    if not text.strip():
        raise ValueError(f"{place}the text is empty; give at least one word")


class TermBody(BaseModel):
    """What one analysed term of the query adds to a hit's BM25 score."""

    term: str
    field: str = Field(description="Where it was found; `contents` is title and text together.")
    weight: float = Field(description="How often it stands in the query, times its boost and its field's weight.")
    idf: float
    frequency: int = Field(description="How often it stands in the document's field.")
    score: float


class ExplanationBody(BaseModel):
    """Where a hit's scores come from."""

    ranks: dict[str, int] = Field(description="The hit's place, from 1, in the list of each stage.")
    terms: list[TermBody] = Field(
        description="What adds up to the score of bm25; empty where that stage did not score the hit, or where the "
        "query has more to it than terms."
    )


class FacetValue(BaseModel):
    """A value of a field and how many of the counted documents have it."""

    value: str | float
    count: int


class FacetsBody(BaseModel):
    """How often the values of declared fields occur in the documents that match the query, returned or not."""

    fields: dict[str, list[FacetValue]]
    documents: int = Field(
        description="How many documents were counted: with `syntax` all that fulfil the query; otherwise all that "
        "hold one of its terms, where the pipeline searches by words, together with the best `depth` of each stage "
        "that searches by a model. Always within the filter; chunks count one by one."
    )
    complete: bool = Field(description="False where a stage that searches by a model gave no more than its depth.")


class HitBody(BaseModel):
    """One document of an answer."""

    id: str
    score: float = Field(description="What ranks; larger is better.")
    scores: dict[str, float] = Field(description="The score that each stage gave, by stage.")
    relevance: float | None = Field(
        default=None,
        description="Probability of being relevant, where the pipeline is calibrated; null where its last stage did "
        "not score the hit or the answer is degraded.",
    )
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    parent: str | None = Field(default=None, description="The document that this chunk was cut from.")
    span: tuple[int, int] | None = Field(
        default=None, description="The characters of the parent's text that the chunk covers."
    )
    chunk: str | None = Field(default=None, description="With group_by_parent, the id of the chunk that is shown.")
    highlights: list[tuple[int, int]] = Field(
        default_factory=list,
        description="Half-open ranges of `text` in Unicode code points where query terms stand.",
    )
    explanation: ExplanationBody | None = None


class Result(BaseModel):
    """The answer to one query, and how far it can be trusted."""

    hits: list[HitBody]
    status: Literal["exact", "approximate", "truncated", "degraded"] = Field(description="The worst that applies.")
    exact: bool = Field(description="Every document that the filter allows was looked at.")
    truncated: bool = Field(description="The query was longer than what was read of it.")
    degraded: list[str] = Field(description="Stages that failed or ran out of time and were left out.")
    warnings: list[str]
    timings: dict[str, float] = Field(description="Milliseconds by stage, and `total`.")
    facets: FacetsBody | None = None
    usage: dict[str, int] = Field(
        default_factory=dict,
        description="What a language model that reranks was asked: `calls`, `cached` ones, `comparisons`, `ties` and "
        "`invalid` answers, `prompt_tokens` and `answer_tokens`. Empty where none did.",
    )


class IndexState(BaseModel):
    """Which index answered."""

    name: str
    generation: int
    fingerprint: str


class SearchResponse(BaseModel):
    """One result for each query, in the order asked."""

    results: list[Result]
    pipeline: str
    stages: list[str] = Field(description="The stages that were asked to run.")
    index: IndexState
    request_id: str


class HealthResponse(BaseModel):
    """The service's state, in a word."""

    status: Literal["alive", "ready"]


class Bounds(BaseModel):
    """What one request may ask for."""

    k: int = MAX_HITS
    k_plus_offset: int = MAX_K
    queries: int = MAX_QUERIES
    query_characters: int = MAX_QUERY_CHARACTERS
    embedding_inputs: int = MAX_INPUTS
    rerank_documents: int = MAX_RERANKED
    rerank_depth: int
    body_bytes: int
    default_deadline_ms: float
    concurrent_requests: int
    waiting_requests: int


class InfoResponse(BaseModel):
    """What this service is and what it can be asked."""

    version: str
    versions: dict[str, str]
    limits: Bounds
    pipelines: dict[str, PipelineSpec]
    default_pipeline: str
    fields: dict[str, str]
    encoder: str | None
    reranker: str | None
    index: dict[str, Any]
    reload_error: Annotated[str | None, Field(description="Why a newer generation of the index is not served, if so.")]


class IndexSummary(BaseModel):
    """One index of the service."""

    name: str
    aliases: list[str]
    is_default: bool
    documents: int | None = Field(default=None, description="null when the index cannot be served.")
    generation: int | None = None
    fingerprint: str | None = None
    error: str | None = Field(default=None, description="Why it, or its newest generation, is not served, if so.")


class IndexList(BaseModel):
    """All indexes of the service."""

    indexes: list[IndexSummary]


class IndexDescription(IndexSummary):
    """One index, with all it is made of."""

    pipelines: dict[str, PipelineSpec]
    default_pipeline: str
    fields: dict[str, str]
    encoder: str | None
    writable: bool
    unapplied_writes: int = Field(description="Changes that were promised and are not searchable yet.")
    pending_encoding: int = Field(description="Documents that words find and vectors do not yet.")
    write_error: str | None = Field(description="Why changes are not applied or encoded at the moment, if so.")
    index: dict[str, Any]


class AliasRequest(Body):
    """The index that an alias is to stand for."""

    index: StrictStr = Field(max_length=64)


class AliasBody(BaseModel):
    """An alias and what it stands for."""

    alias: str
    index: str
    before: str | None = Field(default=None, description="What it stood for until now.")


class AliasList(BaseModel):
    """All aliases by name."""

    aliases: dict[str, str]
