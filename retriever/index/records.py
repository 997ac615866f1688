"""documents.sqlite: the record of every document, from which all other parts can be rebuilt.

A row carries the generation that added it and the one that deleted it, so that each manifest sees exactly
its own documents: a crash before CURRENT is replaced leaves rows that no reader sees and the next writer
removes.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retriever.errors import BackendUnavailable, IndexCorrupt, InvalidInput
from retriever.filters import is_finite
from retriever.types import Document

FILE = "documents.sqlite"

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    parent TEXT,
    span_start INTEGER,
    span_end INTEGER,
    added INTEGER NOT NULL,
    deleted INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS live ON documents (id) WHERE deleted IS NULL;
CREATE INDEX IF NOT EXISTS ids ON documents (id);
CREATE INDEX IF NOT EXISTS parents ON documents (parent) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS graves ON documents (row) WHERE deleted IS NOT NULL;
CREATE TABLE IF NOT EXISTS fields (
    name TEXT NOT NULL,
    value NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (name, value, row)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS field_rows ON fields (row);
"""

COLUMNS = "row, id, title, text, metadata, parent, span_start, span_end"
ORDINAL_BITS = 32
# json.dumps with arguments would make an encoder for each document.
METADATA = json.JSONEncoder(ensure_ascii=False)
FieldType = Literal["keyword", "number"]
Row = tuple[Any, ...]


def row_of(segment: int, ordinal: int) -> int:
    """Return the row number of a document: its segment's number, then its place in the segment."""
    return segment << ORDINAL_BITS | ordinal


def field_values(document: Document, fields: Mapping[str, FieldType]) -> Iterator[tuple[str, str | float]]:
    """Yield (field, value) for the declared fields of a document; a list gives one pair for each member.

    Raises InvalidInput when a value does not have the declared type.
    """
    for name, kind in fields.items():
        content = document.metadata.get(name)
        if content is None:
            continue
        for value in content if isinstance(content, list | tuple) else [content]:
            if isinstance(value, bool):
                value = str(value).lower()
            if kind == "number":
                if not isinstance(value, int | float) or not is_finite(value):
                    raise InvalidInput(
                        f"document {document.id!r}: field {name!r} is declared as a number, got {value!r}; "
                        f"declare it as {name}:keyword or correct the document."
                    )
                yield name, float(value)
            elif isinstance(value, str | int | float):
                yield name, str(value)
            else:
                raise InvalidInput(
                    f"document {document.id!r}: field {name!r} must hold text, numbers or lists of them, "
                    f"got {type(value).__name__}."
                )


def _document(row: Row) -> Document:
    _, id_, title, text, metadata, parent, start, end = row
    span = None if start is None else (start, end)
    return Document(id_, text, title, json.loads(metadata), parent, span)


