"""What an MCP server reads from: a service, or one index on this machine."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from retriever.client import AsyncClient
from retriever.errors import InvalidInput
from retriever.index.sealed import Index
from retriever.types import Answer, Document


class Source(Protocol):
    """Reads indexes; errors are RetrievalError."""

    async def search(self, query: str, k: int, index: str | None, **options: Any) -> Answer: ...

    async def get_document(self, index: str, id_: str) -> Document: ...

    async def list_indexes(self) -> list[Mapping[str, Any]]: ...


class ServiceSource:
    """The indexes of a running service."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def search(self, query: str, k: int, index: str | None, **options: Any) -> Answer:
        """Search an index, the service's default for None."""
        return await self._client.search(query, k, index=index, **options)

    async def get_document(self, index: str, id_: str) -> Document:
        """Return a document."""
        return await self._client.get_document(index, id_)

    async def list_indexes(self) -> list[Mapping[str, Any]]:
        """Return each index with its pipelines and fields."""
        found: list[Mapping[str, Any]] = []
        for summary in await self._client.indexes():
            part: dict[str, Any] = {"name": summary.name, "aliases": summary.aliases, "default": summary.is_default}
            if summary.documents is None:
                part["error"] = summary.error
            else:
                described = await self._client.index(summary.name)
                part |= _description(summary.documents, list(described.pipelines), described.default_pipeline)
                part["fields"] = dict(described.fields)
            found.append(part)
        return found


class LocalSource:
    """One open index, under the name of its folder. Searches wait for each other."""

    def __init__(self, index: Index, path: Path) -> None:
        self._index = index
        self._name = path.resolve().name
        self._lock = asyncio.Lock()

    def _require(self, index: str | None) -> None:
        if index not in (None, self._name):
            raise InvalidInput(f"there is one index here, {self._name!r}; got {str(index)[:80]!r}.")

    async def search(self, query: str, k: int, index: str | None, **options: Any) -> Answer:
        """Search the index."""
        self._require(index)
        async with self._lock:
            return await asyncio.to_thread(self._index.search, query, k, **options)

    async def get_document(self, index: str, id_: str) -> Document:
        """Return a document."""
        self._require(index)
        async with self._lock:
            found = await asyncio.to_thread(self._index.get, id_)
        if found is None:
            raise InvalidInput(f"there is no document {id_[:80]!r} in {self._name!r}.")
        return found

    async def list_indexes(self) -> list[Mapping[str, Any]]:
        """Return the index with its pipelines and fields."""
        index = self._index
        part: dict[str, Any] = {"name": self._name, "aliases": [], "default": True, "fields": dict(index.fields)}
        return [part | _description(len(index), list(index.pipelines), index.default_pipeline)]


def _description(documents: int, pipelines: list[str], default: str) -> dict[str, Any]:
    return {"documents": documents, "pipelines": pipelines, "default_pipeline": default}
