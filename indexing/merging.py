"""Which segments of an index in service become one, so that their number stays small at little work.

Segments of about one size are merged, so many that the result is of the next size; a document is written again once for
each size that it passes. What is more than half of the most that is merged would not fit beside its like, and is left.

merge_small  merges a moment's worth of documents under the writer's lock
merge_large  makes the files of larger ones, and of those that hold many deleted documents; takes no lock
put_merged   puts these in place
"""

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from indexing.change import Merged, changing, live_documents, merge_segments
from indexing.segments import write_segment
from retriever.index.lease import newest
from retriever.index.manifest import FileEntry, Manifest, Segment, form_of, read_manifest
from retriever.index.records import Records
from retriever.index.segment import segment_folder
from retriever.storage import disk_errors

# A merge holds the writer's lock: about 20 seconds for a million short documents, half a second for so many.
MERGED_DOCUMENTS = 20_000
# Of larger ones only the records are written under the lock, but their files take memory and time of the processor.
LARGE_DOCUMENTS = 200_000
# A large segment is written anew when more than one in so many documents is deleted.
DELETED_ONE_IN = 3
# So many segments of about one size are merged, each size being so many times the one below.
TIER = 8


def merge_small(path: str | Path, *, device: str | None = None) -> int:
    """Merge segments where TIER of about one size have come together; return how many were merged.

    Only up to MERGED_DOCUMENTS, so that changes never wait long; for larger ones see `merge_large`.
    """
    if not small_segments(read_manifest(Path(path))[0]):
        return 0
    with changing(path) as change:
        members = small_segments(change.current)
        if not members:
            return 0
        added = merge_segments(change, members, device=device)
        gone = {segment.number for segment in members}
        change.publish_segments([s for s in change.current.segments if s.number not in gone], added)
        return len(members)


def small_segments(manifest: Manifest) -> list[Segment]:
    """Return the segments that are to be merged next, none when all is well."""
    # Reading a large file takes long also where little in it lives.
    return _of_one_size((s for s in manifest.segments if s.documents <= MERGED_DOCUMENTS), MERGED_DOCUMENTS)


def merge_large(path: str | Path, *, device: str | None = None) -> Merged | None:
    """Make the files of a large segment out of those that `large_segments` names, or return None when it names none.

    Takes no lock; the index may change meanwhile. One process at a time may do it, for instance that which holds the
    journal. Raises StorageFull.
    """
    folder = Path(path)
    with newest(folder) as manifest:
        members = large_segments(manifest)
        if not members:
            return None
        kept = live_documents(folder, members)
        with contextlib.closing(Records(folder, manifest.generation)) as records:
            ids = [
                id_
                for segment, live in zip(members, kept, strict=True)
                for ordinal, id_ in enumerate(records.segment_ids(segment.number))
                if live is None or live[ordinal]
            ]
        working = folder / "merging"
        with disk_errors(folder):
            shutil.rmtree(working, ignore_errors=True)
        files = write_segment(
            folder,
            working,
            [folder / segment_folder(segment.name) for segment in members],
            kept,
            ids,
            inverted=manifest.inverted,
            sparse=manifest.sparse,
            dense=form_of(folder, manifest.dense) if manifest.dense else None,
            local=manifest.local,
            device=device or "cpu",
        )
    return Merged(members, kept, working, files)


def put_merged(path: str | Path, merged: Merged) -> int:
    """Make a generation in which merged segments are one; return how many they were.

    That is 0 when one of them, or the files, are there no longer. Documents that were deleted meanwhile are deleted in
    the new one.
    Raises IndexLocked, StorageFull, or InvalidInput for an unfinished build; nothing is changed then.
    """
    with changing(path) as change:
        there = {segment.number: segment for segment in change.current.segments}
        members = [there[segment.number] for segment in merged.segments if segment.number in there]
        if not merged.folder.is_dir() or list(map(_content, members)) != list(map(_content, merged.segments)):
            shutil.rmtree(merged.folder, ignore_errors=True)
            return 0
        added = merge_segments(change, members, merged=merged)
        gone = {segment.number for segment in members}
        change.publish_segments([*(s for s in change.current.segments if s.number not in gone), *added], [])
        return len(members)


def _content(segment: Segment) -> tuple[str, dict[str, FileEntry]]:
    """Return what of a segment stays the same when documents are deleted."""
    return segment.records_sha256, {name: f for name, f in segment.files.items() if name != segment.tombstones}


def large_segments(manifest: Manifest) -> list[Segment]:
    """Return the segments too large for `merge_small` that are to be merged, or written anew, next.

    Those that wait for their vectors are left: all of a segment is encoded before any of it is searched by vectors.
    """
    large = [s for s in manifest.segments if not s.unencoded and max(s.documents, 2 * living(s)) > MERGED_DOCUMENTS]
    for segment in large:
        full = segment.documents > MERGED_DOCUMENTS and living(segment) <= LARGE_DOCUMENTS
        if full and DELETED_ONE_IN * segment.deleted > segment.documents:
            return [segment]
    return _of_one_size(large, LARGE_DOCUMENTS)


def _of_one_size(segments: Iterable[Segment], most: int) -> list[Segment]:
    """Return segments that can be merged into one of `most` living documents, those of the smallest size first."""
    sizes: dict[tuple[bool, int], list[Segment]] = {}
    for segment in segments:
        if 2 * living(segment) <= most:
            size = (living(segment).bit_length() - 1) // (TIER.bit_length() - 1)
            sizes.setdefault((segment.unencoded, size), []).append(segment)
    for _, members in sorted(sizes.items(), key=lambda entry: entry[0]):
        members.sort(key=living)
        fitting = members[: np.searchsorted(np.cumsum([living(s) for s in members]), most, "right")]
        # Where one more would not fit the result is beyond half of `most`: it is not merged again.
        if len(fitting) >= TIER or len(fitting) < len(members):
            return sorted(fitting, key=lambda segment: segment.number)
    return []


def living(segment: Segment) -> int:
    """Return how many documents of a segment are not deleted."""
    return segment.documents - segment.deleted
