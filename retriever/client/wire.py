"""Bodies of answers, from JSON to results. What a newer service adds is passed over."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from retriever.client.results import (
    BulkItem,
    Embeddings,
    IndexDescription,
    IndexSummary,
    Model,
    Ranked,
    Reranking,
    ServiceAnswer,
    ShadowReport,
    StoredDocument,
    Written,
)
from retriever.types import Document, Explanation, Facets, Hit


@dataclass(slots=True)
class _Hit:
    id: str
    score: float
    scores: dict[str, float]
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    parent: str | None = None
    span: tuple[int, int] | None = None
    chunk: str | None = None
    highlights: list[tuple[int, int]] = field(default_factory=list)
    explanation: Explanation | None = None
    relevance: float | None = None


@dataclass(slots=True)
class _FacetValue:
    value: str | float
    count: int


@dataclass(slots=True)
class _Facets:
    fields: dict[str, list[_FacetValue]]
    documents: int
    complete: bool


@dataclass(slots=True)
class _Result:
    hits: list[_Hit]
    exact: bool
    truncated: bool
    degraded: list[str]
    warnings: list[str]
    timings: dict[str, float]
    facets: _Facets | None = None
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _IndexState:
    name: str
    generation: int
    fingerprint: str


@dataclass(slots=True)
class _Search:
    results: list[_Result]
    pipeline: str
    stages: list[str]
    index: _IndexState
    request_id: str


@dataclass(slots=True)
class _Indexes:
    indexes: list[IndexSummary]


@dataclass(slots=True)
class _Aliases:
    aliases: dict[str, str]


@dataclass(slots=True)
class _AliasSet:
    before: str | None


@dataclass(slots=True)
class _Models:
    data: list[Model]


@dataclass(slots=True)
class _Bulk:
    items: list[BulkItem]


@dataclass(slots=True)
class _Sparse:
    terms: list[str]
    weights: list[float]


@dataclass(slots=True)
class _Embedding:
    embedding: str | list[float]
    sparse: _Sparse | None = None
    multi_vector: list[str | list[float]] | None = None


@dataclass(slots=True)
class _Usage:
    total_tokens: int


@dataclass(slots=True)
class _Embeddings:
    data: list[_Embedding]
    model: str
    usage: _Usage
    truncated: list[int]


@dataclass(slots=True)
class _Reranking:
    model: str
    results: list[Ranked]
    usage: _Usage


_SEARCH = TypeAdapter(_Search)
_DOCUMENT = TypeAdapter(StoredDocument)
_WRITTEN = TypeAdapter(Written)
_BULK = TypeAdapter(_Bulk)
_INDEXES = TypeAdapter(_Indexes)
_DESCRIPTION = TypeAdapter(IndexDescription)
_ALIASES = TypeAdapter(_Aliases)
_ALIAS = TypeAdapter(_AliasSet)
_SHADOW = TypeAdapter(ShadowReport)
_MODELS = TypeAdapter(_Models)
_EMBEDDINGS = TypeAdapter(_Embeddings)
_RERANKING = TypeAdapter(_Reranking)
_OBJECT = TypeAdapter(dict[str, Any])


def answers(content: bytes) -> list[ServiceAnswer]:
    """Return the result of each query of a search."""
    body = _SEARCH.validate_json(content)
    return [
        ServiceAnswer(
            hits=[_hit(hit) for hit in result.hits],
            pipeline=body.pipeline,
            generation=body.index.generation,
            exact=result.exact,
            truncated=result.truncated,
            degraded=result.degraded,
            warnings=result.warnings,
            timings=result.timings,
            facets=_facets(result.facets) if result.facets else None,
            usage=result.usage,
            index=body.index.name,
            fingerprint=body.index.fingerprint,
            stages=body.stages,
            request_id=body.request_id,
        )
        for result in body.results
    ]


def answer(content: bytes) -> ServiceAnswer:
    """Return the result of a search for one query."""
    (found,) = answers(content)
    return found


def _hit(hit: _Hit) -> Hit:
    document = None
    if hit.text is not None:
        document = Document(
            id=hit.chunk or hit.id,
            text=hit.text,
            title=hit.title or "",
            metadata=hit.metadata or {},
            parent=hit.parent,
            span=hit.span,
        )
    return Hit(hit.id, hit.score, hit.scores, document, hit.highlights, hit.explanation, relevance=hit.relevance)


def _facets(facets: _Facets) -> Facets:
    counts = {name: [(part.value, part.count) for part in values] for name, values in facets.fields.items()}
    return Facets(counts, facets.documents, facets.complete)


def document(content: bytes) -> StoredDocument:
    """Return a document."""
    return _DOCUMENT.validate_json(content)


def written(content: bytes) -> Written:
    """Return a change that was promised."""
    return _WRITTEN.validate_json(content)


def bulk_items(content: bytes) -> list[BulkItem]:
    """Return what became of each line."""
    return _BULK.validate_json(content).items


def indexes(content: bytes) -> list[IndexSummary]:
    """Return the indexes of the service."""
    return _INDEXES.validate_json(content).indexes


def description(content: bytes) -> IndexDescription:
    """Return one index, with all it is made of."""
    return _DESCRIPTION.validate_json(content)


def aliases(content: bytes) -> dict[str, str]:
    """Return what each alias stands for."""
    return _ALIASES.validate_json(content).aliases


def before(content: bytes) -> str | None:
    """Return what an alias stood for until it was set."""
    return _ALIAS.validate_json(content).before


def shadow_report(content: bytes) -> ShadowReport:
    """Return how a second index compares."""
    return _SHADOW.validate_json(content)


def models(content: bytes) -> list[Model]:
    """Return the models of the service."""
    return _MODELS.validate_json(content).data


def info(content: bytes) -> dict[str, Any]:
    """Return an object as it is."""
    return _OBJECT.validate_json(content)


def nothing(content: bytes) -> None:
    """Return nothing; there is no body."""


def reranking(content: bytes) -> Reranking:
    """Return documents in their new order."""
    body = _RERANKING.validate_json(content)
    return Reranking(body.model, body.results, body.usage.total_tokens)


def embeddings(content: bytes) -> Embeddings:
    """Return what an encoder gave; vectors come as base64 of little-endian float32."""
    body = _EMBEDDINGS.validate_json(content)
    rows = [_vector(part.embedding) for part in body.data]
    return Embeddings(
        model=body.model,
        vectors=np.stack(rows).astype(np.float32) if rows else np.empty((0, 0), np.float32),
        sparse=[dict(zip(p.sparse.terms, p.sparse.weights, strict=True)) for p in body.data if p.sparse],
        tokens=body.usage.total_tokens,
        truncated=body.truncated,
        multi_vector=[_matrix(part.multi_vector) for part in body.data if part.multi_vector is not None],
    )


def _matrix(rows: Sequence[str | list[float]]) -> NDArray[np.float32]:
    return np.stack([_vector(row) for row in rows]) if rows else np.empty((0, 0), np.float32)


def _vector(embedding: str | list[float]) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return np.array(embedding, np.float32)


def joined(portions: Sequence[tuple[int, Embeddings]]) -> Embeddings:
    """Return the embeddings of all portions as one; each comes with the position of its first text."""
    return Embeddings(
        model=portions[0][1].model,
        vectors=np.concatenate([part.vectors for _, part in portions]),
        sparse=[weights for _, part in portions for weights in part.sparse],
        tokens=sum(part.tokens for _, part in portions),
        truncated=[start + position for start, part in portions for position in part.truncated],
        multi_vector=[rows for _, part in portions for rows in part.multi_vector],
    )


def line_of(document: Document | Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as a line of a corpus file has it. A mapping is such a line already."""
    if isinstance(document, Document):
        return {
            "id": document.id,
            "title": document.title,
            "text": document.text,
            "metadata": dict(document.metadata),
        }
    return dict(document)
