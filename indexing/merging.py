"""Which segments of an index in service become one, so that their number stays small at little work.

Segments of about one size are merged, so many that the result is of the next size; a document is written again once for
each size that it passes. What is more than half of the most that is merged would not fit beside its like, and is left.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from indexing.change import changing, merge_segments
from retriever.index.manifest import Manifest, Segment, read_manifest

# A merge holds the writer's lock: about 20 seconds for a million short documents, half a second for so many.
MERGED_DOCUMENTS = 20_000
# So many segments of about one size are merged, each size being so many times the one below.
TIER = 8


def merge_small(path: str | Path, *, device: str | None = None) -> int:
    """Merge segments where TIER of about one size have come together; return how many were merged.

    Only up to MERGED_DOCUMENTS, so that changes never wait long; larger ones are for `compact_index`.
    """
    if not small_segments(read_manifest(Path(path))[0]):
        return 0
    with changing(path, retain=True) as change:
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
