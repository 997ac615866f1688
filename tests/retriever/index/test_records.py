"""The record: what each generation sees, and what an interrupted writer leaves."""

import contextlib
import hashlib
import os
import resource
from pathlib import Path

import pytest

from retriever.errors import BackendUnavailable, IndexCorrupt, InvalidInput
from retriever.index.records import FILE, Records, RecordWriter, canonical, reassemble, row_of
from retriever.types import Document

FIELDS = {"year": "number", "tag": "keyword"}


def writer(folder, generation):
    return contextlib.closing(RecordWriter(folder, generation))


def reader(folder, generation):
    return contextlib.closing(Records(folder, generation))


def test_each_generation_sees_its_own_documents(tmp_path):
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, [Document("a", "one"), Document("b", "two")], {})
    with writer(tmp_path, 2) as records:
        records.replace(2, 0, [Document("a", "new")], {}, [row_of(1, 0)])
    with reader(tmp_path, 1) as old, reader(tmp_path, 2) as new:
        assert [old.get("a").text, old.get("b").text] == ["one", "two"]
        assert [new.get("a").text, new.get("b").text] == ["new", "two"]
        assert sorted(old.live_ids()) == sorted(new.live_ids()) == ["a", "b"]


def test_rolling_back_leaves_the_generation_before(tmp_path):
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, [Document("a", "one", metadata={"year": 1})], FIELDS)
    with writer(tmp_path, 2) as records:
        records.replace(2, 0, [Document("b", "two", metadata={"year": 2})], FIELDS, [row_of(1, 0)])
    with writer(tmp_path, 2) as records:
        records.roll_back([1])
        assert records.existing(["a", "b"]) == {"a": [row_of(1, 0)]}
    with reader(tmp_path, 2) as records:
        assert list(records.live_ids()) == ["a"]
        assert records.match("year", "value > ?", [0]).tolist() == [row_of(1, 0)]


@pytest.fixture
def no_more_files():
    """Return a function that leaves so many files to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # More than are open: other tests of this process may have left many.
    resource.setrlimit(resource.RLIMIT_NOFILE, (16 + max(int(entry.name) for entry in Path("/dev/fd").iterdir()), hard))
    opened = []

    def leave(count):
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(opened.pop())

    yield leave
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", range(4))
def test_a_log_that_cannot_be_opened_is_not_passed_over(tmp_path, no_more_files, left):
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, [Document("a", "one")], {})
    with writer(tmp_path, 2) as records:
        # In the log alone as yet.
        records.replace(2, 0, [Document("b", "two")], {})
        assert (tmp_path / f"{FILE}-wal").stat().st_size
        with reader(tmp_path, 2) as opened:
            no_more_files(left)
            if left < 2:
                with pytest.raises(BackendUnavailable, match="cannot be read"):
                    opened.get("b")
            else:
                assert opened.get("b").text == "two"


def test_truncating_forgets_an_unfinished_shard(tmp_path):
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, [Document(str(n), "x") for n in range(5)], {})
        records.truncate(1, 3)
        records.replace(1, 3, [Document("3", "again")], {})
    with reader(tmp_path, 1) as records:
        assert sorted(records.live_ids()) == ["0", "1", "2", "3"]


def test_the_digest_is_that_of_the_canonical_rows(tmp_path):
    documents = [
        Document("a", "é\n"),
        Document("b", "x", "title", {"n": 1}),
        Document("c#0", "y", parent="c", span=(0, 1)),
    ]
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, documents, {})
    expected = hashlib.sha256()
    for ordinal, document in enumerate(documents):
        metadata = '{"n": 1}' if document.metadata else "{}"
        span = document.span or (None, None)
        expected.update(
            canonical(ordinal, document.id, document.title, document.text, metadata, document.parent, *span)
        )
    with reader(tmp_path, 1) as records:
        assert records.digest(1) == expected.hexdigest()


def test_an_id_that_is_there_changes_nothing(tmp_path):
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, [Document("a", "one")], {})
        with pytest.raises(InvalidInput, match="'a' is in the index already"):
            records.replace(1, 1, [Document("b", "two"), Document("a", "three")], {})
        assert records.existing(["a", "b"]) == {"a": [row_of(1, 0)]}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"year": "recent"}, "declared as a number, got 'recent'"),
        ({"year": float("nan")}, "declared as a number, got nan"),
        ({"tag": {"a": 1}}, "must hold text, numbers or lists"),
    ],
)
def test_fields_must_have_their_type(tmp_path, metadata, message):
    with writer(tmp_path, 1) as records, pytest.raises(InvalidInput, match=message):
        records.replace(1, 0, [Document("a", "one", metadata=metadata)], FIELDS)


def test_lists_match_by_any_member_and_text_compares_as_text(tmp_path):
    documents = [
        Document("a", "", metadata={"year": [1, 10], "tag": "x"}),
        Document("b", "", metadata={"year": 9, "tag": ["x", "y"]}),
        Document("c", "", metadata={"tag": 5}),
    ]
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, documents, FIELDS)
    with reader(tmp_path, 1) as records:
        assert records.match("year", "value >= ?", [10]).tolist() == [row_of(1, 0)]
        assert records.match("tag", "value = ?", ["x"]).tolist() == [row_of(1, 0), row_of(1, 1)]
        assert records.match("tag", "value = ?", ["5"]).tolist() == [row_of(1, 2)]
        assert records.values("tag", 1) == [("x", 2)]


def test_the_digest_covers_content_not_history(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with writer(tmp_path / name, 1) as records:
            records.replace(1, 0, [Document("1", "text", metadata={"b": 1, "a": 2})], {})
    with writer(tmp_path / "b", 2) as records:
        records.delete([row_of(1, 0)])
    with reader(tmp_path / "a", 1) as a, reader(tmp_path / "b", 2) as b:
        assert a.digest(1) == b.digest(1)
    with writer(tmp_path / "b", 3) as records:
        records._connection.execute("UPDATE documents SET text = 'altered'")
        records._connection.commit()
    with reader(tmp_path / "a", 1) as a, reader(tmp_path / "b", 3) as b:
        assert a.digest(1) != b.digest(1)


def test_a_parent_is_reassembled_from_overlapping_chunks(tmp_path):
    text = "First sentence. Second one. Third."
    chunks = [
        Document("p#0", text[0:28], parent="p", span=(0, 28)),
        Document("p#1", text[16:34], parent="p", span=(16, 34)),
    ]
    assert reassemble(chunks[::-1]).text == text
    with writer(tmp_path, 1) as records:
        records.replace(1, 0, chunks, {})
    with reader(tmp_path, 1) as records:
        assert records.get("p").text == text
        assert records.get("p#1").span == (16, 34)
        assert records.get("q") is None


def test_not_a_database(tmp_path):
    (tmp_path / "documents.sqlite").write_bytes(b"not a database at all" * 100)
    with reader(tmp_path, 1) as records, pytest.raises(IndexCorrupt, match=r"documents\.sqlite is damaged"):
        records.get("a")


def test_missing_file(tmp_path):
    with pytest.raises(IndexCorrupt, match="is missing"):
        Records(tmp_path, 1)
