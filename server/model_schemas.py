"""Bodies of the model routes, each in the form of the API that its clients know.

What is ours beyond those APIs: `input_type`, `output`, `truncate` and `truncated` of embeddings, `truncated` of
reranked documents.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from retriever.search import MAX_QUERY_CHARACTERS
from server.schemas import MAX_INPUTS, MAX_RERANKED, Body

MAX_TOKEN_IDS = 32_768
MAX_NAME = 500

ModelName = Annotated[StrictStr, Field(max_length=MAX_NAME)]
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKEN_IDS)]
Direction = Literal["right", "Right"]
Query = Annotated[StrictStr, Field(max_length=MAX_QUERY_CHARACTERS)]


def require_text(text: str, place: str = "") -> None:
    """Raise ValueError for a text without any word."""
    if not text.strip():
        raise ValueError(f"{place}the text is empty; give at least one word")


class EmbeddingRequest(Body):
    """Texts to turn into vectors; the form of OpenAI's API."""

    input: (
        StrictStr
        | Annotated[list[StrictStr] | TokenIds | list[TokenIds], Field(min_length=1, max_length=MAX_TOKEN_IDS)]
    ) = Field(
        description=f"A text, up to {MAX_INPUTS} texts, or token ids of this very model without special tokens, of one "
        "text or of several. Ids that the model's tokenizer would not give are refused."
    )
    model: ModelName = Field(description="An encoder; GET /v1/models lists them.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64 packs little-endian float32.")
    dimensions: StrictInt | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Keep so many numbers of each vector, scaled to unit length again where the model's have it. Good "
        "for models that were trained for it (Matryoshka); worse with others.",
    )
    input_type: Literal["query", "document"] = Field(
        "document", description="Encoders may treat queries and documents differently."
    )
    output: Literal["dense", "sparse", "multi_vector"] = Field(
        "dense",
        description="What the model gives: a vector, weights of terms, or a vector for each token. GET /v1/models says "
        "which; another one is refused.",
    )
    truncate: StrictBool = Field(
        True, description="Cut texts to the model's length and say so in `truncated`; otherwise refuse them."
    )
    truncate_prompt_tokens: StrictInt | None = Field(
        default=None, ge=-1, le=2**31, description="Accepted for clients of vLLM; the model's length holds."
    )
    user: Annotated[StrictStr, Field(max_length=MAX_NAME)] | None = Field(
        default=None, description="Accepted for compatibility and not used."
    )

    @field_validator("input")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, str):
            require_text(value)
        elif not isinstance(value[0], int):
            if len(value) > MAX_INPUTS:
                raise ValueError(f"the list should have at most {MAX_INPUTS} inputs, not {len(value)}")
            for position, text in enumerate(value):
                if isinstance(text, str):
                    require_text(text, f"item {position}: ")
        return value

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs as a list, however they were given."""
        if isinstance(self.input, str):
            return [self.input]
        found: Any = [self.input] if isinstance(self.input[0], int) else self.input
        return list(found)


class SparseWeights(BaseModel):
    """Terms of the model's vocabulary with their weights, heaviest first."""

    terms: list[str]
    weights: list[float]


class Embedding(BaseModel):
    """One vector, as numbers or as base64 of little-endian float32; or what else the model gives."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Empty unless the output is dense.")
    sparse: SparseWeights | None = None
    multi_vector: list[list[float] | str] | None = Field(
        default=None, description="Of a late-interaction encoder, a vector for each token that is scored, in order."
    )


class EmbeddingUsage(BaseModel):
    """Tokens that the model really read, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    truncated: list[int] = Field(description="Positions of inputs that were cut to the model's length.")


class ModelBody(BaseModel):
    """A model that this service runs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "retriever"
    task: Literal["embedding", "rerank"]
    output: Literal["dense", "sparse", "multi_vector"] | None = Field(
        default=None, description="What an encoder gives."
    )
    dimensions: int | None = Field(default=None, description="The width of an encoder's vectors.")
    max_model_len: int = Field(description="The longest input in tokens; what is over is cut off and said so.")


class ModelList(BaseModel):
    """The models of this service."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class EmbedRequest(Body):
    """Texts to turn into vectors; the form of Text Embeddings Inference."""

    inputs: StrictStr | list[StrictStr | TokenIds] | TokenIds = Field(
        description=f"A text, up to {MAX_INPUTS} texts, or token ids as for /v1/embeddings."
    )
    normalize: StrictBool = Field(True, description="Give vectors of unit length.")
    truncate: StrictBool | None = Field(False, description="Cut texts to the model's length instead of refusing them.")
    truncation_direction: Direction = Field("right", description="Only what is at the end can be cut off.")
    prompt_name: Literal["query", "document", "passage"] | None = Field(
        default=None, description="The model's prompt to put before the texts; none by default."
    )
    dimensions: StrictInt | None = Field(default=None, ge=1, le=65_536)

    @property
    def texts(self) -> list[str] | list[str | list[int]]:
        """The inputs as a list, however they were given."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        found: Any = [self.inputs] if self.inputs and isinstance(self.inputs[0], int) else self.inputs
        return list(found)


class RerankedDocument(Body):
    """A document as an object; the form that Jina's clients send."""

    text: StrictStr


