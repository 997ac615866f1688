"""Changes one by one: an index that lived through them answers like one that was built of what is left."""

import gc
import shutil
import sqlite3
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing import change, merging
from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents
from indexing.journal import Operation
from indexing.live import accepted, add_vectors, apply_operations, encode_waiting
from indexing.merging import TIER, merge_large, merge_small, put_merged, small_segments
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import IndexLocked, InvalidInput
from retriever.index import lease
from retriever.index.lease import Lease, remove_unless_leased
from retriever.index.manifest import Manifest, read_manifest
from retriever.index.sealed import Index, open_index
from retriever.storage import exclusive_lock
from retriever.types import Document
from tests.factories import HashingEncoder, HashingTermEncoder, ListCorpus, random_documents

FIELDS = {"year": "number", "kind": "keyword", "tags": "keyword"}
SEARCHED = ("title", "tags")
DOCUMENTS = random_documents(120, 3)
ENCODER, TERMS = HashingEncoder(), HashingTermEncoder()
QUERIES = ["wing flow", "heat zebra", "laminar turbulent jet", "shell"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "index"
    settings = BuildSettings(parts=("bm25", "sparse", "dense"), fields=FIELDS, search_fields=SEARCHED)
    build_index(ListCorpus(DOCUMENTS[:60]), path, settings, encoder=ENCODER, sparse_encoder=TERMS)
    return path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "index")


def operations(changes: list[tuple[str, Document | None]], first: int = 1) -> list[Operation]:
    return [Operation(number, id_, document, 1) for number, (id_, document) in enumerate(changes, first)]


def puts(documents: list[Document]) -> list[tuple[str, Document | None]]:
    return [(document.id, document) for document in documents]


def encode_all(path: Path) -> None:
    while encoded := encode_waiting(path, ENCODER, TERMS):
        add_vectors(path, encoded)


def opened(path: Path) -> Index:
    return open_index(path, encoder=ENCODER, sparse_encoder=TERMS)


def require_like_new(path: Path, documents: list[Document], tmp_path: Path) -> None:
    new = tmp_path / "new"
    settings = BuildSettings(parts=("bm25", "sparse", "dense"), fields=FIELDS, search_fields=SEARCHED)
    build_index(ListCorpus(documents), new, settings, encoder=ENCODER, sparse_encoder=TERMS)
    with opened(path) as changed, opened(new) as fresh:
        assert len(changed) == len(fresh)
        for query in QUERIES:
            for pipeline in fresh.pipelines:
                mine = changed.search(query, 1000, pipeline=pipeline, filter={"year": {"gte": 1}})
                theirs = fresh.search(query, 1000, pipeline=pipeline, filter={"year": {"gte": 1}})
                assert mine.ranking() == theirs.ranking(), (query, pipeline)
                assert [hit.document for hit in mine.hits] == [hit.document for hit in theirs.hits]
            weights = {"title": 2.0, "tags": 0.5, "contents": 1.0}
            mine = changed.search(query, 1000, pipeline="bm25", field_weights=weights)
            assert mine.ranking() == fresh.search(query, 1000, pipeline="bm25", field_weights=weights).ranking()
    verdict = verify_index(path, encoder=ENCODER, canaries=False)
    assert verdict.sound, verdict.problems
    assert verdict.warnings == []


