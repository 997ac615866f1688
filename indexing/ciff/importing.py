"""From a CIFF file to a sealed index of one segment.

.NAME.importing/            beside the index to be, which gets its name at the end
    building/postings/      documents.raw and frequencies.raw as they are read, then plain.*
    building/texts.sqlite   the texts of a corpus, until they are in the order of the index
"""

import contextlib
import json
import shutil
import sqlite3
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexing.build import Corpus
from indexing.ciff.description import Description, understand
from indexing.ciff.wire import Header, ListHead, Reader
from indexing.corpora.corpus import _checked_id
from indexing.segments import seal_segment, segment_name
from retriever.analysis import Analyser, analyser
from retriever.errors import IndexMismatch, InvalidInput
from retriever.index.manifest import InvertedPart, Manifest, Segment, publish
from retriever.index.plain import PlainPostings
from retriever.index.records import Records, RecordWriter
from retriever.pipeline import default_pipelines
from retriever.progress import Progress
from retriever.storage import disk_errors, exclusive_lock, require_writable
from retriever.types import Document

BATCH = 4096
SHOWN_MISSING = 20


def import_ciff(
    file: str | Path,
    index: str | Path,
    *,
    corpus: Corpus | None = None,
    analyser_name: str | None = None,
    k1: float | None = None,
    b: float | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Make an index with a BM25 part from a CIFF file (.gz and .zst are unpacked) and return its report.

    corpus         gives titles, texts and metadata to the documents with the same ids; without it the records hold
                   ids alone, so that highlights, rerankers, feedback and phrases have nothing to read
    analyser_name  that queries get; by default the one that the file names, if this engine wrote it
    k1, b          by default those that the file names, else 0.9 and 0.4

    The index appears when it is complete; after any error nothing is left. Memory grows with the terms, ids
    and postings that the file really holds, as in any build, not with what it claims.
    Raises InvalidInput for a file that is not sound, naming message and byte; IndexMismatch when the file was made
    with other rules of the analyser that it names.
    """
    source, folder = Path(file), Path(index)
    if not source.exists() or source.is_dir():
        raise InvalidInput(f"there is no file {source}; give a CIFF file (.gz and .zst too).")
    _require_free(folder)
    require_writable(folder.parent)
    working = folder.absolute().with_name(f".{folder.absolute().name}.importing")
    made = [parent for parent in working.parents if not parent.exists()]
    with disk_errors(folder.parent):
        working.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(working):
        try:
            # What a killed import has left.
            _clear(working)
            with disk_errors(folder.parent):
                report = _import(source, working, corpus, analyser_name, k1, b, quiet)
                _require_free(folder)
                working.rename(folder)
        except BaseException:
            shutil.rmtree(working, ignore_errors=True)
            with contextlib.suppress(OSError):
                for parent in made:
                    parent.rmdir()
            raise
    return report


def _require_free(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InvalidInput(f"{folder} is there already; name a folder that is not, or an empty one.")


def _clear(working: Path) -> None:
    for path in working.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "LOCK":
            path.unlink()


@dataclass
class _Read:
    """What a file holds beside its postings."""

    header: Header
    part: InvertedPart
    ids: list[str] = field(default_factory=list)
    lengths: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    terms: int = 0
    postings: int = 0


def _import(
    source: Path,
    working: Path,
    corpus: Corpus | None,
    analyser_name: str | None,
    k1: float | None,
    b: float | None,
    quiet: bool,
) -> dict[str, Any]:
    started = time.monotonic()
    postings = working / "building" / "postings"
    postings.mkdir(parents=True)
    found = _read_file(source, postings, analyser_name, k1, b, quiet)
    records = RecordWriter(working, 1)
    try:
        counts = _record(records, found.ids, corpus, working / "building" / "texts.sqlite", quiet)
    finally:
        records.close()
    files = seal_segment(
        working, 1, [postings], [None], found.ids, inverted=found.part, sparse=None, dense=None, device="cpu"
    )  # fmt: skip
    with contextlib.closing(Records(working, 1)) as reader:
        digest = reader.digest(1)
    segment = Segment(
        name=segment_name(1),
        number=1,
        documents=len(found.ids),
        records_sha256=digest,
        empty=counts["empty"],
        files=files,
    )
    report = {
        "documents": len(found.ids),
        "terms": found.terms,
        "postings": found.postings,
        **counts,
        "remarks": _remarks(found, corpus is not None, counts["without_text"]),
        "seconds": round(time.monotonic() - started, 1),
    }
    pipelines = default_pipelines(("bm25",))
    manifest = Manifest(
        generation=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("retriever-engine"),
        segments=[segment],
        inverted=found.part,
        pipelines=pipelines,
        default_pipeline=list(pipelines)[-1],
        corpus={
            "format": "ciff",
            "source": source.name,
            "description": found.header.description,
            "texts": corpus.describe() if corpus is not None else None,
        },
        report=report,
    )
    shutil.rmtree(working / "building")
    publish(working, manifest)
    return report


def _remarks(found: _Read, with_corpus: bool, without_text: int) -> list[str]:
    """Return what a user should know about the scores and texts of the index."""
    header, remarks = found.header, []
    if without_text:
        which = f"{without_text} documents have" if with_corpus else "the documents have"
        remarks.append(f"{which} no text: highlights, rerankers, feedback and phrases find nothing there")
    if header.total_postings_lists > header.num_postings_lists:
        left_out = header.total_postings_lists - header.num_postings_lists
        remarks.append(f"the file leaves out {left_out} terms of its source; queries do not find them")
    if header.total_docs > header.num_docs:
        left_out = header.total_docs - header.num_docs
        remarks.append(f"the file leaves out {left_out} documents of its source; scores differ from there")
    total = int(found.lengths.sum(dtype=np.int64))
    if total != header.total_terms_in_collection:
        remarks.append(
            f"the lengths come to {total} terms, the header says {header.total_terms_in_collection}: "
            "they are rounded, as Lucene does; scores differ a little from the source"
        )
    return remarks


def _inverted_part(
    source: Path, said: Description | None, name: str | None, k1: float | None, b: float | None
) -> InvertedPart:
    """Return how the terms were made. Raises InvalidInput when neither file nor caller says so."""
    if name is None and said is None:
        raise InvalidInput(
            f"{source} does not say how its terms were made; name the analyser for queries with --analyser "
            "(lucene-english for exports of Anserini)."
        )
    rules = _analyser_of(source, said, name)
    chosen_k1 = k1 if k1 is not None else said.k1 if said else 0.9
    chosen_b = b if b is not None else said.b if said else 0.4
    if not (0 <= chosen_k1 <= 100 and 0 <= chosen_b <= 1):
        raise InvalidInput(f"k1 must be between 0 and 100 and b between 0 and 1, got {chosen_k1} and {chosen_b}.")
    return InvertedPart(analyser=rules.name, analyser_fingerprint=rules.fingerprint(), k1=chosen_k1, b=chosen_b)


def _analyser_of(source: Path, said: Description | None, name: str | None) -> Analyser:
    if name is not None:
        return analyser(name)
    assert said is not None
    if said.analyser.endswith((".yaml", ".yml")):
        # Our exports hold the whole of a custom analyser; the name of a local file is none of them.
        raise InvalidInput(f"{source} names the file {said.analyser[:80]!r} as its analyser; say --analyser.")
    rules = analyser(said.analyser)
    if rules.fingerprint() != said.analyser_fingerprint:
        raise IndexMismatch(
            f"{source} was analysed by {said.analyser_fingerprint}, this version has {rules.fingerprint()}; "
            "add --analyser NAME to import it all the same."
        )
    return rules


def _read_file(
    source: Path, folder: Path, analyser_name: str | None, k1: float | None, b: float | None, quiet: bool
) -> _Read:
    """Read all messages and leave plain postings in `folder`."""
    reader = Reader(source)
    header = reader.header()
    if not header.num_docs:
        raise reader.fault("the file holds no documents", 0)
    found = _Read(header, _inverted_part(source, understand(header.description), analyser_name, k1, b))
    lists = _Lists()
    with Progress("messages", header.num_postings_lists + header.num_docs, quiet) as progress:
        largest = _spill(reader, header, lists, folder, progress)
        documents = _read_documents(reader, header, progress)
    reader.finish()
    _require_lengths(lists, documents, reader, folder)
    found.ids, found.lengths = documents.ids, documents.lengths
    found.terms, found.postings = len(lists.terms), lists.ends[-1]
    _settle(lists, reader, folder, found.lengths, largest)
    return found


@dataclass
class _Lists:
    """The terms in the order of the file; `ends` begins with 0."""

    terms: list[bytes] = field(default_factory=list)
    ends: "array[int]" = field(default_factory=lambda: array("q", [0]))
    places: "array[int]" = field(default_factory=lambda: array("q"))


def _spill(reader: Reader, header: Header, lists: _Lists, folder: Path, progress: Progress) -> int:
    """Write the postings of all lists end to end; return the largest frequency."""
    largest = 0
    with (folder / "documents.raw").open("wb") as documents, (folder / "frequencies.raw").open("wb") as frequencies:
        for number in range(header.num_postings_lists):
            lists.places.append(reader.position)
            end = lists.ends[-1]
            for part in reader.postings(header.num_docs):
                if isinstance(part, ListHead):
                    lists.terms.append(part.term)
                    continue
                documents.write(part[0].data)
                frequencies.write(part[1].data)
                end += len(part[0])
                largest = max(largest, int(part[1].max()))
            lists.ends.append(end)
            if number % BATCH == BATCH - 1:
                progress.advance(BATCH)
        progress.advance(header.num_postings_lists % BATCH)
    return largest


class _Documents(NamedTuple):
    """The documents in the order of their docids; `order` says which record each was, `places` where a record is."""

    ids: list[str]
    lengths: NDArray[np.int32]
    order: NDArray[np.int64]
    places: "array[int]"


def _read_documents(reader: Reader, header: Header, progress: Progress) -> _Documents:
    """Read all records; each docid and each id must occur once."""
    docids, lengths, places = array("i"), array("i"), array("q")
    ids: list[str] = []
    seen: set[str] = set()
    # All docids below `next_` were there, and those in `ahead`.
    next_, ahead = 0, set[int]()
    for number in range(header.num_docs):
        place = reader.position
        record = reader.document()
        if record.docid >= header.num_docs:
            raise reader.fault(
                f"the docid {record.docid} is beyond the {header.num_docs} documents of the header", place
            )
        if record.docid < next_ or record.docid in ahead:
            raise reader.fault(f"the docid {record.docid} occurs a second time", place)
        try:
            _checked_id(record.collection_docid)
        except ValueError as error:
            raise reader.fault(str(error), place) from None
        if record.collection_docid in seen:
            raise reader.fault(f"the id {record.collection_docid!r} occurs a second time", place)
        seen.add(record.collection_docid)
        ahead.add(record.docid)
        while next_ in ahead:
            ahead.remove(next_)
            next_ += 1
        docids.append(record.docid)
        places.append(place)
        lengths.append(record.doclength)
        ids.append(record.collection_docid)
        if number % BATCH == BATCH - 1:
            progress.advance(BATCH)
    progress.advance(header.num_docs % BATCH)
    order = np.argsort(np.array(docids, np.int32), kind="stable")
    return _Documents([ids[record] for record in order.tolist()], np.array(lengths, np.int32)[order], order, places)


def _settle(lists: _Lists, reader: Reader, folder: Path, lengths: NDArray[np.int32], largest: int) -> None:
    """Turn the raw files into plain postings, terms in order. Raises InvalidInput for a term that occurs twice."""
    kind = np.min_scalar_type(largest)
    offsets = np.array(lists.ends, np.int64)
    documents: NDArray[np.int32] = _mapped(folder / "documents.raw", np.int32)
    frequencies: NDArray[np.uint32] = _mapped(folder / "frequencies.raw", np.uint32)
    order: Sequence[int] = range(len(lists.terms))
    if any(one >= other for one, other in pairwise(lists.terms)):
        order = sorted(order, key=lists.terms.__getitem__)
        for one, other in pairwise(order):
            if lists.terms[one] == lists.terms[other]:
                reader.number = other + 2
                shown = repr(lists.terms[other][:80].decode("utf-8", "replace"))
                raise reader.fault(f"the term {shown} occurs a second time", lists.places[other])
        parts = [slice(offsets[i], offsets[i + 1]) for i in order]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(offsets)[list(order)])])
        documents = np.concatenate([documents[part] for part in parts])
        frequencies = np.concatenate([frequencies[part] for part in parts])
    plain = PlainPostings([lists.terms[i] for i in order], offsets, documents, frequencies.astype(kind), lengths)
    plain.write(folder)
    for name in ("documents.raw", "frequencies.raw"):
        (folder / name).unlink()


def _mapped(path: Path, kind: type[np.generic]) -> Any:
    # An empty file cannot be mapped.
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def _require_lengths(lists: _Lists, documents: _Documents, reader: Reader, folder: Path) -> None:
    """Raise InvalidInput for a document that has postings and no length: BM25 has no score for it."""
    held = np.zeros(len(documents.ids), np.bool_)
    postings = _mapped(folder / "documents.raw", np.int32)
    for start in range(0, len(postings), 1 << 22):
        held[postings[start : start + (1 << 22)]] = True
    wrong = np.flatnonzero(held & (documents.lengths == 0))
    if len(wrong):
        record = int(documents.order[wrong[0]])
        reader.number = len(lists.terms) + 2 + record
        raise reader.fault(f"the docid {wrong[0]} has postings, but its doclength is 0", documents.places[record])


def _record(records: RecordWriter, ids: list[str], corpus: Corpus | None, stage: Path, quiet: bool) -> dict[str, Any]:
    """Write the records, with the texts of the corpus if there is one; return what is to be told of them."""
    missing: list[str] = []
    counts = {"without_text": 0, "not_in_file": 0, "empty": 0}
    with contextlib.ExitStack() as stack:
        documents: Iterator[Document] = (Document(id_, "") for id_ in ids)
        if corpus is not None:
            texts = stack.enter_context(contextlib.closing(_Texts(stage)))
            counts["not_in_file"] = texts.take(corpus, ids, quiet)
            documents = texts.documents(ids, missing)
        progress = stack.enter_context(Progress("records", len(ids), quiet))
        for number, part in enumerate(_portions(documents)):
            counts["empty"] += sum(not document.content.strip() for document in part)
            records.replace(1, number * BATCH, part, {})
            progress.advance(len(part))
    counts["without_text"] = len(ids) if corpus is None else len(missing)
    return {**counts, "missing": missing[:SHOWN_MISSING]}


class _Texts:
    """The documents of a corpus by their place in the index: a corpus may have another order."""

    def __init__(self, path: Path) -> None:
        # Only for this import: what a crash loses would not be read anyway.
        self._connection = sqlite3.connect(path)
        self._connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE texts (place INTEGER PRIMARY KEY, title TEXT, text TEXT, metadata TEXT);"
        )

    def take(self, corpus: Corpus, ids: list[str], quiet: bool) -> int:
        """Read a corpus and return how many of its documents are not wanted. Raises InvalidInput when none is."""
        places = {id_: place for place, id_ in enumerate(ids)}
        others = 0
        first = None
        with Progress("texts", corpus.size_hint(), quiet) as progress:
            for part in _portions(iter(corpus)):
                wanted = [document for document in part if document.id in places]
                first = first or part[0].id
                others += len(part) - len(wanted)
                rows = [
                    (places[document.id], document.title, document.text, json.dumps(dict(document.metadata)))
                    for document in wanted
                ]
                self._connection.executemany("INSERT INTO texts VALUES (?,?,?,?)", rows)
                progress.advance(len(part))
        (held,) = self._connection.execute("SELECT count(*) FROM texts").fetchone()
        if not held:
            raise InvalidInput(
                f"no document of the corpus is in the CIFF file: its ids are like {ids[0]!r}, the corpus has "
                f"{first!r}. Give the corpus that the file was made from."
            )
        return others

    def documents(self, ids: list[str], missing: list[str]) -> Iterator[Document]:
        """Yield the documents of all ids in order; those without a text are empty and noted in `missing`."""
        rows = self._connection.execute("SELECT place, title, text, metadata FROM texts ORDER BY place")
        row = rows.fetchone()
        for place, id_ in enumerate(ids):
            if row is not None and row[0] == place:
                yield Document(id_, row[2], row[1], json.loads(row[3]))
                row = rows.fetchone()
            else:
                missing.append(id_)
                yield Document(id_, "")

    def close(self) -> None:
        self._connection.close()


def _portions(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while part := list(islice(documents, BATCH)):
        yield part