class JinaRerankRequest(Body):
    """A query and documents to order by relevance; the form of Jina's API, and of Cohere's first one."""

    query: Query
    documents: list[StrictStr | RerankedDocument] = Field(max_length=MAX_RERANKED)
    model: ModelName | None = Field(default=None, description="A reranker; null for the first one.")
    top_n: StrictInt | None = Field(default=None, ge=1, description="How many to return; null for all.")
    return_documents: StrictBool = True

    @field_validator("query")
    @classmethod
    def _not_empty(cls, query: str) -> str:
        require_text(query)
        return query

    @property
    def texts(self) -> list[str]:
        """The documents' texts, however they were given."""
        return [part if isinstance(part, str) else part.text for part in self.documents]


class JinaRerankResult(BaseModel):
    """One document's place in the new order."""

    index: int = Field(description="Its position in the request.")
    relevance_score: float = Field(description="From 0 to 1, the logistic function of the model's logit.")
    document: RerankedDocument | None = None
    truncated: bool = Field(description="Whether it was cut to the model's length.")


class RerankUsage(BaseModel):
    """Tokens that the model read."""

    total_tokens: int


class JinaRerankResponse(BaseModel):
    """Documents, best first; equal ones in the order sent."""

    object: Literal["list"] = "list"
    model: str
    usage: RerankUsage
    results: list[JinaRerankResult]
    truncated: int = Field(description="Documents that were cut to the model's length.")


class CohereRerankRequest(BaseModel):
    """A query and documents to order by relevance; the form of Cohere's second API."""

    # Its clients send fields that come and go; what would change the result is refused below.
    model_config = ConfigDict(extra="forbid")

    model: ModelName
    query: Query
    documents: list[StrictStr] = Field(min_length=1, max_length=MAX_RERANKED)
    top_n: StrictInt | None = Field(default=None, ge=1, description="How many to return; null for all.")
    max_tokens_per_doc: StrictInt = Field(
        4096, ge=1, le=2**31, description="Cut documents to so many tokens; the model's length holds in any case."
    )
    priority: StrictInt | None = Field(
        default=None, ge=0, le=999, description="Accepted for compatibility and not used."
    )

    @field_validator("query")
    @classmethod
    def _not_empty(cls, query: str) -> str:
        require_text(query)
        return query


class CohereRerankResult(BaseModel):
    """One document's place in the new order."""

    index: int
    relevance_score: float = Field(description="From 0 to 1, the logistic function of the model's logit.")


class ApiVersion(BaseModel):
    """Which of Cohere's APIs this is."""

    version: Literal["2"] = "2"


class BilledUnits(BaseModel):
    """What Cohere would count: one unit a hundred documents."""

    search_units: int


class CohereMeta(BaseModel):
    """What was done beside the order."""

    api_version: ApiVersion = ApiVersion()
    billed_units: BilledUnits
    warnings: list[str] | None = Field(default=None, description="Says when documents were cut.")


class CohereRerankResponse(BaseModel):
    """Documents, best first; equal ones in the order sent."""

    id: str
    results: list[CohereRerankResult]
    meta: CohereMeta


class TeiRerankRequest(Body):
    """A query and texts to order by relevance; the form of Text Embeddings Inference."""

    query: Query
    texts: list[StrictStr]
    raw_scores: StrictBool = Field(False, description="Give the model's logits instead of numbers from 0 to 1.")
    return_text: StrictBool = False
    truncate: StrictBool | None = Field(False, description="Cut texts to the model's length instead of refusing them.")
    truncation_direction: Direction = "right"


class TeiRank(BaseModel):
    """One text's place in the new order."""

    index: int
    score: float
    text: str | None = None
