"""The journal of an index: changes that were promised, on disk before the promise.

    journal/LOCK            held by the one process that may promise
    journal/000000000001.log  lines "CRC32 JSON", each the operations of one fsync; named after its first number

Operations are numbered. A generation says up to which number it holds them (`Manifest.applied`), so that none is
lost and none is applied twice, whenever the process is killed. Callers that wait at the same time share one fsync.
"""

import contextlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retriever.errors import BackendUnavailable, IndexCorrupt, StorageFull
from retriever.storage import disk_errors, exclusive_lock, sync
from retriever.types import Document

log = logging.getLogger("indexing.journal")

FOLDER = "journal"
# A file is removed as a whole, so several small ones keep less on disk than a large one.
FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Operation:
    """One change: the document that is to stand under an id, or None to delete what stands there."""

    number: int
    id: str
    document: Document | None
    bytes: int


@dataclass(slots=True)
class _Batch:
    """What one fsync makes durable."""

    texts: list[bytes] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    done: bool = False
    error: BaseException | None = None


class Journal:
    """Appends operations durably and hands them out to be applied; safe for concurrent use."""

    def __init__(self, index: Path, applied: int) -> None:
        """Open the journal of an index whose generation in force holds the operations up to `applied`.

        Raises IndexLocked when another process has it open, StorageFull or InvalidInput when it cannot be written.
        """
        self.folder = index / FOLDER
        self._stack = contextlib.ExitStack()
        with disk_errors(index):
            self.folder.mkdir(exist_ok=True)
            self._stack.enter_context(exclusive_lock(self.folder))
            sync(index)
        self._condition = threading.Condition()
        self._batch = _Batch()
        self._committing = False
        self._broken: OSError | None = None
        self._closed = False
        self._pending: list[Operation] = []
        self._latest: dict[str, Operation] = {}
        self._pending_bytes = 0
        self._files: list[tuple[Path, int]] = []
        self._applied = self._number = applied
        for path in sorted(self.folder.glob("*.log")):
            operations = list(_read(path))
            self._number = max([self._number, *(operation.number for operation in operations)])
            self._files.append((path, operations[-1].number if operations else 0))
            self._add([operation for operation in operations if operation.number > applied])
        self._descriptor, self._size = -1, 0
        self._remove_files()

    def append(self, changes: Sequence[tuple[str, Document | None]]) -> int:
        """Make changes, (id, document or None to delete), durable and return the number of the last one.

        Raises StorageFull when the disk is full, BackendUnavailable once the journal is closed: none of them is taken
        then.
        """
        with self._condition:
            if self._closed:
                raise BackendUnavailable(f"{self.folder} is closed; the service is stopping.")
            if self._broken is not None:
                raise StorageFull(f"{self.folder} could not be made durable ({self._broken}); restart the service.")
            batch = self._batch
            for id_, document in changes:
                self._number += 1
                text = _text(self._number, id_, document)
                batch.texts.append(text)
                batch.operations.append(Operation(self._number, id_, document, len(text)))
            number = self._number
            while not batch.done:
                if self._committing:
                    self._condition.wait()
                else:
                    self._commit()
        if batch.error is not None:
            with disk_errors(self.folder):
                raise batch.error
        return number

    def _commit(self) -> None:
        """Write what has been collected, with the lock given up meanwhile."""
        batch, self._batch = self._batch, _Batch()
        self._committing = True
        self._condition.release()
        try:
            self._write(batch)
        except BaseException as error:
            # Whatever it was: nobody may be told that this batch is on disk.
            batch.error = error
        finally:
            self._condition.acquire()
            self._committing = False
            batch.done = True
            if batch.error is None:
                self._files[-1] = (self._files[-1][0], batch.operations[-1].number)
                self._add(batch.operations)
            self._condition.notify_all()

    def _write(self, batch: _Batch) -> None:
        if self._descriptor < 0 or self._size >= FILE_BYTES:
            self._open_file(batch.operations[0].number)
        content = memoryview(_line(batch.texts))
        written = 0
        try:
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        except BaseException:
            self._take_back()
            raise
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # What the kernel has dropped after that nobody knows.
            self._broken = error
            raise
        self._size += len(content)

    def _take_back(self) -> None:
        """Remove the part of a batch that was written, so that it can never be applied."""
        try:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        except OSError as error:
            self._broken = error

    def _open_file(self, number: int) -> None:
        path = self.folder / f"{number:012d}.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            sync(self.folder)
        except BaseException:
            os.close(descriptor)
            raise
        with self._condition:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor, self._size = descriptor, 0
            self._files.append((path, number))

    def _add(self, operations: Sequence[Operation]) -> None:
        self._pending += operations
        for operation in operations:
            self._latest[operation.id] = operation
            self._pending_bytes += operation.bytes

    @property
    def backlog(self) -> tuple[int, int]:
        """How many operations are not applied yet, and their bytes."""
        return len(self._pending), self._pending_bytes

    def latest(self, id_: str) -> Operation | None:
        """Return the last operation on an id that is not applied yet, or None."""
        return self._latest.get(id_)

    def pending(self, most: int, most_bytes: int) -> list[Operation]:
        """Return the oldest operations that are not applied yet, within both bounds but at least one."""
        with self._condition:
            found: list[Operation] = []
            size = 0
            for operation in self._pending[:most]:
                size += operation.bytes
                if found and size > most_bytes:
                    break
                found.append(operation)
            return found

    def done(self, number: int) -> None:
        """Forget operations up to `number`: the generation that readers use holds them."""
        with self._condition:
            kept = [operation for operation in self._pending if operation.number > number]
            for operation in self._pending[: len(self._pending) - len(kept)]:
                self._pending_bytes -= operation.bytes
                if self._latest.get(operation.id) is operation:
                    del self._latest[operation.id]
            self._pending = kept
            self._applied = max(self._applied, number)
            self._remove_files()
            self._condition.notify_all()

    def _remove_files(self) -> None:
        """Delete files that hold nothing to apply, but for the one that is written to."""
        for path, last in list(self._files if self._descriptor < 0 else self._files[:-1]):
            if last <= self._applied:
                path.unlink(missing_ok=True)
                self._files.remove((path, last))

    def wait_for_work(self, seconds: float) -> bool:
        """Wait until there is something to apply; return whether there is."""
        with self._condition:
            return self._condition.wait_for(lambda: bool(self._pending) or self._closed, seconds) and bool(
                self._pending
            )

    def wait_applied(self, number: int, seconds: float) -> bool:
        """Wait until operations up to `number` are applied; return whether they are."""
        with self._condition:
            return self._condition.wait_for(lambda: self._applied >= number, seconds)

    def close(self) -> None:
        """Stop taking operations and release the lock; what is pending stays on disk."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._committing, 10.0)
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._remove_files()
        self._stack.close()


def _text(number: int, id_: str, document: Document | None) -> bytes:
    content: dict[str, Any] = {"number": number, "id": id_}
    if document is not None:
        content |= {"title": document.title, "text": document.text, "metadata": dict(document.metadata)}
    return json.dumps(content).encode()


def _line(texts: Sequence[bytes]) -> bytes:
    content = b"[%s]" % b",".join(texts)
    return b"%08x %s\n" % (zlib.crc32(content), content)


def unapplied(index: Path, applied: int) -> int:
    """Count the promised changes of an index that its generation in force, up to `applied`, does not hold yet."""
    files = sorted((index / FOLDER).glob("*.log"))
    return sum(operation.number > applied for path in files for operation in _read(path))


def _read(path: Path) -> Iterator[Operation]:
    """Yield the operations of a file. Raises IndexCorrupt when more than its end is damaged."""
    lines = path.read_bytes().split(b"\n")
    for place, line in enumerate(lines):
        if _is_whole(line):
            for content in json.loads(line[9:]):
                yield _operation(content)
            continue
        # Nothing is written behind a line before that line is durable, so only the last one can be unfinished.
        if any(map(_is_whole, lines[place + 1 :])):
            raise IndexCorrupt(
                f"{path} is damaged in line {place + 1}, with sound lines behind it; restore it, or move it away "
                "to do without the changes that it holds."
            )
        if line:
            log.warning("%s: an unfinished line of %d bytes was left out, it was never promised", path, len(line))
        return


def _is_whole(line: bytes) -> bool:
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:])


def _operation(content: dict[str, Any]) -> Operation:
    document = None
    if "text" in content:
        document = Document(content["id"], content["text"], content["title"], content["metadata"])
    size = len(content.get("text", "")) + len(content["id"])
    return Operation(content["number"], content["id"], document, size)
