"""Bodies of requests and responses. Their bounds are part of the API and stand in /openapi.json.

Requests are strict: a name that is not known, a number in quotes or 10.0 where a whole number is meant is
refused, since guessing hides mistakes.
"""

from typing import Annotated, Any, Literal, Self

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

from retriever.pipeline import PipelineSpec
from retriever.search import MAX_K, MAX_QUERY_CHARACTERS

MAX_HITS = 1000
MAX_QUERIES = 64
MAX_INPUTS = 256
MAX_RERANKED = 1000
MAX_DEADLINE_MS = 600_000

Stage = Literal["bm25", "dense", "rerank"]
InputType = Literal["query", "document"]


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
    include_documents: StrictBool = Field(True, description="Return titles, texts and metadata.")
    deadline_ms: StrictInt | StrictFloat | None = Field(
        default=None,
        gt=0,
        le=MAX_DEADLINE_MS,
        description="Time for all queries together, waiting included. Reranking that takes longer is left "
        "out, and `degraded` says so.",
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
        return self

    @property
    def texts(self) -> list[str]:
        """The queries, however they were given."""
        return [self.query] if self.query is not None else self.queries or []


def _require_text(text: str, place: str = "") -> None:
    if not text.strip():
        raise ValueError(f"{place}the text is empty; give at least one word")


class HitBody(BaseModel):
    """One document of an answer."""

    id: str
    score: float = Field(description="What ranks; larger is better.")
    scores: dict[str, float] = Field(description="The score that each stage gave, by stage.")
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


class Result(BaseModel):
    """The answer to one query, and how far it can be trusted."""

    hits: list[HitBody]
    status: Literal["exact", "approximate", "truncated", "degraded"] = Field(description="The worst that applies.")
    exact: bool = Field(description="Every document that the filter allows was looked at.")
    truncated: bool = Field(description="The query was longer than what was read of it.")
    degraded: list[str] = Field(description="Stages that failed or ran out of time and were left out.")
    warnings: list[str]
    timings: dict[str, float] = Field(description="Milliseconds by stage, and `total`.")


class IndexState(BaseModel):
    """Which index answered."""

    generation: int
    fingerprint: str


class SearchResponse(BaseModel):
    """One result for each query, in the order asked."""

    results: list[Result]
    pipeline: str
    stages: list[str] = Field(description="The stages that were asked to run.")
    index: IndexState
    request_id: str


class EmbeddingRequest(Body):
    """Texts to turn into vectors; the form of OpenAI's API, with `input_type`."""

    input: list[StrictStr] = Field(min_length=1, max_length=MAX_INPUTS, description="One text, or a list of them.")
    model: StrictStr = Field(description="The index's encoder; GET /v1/models lists it.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64 packs little-endian float32.")
    dimensions: StrictInt | None = Field(default=None, ge=1, description="The width of the vectors; no other is given.")
    input_type: InputType = Field("document", description="Encoders may treat queries and documents differently.")
    user: StrictStr | None = Field(default=None, description="Accepted for compatibility and not used.")

    @field_validator("input", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
            raise ValueError("token ids are not accepted, since they depend on a tokenizer; send text")
        return value

    @field_validator("input")
    @classmethod
    def _not_empty(cls, texts: list[str]) -> list[str]:
        for position, text in enumerate(texts):
            _require_text(text, f"item {position}: ")
        return texts


class Embedding(BaseModel):
    """One vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model really read, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    truncated: list[int] = Field(description="Positions of inputs that were cut to the model's length.")


class ModelBody(BaseModel):
    """A model that this service runs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "retriever"
    task: Literal["embedding", "rerank"]


class ModelList(BaseModel):
    """The models of this service."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class RerankedDocument(Body):
    """A document as an object; the form that Jina's clients send."""

    text: StrictStr


class RerankRequest(Body):
    """A query and documents to order by relevance; the form of Jina's API."""

    query: StrictStr = Field(max_length=MAX_QUERY_CHARACTERS)
    documents: list[StrictStr | RerankedDocument] = Field(max_length=MAX_RERANKED)
    model: StrictStr | None = Field(default=None, description="The configured reranker, or null.")
    top_n: StrictInt | None = Field(default=None, ge=1, description="How many to return; null for all.")
    return_documents: StrictBool = True

    @field_validator("query")
    @classmethod
    def _not_empty(cls, query: str) -> str:
        _require_text(query)
        return query

    @property
    def texts(self) -> list[str]:
        """The documents' texts, however they were given."""
        return [part if isinstance(part, str) else part.text for part in self.documents]


class RerankResult(BaseModel):
    """One document's place in the new order."""

    index: int = Field(description="Its position in the request.")
    relevance_score: float = Field(description="From 0 to 1, the logistic function of the model's logit.")
    document: RerankedDocument | None = None


class RerankResponse(BaseModel):
    """Documents, best first; equal ones in the order sent."""

    model: str
    results: list[RerankResult]
    truncated: int = Field(description="Documents that were cut to the model's length.")


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
