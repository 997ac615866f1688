"""Changes to an index without a corpus: deleting documents, compacting, storing pipelines."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexing.build import with_tombstones
from indexing.garbage import readable, remove_unneeded
from indexing.segments import place_segment, seal_segment, segment_name
from retriever.calibration import Calibration
from retriever.errors import InvalidInput
from retriever.fields import CONTENTS, require_known
from retriever.index.manifest import FileEntry, Manifest, Segment, form_of, publish, read_manifest
from retriever.index.records import Records, RecordWriter, row_of
from retriever.index.sealed import Index, open_index
from retriever.index.segment import segment_folder
from retriever.index.tombstones import read_live
from retriever.pipeline import PipelineSpec
from retriever.storage import disk_errors, exclusive_lock, require_writable


@dataclass
class Change:
    """The generation being made: where, after which, and the records to write to."""

    folder: Path
    current: Manifest
    records: RecordWriter
    made: int = 0

    @property
    def next_segment(self) -> int:
        """A number that no segment has whose records are kept, nor any made for this generation."""
        return max(_kept(self.folder, self.current), default=0) + 1 + self.made

    @property
    def generation(self) -> int:
        return self.current.generation + 1

    def publish(self, **update: Any) -> Manifest:
        manifest = self.current.model_copy(
            update={
                "generation": self.generation,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "version": version("retriever-engine"),
                **update,
            }
        )
        publish(self.folder, manifest)
        remove_unneeded(self.folder, manifest)
        return manifest

    def publish_segments(self, kept: Iterable[Segment], added: Sequence[Segment], **update: Any) -> Manifest:
        """Publish older segments, with what was deleted from them since, and new ones."""
        segments = [with_tombstones(self.folder, segment, self.records, self.generation) for segment in kept]
        # One without a living document would only cost time.
        segments = [segment for segment in [*segments, *added] if segment.deleted < segment.documents]
        manifest = self.publish(segments=sorted(segments, key=lambda segment: segment.number), **update)
        shutil.rmtree(self.folder / "building", ignore_errors=True)
        return manifest


def _kept(folder: Path, current: Manifest) -> list[int]:
    """Return the numbers of all segments whose records stay."""
    return [s.number for manifest in readable(folder, current) for s in manifest.segments]


@contextlib.contextmanager
def changing(path: str | Path) -> Iterator[Change]:
    """Hold the writer's lock and give the generation to be made.

    Raises IndexLocked, or InvalidInput for an unfinished build.
    """
    folder = Path(path)
    require_writable(folder)
    read_manifest(folder)
    with exclusive_lock(folder):
        if (folder / "building" / "plan.json").is_file():
            raise InvalidInput(
                f"{folder} holds an unfinished build or add; run that command again to finish it, "
                f"or throw it away with `retriever index discard {folder}`."
            )
        current, _ = read_manifest(folder)
        records = RecordWriter(folder, current.generation + 1)
        with disk_errors(folder):
            records.roll_back(_kept(folder, current))
        try:
            yield Change(folder, current, records)
        finally:
            records.close()


def discard_unfinished(path: str | Path) -> bool:
    """Throw away an unfinished build or add; return False when there is none. The index stays as it is."""
    folder = Path(path)
    require_writable(folder)
    if not (folder / "building").is_dir():
        return False
    with exclusive_lock(folder):
        shutil.rmtree(folder / "building")
    return True


def delete_documents(
    path: str | Path,
    ids: Sequence[str] = (),
    *,
    filter: Mapping[str, Any] | None = None,
    ignore_missing: bool = False,
) -> dict[str, Any]:
    """Delete documents by id, or all that a metadata filter matches; the id of a parent deletes its chunks.

    They are gone from searches at once and from the files at the next compaction.
    Raises InvalidInput naming ids that are not there, unless `ignore_missing`; nothing is deleted then.
    """
    if not ids and filter is None:
        raise InvalidInput("name documents to delete, or give a filter.")
    with changing(path) as change:
        found = change.records.existing(ids)
        missing = [id_ for id_ in ids if id_ not in found]
        if missing and not ignore_missing:
            shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
            raise InvalidInput(
                f"{len(missing)} of {len(ids)} ids are not in the index: {shown}. "
                "Nothing was deleted; correct them or add --ignore-missing."
            )
        rows = {row for rows in found.values() for row in rows}
        if filter is not None:
            with open_index(change.folder) as index:
                rows |= _filtered_rows(index, filter)
        if rows:
            with disk_errors(change.folder):
                change.records.delete(sorted(rows))
            segments = [
                with_tombstones(change.folder, segment, change.records, change.generation)
                for segment in change.current.segments
            ]
            change.publish(segments=segments)
        return {"deleted": len(rows), "missing": missing}


def _filtered_rows(index: Index, condition: Mapping[str, Any]) -> set[int]:
    return {
        segment.row(int(ordinal))
        for segment, allowed in zip(index.segments, index.mask(condition), strict=True)
        for ordinal in np.flatnonzero(allowed)
    }


def compact_index(path: str | Path, *, device: str | None = None) -> dict[str, Any]:
    """Merge all segments into one and forget deleted documents; vectors are copied, nothing is encoded.

    Documents that wait for their vectors make a second segment.
    A second `compact`, or any later change, also removes the texts of deleted documents from the records: the
    generation before stays readable until then. Does nothing to an index of one segment without deletions.
    """
    with changing(path) as change:
        current = change.current
        deleted = sum(segment.deleted for segment in current.segments)
        report = {"segments_before": len(current.segments), "deleted": deleted}
        groups = [[s for s in current.segments if s.unencoded is unencoded] for unencoded in (False, True)]
        if deleted == 0 and all(len(group) <= 1 for group in groups):
            return report | {"segments_after": len(current.segments)}
        segments = [merged for group in groups if group for merged in merge_segments(change, group, device=device)]
        shutil.rmtree(change.folder / "building", ignore_errors=True)
        change.publish(segments=segments)
        return report | {"segments_after": len(segments)}


@dataclass(frozen=True, slots=True)
class Merged:
    """Files of segments that were merged without the lock, in `folder`, and the documents that lived then.

    kept  for each segment (N,) True where the document was taken over, None for all
    """

    segments: Sequence[Segment]
    kept: Sequence[NDArray[np.bool_] | None]
    folder: Path
    files: dict[str, FileEntry]


def live_documents(folder: Path, segments: Sequence[Segment]) -> list[NDArray[np.bool_] | None]:
    """Return for each segment (N,) True where the document is not deleted, None where all are there."""
    return [
        read_live(folder / segment.tombstones, segment.documents) if segment.tombstones else None
        for segment in segments
    ]


def merge_segments(
    change: Change,
    segments: Sequence[Segment],
    *,
    device: str | None = None,
    encoded: Sequence[Path] | None = None,
    merged: Merged | None = None,
) -> list[Segment]:
    """Merge what lives of some segments into a new one, which is returned unless nothing lives.

    encoded  for each segment the folder of vectors and weights that were made since; without it all segments are
             `unencoded` or none is, and so is the new one
    merged   files that were made of the segments before; what was deleted since is deleted in the new one too, which
             has to get its tombstones yet
    """
    folder, current = change.folder, change.current
    number = change.next_segment
    live = live_documents(folder, segments)
    kept = live if merged is None else merged.kept
    survivors = [
        np.arange(segment.documents) if live is None else np.flatnonzero(live)
        for segment, live in zip(segments, kept, strict=True)
    ]
    old = [
        row_of(segment.number, int(ordinal))
        for segment, ordinals in zip(segments, survivors, strict=True)
        for ordinal in ordinals
    ]
    if not old:
        return []
    unencoded = encoded is None and segments[0].unencoded
    dense = form_of(folder, current.dense) if current.dense else None
    gone = {
        row_of(segment.number, int(ordinal))
        for segment, there in zip(segments, live, strict=True)
        if there is not None and merged is not None
        for ordinal in np.flatnonzero(~there)
    }
    with disk_errors(folder):
        change.records.move(((row, row_of(number, ordinal)) for ordinal, row in enumerate(old)), gone)
    with contextlib.closing(Records(folder, change.generation)) as records:
        ids, empty = [], 0
        for _, document in records.segment_documents(number):
            ids.append(document.id)
            empty += not document.content.strip()
        if merged is not None:
            files = place_segment(folder, number, merged.folder, merged.files)
        else:
            files = seal_segment(
                folder,
                number,
                [folder / segment_folder(segment.name) for segment in segments],
                kept,
                ids,
                inverted=current.inverted,
                sparse=current.sparse,
                # Nothing can be trained on vectors that are still to be made.
                dense=dense.untrained() if dense and unencoded else dense,
                local=current.local,
                device=device or "cpu",
                encoded=encoded,
            )
        digest = records.digest(number)
    change.made += 1
    return [
        Segment(
            name=segment_name(number),
            number=number,
            documents=len(ids),
            records_sha256=digest,
            empty=empty,
            unencoded=unencoded,
            files=files,
        )
    ]


def store_calibration(path: str | Path, calibration: Calibration) -> None:
    """Store a calibration in the index, instead of an earlier one for the same pipeline."""
    with changing(path) as change:
        others = [found for found in change.current.calibrations if found.pipeline != calibration.pipeline]
        change.publish(calibrations=[*others, calibration])


def store_pipelines(path: str | Path, pipelines: Mapping[str, PipelineSpec], default: str | None = None) -> None:
    """Store named pipelines in the index, beside or instead of those of the same name."""
    with changing(path) as change:
        offered = change.current.pipelines | dict(pipelines)
        chosen = default or change.current.default_pipeline
        if chosen not in offered:
            raise InvalidInput(f"unknown default pipeline {chosen!r}; there are {', '.join(offered)}.")
        parts = [
            n
            for n, part in (
                ("bm25", change.current.inverted),
                ("sparse", change.current.sparse),
                ("dense", change.current.dense),
            )
            if part
        ]
        for name, spec in pipelines.items():
            lacking: list[str] = [stage for stage in spec.first if stage not in parts]
            if spec.local is not None and change.current.local is None:
                lacking.append("local vectors")
            if lacking:
                raise InvalidInput(f"pipeline {name!r} needs {lacking}, the index has {parts}.")
            searched = change.current.inverted.search_fields if change.current.inverted else ()
            require_known(spec.field_weights or {}, (CONTENTS, *searched))
        change.publish(pipelines=offered, default_pipeline=chosen)
