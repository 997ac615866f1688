"""Pipelines as data: which first stages run, how their lists are fused, what puts the top in another order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from retriever.encoder import Precision
from retriever.errors import InvalidInput
from retriever.fields import require_weights

FirstStage = Literal["bm25", "sparse", "dense"]


# Chosen on training and development queries: docs/results/hybrid.md.
MINMAX_WEIGHTS = {"bm25": 0.4, "dense": 0.6}

# The cross-encoder's order alone, as most tools have it; docs/results/reranker.md has measurements of smaller weights.
RERANK_WEIGHT = 1.0

# Documents that a language model ranks at most; all pairs of 50 are 2,450 prompts.
MOST_LANGUAGE_DEPTH = 200
MOST_ALL_PAIRS = 50


class Fusion(BaseModel):
    """How ranked lists become one; see `retriever.fusion` for the arithmetic.

    Without weights, minmax takes MINMAX_WEIGHTS and rrf weighs every stage alike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["rrf", "minmax"] = "minmax"
    constant: int = Field(60, ge=1, le=10_000)
    weights: dict[str, float] = Field(default_factory=dict, validate_default=True)

    @field_validator("weights")
    @classmethod
    def _checked(cls, weights: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if not weights and info.data.get("method") == "minmax":
            # Written out, so that an index keeps its weights when the default changes.
            return dict(MINMAX_WEIGHTS)
        for stage, weight in weights.items():
            if not 0 <= weight <= 1e6:
                raise ValueError(f"the weight of {stage} must be between 0 and 1e6, got {weight}")
        return weights


RerankKind = Literal["cross_encoder", "query_likelihood", "yes_no", "pairwise"]
Backend = Literal["transformers", "endpoint"]

# Options of each kind of language model ranking, beside those that all of them have.
PAIRWISE_OPTIONS = frozenset({"strategy", "passes", "best", "mode", "both_orders", "debias", "soft"})
LANGUAGE_OPTIONS = frozenset({"backend", "precision", "document_tokens", "query_tokens"})

# Of language models, where `depth` is not given.
LANGUAGE_DEPTH = 20


class Rerank(BaseModel):
    """A model, by name or folder, over the best `depth` documents.

    weight  of the model in the final score: weight * r + (1 - weight) * f, where r and f are its scores and
            those of the stages before, each stretched to 0..1 over the reranked documents of the query. At 1 the
            model's order alone counts, and hits bear its raw scores.
    kind    cross_encoder, or a language model asked for query_likelihood, yes_no or pairwise comparisons:
            see `retriever.llm.rankers`, also for their depth of 20 where none is given

    Of language models:
    backend          transformers runs it in this process, endpoint asks the OpenAI-compatible one that the environment
                     variable OPENAI_BASE_URL names
    precision        of transformers; None for bfloat16 on a GPU, float32 elsewhere. bfloat16 is about twice as fast on
                     CPUs that have instructions for it
    document_tokens  what is read of each document; query_tokens of the query
    reduction        of query_likelihood: the sum of log p over the query's tokens, or the mean
    strategy         of pairwise: all_pairs, heap until the `best` are found, or sliding `passes` times from the bottom
    mode             scoring compares log p of the two answers, generation reads what the model writes
    both_orders      ask each pair twice, and count it as undecided where the answers disagree
    debias           take off what the model prefers of the first or the second place alone; for scoring
    soft             count a comparison by the model's probability, not by the winner alone; of both orders by that of
                     the mean of their log-odds, which no preference for a place changes; for scoring
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    depth: int = Field(50, ge=1, le=1000)
    weight: float = Field(RERANK_WEIGHT, ge=0, le=1)
    kind: RerankKind = "cross_encoder"
    backend: Backend = "transformers"
    precision: Precision | None = None
    document_tokens: int = Field(128, ge=8, le=8192)
    query_tokens: int = Field(64, ge=1, le=1024)
    reduction: Literal["sum", "mean"] = "sum"
    strategy: Literal["all_pairs", "heap", "sliding"] = "sliding"
    passes: int = Field(1, ge=1, le=20)
    best: int = Field(10, ge=1, le=200)
    mode: Literal["scoring", "generation"] = "scoring"
    both_orders: bool = True
    debias: bool = False
    soft: bool = False

    @model_validator(mode="before")
    @classmethod
    def _shallow(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind", "cross_encoder") != "cross_encoder" and "depth" not in given:
            return {**given, "depth": LANGUAGE_DEPTH}
        return given

    @model_validator(mode="after")
    def _fitting(self) -> "Rerank":
        allowed: set[str] = set()
        if self.kind != "cross_encoder":
            allowed |= LANGUAGE_OPTIONS
            if self.depth > MOST_LANGUAGE_DEPTH:
                raise ValueError(f"depth must be at most {MOST_LANGUAGE_DEPTH} for a language model, got {self.depth}")
        if self.kind == "pairwise":
            allowed |= PAIRWISE_OPTIONS
        if self.kind == "query_likelihood":
            allowed |= {"reduction"}
        for name in sorted(LANGUAGE_OPTIONS | PAIRWISE_OPTIONS | {"reduction"}):
            if name not in allowed and getattr(self, name) != Rerank.model_fields[name].default:
                raise ValueError(f"{name} is no option of kind {self.kind}")
        if self.strategy == "all_pairs" and self.depth > MOST_ALL_PAIRS:
            raise ValueError(
                f"depth must be at most {MOST_ALL_PAIRS} with all_pairs, got {self.depth}; use sliding or heap"
            )
        for name in ("debias", "soft"):
            if getattr(self, name) and self.mode == "generation":
                raise ValueError(f"{name} needs the numbers of mode scoring; generation gives none")
        if self.precision is not None and self.backend == "endpoint":
            raise ValueError(f"an endpoint chooses its own precision; leave out {self.precision}")
        if self.kind == "query_likelihood" and self.backend == "endpoint":
            raise ValueError("an endpoint does not tell how likely a given query is; use yes_no or pairwise with it")
        return self

    @property
    def loaded(self) -> tuple[str, str, str]:
        """What has to be loaded for it, and may so be offered or not: kind, backend or precision, and model."""
        return self.kind, "endpoint" if self.backend == "endpoint" else self.precision or "", self.model

    @classmethod
    def read(cls, text: str, **options: Any) -> "Rerank":
        """Return the stage that a text names: MODEL, KIND:MODEL, KIND+bfloat16:MODEL or KIND+endpoint:MODEL.

        Raises InvalidInput.
        """
        before, colon, model = text.partition(":")
        kind, plus, added = before.partition("+")
        known = colon and kind in get_args(RerankKind)
        named = {"model": model, "kind": kind} if known else {"model": text}
        if known and plus:
            precisions, backends = get_args(Precision), get_args(Backend)
            if added not in precisions + backends:
                raise InvalidInput(
                    f"the reranker {text!r}: behind + stands a precision ({', '.join(precisions)}) or a backend "
                    f"({', '.join(backends)}), not {added!r}."
                )
            named["precision" if added in precisions else "backend"] = added
        try:
            return cls.model_validate(named | options)
        except ValidationError as error:
            raise InvalidInput(f"the reranker {text!r}: {error}") from error


class Local(BaseModel):
    """The index's local vectors over the best `depth` documents, see `retriever.index.local`.

    weight  of the stages before: a document's score is its local one plus so many times theirs; BiDR's is 0.3, beside
            codes of an encoder with the same scale
    of      "all": the documents of all first stages, once their lists are one; "dense": those that vectors found,
            before their list is fused with others
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Literal["all", "dense"] = "all"
    depth: int = Field(1000, ge=1, le=10_000)
    weight: float = Field(0.3, ge=0, le=1e6)


class Rm3(BaseModel):
    """Feedback by `retriever.feedback.rm3`, Anserini's defaults; filter_terms is for English and the like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["rm3"] = "rm3"
    documents: int = Field(10, ge=1, le=100)
    terms: int = Field(10, ge=1, le=500)
    original_weight: float = Field(0.5, ge=0, le=1)
    filter_terms: bool = True


class Rocchio(BaseModel):
    """Feedback by `retriever.feedback.rocchio`, Anserini's defaults.

    last_documents  how many at the end of the best `first_depth` are held to be not relevant, with weight gamma;
                    Anserini's switch for it takes 10
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["rocchio"] = "rocchio"
    documents: int = Field(10, ge=1, le=100)
    terms: int = Field(10, ge=1, le=500)
    last_documents: int = Field(0, ge=0, le=100)
    first_depth: int = Field(50, ge=1, le=1000)
    alpha: float = Field(1.0, ge=0, le=100)
    beta: float = Field(0.75, ge=0, le=100)
    gamma: float = Field(0.15, ge=0, le=100)

    @model_validator(mode="after")
    def _apart(self) -> "Rocchio":
        if self.last_documents and self.documents + self.last_documents > self.first_depth:
            raise ValueError(
                f"documents + last_documents must be at most first_depth, "
                f"got {self.documents} + {self.last_documents} and {self.first_depth}"
            )
        return self


Feedback = Annotated[Rm3 | Rocchio, Field(discriminator="method")]


class PipelineSpec(BaseModel):
    """First stages, feedback for bm25, fusion when there are several stages; optional local vectors and a reranker.

    field_weights  bm25 is the sum over these fields of weight times the field's own BM25; without it title and text
                   are searched as one field, `contents`
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: tuple[FirstStage, ...] = Field(min_length=1)
    depth: int = Field(1000, ge=1, le=100_000)
    field_weights: dict[str, StrictFloat] | None = None
    feedback: Feedback | None = None
    fusion: Fusion = Fusion()
    local: Local | None = None
    rerank: Rerank | None = None

    @field_validator("first")
    @classmethod
    def _once(cls, first: tuple[FirstStage, ...]) -> tuple[FirstStage, ...]:
        if len(set(first)) != len(first):
            raise ValueError(f"a first stage stands twice in {list(first)}")
        return first

    @field_validator("field_weights")
    @classmethod
    def _weighed(cls, field_weights: dict[str, float] | None) -> dict[str, float] | None:
        if field_weights is not None:
            require_weights(field_weights)
        return field_weights

    @model_validator(mode="after")
    def _something_to_weigh(self) -> "PipelineSpec":
        if self.field_weights is not None and "bm25" not in self.first:
            raise ValueError(f"field_weights are for bm25, which is not among the first stages {list(self.first)}")
        return self

    @model_validator(mode="after")
    def _something_to_rescore(self) -> "PipelineSpec":
        if self.local is not None and self.local.of == "dense" and "dense" not in self.first:
            raise ValueError(f"local of dense needs dense, which is not among the first stages {list(self.first)}")
        return self

    @model_validator(mode="after")
    def _something_to_feed(self) -> "PipelineSpec":
        if self.feedback is not None and "bm25" not in self.first:
            raise ValueError(f"feedback is for bm25, which is not among the first stages {list(self.first)}")
        return self

    def without(self, *stages: str) -> "PipelineSpec":
        """Return this pipeline with stages left out: "bm25", "sparse", "dense", "local" or "rerank".

        Raises InvalidInput when no first stage would be left.
        """
        unknown = set(stages) - {"bm25", "sparse", "dense", "local", "rerank"}
        if unknown:
            raise InvalidInput(
                f"cannot leave out {sorted(unknown)}; the stages are bm25, sparse, dense, local, rerank."
            )
        first = tuple(stage for stage in self.first if stage not in stages)
        if not first:
            raise InvalidInput("no first stage would be left; keep bm25, sparse or dense.")
        kept = self.local is not None and "local" not in stages and (self.local.of == "all" or "dense" in first)
        return self.model_copy(
            update={
                "first": first,
                "field_weights": self.field_weights if "bm25" in first else None,
                "feedback": self.feedback if "bm25" in first else None,
                "local": self.local if kept else None,
                "rerank": None if "rerank" in stages else self.rerank,
            }
        )

    @property
    def last(self) -> Literal["local", "rerank"] | None:
        """The model that puts the final ranking in order; None where first stages or their fusion do."""
        if self.rerank is not None:
            return "rerank"
        if self.local is not None and (self.local.of == "all" or len(self.first) == 1):
            return "local"
        return None

    def weighing(self, field_weights: Mapping[str, float]) -> "PipelineSpec":
        """Return this pipeline with other weights of fields. Raises InvalidInput."""
        if "bm25" not in self.first:
            raise InvalidInput(f"field weights are for bm25, which is not among the first stages {list(self.first)}.")
        try:
            require_weights(field_weights)
        except ValueError as error:
            raise InvalidInput(f"{error}.") from error
        return self.model_copy(update={"field_weights": dict(field_weights)})


def default_pipelines(parts: tuple[FirstStage, ...], *, local: Local | None = None) -> dict[str, PipelineSpec]:
    """Return the pipelines that every index with these parts offers; the last one is the default.

    local  how local vectors are used, where there are some; what they order is then found by vectors, if there are any
    """
    pipelines: dict[str, PipelineSpec] = {part: PipelineSpec(first=(part,)) for part in parts}
    if set(parts) == set(MINMAX_WEIGHTS):
        pipelines["hybrid"] = PipelineSpec(first=parts)
    elif len(parts) > 1:
        # Weights for learned sparse scores have not been chosen on any collection; ranks need none.
        pipelines["hybrid"] = PipelineSpec(first=parts, fusion=Fusion(method="rrf"))
    if local is not None:
        pipelines["local"] = PipelineSpec(first=("dense",) if "dense" in parts else parts[:1], local=local)
    return pipelines


def read_pipelines(path: Path) -> dict[str, PipelineSpec]:
    """Read a YAML mapping of names to pipelines. Raises InvalidInput naming the faulty entry.

    Example:
        quality:
          first: [bm25, dense]
          field_weights: {title: 2, contents: 1}
          feedback: {method: rm3, documents: 10, terms: 10, original_weight: 0.5}
          fusion: {method: rrf, constant: 60}
          rerank: {model: my-reranker, depth: 50}
        two-grained:
          first: [dense]
          local: {depth: 1000, weight: 0.3}
        asked:
          first: [bm25]
          rerank: {kind: pairwise, model: SmolLM2-135M-Instruct, depth: 10, strategy: sliding, passes: 2}
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read pipelines from {path}: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InvalidInput(f"{path} must map names to pipelines, got {type(content).__name__}.")
    pipelines = {}
    for name, entry in content.items():
        try:
            pipelines[str(name)] = PipelineSpec.model_validate(entry)
        except ValidationError as error:
            raise InvalidInput(f"pipeline {name!r} in {path}: {error}") from error
    return pipelines
