"""Checking an index against its manifest: digests, records, agreement of the parts, canaries."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexing.garbage import readable, unknown_files
from retriever.errors import IndexCorrupt, IndexMismatch
from retriever.index.manifest import Manifest, Segment, read_manifest
from retriever.index.records import Records
from retriever.index.sealed import Index, open_index
from retriever.index.segment import SegmentReader, require_size
from retriever.progress import Progress
from retriever.protocols import Encoder
from retriever.storage import sha256_of

BLOCK = 65_536


@dataclass
class Verdict:
    """What `verify_index` found; `problems` make an index unfit to serve, `warnings` do not."""

    generation: int | None = None
    documents: int = 0
    files: int = 0
    canary_drift: float | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems


def verify_index(
    path: str | Path,
    *,
    encoder: Encoder | str | None = None,
    local_encoder: Encoder | str | None = None,
    canaries: bool = True,
    offline: bool = False,
    quiet: bool = True,
) -> Verdict:
    """Read everything once and compare it with the manifest.

    Checks every sha256, the records' digests, that ids, postings, vectors and records hold the same
    documents, that vectors are finite, and (unless `canaries` is False) that the encoders still give the
    stored canary vectors. Raises UnknownIndex when there is no index at all.
    """
    folder = Path(path)
    verdict = Verdict()
    try:
        manifest, _ = read_manifest(folder)
        verdict.generation, verdict.documents = manifest.generation, manifest.live
        # Parts that are not what was sealed would only give the same complaint in other words.
        verdict.problems += _altered_files(folder, manifest, verdict, quiet)
        if not verdict.problems:
            with open_index(folder, encoder=encoder, local_encoder=local_encoder, offline=offline) as index:
                verdict.problems += _inner_problems(index)
                if canaries and not verdict.problems:
                    verdict.canary_drift = index.check_canaries()
    except IndexCorrupt as error:
        verdict.problems.append(str(error))
        return verdict
    except IndexMismatch as error:
        verdict.problems.append(str(error))
    verdict.warnings += [
        f"{file.relative_to(folder)} belongs to no generation of this index"
        for file in unknown_files(folder, readable(folder, manifest))
    ]
    return verdict


def _inner_problems(index: Index) -> Iterator[str]:
    complaint = index.records.check()
    if complaint:
        yield f"documents.sqlite: {complaint}"
        return
    for entry, segment in zip(index.manifest.segments, index.segments, strict=True):
        yield from _disagreements(entry, segment, index.records)
    yield from _count_disagreement(index)


def _altered_files(folder: Path, manifest: Manifest, verdict: Verdict, quiet: bool) -> list[str]:
    problems = []
    files = manifest.all_files()
    verdict.files = len(files)
    with Progress("files", len(files), quiet) as progress:
        for name, entry in files.items():
            try:
                require_size(folder / name, entry.bytes)
            except IndexCorrupt as error:
                problems.append(str(error))
                continue
            if sha256_of(folder / name) != entry.sha256:
                problems.append(f"{name} was altered: its sha256 is not the manifest's")
            progress.advance(1)
    return problems


def _disagreements(entry: Segment, segment: SegmentReader, records: Records) -> Iterator[str]:
    if records.digest(entry.number) != entry.records_sha256:
        yield f"documents.sqlite: the documents of segment {entry.name} are not those that were sealed"
    rows = 0
    for ordinal, document in records.segment_documents(entry.number):
        rows += 1
        if ordinal >= len(segment.ids) or segment.ids[ordinal] != document.id:
            yield f"segment {entry.name}: document {ordinal} is {document.id!r} in the records only"
            break
    if rows != entry.documents:
        yield f"segment {entry.name}: the manifest says {entry.documents} documents, the records {rows}"
    if segment.inverted:
        yield from (f"segment {entry.name}: {problem}" for problem in segment.inverted.problems())
    for name, reader in segment.search_fields.items():
        yield from (f"segment {entry.name}, field {name}: {problem}" for problem in reader.problems())
    if segment.impacts:
        yield from (f"segment {entry.name}: {problem}" for problem in segment.impacts.problems())
    for name, part in (("", segment.dense), ("local ", segment.local)):
        vectors = part.vectors if part else None
        for start in range(0, len(vectors) if vectors is not None else 0, BLOCK):
            if vectors is not None and not np.isfinite(vectors[start : start + BLOCK]).all():
                yield f"segment {entry.name}: {name}vectors from {start} on are not all finite"
                break
    gone = 0 if segment.live is None else int((~segment.live).sum())
    if gone != entry.deleted:
        yield f"segment {entry.name}: the manifest says {entry.deleted} deletions, the tombstones {gone}"


def _count_disagreement(index: Index) -> Iterator[str]:
    live = {id_ for id_ in index.records.live_ids()}
    served = {
        segment.ids[ordinal]
        for segment in index.segments
        for ordinal in (range(segment.documents) if segment.live is None else np.flatnonzero(segment.live).tolist())
    }
    if live != served:
        sample = ", ".join(map(repr, sorted(live ^ served)[:5]))
        yield f"records and segments hold different live documents: {sample}"
