"""The client that waits."""

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx

from retriever.client import calls, wire
from retriever.client.attempts import wait_after
from retriever.client.calls import Call, Change, Portion, SearchOptions, TextPortion
from retriever.client.problems import Refused
from retriever.client.results import (
    BulkItem,
    BulkReport,
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
from retriever.client.retries import Retries
from retriever.types import Document

Parsed = TypeVar("Parsed")


class Client:
    """A connection to a service; threads may share it. Close it, or use it in a `with`.

    Every method raises a ServiceError for an answer that is no success, Unreachable or TimedOut when none came, and
    UnexpectedAnswer for one that cannot be read. Requests that were turned away (429, 503) or did not reach the
    service are made again, those whose answer was lost only where that leaves the same behind; see `Retries`.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet.

        timeout    seconds that one attempt waits for an answer to begin or go on
        transport  instead of httpx's own, for proxies, certificates and the like
        """
        self.url = calls.address(url)
        self._retries = retries or Retries()
        self._http = httpx.Client(
            headers=calls.headers(api_key),
            timeout=httpx.Timeout(timeout, connect=min(timeout, calls.CONNECT_SECONDS)),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _send(self, call: Call[Parsed]) -> Parsed:
        content = call.content
        repetition = 0
        while True:
            got: httpx.Response | httpx.TransportError
            try:
                got = self._http.request(
                    call.method, self.url + call.path, content=content, params=call.params, headers=call.headers
                )
            except httpx.TransportError as error:
                got = error
            if isinstance(got, httpx.Response) and got.is_success:
                return call.read(got)
            time.sleep(wait_after(got, self.url, call.repeat, self._retries, repetition))
            repetition += 1

    def _send_portion(self, portion: Portion) -> list[BulkItem]:
        try:
            return self._send(portion.call())
        except Refused as problem:
            return portion.refused(problem)

    def _send_texts(self, portion: TextPortion) -> list[tuple[int, Embeddings]]:
        try:
            return [(portion.first, self._send(portion.call()))]
        except Refused as problem:
            halves = portion.refused(problem)
        return [found for half in halves for found in self._send_texts(half)]

    def search(
        self, query: str, k: int = 10, *, index: str | None = None, **options: Unpack[SearchOptions]
    ) -> ServiceAnswer:
        """Return the k best documents for a query, best first.

        index  a name or an alias; None for the service's default
        """
        return self._send(calls.search(query, k, index, options))

    def batch_search(
        self, queries: Sequence[str], k: int = 10, *, index: str | None = None, **options: Unpack[SearchOptions]
    ) -> list[ServiceAnswer]:
        """Return an answer for each query, in order, by one request; if one of them is faulty none is answered."""
        return self._send(calls.batch_search(queries, k, index, options))

    def get_document(self, index: str, id: str) -> StoredDocument:
        """Return a document, changes that are not searchable yet included. Raises NotFound."""
        return self._send(calls.get_document(index, id))

    def put_document(self, index: str, document: Document, *, wait: bool = False) -> Written:
        """Add a document, or replace the one of its id. When this returns, the change survives any crash.

        wait  until searches by words see it, for ten seconds at most
        """
        return self._send(calls.put_document(index, document, wait))

    def delete_document(self, index: str, id: str, *, wait: bool = False) -> Written:
        """Delete a document, with all its chunks. Raises NotFound when it is not there."""
        return self._send(calls.delete_document(index, id, wait))

    def bulk(self, index: str, changes: Iterable[Change], *, wait: bool = False) -> BulkReport:
        """Make many changes in order and return what could not be made. `bulk_items` tells of each one.

        changes  documents, mappings as lines of a corpus file have them, or Delete; read one portion at a time
        wait     after each portion until searches by words see it, for ten seconds at most
        """
        taken, failures = 0, []
        for item in self.bulk_items(index, changes, wait=wait):
            if item.error is None:
                taken += 1
            else:
                failures.append(item)
        return BulkReport(taken, failures)

    def bulk_items(self, index: str, changes: Iterable[Change], *, wait: bool = False) -> Iterator[BulkItem]:
        """Make many changes in order and yield what became of each; only what is iterated over is sent.

        After an error all changes whose items came are made, and the others of the last portion may be.
        """
        portion = Portion(index, wait, 1)
        for change in changes:
            line, deletes = calls.bulk_line(change)
            if not portion.fits(line):
                yield from self._send_portion(portion)
                portion = portion.next()
            portion.add(line, deletes)
        if portion.lines:
            yield from self._send_portion(portion)

    def indexes(self) -> list[IndexSummary]:
        """Return all indexes, those that cannot be served included."""
        return self._send(calls.indexes())

    def index(self, name: str) -> IndexDescription:
        """Return what an index, or the one that an alias stands for, is made of. Raises NotFound."""
        return self._send(calls.index(name))

    def aliases(self) -> dict[str, str]:
        """Return the index that each alias stands for."""
        return self._send(calls.aliases())

    def set_alias(self, alias: str, index: str) -> str | None:
        """Let an alias stand for an index; return what it stood for until now."""
        return self._send(calls.set_alias(alias, index))

    def remove_alias(self, alias: str) -> None:
        """Remove an alias; the index stays."""
        self._send(calls.remove_alias(alias))

    def start_shadow(self, index: str, shadow: str, *, fraction: float = 0.1, k: int = 10) -> ShadowReport:
        """Ask a share of an index's queries of a second index too and compare; begins a new report.

        fraction  of the queries, above 0 and up to 1
        k         how many hits of each are compared
        """
        return self._send(calls.start_shadow(index, shadow, fraction, k))

    def shadow_report(self, index: str) -> ShadowReport:
        """Return how the second index compares so far. Raises NotFound when there is none."""
        return self._send(calls.shadow_report(index))

    def stop_shadow(self, index: str) -> ShadowReport:
        """Stop comparing; return the last report. Raises NotFound when there is none."""
        return self._send(calls.stop_shadow(index))

    def models(self) -> list[Model]:
        """Return the encoders and rerankers of the service."""
        return self._send(calls.models())

    def embed(
        self,
        texts: Iterable[str],
        *,
        model: str,
        input_type: Literal["query", "document"] = "document",
        output: Literal["dense", "sparse", "multi_vector"] = "dense",
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Embeddings:
        """Return what an encoder makes of texts; many are sent in portions, one after the other.

        dimensions  keep so many numbers of each vector
        truncate    cut texts to the model's length; False refuses them
        """
        portions = calls.embed(
            texts, model=model, input_type=input_type, output=output, dimensions=dimensions, truncate=truncate
        )
        return wire.joined([found for portion in portions for found in self._send_texts(portion)])

    def rerank(
        self, query: str, documents: Sequence[str], *, model: str | None = None, top_n: int | None = None
    ) -> Reranking:
        """Return texts in the order of their relevance to a query.

        model  a reranker; None for the service's first one
        top_n  how many to return; None for all
        """
        return self._send(calls.rerank(query, documents, model, top_n))

    def info(self) -> dict[str, Any]:
        """Return limits, versions, pipelines and fields, as the service says them."""
        return self._send(calls.info())

    def ready(self) -> None:
        """Return when the service answers queries. Raises Busy when it does not after all attempts."""
        self._send(calls.ready())
