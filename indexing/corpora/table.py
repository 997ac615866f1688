"""CSV and TSV with a header, MS MARCO's two columns without one, and Parquet."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from indexing.corpora.corpus import ID_FIELDS, TEXT_FIELDS, Raw
from indexing.corpora.lines import MAX_LINE_BYTES, Line, read_lines
from retriever.errors import InvalidInput


def read_csv(path: Path) -> Iterator[Raw]:
    """Yield the rows of a comma-separated file with a header; fields in quotes may span lines."""
    yield from _rows(path, ",")


def read_tsv(path: Path) -> Iterator[Raw]:
    """Yield the rows of a tab-separated file: with a header, or `id<TAB>text` as in MS MARCO.

    The first line is a header when one of its cells is a known name of an id or text column.
    """
    lines = read_lines(path)
    first = next(lines, None)
    if first is None:
        return
    cells = (first.text or "").split("\t")
    known = {*ID_FIELDS, *TEXT_FIELDS}
    if known & {cell.strip().lower() for cell in cells} or len(cells) != 2:
        yield from _rows(path, "\t")
        return
    for line in itertools.chain([first], lines):
        yield _pair(str(path), line)


def _pair(name: str, line: Line) -> Raw:
    if line.text is None:
        return Raw(name, line.number, None, line.reason)
    cells = line.text.split("\t")
    if len(cells) != 2:
        return Raw(name, line.number, None, f"2 columns are needed (id, text), got {len(cells)}")
    return Raw(name, line.number, {"id": cells[0], "text": cells[1]})


def _rows(path: Path, delimiter: str) -> Iterator[Raw]:
    csv.field_size_limit(MAX_LINE_BYTES)
    # The csv module wants text; a line that is not UTF-8 is reported after the rows before it.
    unreadable: list[Line] = []

    def texts() -> Iterator[str]:
        for line in read_lines(path):
            if line.text is None:
                unreadable.append(line)
            else:
                yield line.text + "\n"

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        names = [name.strip() for name in header]
        if len(set(names)) != len(names):
            raise InvalidInput(f"{path}:1: a column name stands twice in the header {names}.")
        while True:
            row = next(reader, None)
            while unreadable:
                line = unreadable.pop(0)
                yield Raw(str(path), line.number, None, line.reason)
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(names):
                reason = f"{len(names)} columns are needed, got {len(row)}"
                yield Raw(str(path), reader.line_num, None, reason)
                continue
            filled = {name: cell for name, cell in zip(names, row, strict=True) if cell != ""}
            # An empty text is a document without text; an empty other cell is a missing value.
            texts_ = {name: "" for name in names if name in TEXT_FIELDS}
            yield Raw(str(path), reader.line_num, {**texts_, **filled})
    except csv.Error as error:
        raise InvalidInput(f"{path}:{reader.line_num}: not a {delimiter!r}-separated table: {error}.") from error


def read_parquet(path: Path) -> Iterator[Raw]:
    """Yield the rows of a Parquet file, a batch at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Raw(str(path), number, row)
    except pyarrow.ArrowInvalid as error:
        raise InvalidInput(f"{path} is not a Parquet file: {error}.") from error
