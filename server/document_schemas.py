"""Bodies of requests and responses that read and change documents."""

from typing import Any, Literal

from pydantic import BaseModel, Field, StrictStr

from server.schemas import Body


class DocumentRequest(Body):
    """A document; its id stands in the path."""

    text: StrictStr
    title: StrictStr = ""
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Any JSON values; declared fields must have their type."
    )


class DocumentResponse(BaseModel):
    """A document as it stands, whether it can be found yet or not."""

    index: str
    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    parent: str | None = Field(default=None, description="The document that this chunk was cut from.")
    span: tuple[int, int] | None = Field(
        default=None, description="The characters of the parent's text that the chunk covers."
    )
    searchable: bool = Field(description="False for a change of the last moments.")


class WriteResponse(BaseModel):
    """A change that is promised: it survives the end of the service, however that comes."""

    index: str
    id: str
    result: Literal["created", "updated", "deleted"]
    sequence: int = Field(description="Grows with every change of the index.")
    searchable: bool = Field(description="Whether searches by words see it already; with `wait` they do.")


class BulkItem(BaseModel):
    """What became of one line."""

    line: int = Field(description="From 1.")
    id: str | None = None
    result: Literal["created", "updated", "deleted"] | None = Field(
        default=None, description="null for a line that was not taken."
    )
    error: str | None = None


class BulkResponse(BaseModel):
    """What became of every line; lines that could be taken were, whatever the others hold."""

    index: str
    taken: int
    failed: int
    items: list[BulkItem]
    sequence: int | None = Field(description="Of the last change; null when no line was taken.")
    searchable: bool
