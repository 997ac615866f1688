"""GET, PUT and DELETE /v1/indexes/{name}/documents/{id}, and POST /v1/indexes/{name}/documents for many."""

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from indexing.live import accepted, require_own_id
from retriever.errors import InvalidInput
from retriever.index.sealed import Index
from retriever.types import Document
from server.bodies import check_json
from server.dependencies import PreparedService, Service
from server.document_schemas import BulkItem, BulkResponse, DocumentRequest, DocumentResponse, WriteResponse
from server.errors import RESPONSES, Refusal
from server.schemas import IndexName
from server.served_index import ServedIndex
from server.writer import Writer

router = APIRouter(tags=["documents"])

# Longer than any batch takes; what is not applied then waits for something else.
WAIT_SECONDS = 10.0

# What is promised together, and what a body may have in memory.
LINES_TOGETHER = 500
LINES_BYTES = 4 * 1024 * 1024
FULL_SECONDS = 30.0

DocumentId = Annotated[str, Path(min_length=1, max_length=2000, description="Slashes may stand in it as they are.")]
Wait = Annotated[bool, Query(description=f"Answer when searches by words see it, after {WAIT_SECONDS:g} s at most.")]
Change = tuple[str, Document | None]


@router.get("/v1/indexes/{name}/documents/{id:path}", responses=RESPONSES)
def get_document(name: IndexName, id: DocumentId, service: PreparedService) -> DocumentResponse:
    """Return a document, changes that are not searchable yet included; one that was cut into chunks is whole."""
    served = service.indexes.find(name)
    writer = service.indexes.find_writer(served.name)
    # First what is not applied yet: once it is, the index has it.
    pending = writer.latest(id) if writer else None
    with served.lease() as index:
        found = pending.document if pending else index.get(id)
    if found is None:
        raise _not_found(served.name, id)
    return DocumentResponse(
        index=served.name,
        id=found.id if found.parent is None or found.id == id else id,
        title=found.title,
        text=found.text,
        metadata=dict(found.metadata),
        parent=found.parent,
        span=found.span,
        searchable=pending is None,
    )


@router.put("/v1/indexes/{name}/documents/{id:path}", responses=RESPONSES)
def put_document(
    name: IndexName, id: DocumentId, body: DocumentRequest, service: PreparedService, wait: Wait = False
) -> WriteResponse:
    """Add a document, or replace the one of that id. When this answers, the change survives any crash."""
    served = service.indexes.find(name)
    writer = service.indexes.writer(served)
    with served.lease() as index:
        fields = {"id": id, "title": body.title, "text": body.text, "metadata": body.metadata}
        document = accepted(index.manifest, fields)
    (result,) = _results(served, writer, [(document.id, document)])
    number = writer.write([(document.id, document)])
    return _written(served, writer, id, result, number, wait)


@router.delete("/v1/indexes/{name}/documents/{id:path}", responses=RESPONSES)
def delete_document(name: IndexName, id: DocumentId, service: PreparedService, wait: Wait = False) -> WriteResponse:
    """Delete a document, with all its chunks. When this answers, the change survives any crash."""
    served = service.indexes.find(name)
    writer = service.indexes.writer(served)
    with served.lease() as index:
        require_own_id(index.manifest, id)
    (result,) = _results(served, writer, [(id, None)])
    if result is None:
        raise _not_found(served.name, id)
    return _written(served, writer, id, result, writer.write([(id, None)]), wait)


def _not_found(index: str, id_: str) -> Refusal:
    return Refusal(404, f"there is no document {id_[:80]!r} in {index!r}.", code="document_not_found", param="id")


def _written(served: ServedIndex, writer: Writer, id_: str, result: "Result", number: int, wait: bool) -> WriteResponse:
    assert result is not None
    searchable = writer.wait(number, WAIT_SECONDS if wait else 0.0)
    return WriteResponse(index=served.name, id=id_, result=result, sequence=number, searchable=searchable)


Result = Literal["created", "updated", "deleted"] | None


def _results(served: ServedIndex, writer: Writer, changes: list[Change]) -> list[Result]:
    """Return what each change does; None for the deletion of what is not there."""
    # What waits to be applied is asked for first: what has been applied by then is in the index that is lent next.
    waiting = {id_: writer.latest(id_) for id_, _ in changes}
    with served.lease() as index:
        missing = set(index.missing(waiting))
    there: dict[str, bool] = {}
    results: list[Result] = []
    for id_, document in changes:
        if id_ not in there:
            pending = waiting[id_]
            there[id_] = pending.document is not None if pending else id_ not in missing
        if document is None:
            results.append("deleted" if there[id_] else None)
        else:
            results.append("updated" if there[id_] else "created")
        there[id_] = document is not None
    return results


