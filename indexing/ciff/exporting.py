"""From a sealed index to a CIFF file, a few terms at a time."""

import contextlib
import gzip
import heapq
import os
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from indexing.ciff.description import describe
from indexing.ciff.wire import LARGEST, VERSION, delimited, message, postings_list
from kernels.impact import unfold
from retriever.errors import InvalidInput
from retriever.index.inverted import InvertedReader
from retriever.index.sealed import Index, open_index
from retriever.index.segment import SegmentReader
from retriever.progress import Progress
from retriever.storage import disk_errors, require_writable, sync

TERMS = 256
"""Of a segment that are decoded at once."""

BLOCK = 1 << 20

_Postings = tuple[NDArray[np.int32], NDArray[np.uint32]]


def export_ciff(index: str | Path, file: str | Path, *, quiet: bool = True) -> dict[str, Any]:
    """Write the BM25 part of an index as a CIFF file and return a report.

    file  a name that ends in .gz or .zst is compressed; a file of that name is replaced when the new one is complete

    Terms stand in the order of their UTF-8 bytes, documents in the order of the index; deleted ones are left out.
    Memory: the vocabularies' blocks and the postings of 256 terms of each segment.
    Raises InvalidInput for an index without a BM25 part or a place that cannot be written.
    """
    target = Path(file)
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder; name a file.")
    if not target.parent.is_dir():
        raise InvalidInput(f"there is no folder {target.parent}; make it first.")
    require_writable(target.parent)
    with open_index(index) as opened:
        if opened.manifest.inverted is None:
            raise InvalidInput(f"{index} has no BM25 part, and CIFF holds nothing else.")
        with disk_errors(target.parent), _written_atomically(target) as output:
            report = _write(opened, output, quiet)
    return {"file": str(target), "bytes": target.stat().st_size, **report}


class _Source:
    """One segment, its live documents numbered from `first` on."""

    def __init__(self, segment: SegmentReader, first: int) -> None:
        assert segment.inverted is not None
        self.ids = segment.ids
        self.reader: InvertedReader = segment.inverted
        live = segment.live if segment.live is not None else np.ones(segment.documents, np.bool_)
        self.live = np.flatnonzero(live)
        self.numbers = np.where(live, np.cumsum(live) - 1 + first, -1).astype(np.int32)
        self.all_live = segment.live is None

    def terms(self) -> Iterator[bytes]:
        """Yield the terms that a live document holds."""
        if self.all_live:
            yield from self.reader.terms.raw()
            return
        for start, terms in self._groups():
            offsets, documents, _ = unfold(self.reader.postings, start, start + len(terms))
            # Every term has a posting, so none of these ranges is empty.
            alive = np.add.reduceat(self.numbers[documents] >= 0, offsets[:-1], dtype=np.int64)
            yield from (term for term, count in zip(terms, alive.tolist(), strict=True) if count)

    def lists(self) -> Iterator[tuple[bytes, _Postings]]:
        """Yield the same terms with their live documents and frequencies."""
        for start, terms in self._groups():
            offsets, documents, frequencies = self._decode(start, start + len(terms))
            for term, begin, end in zip(terms, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
                part = slice(begin, end)
                numbers, counts = self.numbers[documents[part]], frequencies[part]
                if not self.all_live:
                    kept = numbers >= 0
                    numbers, counts = numbers[kept], counts[kept]
                if len(numbers):
                    yield term, (numbers, counts)

    def _groups(self) -> Iterator[tuple[int, list[bytes]]]:
        group: list[bytes] = []
        start = 0
        for term in self.reader.terms.raw():
            group.append(term)
            if len(group) == TERMS:
                yield start, group
                start += TERMS
                group = []
        if group:
            yield start, group

    def _decode(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint32]]:
        """Return offsets, documents and frequencies of a range of terms."""
        offsets, documents, codes = unfold(self.reader.postings, first, last)
        table = self.reader.frequencies
        frequencies = table.smallest[table.length_bytes[documents], codes].astype(np.uint32)
        low, high = np.searchsorted(table.exceptions, [first << 32, last << 32])
        if high > low:
            terms = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(offsets))
            places = np.searchsorted(terms << 32 | documents, table.exceptions[low:high])
            frequencies[places] = table.exception_values[low:high]
        return offsets, documents, frequencies


