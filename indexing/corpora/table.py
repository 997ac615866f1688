"""CSV and TSV with a header, or without one as MS MARCO has it, and Parquet."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from indexing.corpora.corpus import ID_FIELDS, TEXT_FIELDS, Raw
from indexing.corpora.lines import MAX_LINE_BYTES, Line, read_lines
from retriever.errors import InvalidInput

HEADERLESS = {2: ("id", "text"), 3: ("id", "title", "text")}
PARQUET_BATCH = 1024


class Row(NamedTuple):
    """The cells of one row and the line where it begins; or None and the reason why it cannot be read."""

    line: int
    cells: list[str] | None
    reason: str = ""


def read_csv(path: Path, *, header: bool | None = None, text_field: str | None = None) -> Iterator[Raw]:
    """Yield the rows of a comma-separated file (RFC 4180); fields in quotes may span lines.

    header  False: two columns, id and text, or three, id, title and text
    """
    yield from _records(path, _csv_rows(path), header is not False, text_field)


def read_tsv(
    path: Path, *, header: bool | None = None, id_field: str | None = None, text_field: str | None = None
) -> Iterator[Raw]:
    """Yield the rows of a tab-separated file: with a header, or `id<TAB>text` as in MS MARCO.

    header  None takes the first line for a header when a field is chosen by name, when one of its cells is
            a known name of an id or text column, or when there are not two of them

    A quotation mark is a character like any other (IANA text/tab-separated-values): texts begin with one.
    """
    rows = _tsv_rows(path)
    first = next(rows, None)
    if first is None:
        return
    if header is None:
        cells = first.cells or []
        known = {cell.strip().lower() for cell in cells} & {*ID_FIELDS, *TEXT_FIELDS}
        header = bool(id_field or text_field or known) or len(cells) != 2
    yield from _records(path, itertools.chain([first], rows), header, text_field)


def _records(path: Path, rows: Iterator[Row], header: bool, text_field: str | None) -> Iterator[Raw]:
    names: Sequence[str] | None = _header(path, next(rows, None)) if header else None
    if names is not None and len(set(names)) != len(names):
        raise InvalidInput(f"{path}: a column name stands twice in the header {names}.")
    for row in rows:
        if row.cells is None:
            yield Raw(str(path), row.line, None, row.reason)
            continue
        # Without a header the first row says how many columns there are.
        names = names or HEADERLESS.get(len(row.cells))
        if names is not None and len(names) == len(row.cells):
            yield Raw(str(path), row.line, _fields(names, row.cells, text_field))
        else:
            needed = len(names) if names else "2 (id, text) or 3 (id, title, text)"
            yield Raw(str(path), row.line, None, f"{needed} columns are needed, got {len(row.cells)}")


def _header(path: Path, row: Row | None) -> list[str] | None:
    if row is None:
        return None
    if row.cells is None:
        raise InvalidInput(f"{path}:{row.line}: the header is {row.reason}.")
    return [cell.strip() for cell in row.cells]


def _fields(columns: Sequence[str], cells: Sequence[str], text_field: str | None) -> dict[str, str | None]:
    """Return the cells by name. An empty text is a document without text; another empty cell is no value."""
    text = text_field or next((name for name in TEXT_FIELDS if name in columns), None)
    return {name: cell if cell or name == text else None for name, cell in zip(columns, cells, strict=True)}


def _tsv_rows(path: Path) -> Iterator[Row]:
    for line in read_lines(path):
        if line.text is None:
            yield Row(line.number, None, line.reason)
        elif line.text:
            yield Row(line.number, line.text.split("\t"))


def _csv_rows(path: Path) -> Iterator[Row]:
    # The module's own limit of 128 KiB a field is its only one, for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    number = 0
    unreadable: list[Line] = []

    def texts() -> Iterator[str]:
        nonlocal number
        for line in read_lines(path):
            number = line.number
            if line.text is None:
                unreadable.append(line)
            # An empty line in place of an unreadable one spoils the row that it belongs to and no other.
            yield (line.text or "") + "\n"

    reader = csv.reader(texts(), strict=True)
    while True:
        first = number + 1
        row: list[str] | None = []
        reason = ""
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = f"not comma-separated: {error}"
        if row is None:
            return
        if unreadable:
            yield from (Row(line.number, None, line.reason) for line in unreadable)
            unreadable.clear()
        elif reason:
            yield Row(first, None, reason)
        elif row:
            yield Row(first, row)


def read_parquet(path: Path) -> Iterator[Raw]:
    """Yield the rows of a Parquet file, a batch at a time; the number of a row stands for that of a line."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH):
                for row, reason in _rows_of(batch):
                    number += 1
                    yield Raw(str(path), number, row, reason)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a Parquet file, or damaged after row {number}: {error}.") from error


def _rows_of(batch: Any) -> list[tuple[dict[str, Any] | None, str]]:
    try:
        return [(row, "") for row in batch.to_pylist()]
    except ValueError as error:
        if batch.num_rows == 1:
            return [(None, f"holds an unreadable value: {error}")]
    # One of the rows holds what Python has no value for: find which.
    return [row for place in range(batch.num_rows) for row in _rows_of(batch.slice(place, 1))]


def count_parquet(path: Path) -> int | None:
    """Return the number of rows from the end of the file, None where that cannot be read."""
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError):
        return None