def test_words_find_a_document_at_once_and_vectors_once_it_is_encoded(path: Path) -> None:
    new = Document("new", "zebra crossing", "", {"year": 2000})
    assert apply_operations(path, operations(puts([new]))) == 1
    with opened(path) as index:
        assert index.search("zebra", 1, pipeline="bm25").hits[0].document == new
        assert index.search("zebra", 1, pipeline="bm25").status == "exact"
        for pipeline in ("dense", "sparse", "hybrid"):
            answer = index.search("zebra", 100, pipeline=pipeline)
            assert (answer.status, answer.warnings) == ("approximate", ["pending_encoding:1"])
            assert ("new" in [hit.id for hit in answer.hits]) == (pipeline == "hybrid")
        assert index.describe()["pending_encoding"] == 1
    encode_all(path)
    with opened(path) as index:
        for pipeline in index.pipelines:
            answer = index.search("zebra", 1, pipeline=pipeline)
            assert answer.hits[0].id == "new"
            assert answer.status == "exact"
        assert index.describe()["pending_encoding"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_end_like_a_new_index(
    path: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MERGED_DOCUMENTS", 16)
    generator = np.random.default_rng(seed)
    expected = {document.id: document for document in DOCUMENTS[:60]}
    number = 1
    for _ in range(12):
        step = generator.choice(["apply", "apply", "encode", "merge", "compact", "late", "large"])
        if step in ("apply", "late", "large"):
            encoded = encode_waiting(path, ENCODER, TERMS) if step == "late" else []
            merged = merge_large(path) if step == "large" else None
            changes: list[tuple[str, Document | None]] = []
            for _ in range(int(generator.integers(1, 12))):
                document = DOCUMENTS[int(generator.integers(len(DOCUMENTS)))]
                if generator.random() < 0.35:
                    changes.append((document.id, None))
                    expected.pop(document.id, None)
                else:
                    text = Document(document.id, document.text + " zebra" * int(generator.integers(3)), document.title,
                                    document.metadata)  # fmt: skip
                    changes.append((document.id, text))
                    expected[document.id] = text
            apply_operations(path, operations(changes, number))
            number += len(changes)
            # Vectors of documents that were replaced or deleted meanwhile must not come back.
            add_vectors(path, encoded)
            if merged is not None:
                put_merged(path, merged)
        elif step == "encode":
            encode_all(path)
        elif step == "merge":
            merge_small(path)
        else:
            compact_index(path)
        assert read_manifest(path)[0].applied == number - 1
    encode_all(path)
    require_like_new(path, list(expected.values()), tmp_path)


def test_applying_twice_is_applying_once(path: Path, tmp_path: Path) -> None:
    changes = operations([*puts(DOCUMENTS[55:70]), ("d1", None), ("d2", None), ("d2", DOCUMENTS[2]), ("none", None)])
    apply_operations(path, changes)
    apply_operations(path, changes)
    encode_all(path)
    kept = [document for document in DOCUMENTS[:70] if document.id != "d1"]
    require_like_new(path, kept, tmp_path)


def test_deletions_alone_make_no_segment(path: Path) -> None:
    before = read_manifest(path)[0]
    assert apply_operations(path, operations([("d1", None), ("unknown", None)])) == 0
    after = read_manifest(path)[0]
    assert len(after.segments) == len(before.segments)
    assert after.live == before.live - 1
    assert after.applied == 2


def test_an_index_can_lose_all_its_documents_and_get_new_ones(path: Path, tmp_path: Path) -> None:
    apply_operations(path, operations([(document.id, None) for document in DOCUMENTS[:60]]))
    with opened(path) as index:
        assert len(index) == 0
        assert index.search("wing", 5).hits == []
    apply_operations(path, operations(puts(DOCUMENTS[60:]), 61))
    encode_all(path)
    require_like_new(path, DOCUMENTS[60:], tmp_path)


def test_small_segments_are_merged_and_their_number_stays_small(path: Path, tmp_path: Path) -> None:
    for number in range(18):
        apply_operations(path, operations(puts([DOCUMENTS[60 + number]]), number + 1))
        if number % 3 == 0:
            encode_all(path)
        merge_small(path)
        assert len(read_manifest(path)[0].segments) < 2 * TIER
    assert small_segments(read_manifest(path)[0]) == []
    encode_all(path)
    require_like_new(path, DOCUMENTS[:78], tmp_path)


def test_a_request_keeps_the_documents_of_its_generation_however_many_come_after(path: Path) -> None:
    apply_operations(path, operations(puts(DOCUMENTS[60:70])))
    with opened(path) as old:
        before = old.search("wing flow", 1000, pipeline="bm25")
        number = 11
        for document in DOCUMENTS[70:75]:
            apply_operations(path, operations([(document.id, document), (f"d{number}", None)], number))
            number += 2
            encode_all(path)
            merge_small(path)
        compact_index(path)
        apply_operations(path, operations([("d1", None)], number))
        after = old.search("wing flow", 1000, pipeline="bm25")
        assert after.ranking() == before.ranking()
        assert [hit.document for hit in after.hits] == [hit.document for hit in before.hits]
        assert all(hit.document is not None for hit in after.hits)
    assert verify_index(path, encoder=ENCODER, canaries=False).warnings == []


def test_generations_that_are_gone_leave_nothing_in_memory(path: Path) -> None:
    index = opened(path)
    seen = []
    gc.disable()
    try:
        for number, document in enumerate(DOCUMENTS[60:78], 1):
            apply_operations(path, operations(puts([document]), number))
            merge_small(path)
            index.search("wing flow", 5, pipeline="bm25")
            seen += [weakref.ref(part) for segment in index.segments for part in (segment, segment.inverted)]
            newer = index.latest()
            index.close()
            index = newer
        # Without Python's search for cycles: files would stay open until it happens.
        alive = {id(part) for found in seen if (part := found()) is not None}
    finally:
        gc.enable()
    index.close()
    assert alive <= {id(part) for segment in index.segments for part in (segment, segment.inverted)}
    checked = {name for name, _ in index._models.checked}
    assert checked
    assert checked <= index.manifest.all_files().keys()


def kept(path: Path) -> tuple[int, int]:
    """Return how many manifests and segments lie in an index."""
    return len(list(path.glob("manifest-*.json"))), len(list((path / "segments").iterdir()))


def delete_and_compact(path: Path, numbers: range) -> None:
    for number in numbers:
        delete_documents(path, [f"d{number}"])
        compact_index(path)


def test_what_is_open_stays_however_many_changes_come(path: Path) -> None:
    with opened(path) as index:
        before = [hit.document for hit in index.search("wing flow", 60, pipeline="bm25").hits]
        delete_and_compact(path, range(4))
        assert [hit.document for hit in index.search("wing flow", 60, pipeline="bm25").hits] == before
        assert None not in before
        rows = [segment.row(ordinal) for segment in index.segments for ordinal in range(60)]
        assert {document.id for document in index.records.fetch(rows).values()} == {f"d{n}" for n in range(60)}
        assert kept(path) == (3, 3)
    delete_documents(path, ["d4"])
    assert kept(path) == (2, 1)
    delete_documents(path, ["d5"])
    (rows,) = sqlite3.connect(path / "documents.sqlite").execute("SELECT count(*) FROM documents").fetchone()
    assert rows == 56


def test_what_a_killed_process_had_open_goes(path: Path) -> None:
    code = "import sys, time; from retriever.index.sealed import open_index; index = open_index(sys.argv[1]); " \
           "print(len(index), flush=True); time.sleep(600)"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert process.stdout.readline() == "60\n"
            delete_and_compact(path, range(2))
            assert kept(path) == (3, 3)
        finally:
            process.kill()
    delete_documents(path, ["d2"])
    assert kept(path) == (2, 1)


def test_a_generation_that_goes_while_it_is_opened_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, overtaken = lease.read_manifest, []

    def slow(folder: Path) -> tuple[Manifest, str]:
        found = read(folder)
        if not overtaken:
            overtaken.append(found[0].generation)
            delete_and_compact(path, range(2))
        return found

    monkeypatch.setattr(lease, "read_manifest", slow)
    with opened(path) as index:
        assert index.generation == overtaken[0] + 4
        assert len(index) == 58


def test_a_lease_on_what_was_removed_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest-000001.json"
    manifest.write_text("{}")
    first, second = Lease(manifest), Lease(manifest)
    for held in (first, second):
        remove_unless_leased(manifest)
        assert manifest.is_file()
        held.release()
        held.release()
    remove_unless_leased(manifest)
    with pytest.raises(FileNotFoundError):
        Lease(manifest)


def test_compaction_keeps_what_waits_apart(path: Path, tmp_path: Path) -> None:
    apply_operations(path, operations(puts(DOCUMENTS[60:70])))
    apply_operations(path, operations(puts(DOCUMENTS[70:80]), 11))
    compact_index(path)
    segments = read_manifest(path)[0].segments
    assert sorted((segment.unencoded, segment.documents) for segment in segments) == [(False, 60), (True, 20)]
    encode_all(path)
    require_like_new(path, DOCUMENTS[:80], tmp_path)


@pytest.fixture
def mostly_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an index of one large segment of which more than a third is deleted."""
    monkeypatch.setattr(merging, "MERGED_DOCUMENTS", 30)
    apply_operations(path, operations([(document.id, None) for document in DOCUMENTS[:25]]))
    return path


def test_a_large_segment_is_written_anew_while_changes_go_on(mostly_deleted: Path, tmp_path: Path) -> None:
    path = mostly_deleted
    merged = merge_large(path)
    assert merged is not None
    # Meanwhile one document is deleted, one replaced, and one put again as it was.
    replaced = Document("d31", "zebra crossing", "", {"year": 2000})
    apply_operations(path, operations([("d30", None), ("d31", replaced)], 26))
    apply_operations(path, operations(puts([DOCUMENTS[32]]), 28))
    with opened(path) as before:
        assert put_merged(path, merged) == 1
        assert before.get("d30") is None
        assert before.get("d33") == DOCUMENTS[33]
    sizes = [(segment.documents, segment.deleted) for segment in read_manifest(path)[0].segments]
    assert (35, 3) in sizes
    assert max(documents for documents, _ in sizes) == 35
    assert merge_large(path) is None
    assert not (path / "merging").exists()
    encode_all(path)
    kept = [document for document in DOCUMENTS[25:60] if document.id not in ("d30", "d31")]
    require_like_new(path, [*kept, replaced], tmp_path)


def test_large_segments_that_are_gone_stay_gone(mostly_deleted: Path, tmp_path: Path) -> None:
    merged = merge_large(mostly_deleted)
    assert merged is not None
    compact_index(mostly_deleted)
    generation = read_manifest(mostly_deleted)[0].generation
    assert put_merged(mostly_deleted, merged) == 0
    assert read_manifest(mostly_deleted)[0].generation == generation
    assert not (mostly_deleted / "merging").exists()
    require_like_new(mostly_deleted, DOCUMENTS[25:60], tmp_path)


def test_a_large_merge_that_is_cut_off_changes_nothing(
    mostly_deleted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = merge_large(mostly_deleted)
    assert merged is not None
    apply_operations(mostly_deleted, operations([("d30", None)], 26))

    def broken(*_: object, **__: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(change, "publish", broken)
        with pytest.raises(OSError, match="power"):
            put_merged(mostly_deleted, merged)
    assert put_merged(mostly_deleted, merged) == 0
    apply_operations(mostly_deleted, operations([("d31", None)], 27))
    require_like_new(mostly_deleted, [*DOCUMENTS[25:30], *DOCUMENTS[32:60]], tmp_path)


def test_other_writers_are_respected(path: Path) -> None:
    deletion = operations([("d1", None)])
    with exclusive_lock(path), pytest.raises(IndexLocked):
        apply_operations(path, deletion)
    (path / "building").mkdir()
    (path / "building" / "plan.json").write_text("{}")
    with pytest.raises(InvalidInput, match="unfinished"):
        apply_operations(path, deletion)
    assert (path / "building" / "plan.json").is_file()


def test_commands_and_the_service_take_turns(path: Path, tmp_path: Path) -> None:
    apply_operations(path, operations(puts(DOCUMENTS[60:65])))
    add_documents(ListCorpus(DOCUMENTS[65:70]), path, encoder=ENCODER, sparse_encoder=TERMS)
    delete_documents(path, ["d61", "d66"])
    assert read_manifest(path)[0].applied == 5
    apply_operations(path, operations(puts(DOCUMENTS[70:75]), 6))
    encode_all(path)
    kept = [document for document in DOCUMENTS[:75] if document.id not in ("d61", "d66")]
    require_like_new(path, kept, tmp_path)


def test_an_index_that_is_built_anew_forgets_what_the_journal_held(path: Path) -> None:
    apply_operations(path, operations(puts(DOCUMENTS[60:65])))
    settings = BuildSettings(parts=("bm25",))
    build_index(ListCorpus(DOCUMENTS[:5]), path, settings, overwrite=True)
    manifest = read_manifest(path)[0]
    assert (manifest.live, manifest.applied) == (5, 5)


def test_vectors_that_are_not_finite_count_as_none(path: Path) -> None:
    broken = HashingEncoder(broken=["zebra"])
    apply_operations(path, operations(puts([Document("bad", "zebra"), Document("good", "wing")])))
    add_vectors(path, encode_waiting(path, broken, TERMS))
    with opened(path) as index:
        assert index.describe()["pending_encoding"] == 0
        found = [hit.id for hit in index.search("wing", 1000, pipeline="dense").hits]
        assert "good" in found
        assert "bad" not in found
        assert index.search("zebra", 1, pipeline="bm25").hits[0].id == "bad"


def test_encoding_can_be_stopped(path: Path) -> None:
    apply_operations(path, operations(puts(DOCUMENTS[60:90])))
    assert encode_waiting(path, ENCODER, TERMS, stopped=lambda: True) == []


def test_chunks_replace_chunks(tmp_path: Path) -> None:
    path = tmp_path / "chunked"
    encoder = HashingEncoder()
    long = Document("long", " ".join(f"word{n} ends here." for n in range(40)), "")
    build_index(ListCorpus([long, Document("short", "one two", "")]), path,
                BuildSettings(window=16, overlap=4), encoder=encoder)  # fmt: skip
    apply_operations(path, operations(puts([Document("long", "now short", "")])), encoder=encoder)
    with open_index(path, encoder=encoder) as index:
        assert len(index) == 2
        assert index.get("long").text == "now short"
        assert index.search("word3", 5, pipeline="bm25").hits == []
    apply_operations(path, operations([("long", None)], 2))
    with open_index(path, encoder=encoder) as index:
        assert index.get("long") is None
    manifest = read_manifest(path)[0]
    with pytest.raises(InvalidInput, match="chunk"):
        accepted(manifest, {"id": "long#0", "text": "x"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "x"}, "no id"),
        ({"id": "", "text": "x"}, "id is empty"),
        ({"id": "a b", "text": "x"}, "white space"),
        ({"id": "a\x00b", "text": "x"}, "control"),
        ({"id": "x" * 600, "text": "x"}, "longer than"),
        ({"id": "a"}, "no text"),
        ({"id": "a", "text": ["x"]}, "must be text"),
        ({"id": "a", "text": "x", "title": {}}, "must be text"),
        ({"id": "a", "text": "x", "metadata": []}, "must be an object"),
        ({"id": "a", "text": "x", "year": "new"}, "declared as a number"),
        ({"id": "a", "text": "x", "kind": {"b": 1}}, "must hold text"),
        ([1], "JSON object"),
        (None, "JSON object"),
    ],
)
def test_what_cannot_be_applied_is_not_accepted(built: Path, fields: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        accepted(read_manifest(built)[0], fields)


def test_what_is_accepted_is_read_like_a_corpus(built: Path) -> None:
    found = accepted(
        read_manifest(built)[0], {"_id": 7, "contents": "x", "title": "t", "year": 3, "metadata": {"a": 1}}
    )
    assert found == Document("7", "x", "t", {"year": 3, "a": 1})
