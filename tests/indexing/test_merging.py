"""Which segments are merged: their number stays small, and no document is written again and again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from indexing import merging
from indexing.build import build_index
from indexing.journal import Operation
from indexing.live import apply_operations
from indexing.merging import MERGED_DOCUMENTS, TIER, large_segments, living, merge_small, small_segments
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.index.manifest import Manifest, Segment, read_manifest
from retriever.index.sealed import open_index
from tests.factories import ListCorpus, random_documents

DOCUMENTS = random_documents(280, 5)


def segment(number: int, documents: int, deleted: int = 0, *, unencoded: bool = False) -> Segment:
    return Segment(name=f"{number:06d}", number=number, documents=documents, deleted=deleted, records_sha256="",
                   unencoded=unencoded, files={})  # fmt: skip


def manifest(segments: Sequence[Segment]) -> Manifest:
    return Manifest(generation=1, created="", version="", segments=list(segments), pipelines={}, default_pipeline="")


def sizes(documents: Sequence[int]) -> list[int]:
    """Return the sizes of the segments that are merged next."""
    found = small_segments(manifest([segment(number, count) for number, count in enumerate(documents)]))
    return sorted(part.documents for part in found)


def settled(documents: list[int]) -> list[int]:
    """Merge until there is nothing to merge; return the sizes that are left."""
    while merged := sizes(documents):
        for size in merged:
            documents.remove(size)
        documents.append(sum(merged))
    return sorted(documents)


def test_as_many_of_one_size_as_fit_become_one() -> None:
    assert sizes([1] * 7) == []
    assert sizes([1] * 8 + [8] * 7 + [100]) == [1] * 8
    # Sizes go by powers of TIER, exactly.
    assert sizes([512] * 7 + [511]) == []
    assert sizes([64] * 7 + [511]) == [64] * 7 + [511]


def test_segments_near_the_bound_are_merged_too() -> None:
    for documents in ([4000] * 5 + [600] * 100, [2600] * 50, [7000] * 30):
        left = settled(list(documents))
        assert sum(left) == sum(documents)
        assert sum(2 * size <= MERGED_DOCUMENTS for size in left) < TIER
    # Two of these would go beyond the bound.
    assert sizes([11_000] * 20) == []


def test_large_segments_are_merged_or_written_anew() -> None:
    def found(*parts: Segment) -> list[int]:
        return [part.number for part in large_segments(manifest(parts))]

    full = [segment(number, 11_000) for number in range(7)]
    assert found(*full) == []
    assert found(*full, segment(7, 15_000)) == list(range(8))
    assert found(*[segment(number, 90_000) for number in range(3)]) == [0, 1]
    assert found(*[segment(number, 150_000) for number in range(9)]) == []
    assert found(segment(0, 90_000, 29_000)) == []
    assert found(segment(0, 90_000, 31_000)) == [0]
    # So much is for `compact_index`.
    assert found(segment(0, 900_000, 310_000)) == []
    # What merge_small takes, and what has no vectors yet, is left.
    assert found(*[segment(number, 5000, 2000) for number in range(9)]) == []
    assert found(*[segment(number, 15_000, unencoded=True) for number in range(9)]) == []


def test_what_was_deleted_does_not_count() -> None:
    mostly_gone = [segment(number, 12_000, 11_990) for number in range(8)]
    assert len(small_segments(manifest(mostly_gone))) == 8
    # Reading so much would take long under the lock, whatever is left of it.
    assert small_segments(manifest([segment(number, 1_000_000, 999_990) for number in range(8)])) == []


def test_what_waits_for_vectors_is_merged_apart() -> None:
    both = [segment(number, 10, unencoded=number % 2 == 0) for number in range(15)]
    assert {part.unencoded for part in small_segments(manifest(both))} == {True}
    assert small_segments(manifest(both[:14])) == []


def most_segments(live: int) -> float:
    """Return how many segments there may be: fewer than TIER of each size, and those beyond half of the bound."""
    tiers = MERGED_DOCUMENTS.bit_length() // 3 + 1
    return TIER * tiers + 2 * live / MERGED_DOCUMENTS


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("together", [3, 300, 2000])
def test_thousands_of_writes_leave_few_segments_and_few_copies(seed: int, together: int) -> None:
    """One merge for each write, as in the service; for each document it is counted how often it was copied."""
    generator = np.random.default_rng(seed)
    segments: dict[int, Segment] = {}
    copies: dict[int, np.ndarray] = {}
    for number in range(1500):
        count = int(generator.integers(1, together + 1))
        segments[2 * number] = segment(2 * number, count)
        copies[2 * number] = np.zeros(count, int)
        members = small_segments(manifest(list(segments.values())))
        if members:
            total = sum(living(part) for part in members)
            assert total <= MERGED_DOCUMENTS
            copies[2 * number + 1] = np.concatenate([copies.pop(part.number) for part in members]) + 1
            segments = {key: part for key, part in segments.items() if part not in members}
            segments[2 * number + 1] = segment(2 * number + 1, total)
        assert len(segments) <= most_segments(sum(map(len, copies.values()))) + 1
    written = np.concatenate(list(copies.values()))
    assert written.max() <= np.log(MERGED_DOCUMENTS) / np.log(TIER) + 1


def test_the_number_stays_small_where_documents_are_replaced_for_ever() -> None:
    generator = np.random.default_rng(1)
    segments: dict[int, Segment] = {}
    live = 0
    for number in range(3000):
        count = int(generator.integers(1, 400))
        # Most of what is written replaces something, wherever it lies.
        if live > 20_000:
            for key, part in list(segments.items()):
                gone = min(living(part), int(np.ceil(count * living(part) / live)))
                segments[key] = part.model_copy(update={"deleted": part.deleted + gone})
                if living(segments[key]) == 0:
                    del segments[key]
        segments[2 * number] = segment(2 * number, count)
        members = small_segments(manifest(list(segments.values())))
        if members:
            segments = {key: part for key, part in segments.items() if part not in members}
            segments[2 * number + 1] = segment(2 * number + 1, sum(map(living, members)))
        live = sum(map(living, segments.values()))
        assert len(segments) <= most_segments(live) + 1


def test_a_real_index_is_merged_near_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGED_DOCUMENTS", 100)
    path, new = tmp_path / "index", tmp_path / "new"
    settings = BuildSettings(parts=("bm25",))
    build_index(ListCorpus(DOCUMENTS[:40]), path, settings)
    for number, start in enumerate(range(40, 280, 15)):
        part = DOCUMENTS[start : start + 15]
        apply_operations(path, [Operation(number + 1, document.id, document, 1) for document in part])
        merge_small(path)
    segments = read_manifest(path)[0].segments
    # Six of 15 fit into 100: fewer than TIER, and yet they are merged.
    assert len(segments) < 12
    assert 50 < max(part.documents for part in segments) <= 100
    build_index(ListCorpus(DOCUMENTS[:280]), new, settings)
    with open_index(path) as changed, open_index(new) as fresh:
        for query in ("wing flow", "heat", "laminar turbulent jet"):
            assert changed.search(query, 500).ranking() == fresh.search(query, 500).ranking()
    assert verify_index(path).sound
