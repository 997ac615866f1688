"""An MCP server with three tools that read: `search`, `get_document`, `list_indexes`; extra `mcp`."""

from collections.abc import Awaitable
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from retriever.adapters.extras import missing
from retriever.adapters.sources import Source
from retriever.errors import RetrievalError

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ImportError as error:
    raise missing("the MCP SDK, version 2,", "mcp") from error

MAX_HITS = 50
# Of the text of one hit: a model that wants the rest asks for the document.
EXCERPT = 1_500
MAX_CHARACTERS = 50_000

INSTRUCTIONS = """
Search over document collections. `list_indexes` says what there is and which fields can be filtered; `search` finds
documents, larger scores being better; `get_document` reads one whole. An answer's status says how far it can be
trusted: exact, approximate, truncated (the query was cut) or degraded (a stage was left out).
"""

Read = TypeVar("Read")
IndexName = Annotated[
    str | None, Field(description="An index or alias that list_indexes names; null for the default.", max_length=1000)
]


class FoundDocument(BaseModel):
    """A document that a search found."""

    id: str
    title: str
    text: str = Field(description=f"The first {EXCERPT} characters.")
    complete: bool = Field(description="False when the text goes on; get_document has all of it.")
    score: float
    scores: dict[str, float] = Field(description="The score that each stage gave.")
    relevance: float | None = Field(
        default=None, description="The probability that the document is relevant, where the pipeline is calibrated."
    )
    metadata: dict[str, Any]


class Found(BaseModel):
    """What a search found, best first."""

    status: str
    warnings: list[str]
    pipeline: str
    documents: list[FoundDocument]


class WholeDocument(BaseModel):
    """A document, or a piece of a long one."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    characters: int = Field(description="Of the whole text.")
    next_start: int | None = Field(description="Where the text goes on; null at its end.")


class ListedIndex(BaseModel):
    """An index that can be searched."""

    name: str
    aliases: list[str]
    default: bool
    documents: int | None = None
    pipelines: list[str] = Field(default_factory=list)
    default_pipeline: str | None = None
    fields: dict[str, str] = Field(default_factory=dict, description="What filters take, with its type.")
    error: str | None = Field(default=None, description="Why it cannot be searched, if so.")


class Listed(BaseModel):
    """All indexes."""

    indexes: list[ListedIndex]


def create_server(source: Source) -> MCPServer[Any]:
    """Return a server whose tools read from a source; `run("stdio")` serves it on standard input and output."""
    # Standard error belongs to people: only what went wrong.
    server: MCPServer[Any] = MCPServer(
        "retriever", instructions=INSTRUCTIONS.strip(), version=version("retriever-engine"), log_level="WARNING"
    )
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

    @server.tool(title="Search documents", annotations=reads)
    async def search(
        query: Annotated[str, Field(description="What to look for, in words or as a question.", min_length=1)],
        index: IndexName = None,
        k: Annotated[int, Field(description="How many documents.", ge=1, le=MAX_HITS)] = 10,
        pipeline: Annotated[
            str | None, Field(description="One that list_indexes names; null for the index's default.")
        ] = None,
        filter: Annotated[
            dict[str, Any] | None,
            Field(description='Condition on fields: {"year": {"gte": 2010}, "lang": {"in": ["en", "de"]}}.'),
        ] = None,
    ) -> Found:
        """Find the documents of an index that fit a query best."""
        answer = await _read(source.search(query, k, index, pipeline=pipeline, filter=filter))
        return Found(
            status=answer.status,
            warnings=[*answer.degraded, *answer.warnings],
            pipeline=answer.pipeline,
            documents=[
                FoundDocument(
                    id=hit.id,
                    title=hit.document.title,
                    text=hit.document.text[:EXCERPT],
                    complete=len(hit.document.text) <= EXCERPT,
                    score=hit.score,
                    scores=hit.scores,
                    relevance=hit.relevance,
                    metadata=dict(hit.document.metadata),
                )
                for hit in answer.hits
                if hit.document is not None
            ],
        )

    @server.tool(title="Read a document", annotations=reads)
    async def get_document(
        id: Annotated[str, Field(description="The id that a search gave.", min_length=1, max_length=2000)],
        index: IndexName = None,
        start: Annotated[int, Field(description="The character to begin with.", ge=0)] = 0,
    ) -> WholeDocument:
        """Read a document's text; a long one comes in pieces of which `next_start` says where the next begins."""
        name = index if index is not None else await _read(_default(source))
        found = await _read(source.get_document(name, id))
        end = start + MAX_CHARACTERS
        return WholeDocument(
            id=found.id,
            title=found.title,
            text=found.text[start:end],
            metadata=dict(found.metadata),
            characters=len(found.text),
            next_start=end if end < len(found.text) else None,
        )

    @server.tool(title="List indexes", annotations=reads)
    async def list_indexes() -> Listed:
        """List the indexes that can be searched, with their pipelines and the fields that filters take."""
        return Listed(indexes=[ListedIndex(**part) for part in await _read(source.list_indexes())])

    return server


async def _default(source: Source) -> str:
    for part in await source.list_indexes():
        if part["default"]:
            return str(part["name"])
    raise ToolError("there is no default index; name one that list_indexes gives.")


async def _read(reading: Awaitable[Read]) -> Read:
    """Return what was read; what the engine or the service refuses is told to the model in their own words."""
    try:
        return await reading
    except RetrievalError as error:
        raise ToolError(str(error)) from error