BULK_BODY = {
    "requestBody": {
        "required": True,
        "description": "One JSON object a line: a document as in a corpus file (`id`, `title`, `text`, `metadata`; "
        'other fields are metadata too), or {"delete": "ID"}.',
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/indexes/{name}/documents", responses=RESPONSES, openapi_extra=BULK_BODY)
async def post_documents(
    name: IndexName, request: Request, service: PreparedService, wait: Wait = False
) -> BulkResponse:
    """Take many changes, line by line; faulty lines are reported with their number and the others are taken.

    The body is read piece by piece. When this answers, all changes that it says were taken survive any crash; when
    the connection breaks before, any number of the first lines may have been taken: send them again.
    """
    served = await run_in_threadpool(service.indexes.find, name)
    bulk = _Bulk(service, served, service.indexes.writer(served))
    if not service.indexes.bulk.acquire(blocking=False):
        raise Refusal(
            429, "too many bodies of documents are being read; try again later.", headers={"Retry-After": "2"}
        )
    try:
        await bulk.read(request)
    except ClientDisconnect:
        # Nobody reads the answer.
        pass
    finally:
        service.indexes.bulk.release()
    number = bulk.number
    searchable = number is None or await run_in_threadpool(bulk.writer.wait, number, WAIT_SECONDS if wait else 0.0)
    taken = sum(item.result is not None for item in bulk.items)
    request.state.notes |= {"index": served.name, "taken": taken, "failed": len(bulk.items) - taken}
    return BulkResponse(
        index=served.name,
        taken=taken,
        failed=len(bulk.items) - taken,
        items=bulk.items,
        sequence=number,
        searchable=searchable,
    )


class _Bulk:
    """The lines of one body on their way to the journal."""

    def __init__(self, service: Service, served: ServedIndex, writer: Writer) -> None:
        self.limits = service.settings.limits
        self.served = served
        self.writer = writer
        self.items: list[BulkItem] = []
        self.number: int | None = None
        self._line = 0

    async def read(self, request: Request) -> None:
        """Take the lines of a body as they arrive. Raises Refusal saying how many lines were dealt with."""
        rest = b""
        lines: list[bytes] = []
        size = 0
        try:
            async for piece in request.stream():
                *whole, rest = (rest + piece).split(b"\n")
                if len(rest) > self.limits.body_bytes:
                    number = self._line + len(lines) + len(whole) + 1
                    raise Refusal(
                        413,
                        f"line {number} is longer than {self.limits.body_bytes} bytes.",
                        headers={"Connection": "close"},
                    )
                lines += whole
                size += sum(map(len, whole))
                while len(lines) >= LINES_TOGETHER or size >= LINES_BYTES:
                    part, lines = lines[:LINES_TOGETHER], lines[LINES_TOGETHER:]
                    size = sum(map(len, lines))
                    await self._take(part)
            if rest:
                lines.append(rest)
            for start in range(0, len(lines), LINES_TOGETHER):
                await self._take(lines[start : start + LINES_TOGETHER])
        except Refusal as refusal:
            refusal.message += f" Lines 1 to {self._line} were dealt with." if self._line else ""
            raise

    async def _take(self, lines: list[bytes]) -> None:
        if self._line + len(lines) > self.limits.bulk_lines:
            raise Refusal(
                413,
                f"the body has more than {self.limits.bulk_lines} lines; send less at a time.",
                headers={"Connection": "close"},
            )
        # The client sends no faster than changes are applied; when none is, the writer refuses in the end.
        deadline = time.monotonic() + FULL_SECONDS
        while self.writer.full and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await run_in_threadpool(self._promise, lines)

    def _promise(self, lines: list[bytes]) -> None:
        """Promise what the lines hold, all with one sync, and note what became of each."""
        items: list[BulkItem] = []
        changes: list[Change] = []
        places: list[BulkItem] = []
        with self.served.lease() as index:
            for number, line in enumerate(lines, self._line + 1):
                if not line.strip():
                    continue
                item = BulkItem(line=number)
                items.append(item)
                try:
                    change = self._change(index, line)
                except (Refusal, InvalidInput) as error:
                    item.error = error.message if isinstance(error, Refusal) else str(error)
                    continue
                item.id = change[0]
                changes.append(change)
                places.append(item)
        results = _results(self.served, self.writer, changes)
        kept = []
        for item, change, result in zip(places, changes, results, strict=True):
            item.result = result
            if result is None:
                item.error = f"there is no document {change[0][:80]!r} to delete."
            else:
                kept.append(change)
        if kept:
            self.number = self.writer.write(kept)
        self.items += items
        self._line += len(lines)

    def _change(self, index: Index, line: bytes) -> Change:
        if len(line) > self.limits.body_bytes:
            raise Refusal(413, f"the line is longer than {self.limits.body_bytes} bytes.")
        value: Any = check_json(line)
        if isinstance(value, dict) and value.keys() == {"delete"}:
            if not isinstance(value["delete"], str):
                raise InvalidInput("delete takes the id of a document, a string.")
            require_own_id(index.manifest, value["delete"])
            return value["delete"], None
        document = accepted(index.manifest, value)
        return document.id, document
