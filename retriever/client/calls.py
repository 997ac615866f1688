"""Each request of the service: what is sent, what its answer becomes, and whether it may be sent twice."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import ValidationError

from retriever.client import wire
from retriever.client.problems import Refused, UnexpectedAnswer
from retriever.client.results import (
    BulkItem,
    Embeddings,
    IndexDescription,
    IndexSummary,
    Model,
    Reranking,
    ServiceAnswer,
    ShadowReport,
    StoredDocument,
    Written,
)
from retriever.client.retries import Repeat
from retriever.errors import InvalidInput
from retriever.pipeline import PipelineSpec
from retriever.types import Document

Parsed = TypeVar("Parsed")

CONNECT_SECONDS = 5.0

# The service takes so many lines with one promise, so that a portion is taken whole or not at all.
PORTION_LINES = 500
PORTION_BYTES = 1024 * 1024
PORTION_TEXTS = 256
# Each token has a vector: 64 texts of 512 tokens, 128 wide, are all that the service gives at once. It refuses portions
# of longer texts or wider vectors, which are then sent again by halves.
PORTION_TOKEN_TEXTS = 64


class SearchOptions(TypedDict, total=False):
    """What a search can be told beside query and k; the names and meanings are those of the service's API."""

    offset: int
    pipeline: str | PipelineSpec | Mapping[str, Any]
    field_weights: Mapping[str, float]
    without: Sequence[Literal["bm25", "sparse", "dense", "local", "rerank"]]
    filter: Mapping[str, Any]
    group_by_parent: bool
    highlight: bool
    syntax: bool
    facets: Sequence[str]
    facet_values: int
    explain: bool
    min_relevance: float
    include_documents: bool
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class Delete:
    """A deletion among many changes."""

    id: str


Change = Document | Mapping[str, Any] | Delete


@dataclass(frozen=True, slots=True)
class Call(Generic[Parsed]):
    """One request, and how its answer is read."""

    method: str
    path: str
    parse: Callable[[bytes], Parsed]
    body: Any = None
    params: Mapping[str, str] = field(default_factory=dict)
    repeat: Repeat = Repeat.ALWAYS

    @property
    def content(self) -> bytes | None:
        """The body as it is sent, which may be NDJSON already."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return json_bytes(self.body)

    @property
    def headers(self) -> dict[str, str]:
        """Say what the body is."""
        if self.body is None:
            return {}
        return {"Content-Type": "application/x-ndjson" if isinstance(self.body, bytes) else "application/json"}

    def read(self, response: httpx.Response) -> Parsed:
        """Return what a successful answer says. Raises UnexpectedAnswer when it does not read so."""
        try:
            return self.parse(response.content)
        except (ValidationError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UnexpectedAnswer(
                f"{response.request.url} answered {response.status_code} with what this client cannot read ({reason}); "
                "is it this service, and of the client's version?"
            ) from error


def json_bytes(value: Any) -> bytes:
    """Return JSON in UTF-8. Raises InvalidInput for what JSON cannot say, such as NaN."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"cannot be sent as JSON: {error}.") from error