class Records:
    """Reads the documents that one generation sees; safe to use from many threads."""

    def __init__(self, folder: Path, generation: int) -> None:
        self.path = folder / FILE
        self.generation = generation
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        if not self.path.is_file():
            raise IndexCorrupt(f"{self.path} is missing; restore it or rebuild the index.")

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    def _open(self) -> sqlite3.Connection:
        """Raises IndexCorrupt, and BackendUnavailable for what may pass, such as too many open files."""
        try:
            return self._connect("mode=ro")
        except sqlite3.OperationalError as error:
            log = self.path.with_name(f"{self.path.name}-wal")
            if log.is_file() and log.stat().st_size:
                raise BackendUnavailable(
                    f"{self.path} cannot be read ({error}), and its write-ahead log holds changes. If this is a "
                    "read-only medium, open the index once where it can be written to, and copy it then."
                ) from error
        # On a read-only medium a write-ahead log cannot be opened; without one nothing can change there either.
        try:
            return self._connect("immutable=1")
        except sqlite3.OperationalError as error:
            raise BackendUnavailable(f"{self.path} cannot be read: {error}") from error

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?{mode}", uri=True, check_same_thread=False)
        try:
            connection.execute("SELECT 1 FROM documents LIMIT 1").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise IndexCorrupt(f"{self.path} is damaged ({error}); restore it or rebuild the index.") from error
        return connection

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    @property
    def _visible(self) -> str:
        return f"added <= {self.generation:d} AND (deleted IS NULL OR deleted > {self.generation:d})"

    def fetch(self, rows: Sequence[int]) -> dict[int, Document]:
        """Return documents by row number."""
        found: dict[int, Document] = {}
        connection = self._connection()
        for start in range(0, len(rows), 500):
            part = rows[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT {COLUMNS} FROM documents WHERE row IN ({marks})"  # noqa: S608 (only question marks)
            found |= {row[0]: _document(row) for row in connection.execute(query, list(part))}
        return found

    def get(self, id_: str) -> Document | None:
        """Return a document by id, or the parent document with that id, reassembled from its chunks."""
        connection = self._connection()
        query = f"SELECT {COLUMNS} FROM documents WHERE {{}} = ? AND {self._visible}"  # noqa: S608 (an integer)
        row = connection.execute(query.format("id"), (id_,)).fetchone()
        if row is not None:
            return _document(row)
        chunks = [_document(row) for row in connection.execute(query.format("parent"), (id_,))]
        return reassemble(chunks) if chunks else None

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids that are neither a visible document nor the parent of one."""
        connection = self._connection()
        queries = [
            f"SELECT 1 FROM documents WHERE {column} = ? AND {self._visible} LIMIT 1"  # noqa: S608 (an integer)
            for column in ("id", "parent")
        ]
        return [id_ for id_ in ids if not any(connection.execute(query, (id_,)).fetchone() for query in queries)]

    def match(self, name: str, condition: str, values: Sequence[str | float]) -> NDArray[np.int64]:
        """Return the rows whose field `name` fulfils an SQL condition on `value`, ascending."""
        query = f"SELECT DISTINCT row FROM fields WHERE name = ? AND {condition} ORDER BY row"  # noqa: S608 (conditions are literals of retriever.filters; what a request says is bound)
        rows = self._connection().execute(query, [name, *values]).fetchall()
        return np.fromiter((row for (row,) in rows), np.int64, len(rows))

    def values(self, name: str, limit: int) -> list[tuple[str | float, int]]:
        """Return the most frequent values of a field among visible documents, with counts."""
        query = (
            "SELECT value, count(*) FROM fields JOIN documents USING (row) "  # noqa: S608 (an integer)
            f"WHERE name = ? AND {self._visible} GROUP BY value ORDER BY 2 DESC, value LIMIT ?"
        )
        return list(self._connection().execute(query, (name, limit)))

    def segment_values(self, segment: int, name: str) -> list[tuple[str | float, int]]:
        """Return (value, ordinal) of a field for all rows of a segment, deleted ones included."""
        first = row_of(segment, 0)
        query = "SELECT value, row FROM fields INDEXED BY field_rows WHERE row >= ? AND row < ? AND name = ?"
        rows = self._connection().execute(query, (first, row_of(segment + 1, 0), name))
        return [(value, row - first) for value, row in rows]

    def segment_documents(self, segment: int) -> Iterator[tuple[int, Document]]:
        """Yield (ordinal, document) of all rows of a segment, deleted ones included, in order."""
        first = row_of(segment, 0)
        for row in self._segment_rows(segment):
            yield row[0] - first, _document(row)

    def segment_ids(self, segment: int) -> list[str]:
        """Return the ids of all rows of a segment, deleted ones included, in order."""
        query = "SELECT id FROM documents WHERE row >= ? AND row < ? ORDER BY row"
        return [id_ for (id_,) in self._connection().execute(query, (row_of(segment, 0), row_of(segment + 1, 0)))]

    def _segment_rows(self, segment: int) -> Iterator[Row]:
        query = f"SELECT {COLUMNS} FROM documents WHERE row >= ? AND row < ? ORDER BY row"  # noqa: S608 (COLUMNS is a constant of this module)
        # A cursor of its own: a caller may look up other rows while it iterates.
        return self._connection().cursor().execute(query, (row_of(segment, 0), row_of(segment + 1, 0)))

    def digest(self, segment: int, through: Callable[[Iterator[Row]], Iterator[Row]] = iter) -> str:
        """Return the sha256 over all rows of a segment: what `verify` compares with the manifest.

        through  passes the rows on, and may raise to give up
        """
        digest = hashlib.sha256()
        first = row_of(segment, 0)
        for row, *content in through(self._segment_rows(segment)):
            digest.update(_canonical_row(str(row - first), *content))
        return digest.hexdigest()

    def live_ids(self) -> Iterator[str]:
        query = f"SELECT id FROM documents WHERE {self._visible}"  # noqa: S608 (`_visible` holds the generation's number, an integer, and nothing else)
        for (id_,) in self._connection().cursor().execute(query):
            yield id_

    def check(self) -> str | None:
        """Return SQLite's own complaint about the file, or None when it is sound. Reads all of it."""
        try:
            (verdict,) = self._connection().execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if verdict == "ok" else str(verdict)


def canonical(*values: str | int | None) -> bytes:
    """Return bytes that differ whenever the values do, for digests."""
    texts = ["" if value is None else str(value) for value in values]
    kinds = "".join(["n" if value is None else "v" for value in values])
    return f"{kinds}{','.join([str(len(text)) for text in texts])};{''.join(texts)}".encode()


def _canonical_row(
    ordinal: str, id_: str, title: str, text: str, metadata: str, parent: str | None, start: int | None, end: int | None
) -> bytes:
    """Return what `canonical` does, in half the time for a whole document."""
    if parent is not None or start is not None or end is not None:
        return canonical(ordinal, id_, title, text, metadata, parent, start, end)
    sizes = f"{len(ordinal)},{len(id_)},{len(title)},{len(text)},{len(metadata)},0,0,0"
    return f"vvvvvnnn{sizes};{ordinal}{id_}{title}{text}{metadata}".encode()


def reassemble(chunks: Sequence[Document]) -> Document:
    """Return the document that chunks were cut from; overlaps are written once."""
    ordered = sorted(chunks, key=lambda chunk: chunk.span or (0, 0))
    text = ""
    for chunk in ordered:
        start, _ = chunk.span or (0, 0)
        text += chunk.text[max(0, len(text) - start) :]
    first = ordered[0]
    return Document(first.parent or first.id, text, first.title, first.metadata)


class RecordWriter:
    """Adds and deletes documents for the generation to come; one at a time, under the index lock."""

    def __init__(self, folder: Path, generation: int) -> None:
        """Open for writing `generation`; call `roll_back` or `truncate` before adding."""
        self.path = folder / FILE
        self.generation = generation
        self._connection = sqlite3.connect(self.path)
        self._connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536;" + SCHEMA
        )

    def roll_back(self, kept: Collection[int]) -> None:
        """Forget what was written for this generation or later, and all rows of segments not in `kept`.

        kept  numbers of the segments of the generation in force and of the one before it
        """
        with self._connection as connection:
            for segment in self._segments() - set(kept):
                self._remove(connection, row_of(segment, 0), row_of(segment + 1, 0))
            connection.execute(
                "UPDATE documents INDEXED BY graves SET deleted = NULL WHERE deleted >= ?", (self.generation,)
            )

    def _segments(self) -> set[int]:
        found = set()
        row: int | None = -1
        while row is not None:
            query = "SELECT min(row) FROM documents WHERE row > ?"
            (row,) = self._connection.execute(query, (row,)).fetchone()
            if row is not None:
                found.add(row >> ORDINAL_BITS)
                row = row_of((row >> ORDINAL_BITS) + 1, 0) - 1
        return found

    @staticmethod
    def _remove(connection: sqlite3.Connection, first: int, last: int) -> None:
        connection.execute("DELETE FROM fields WHERE row >= ? AND row < ?", (first, last))
        connection.execute("DELETE FROM documents WHERE row >= ? AND row < ?", (first, last))

    def truncate(self, segment: int, documents: int) -> None:
        """Remove the rows of a segment from ordinal `documents` on: those of an unfinished shard."""
        with self._connection as connection:
            self._remove(connection, row_of(segment, documents), row_of(segment + 1, 0))

    def replace(
        self,
        segment: int,
        first: int,
        documents: Sequence[Document],
        fields: Mapping[str, FieldType],
        replaced: Iterable[int] = (),
    ) -> None:
        """Insert documents at ordinals `first`, `first` + 1, ... and mark rows as deleted, all or nothing.

        Raises InvalidInput when an id is there already or a field has the wrong type.
        """
        rows = []
        values: list[tuple[str, str | float, int]] = []
        for ordinal, document in enumerate(documents, first):
            row = row_of(segment, ordinal)
            start, end = document.span or (None, None)
            metadata = METADATA.encode(dict(document.metadata))
            rows.append(
                (row, document.id, document.title, document.text, metadata, document.parent, start, end,
                 self.generation)
            )  # fmt: skip
            values.extend((name, value, row) for name, value in field_values(document, fields))
        try:
            with self._connection as connection:
                self._mark(connection, replaced)
                connection.executemany("INSERT INTO documents VALUES (?,?,?,?,?,?,?,?,?,NULL)", rows)
                connection.executemany("INSERT OR IGNORE INTO fields VALUES (?,?,?)", values)
        except sqlite3.IntegrityError:
            raise InvalidInput(self._name_duplicate([document.id for document in documents])) from None

    def _name_duplicate(self, ids: Sequence[str]) -> str:
        seen: set[str] = set()
        for id_ in ids:
            query = "SELECT 1 FROM documents WHERE id = ? AND deleted IS NULL"
            if id_ in seen or self._connection.execute(query, (id_,)).fetchone():
                return (
                    f"document id {id_!r} is in the index already; "
                    "use --duplicates overwrite or --duplicates skip, or remove it."
                )
            seen.add(id_)
        return "a document id is in the index already; use --duplicates overwrite or skip."

    def texts_differ(self, *, first: int) -> bool:
        """Whether two documents from segment `first` on have different contents; those without any do not count."""
        filled = "row >= ? AND trim(title || text) <> ''"
        query = (
            f"SELECT 1 FROM documents WHERE {filled} AND (title, text) <> "  # noqa: S608 (only question marks)
            f"(SELECT title, text FROM documents WHERE {filled} ORDER BY row LIMIT 1) LIMIT 1"
        )
        start = row_of(first, 0)
        return self._connection.execute(query, (start, start)).fetchone() is not None

    def existing(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """Return the live rows of those ids that exist, by id; a parent's id gives all its chunks."""
        found: dict[str, list[int]] = {}
        if self._connection.execute("SELECT 1 FROM documents LIMIT 1").fetchone() is None:
            return found
        for start in range(0, len(ids), 500):
            part = list(ids[start : start + 500])
            marks = ",".join("?" * len(part))
            # Two look-ups, for SQLite scans the table when an OR spans two partial indexes.
            for column in ("id", "parent"):
                query = (
                    f"SELECT {column}, row FROM documents "  # noqa: S608 (only question marks)
                    f"WHERE {column} IN ({marks}) AND deleted IS NULL ORDER BY row"
                )
                for id_, row in self._connection.execute(query, part):
                    found.setdefault(id_, []).append(row)
        return found

    def delete(self, rows: Iterable[int]) -> None:
        """Mark rows as deleted from this generation on."""
        with self._connection as connection:
            self._mark(connection, rows)

    def delete_all(self, *, before: int) -> None:
        """Mark everything in segments with numbers below `before` as deleted."""
        with self._connection as connection:
            connection.execute(
                "UPDATE documents SET deleted = ? WHERE deleted IS NULL AND row < ?",
                (self.generation, row_of(before, 0)),
            )

    def _mark(self, connection: sqlite3.Connection, rows: Iterable[int]) -> None:
        connection.executemany(
            "UPDATE documents SET deleted = ? WHERE row = ?", ((self.generation, row) for row in rows)
        )

    def move(self, pairs: Iterable[tuple[int, int]], gone: Collection[int] = ()) -> None:
        """Copy rows to new places and mark the old ones as deleted: (old row, new row) pairs.

        gone  old rows that are deleted already; their copies never are visible
        """
        with self._connection as connection:
            for old, new in pairs:
                # When a row was deleted stays as it is, for generations before that see it.
                deleted = self.generation if old in gone else None
                if deleted is None:
                    self._mark(connection, [old])
                connection.execute(
                    "INSERT INTO documents SELECT ?, id, title, text, metadata, parent, span_start, span_end, ?, ? "
                    "FROM documents WHERE row = ?",
                    (new, self.generation, deleted, old),
                )
                connection.execute("INSERT INTO fields SELECT name, value, ? FROM fields WHERE row = ?", (new, old))

    def deleted_ordinals(self, segment: int) -> NDArray[np.int64]:
        """Return the ordinals of a segment that this generation no longer sees."""
        first, last = row_of(segment, 0), row_of(segment + 1, 0)
        query = (
            "SELECT row FROM documents INDEXED BY graves "
            "WHERE deleted IS NOT NULL AND row >= ? AND row < ? ORDER BY row"
        )
        rows = self._connection.execute(query, (first, last)).fetchall()
        return np.fromiter((row - first for (row,) in rows), np.int64, len(rows))

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that the folder can be copied as it is."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()
