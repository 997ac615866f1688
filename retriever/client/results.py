"""What a service answers. Searches give what `Index.search` gives, and where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retriever.types import Answer, Document


@dataclass(slots=True)
class ServiceAnswer(Answer):
    """The result of one query, and which index gave it.

    index        its name; an alias is resolved
    fingerprint  of what it was built with
    stages       that were asked to run
    request_id   under which the service's log has the request
    """

    index: str = ""
    fingerprint: str = ""
    stages: list[str] = field(default_factory=list)
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class StoredDocument(Document):
    """A document as it stands in an index; `searchable` is False for a change of the last moments."""

    index: str = ""
    searchable: bool = True


@dataclass(frozen=True, slots=True)
class Written:
    """A change that is promised: it survives the end of the service, however that comes.

    sequence    grows with every change of the index
    searchable  whether searches by words see it already
    """

    index: str
    id: str
    result: Literal["created", "updated", "deleted"]
    sequence: int
    searchable: bool


@dataclass(frozen=True, slots=True)
class BulkItem:
    """What became of one change; `line` counts them from 1, `error` says why it was not taken."""

    line: int
    id: str | None = None
    result: Literal["created", "updated", "deleted"] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class BulkReport:
    """What became of many changes: how many were taken, and every one that was not."""

    taken: int
    failures: list[BulkItem]


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """One index of the service; `documents` is None when it cannot be served, and `error` says why."""

    name: str
    aliases: list[str]
    is_default: bool
    documents: int | None = None
    generation: int | None = None
    fingerprint: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDescription(IndexSummary):
    """One index, with all it is made of.

    pipelines         by name, as the service writes them
    fields            declared ones with their types: what filters and facets take
    unapplied_writes  changes that were promised and are not searchable yet
    pending_encoding  documents that words find and vectors do not yet
    """

    pipelines: Mapping[str, Any]
    default_pipeline: str
    fields: Mapping[str, str]
    encoder: str | None = None
    writable: bool = False
    unapplied_writes: int = 0
    pending_encoding: int = 0
    write_error: str | None = None
    index: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of searches in milliseconds, without HTTP."""

    mean_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """How a second index compares on a share of the queries of a first one.

    index, shadow  the first index and the second one
    fraction, k    share of the queries that is compared, and how many hits of each
    queries        compared so far; `dropped` since too many were waiting, `failed` where the second had no answer
    mean_overlap   mean share of the first k hits that both have; None before the first query
    same_first     share of the queries with the same best hit
    """

    index: str
    shadow: str
    fraction: float
    k: int
    queries: int
    dropped: int
    failed: int
    last_error: str | None = None
    mean_overlap: float | None = None
    same_first: float | None = None
    latency: Latency | None = None
    shadow_latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the service runs; `max_model_len` is its longest input in tokens."""

    id: str
    task: str
    max_model_len: int
    output: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What an encoder made of N texts, in the order given.

    vectors       (N, H) float32; H is 0 unless the output is dense
    sparse        terms with their weights, heaviest first, one mapping a text; empty for other outputs
    tokens        that the model read
    truncated     positions of texts that were cut to the model's length
    multi_vector  (T, H) float32 for each text, a row for each token that is scored; empty for other outputs
    """

    model: str
    vectors: NDArray[np.float32]
    sparse: list[dict[str, float]]
    tokens: int
    truncated: list[int]
    multi_vector: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document's place: its position among those given, and its relevance from 0 to 1."""

    index: int
    relevance_score: float
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Reranking:
    """Documents in the order of their relevance, best first."""

    model: str
    results: list[Ranked]
    tokens: int