def _write(index: Index, output: IO[bytes], quiet: bool) -> dict[str, Any]:
    sources: list[_Source] = []
    documents = 0
    for segment in index.segments:
        sources.append(_Source(segment, documents))
        documents += len(sources[-1].live)
    if documents > LARGEST:
        raise InvalidInput(f"CIFF numbers up to {LARGEST} documents, the index has {documents}.")
    total = sum(source.reader.total_length for source in sources)
    # The header says how many lists follow, so the terms are gone through twice.
    terms = sum(1 for _ in groupby(heapq.merge(*(source.terms() for source in sources))))
    part = index.manifest.inverted
    assert part is not None
    average = total / documents if documents else 0.0
    header = message(VERSION, terms, documents, terms, documents, total, average, describe(part))
    output.write(delimited(header))
    postings = 0
    with Progress("terms", terms, quiet) as progress:
        for number, (term, found) in enumerate(_merged(sources), 1):
            postings += len(found[0])
            output.write(postings_list(term, *found))
            if number % TERMS == 0:
                progress.advance(TERMS)
        progress.advance(terms % TERMS)
    with Progress("documents", documents, quiet) as progress:
        for source, first in zip(sources, _starts(sources), strict=True):
            lengths = source.reader.lengths
            for start in range(0, len(source.live), BLOCK >> 6):
                places = source.live[start : start + (BLOCK >> 6)]
                rows = zip(source.ids.take(places), lengths[places].tolist(), strict=True)
                output.writelines(
                    delimited(message(number, id_, length)) for number, (id_, length) in enumerate(rows, first + start)
                )
                progress.advance(len(places))
    return {"terms": terms, "postings": postings, "documents": documents, "description": describe(part)}


def _starts(sources: list[_Source]) -> list[int]:
    starts = [0]
    for source in sources:
        starts.append(starts[-1] + len(source.live))
    return starts[:-1]


def _merged(sources: list[_Source]) -> Iterator[tuple[bytes, _Postings]]:
    """Yield the terms of all segments in order, each with its postings in ascending order."""
    # Equal terms come from one segment after another, in the order of the sources.
    streams = heapq.merge(*(source.lists() for source in sources), key=itemgetter(0))
    for term, group in groupby(streams, key=itemgetter(0)):
        parts = [postings for _, postings in group]
        if len(parts) == 1:
            yield term, parts[0]
        else:
            yield term, (np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


@contextlib.contextmanager
def _written_atomically(target: Path) -> Iterator[IO[bytes]]:
    """Give a file to write to that gets its name at the end, when all went well; packed as the name says."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file, contextlib.ExitStack() as stack:
            output: Any = file
            if target.suffix.lower() == ".gz":
                # Without the time, so that equal indexes give equal bytes.
                output = stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
            elif target.suffix.lower() == ".zst":
                import zstandard

                packer = zstandard.ZstdCompressor(write_checksum=True)
                output = stack.enter_context(packer.stream_writer(file, closefd=False))
            buffered = stack.enter_context(_Buffered(output))
            yield cast(IO[bytes], buffered)
            stack.close()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


class _Buffered:
    """Hands writes on by the megabyte; a packer takes microseconds for each."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._held = bytearray()

    def __enter__(self) -> "_Buffered":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._output.write(bytes(self._held))

    def write(self, content: bytes) -> None:
        self._held += content
        if len(self._held) >= BLOCK:
            self._output.write(bytes(self._held))
            self._held.clear()

    def writelines(self, contents: Iterator[bytes]) -> None:
        for content in contents:
            self.write(content)