def address(url: str) -> str:
    """Return the address of a service. Raises InvalidInput for anything but http://... and https://..."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"the address of a service looks like http://localhost:8080, got {url!r}.")
    return url.rstrip("/")


def headers(api_key: str | None) -> dict[str, str]:
    """Return what every request says. Raises InvalidInput for a key that no header can hold."""
    if api_key is None:
        return {}
    if not api_key.isascii() or not api_key.isprintable() or not api_key.strip():
        # The key itself is not shown.
        raise InvalidInput("the API key must be printable ASCII; was it read with its end of line?")
    return {"Authorization": f"Bearer {api_key}"}


def _part(name: str) -> str:
    if not name:
        raise InvalidInput("the name or id is empty; give that of an index, alias or document.")
    return quote(name, safe="")


def _search_path(index: str | None) -> str:
    return "/v1/search" if index is None else f"/v1/indexes/{_part(index)}/search"


def _options(options: SearchOptions) -> dict[str, Any]:
    body: dict[str, Any] = dict(options)
    pipeline = body.get("pipeline")
    if isinstance(pipeline, PipelineSpec):
        body["pipeline"] = pipeline.model_dump(mode="json")
    for name in ("without", "facets"):
        if name in body:
            body[name] = list(body[name])
    return body


def search(query: str, k: int, index: str | None, options: SearchOptions) -> Call[ServiceAnswer]:
    """Search for one query."""
    return Call("POST", _search_path(index), wire.answer, {"query": query, "k": k, **_options(options)})


def batch_search(
    queries: Sequence[str], k: int, index: str | None, options: SearchOptions
) -> Call[list[ServiceAnswer]]:
    """Search for several queries."""
    return Call("POST", _search_path(index), wire.answers, {"queries": list(queries), "k": k, **_options(options)})


def _document_path(index: str, id_: str) -> str:
    return f"/v1/indexes/{_part(index)}/documents/{_part(id_)}"


def get_document(index: str, id_: str) -> Call[StoredDocument]:
    """Read a document."""
    return Call("GET", _document_path(index, id_), wire.document)


def put_document(index: str, document: Document, wait: bool) -> Call[Written]:
    """Add or replace a document; the same again leaves the same behind."""
    body = {"title": document.title, "text": document.text, "metadata": dict(document.metadata)}
    return Call("PUT", _document_path(index, document.id), wire.written, body, _waiting(wait))


def delete_document(index: str, id_: str, wait: bool) -> Call[Written]:
    """Delete a document; a second time it would not be there, so that a lost answer cannot be had again."""
    return Call("DELETE", _document_path(index, id_), wire.written, None, _waiting(wait), Repeat.UNSENT)


def _waiting(wait: bool) -> dict[str, str]:
    return {"wait": "true"} if wait else {}


@dataclass(slots=True)
class Portion:
    """Changes that are sent together; `first` is the line of the first one, from 1."""

    index: str
    wait: bool
    first: int
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    deletes: bool = False

    def fits(self, line: bytes) -> bool:
        """Tell whether one more line may be sent with these."""
        return not self.lines or (len(self.lines) < PORTION_LINES and self.size + len(line) <= PORTION_BYTES)

    def add(self, line: bytes, deletes: bool) -> None:
        """Put a line behind the others."""
        self.lines.append(line)
        self.size += len(line) + 1
        self.deletes |= deletes

    def next(self) -> "Portion":
        """Return the portion that follows, still empty."""
        return Portion(self.index, self.wait, self.first + len(self.lines))

    def call(self) -> Call[list[BulkItem]]:
        """Return the request."""
        repeat = Repeat.UNSENT if self.deletes else Repeat.ALWAYS
        path = f"/v1/indexes/{_part(self.index)}/documents"
        return Call("POST", path, self._items, b"\n".join(self.lines), _waiting(self.wait), repeat)

    def refused(self, problem: Refused) -> list[BulkItem]:
        """Return the answer for a line that is longer than the service takes; raise any other refusal."""
        if problem.status != 413 or len(self.lines) > 1:
            raise problem
        return [BulkItem(self.first, error=str(problem))]

    def _items(self, content: bytes) -> list[BulkItem]:
        items = wire.bulk_items(content)
        if len(items) != len(self.lines):
            raise ValueError(f"{len(items)} answers for {len(self.lines)} lines")
        return [replace(item, line=self.first + item.line - 1) for item in items]


def bulk_line(change: Change) -> tuple[bytes, bool]:
    """Return a change as a line, and whether it deletes."""
    if isinstance(change, Delete):
        return json_bytes({"delete": change.id}), True
    line = wire.line_of(change)
    return json_bytes(line), line.keys() == {"delete"}


def indexes() -> Call[list[IndexSummary]]:
    """List indexes."""
    return Call("GET", "/v1/indexes", wire.indexes)


def index(name: str) -> Call[IndexDescription]:
    """Describe an index."""
    return Call("GET", f"/v1/indexes/{_part(name)}", wire.description)


def aliases() -> Call[dict[str, str]]:
    """List aliases."""
    return Call("GET", "/v1/aliases", wire.aliases)


def set_alias(alias: str, target: str) -> Call[str | None]:
    """Let an alias stand for an index; after a lost answer what it stood for before would be lost too."""
    return Call("PUT", f"/v1/aliases/{_part(alias)}", wire.before, {"index": target}, repeat=Repeat.UNSENT)


def remove_alias(alias: str) -> Call[None]:
    """Remove an alias."""
    return Call("DELETE", f"/v1/aliases/{_part(alias)}", wire.nothing, repeat=Repeat.UNSENT)


def start_shadow(index: str, shadow: str, fraction: float, k: int) -> Call[ShadowReport]:
    """Begin to compare; a second attempt would only begin the report anew."""
    body = {"index": shadow, "fraction": fraction, "k": k}
    return Call("POST", _shadow(index), wire.shadow_report, body)


def shadow_report(index: str) -> Call[ShadowReport]:
    """Read how the second index compares."""
    return Call("GET", _shadow(index), wire.shadow_report)


def stop_shadow(index: str) -> Call[ShadowReport]:
    """Stop comparing; after a lost answer the last report would be lost too."""
    return Call("DELETE", _shadow(index), wire.shadow_report, repeat=Repeat.UNSENT)


def _shadow(index: str) -> str:
    return f"/v1/indexes/{_part(index)}/shadow"


def models() -> Call[list[Model]]:
    """List models."""
    return Call("GET", "/v1/models", wire.models)


def info() -> Call[dict[str, Any]]:
    """Read what the service is."""
    return Call("GET", "/v1/info", wire.info)


def ready() -> Call[dict[str, Any]]:
    """Ask whether the service can answer."""
    return Call("GET", "/readyz", wire.info)


def rerank(query: str, documents: Sequence[str], model: str | None, top_n: int | None) -> Call[Reranking]:
    """Order texts by relevance."""
    body = {"query": query, "documents": list(documents), "return_documents": False}
    given = {"model": model, "top_n": top_n}
    body |= {name: value for name, value in given.items() if value is not None}
    return Call("POST", "/v1/rerank", wire.reranking, body)


@dataclass(frozen=True, slots=True)
class TextPortion:
    """Texts whose embeddings are asked for together; `first` is the position of the first one."""

    first: int
    texts: list[str]
    options: Mapping[str, Any]

    def call(self) -> Call[Embeddings]:
        """Return the request."""
        body = {"input": self.texts, "encoding_format": "base64", **self.options}
        return Call("POST", "/v1/embeddings", self._embeddings, body)

    def refused(self, problem: Refused) -> list["TextPortion"]:
        """Return both halves of texts that have too many token vectors together; raise any other refusal."""
        if problem.code != "too_many_numbers" or len(self.texts) < 2:
            raise problem
        half = len(self.texts) // 2
        return [
            TextPortion(self.first, self.texts[:half], self.options),
            TextPortion(self.first + half, self.texts[half:], self.options),
        ]

    def _embeddings(self, content: bytes) -> Embeddings:
        found = wire.embeddings(content)
        if len(found.vectors) != len(self.texts):
            raise ValueError(f"{len(found.vectors)} vectors for {len(self.texts)} texts")
        return found


def embed(texts: Iterable[str], **options: Any) -> Iterator[TextPortion]:
    """Yield the texts in portions, at least one."""
    given = {name: value for name, value in options.items() if value is not None}
    most = PORTION_TOKEN_TEXTS if options.get("output") == "multi_vector" else PORTION_TEXTS
    start, portion, size = 0, list[str](), 0
    for text in texts:
        if portion and (len(portion) == most or size + len(text) > PORTION_BYTES // 4):
            yield TextPortion(start, portion, given)
            start, portion, size = start + len(portion), [], 0
        portion.append(text)
        size += len(text)
    yield TextPortion(start, portion, given)
