"""The client for asyncio. Its methods are those of `Client`, awaited."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
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


class AsyncClient:
    """A connection to a service for one event loop; `Client` says what holds for all methods."""

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet; the arguments are those of `Client`."""
        self.url = calls.address(url)
        self._retries = retries or Retries()
        self._http = httpx.AsyncClient(
            headers=calls.headers(api_key),
            timeout=httpx.Timeout(timeout, connect=min(timeout, calls.CONNECT_SECONDS)),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _send(self, call: Call[Parsed]) -> Parsed:
        content = call.content
        repetition = 0
        while True:
            got: httpx.Response | httpx.TransportError
            try:
                got = await self._http.request(
                    call.method, self.url + call.path, content=content, params=call.params, headers=call.headers
                )
            except httpx.TransportError as error:
                got = error
            if isinstance(got, httpx.Response) and got.is_success:
                return call.read(got)
            await asyncio.sleep(wait_after(got, self.url, call.repeat, self._retries, repetition))
            repetition += 1

    async def _send_portion(self, portion: Portion) -> list[BulkItem]:
        try:
            return await self._send(portion.call())
        except Refused as problem:
            return portion.refused(problem)

    async def _send_texts(self, portion: TextPortion) -> list[tuple[int, Embeddings]]:
        try:
            return [(portion.first, await self._send(portion.call()))]
        except Refused as problem:
            halves = portion.refused(problem)
        return [found for half in halves for found in await self._send_texts(half)]

    async def search(
        self, query: str, k: int = 10, *, index: str | None = None, **options: Unpack[SearchOptions]
    ) -> ServiceAnswer:
        """Return the k best documents for a query, best first.

        index  a name or an alias; None for the service's default
        """
        return await self._send(calls.search(query, k, index, options))

    async def batch_search(
        self, queries: Sequence[str], k: int = 10, *, index: str | None = None, **options: Unpack[SearchOptions]
    ) -> list[ServiceAnswer]:
        """Return an answer for each query, in order, by one request; if one of them is faulty none is answered."""
        return await self._send(calls.batch_search(queries, k, index, options))

    async def get_document(self, index: str, id: str) -> StoredDocument:
        """Return a document, changes that are not searchable yet included. Raises NotFound."""
        return await self._send(calls.get_document(index, id))

    async def put_document(self, index: str, document: Document, *, wait: bool = False) -> Written:
        """Add a document, or replace the one of its id. When this returns, the change survives any crash.

        wait  until searches by words see it, for ten seconds at most
        """
        return await self._send(calls.put_document(index, document, wait))

    async def delete_document(self, index: str, id: str, *, wait: bool = False) -> Written:
        """Delete a document, with all its chunks. Raises NotFound when it is not there."""
        return await self._send(calls.delete_document(index, id, wait))

    async def bulk(
        self, index: str, changes: Iterable[Change] | AsyncIterable[Change], *, wait: bool = False
    ) -> BulkReport:
        """Make many changes in order and return what could not be made. `bulk_items` tells of each one."""
        taken, failures = 0, []
        async for item in self.bulk_items(index, changes, wait=wait):
            if item.error is None:
                taken += 1
            else:
                failures.append(item)
        return BulkReport(taken, failures)

    async def bulk_items(
        self, index: str, changes: Iterable[Change] | AsyncIterable[Change], *, wait: bool = False
    ) -> AsyncIterator[BulkItem]:
        """Make many changes in order and yield what became of each; only what is iterated over is sent."""
        portion = Portion(index, wait, 1)
        async for change in _each(changes):
            line, deletes = calls.bulk_line(change)
            if not portion.fits(line):
                for item in await self._send_portion(portion):
                    yield item
                portion = portion.next()
            portion.add(line, deletes)
        if portion.lines:
            for item in await self._send_portion(portion):
                yield item

    async def indexes(self) -> list[IndexSummary]:
        """Return all indexes, those that cannot be served included."""
        return await self._send(calls.indexes())

    async def index(self, name: str) -> IndexDescription:
        """Return what an index, or the one that an alias stands for, is made of. Raises NotFound."""
        return await self._send(calls.index(name))

    async def aliases(self) -> dict[str, str]:
        """Return the index that each alias stands for."""
        return await self._send(calls.aliases())

    async def set_alias(self, alias: str, index: str) -> str | None:
        """Let an alias stand for an index; return what it stood for until now."""
        return await self._send(calls.set_alias(alias, index))

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias; the index stays."""
        await self._send(calls.remove_alias(alias))

    async def start_shadow(self, index: str, shadow: str, *, fraction: float = 0.1, k: int = 10) -> ShadowReport:
        """Ask a share of an index's queries of a second index too and compare; begins a new report.

        fraction  of the queries, above 0 and up to 1
        k         how many hits of each are compared
        """
        return await self._send(calls.start_shadow(index, shadow, fraction, k))

    async def shadow_report(self, index: str) -> ShadowReport:
        """Return how the second index compares so far. Raises NotFound when there is none."""
        return await self._send(calls.shadow_report(index))

    async def stop_shadow(self, index: str) -> ShadowReport:
        """Stop comparing; return the last report. Raises NotFound when there is none."""
        return await self._send(calls.stop_shadow(index))

    async def models(self) -> list[Model]:
        """Return the encoders and rerankers of the service."""
        return await self._send(calls.models())

    async def embed(
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
        return wire.joined([found for portion in portions for found in await self._send_texts(portion)])

    async def rerank(
        self, query: str, documents: Sequence[str], *, model: str | None = None, top_n: int | None = None
    ) -> Reranking:
        """Return texts in the order of their relevance to a query.

        model  a reranker; None for the service's first one
        top_n  how many to return; None for all
        """
        return await self._send(calls.rerank(query, documents, model, top_n))

    async def info(self) -> dict[str, Any]:
        """Return limits, versions, pipelines and fields, as the service says them."""
        return await self._send(calls.info())

    async def ready(self) -> None:
        """Return when the service answers queries. Raises Busy when it does not after all attempts."""
        await self._send(calls.ready())


async def _each(changes: Iterable[Change] | AsyncIterable[Change]) -> AsyncIterator[Change]:
    if isinstance(changes, AsyncIterable):
        async for change in changes:
            yield change
    else:
        for change in changes:
            yield change
