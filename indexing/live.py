"""Changes to an index in service: applied within moments, encoded when there is time.

apply_operations  a batch of the journal becomes a segment without vectors, searchable by words
encode_waiting    makes the vectors and weights of such segments; takes no lock
add_vectors       puts them in place: the segments become one with all parts
"""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexing.analysing import postings_of, texts_of
from indexing.build import settings_of
from indexing.change import Change, changing, merge_segments
from indexing.chunking import owner_of
from indexing.corpora.corpus import document_from
from indexing.journal import Operation
from indexing.segments import seal_segment, segment_name
from indexing.shards import ShardWriter, write_vectors, write_weights
from retriever.analysis import analyser
from retriever.errors import InvalidInput
from retriever.index.lease import newest
from retriever.index.local import LOCAL_ABSENT, LOCAL_VECTORS
from retriever.index.manifest import Manifest, Segment, form_of
from retriever.index.records import Records, field_values
from retriever.index.tombstones import read_live
from retriever.protocols import Encoder, TermEncoder
from retriever.storage import disk_errors
from retriever.types import Document

# Short, so that queries which need the encoder meanwhile do not wait long for it.
ENCODED_TOGETHER = 8


def accepted(manifest: Manifest, fields: object) -> Document:
    """Return a document that an index can take, from the fields of a JSON object as in a corpus.

    Raises InvalidInput with the reason. What is accepted can be applied at any later time.
    """
    if not isinstance(fields, dict):
        raise InvalidInput(f"a document is a JSON object, got {type(fields).__name__}.")
    try:
        document = document_from(fields)
    except ValueError as error:
        raise InvalidInput(f"{error}.") from None
    require_own_id(manifest, document.id)
    for _ in field_values(document, manifest.fields):
        pass
    return document


def require_own_id(manifest: Manifest, id_: str) -> None:
    """Raise InvalidInput for an id that a chunk of another document may have."""
    owner = owner_of(id_) if manifest.chunking else None
    if owner is not None:
        raise InvalidInput(
            f"the id {id_!r} is that of a chunk: this index cuts documents, and {owner!r} may have such a part; "
            "use an id that does not end in # and a number."
        )


def apply_operations(path: str | Path, operations: Sequence[Operation], *, encoder: Encoder | None = None) -> int:
    """Make one generation that holds operations; return how many documents it adds, chunks counted.

    Of several operations on one id the last counts; documents replace those of their id. The same operations
    applied again change nothing but numbers.

    encoder  counts tokens where documents are cut into chunks; nothing is encoded
    Raises IndexLocked, StorageFull, or InvalidInput for an unfinished build; nothing is changed then.
    """
    last = {operation.id: operation.document for operation in operations}
    upserts = [document for document in last.values() if document is not None]
    with changing(path) as change:
        rows = change.records.existing([id_ for id_, document in last.items() if document is None])
        with disk_errors(change.folder):
            change.records.delete(sorted({row for found in rows.values() for row in found}))
        added = _unencoded_segment(change, upserts, encoder) if upserts else []
        change.publish_segments(change.current.segments, added, applied=operations[-1].number)
        return sum(segment.documents for segment in added)


def _unencoded_segment(change: Change, documents: list[Document], encoder: Encoder | None) -> list[Segment]:
    folder, current = change.folder, change.current
    number = change.next_segment
    settings = settings_of(current, "overwrite", len(documents))
    source = folder / "building" / "applied"
    with disk_errors(folder):
        shutil.rmtree(source, ignore_errors=True)
        writer = ShardWriter(source, settings, change.records, number, encoder, None, None)
        parts, _, replaced = writer.place(documents)
        change.records.replace(number, 0, parts, current.fields, replaced)
        # Not synced: should this generation not come to be, the journal still has it all.
        if current.inverted:
            found = analyser(current.inverted.analyser)
            for part, texts in texts_of(parts, current.inverted.search_fields).items():
                postings_of(found, texts, positions=current.inverted.positions).write(source, part)
        if current.dense:
            write_vectors(source, np.zeros((len(parts), current.dense.width), np.float32), np.zeros(len(parts), bool))
        if current.local:
            none = np.zeros((len(parts), current.local.width), np.float32)
            write_vectors(source, none, np.zeros(len(parts), bool), (LOCAL_VECTORS, LOCAL_ABSENT))
        if current.sparse:
            write_weights(source, [{}] * len(parts))
    with contextlib.closing(Records(folder, change.generation)) as records:
        files = seal_segment(
            folder,
            number,
            [source],
            [None],
            [document.id for document in parts],
            inverted=current.inverted,
            sparse=current.sparse,
            dense=form_of(folder, current.dense).untrained() if current.dense else None,
            local=current.local,
            device="cpu",
        )
        digest = records.digest(number)
    change.made += 1
    return [
        Segment(
            name=segment_name(number),
            number=number,
            documents=len(parts),
            records_sha256=digest,
            empty=sum(not document.content.strip() for document in parts),
            unencoded=any(part is not None for part in (current.dense, current.sparse, current.local)),
            files=files,
        )
    ]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What was made of one segment: vectors and weights by ordinal, nothing for documents that were deleted."""

    segment: Segment
    vectors: NDArray[np.float32] | None
    present: NDArray[np.bool_]
    weights: list[dict[str, float]] | None
    local: NDArray[np.float32] | None = None


def encode_waiting(
    path: str | Path,
    encoder: Encoder | None,
    term_encoder: TermEncoder | None,
    *,
    local_encoder: Encoder | None = None,
    most: int = 512,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Encoded]:
    """Encode documents of segments that have no vectors yet, the oldest segments first.

    most     documents after which no further segment is begun
    stopped  asked now and then; when it is true nothing is returned
    Takes no lock; the index may change meanwhile. Raises ModelFault or what else the models raise.
    """
    folder = Path(path)
    found: list[Encoded] = []
    with newest(folder) as manifest, contextlib.closing(Records(folder, manifest.generation)) as records:
        for segment in manifest.segments:
            if not segment.unencoded or sum(int(part.present.sum()) for part in found) >= most:
                continue
            live = np.ones(segment.documents, np.bool_)
            if segment.tombstones:
                live = read_live(folder / segment.tombstones, segment.documents)
            documents = dict(records.segment_documents(segment.number))
            filled = [i for i in np.flatnonzero(live).tolist() if documents[i].content.strip()]
            encoded = _encoded(segment, documents, filled, encoder, term_encoder, local_encoder, stopped)
            if encoded is None:
                return []
            found.append(encoded)
    return found


def _encoded(
    segment: Segment,
    documents: dict[int, Document],
    filled: list[int],
    encoder: Encoder | None,
    term_encoder: TermEncoder | None,
    local_encoder: Encoder | None,
    stopped: Callable[[], bool],
) -> Encoded | None:
    present = np.zeros(segment.documents, np.bool_)
    present[filled] = True
    vectors, local = (
        np.zeros((segment.documents, model.width), np.float32) if model else None for model in (encoder, local_encoder)
    )
    weights: list[dict[str, float]] | None = [{} for _ in range(segment.documents)] if term_encoder else None
    for start in range(0, len(filled), ENCODED_TOGETHER):
        if stopped():
            return None
        part = filled[start : start + ENCODED_TOGETHER]
        texts = [documents[i] for i in part]
        if encoder is not None and vectors is not None:
            vectors[part] = encoder.encode_documents(texts)
        if local_encoder is not None and local is not None:
            local[part] = local_encoder.encode_documents(texts)
        if term_encoder is not None and weights is not None:
            for i, terms in zip(part, term_encoder.encode_documents(texts), strict=True):
                weights[i] = terms
    return Encoded(segment, vectors, present, weights, local)


def add_vectors(path: str | Path, encoded: Sequence[Encoded], *, device: str | None = None) -> int:
    """Make a generation in which encoded segments are one with all parts; return its documents.

    Segments that are there no longer are passed over, documents that were deleted meanwhile are left out.
    Raises IndexLocked, StorageFull, or InvalidInput for an unfinished build; nothing is changed then.
    """
    with changing(path) as change:
        there = {segment.number: segment for segment in change.current.segments if segment.unencoded}
        ready = [
            part
            for part in encoded
            if part.segment.number in there and there[part.segment.number].records_sha256 == part.segment.records_sha256
        ]
        if not ready:
            return 0
        building = change.folder / "building" / "encoded"
        with disk_errors(change.folder):
            shutil.rmtree(building, ignore_errors=True)
            for part in ready:
                _write_encoded(building / part.segment.name, part)
        members = [there[part.segment.number] for part in ready]
        folders = [building / part.segment.name for part in ready]
        added = merge_segments(change, members, device=device, encoded=folders)
        gone = {segment.number for segment in members}
        change.publish_segments([s for s in change.current.segments if s.number not in gone], added)
        return sum(segment.documents for segment in added)


def _write_encoded(folder: Path, part: Encoded) -> None:
    folder.mkdir(parents=True)
    if part.vectors is not None:
        write_vectors(folder, part.vectors, part.present)
    if part.local is not None:
        write_vectors(folder, part.local, part.present, (LOCAL_VECTORS, LOCAL_ABSENT))
    if part.weights is not None:
        write_weights(folder, part.weights)
