"""What every corpus promises, whatever its format: checked ids and texts, faults with their place, duplicates."""

import gc
import io
import json
import os
import sys
import threading
import tracemalloc

import pytest

from indexing.corpora import BadLine, open_corpus
from retriever.errors import InvalidInput
from retriever.types import Document


def write_lines(path, *records):
    """Write records as JSON lines; bytes are written as they are."""
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def record(id_, text="text", **others):
    return {"_id": id_, "text": text, **others}


def ids(corpus):
    return [document.id for document in corpus]


def test_fields_become_a_document(tmp_path):
    path = write_lines(
        tmp_path / "c.jsonl",
        {"_id": "a", "title": "T", "text": "x y", "metadata": {"year": 2020, "tags": ["p", "q"]}},
        {"id": 7, "contents": "only text", "url": "u", "language": None},
        {"docid": "c", "document_text": "", "title": None, "metadata": None},
        {"_id": "d", "text": "t", "year": 1, "metadata": {"year": 2}},
        {"_id": "e", "id": "other", "text": "t", "contents": "more"},
    )
    assert list(open_corpus(str(path))) == [
        Document("a", "x y", "T", {"year": 2020, "tags": ["p", "q"]}),
        Document("7", "only text", "", {"url": "u"}),
        Document("c", ""),
        Document("d", "t", "", {"year": 2}),
        Document("e", "t", "", {"id": "other", "contents": "more"}),
    ]


def test_chosen_fields(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", {"key": "k", "name": "N", "abstract": "A", "text": "T", "year": 5})
    corpus = open_corpus(str(path), id_field="key", title_field="name", text_field="abstract", metadata_fields=["year"])
    assert list(corpus) == [Document("k", "A", "N", {"year": 5})]
    assert corpus.describe() == {
        "format": "jsonl",
        "source": "c.jsonl",
        "name": "c.jsonl",
        "fields": ["key", "name", "abstract"],
        "duplicates": "fail",
        "metadata_fields": ["year"],
    }
    json.dumps(corpus.describe())


def test_metadata_can_be_left_out(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", record("a", year=1, metadata={"lang": "en"}))
    assert [document.metadata for document in open_corpus(str(path), metadata_fields=[])] == [{}]
    assert [document.metadata for document in open_corpus(str(path))] == [{"year": 1, "lang": "en"}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("d-1", "d-1"),
        (1, "1"),
        (-5, "-5"),
        (10**30, "1" + "0" * 30),
        (3.0, "3"),
        ("é/ü#?%20", "é/ü#?%20"),
        ("x" * 512, "x" * 512),
    ],
)
def test_ids_that_are_accepted(tmp_path, given, expected):
    path = write_lines(tmp_path / "c.jsonl", record(given))
    assert ids(open_corpus(str(path))) == [expected]


def test_numbers_are_texts_however_long(tmp_path):
    numbers = [0, -7, 2.5, 10**400]
    path = write_lines(tmp_path / "c.jsonl", *[record(f"d{i}", value) for i, value in enumerate(numbers)])
    assert [document.text for document in open_corpus(str(path))] == ["0", "-7", "2.5", "1" + "0" * 400]
    # Python reads no more than 4,300 digits.
    long = write_lines(tmp_path / "long.jsonl", b'{"_id": "a", "text": 1' + b"0" * 5000 + b"}", record("b"))
    corpus = open_corpus(str(long), max_bad_lines=1)
    assert ids(corpus) == ["b"]
    assert "4300 digits" in corpus.report.bad_lines[0].reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "the id is empty"),
        (" ", "the id is empty"),
        (True, "the id must be text or a whole number, got bool True"),
        (1.5, "the id must be text or a whole number, got float 1.5"),
        (2.0**60, "the id must be text or a whole number, got float"),
        ([1], r"the id must be text or a whole number, got list \[1\]"),
        ({"x": "y" * 10_000}, "the id must be text or a whole number, got dict"),
        (None, "no id: none of _id, id, docid, doc_id, document_id, pid has a value, there is '_id', 'text'"),
        ("a\tb", "white space or control characters"),
        ("a\nb", "white space or control characters"),
        ("a\x00b", "white space or control characters"),
        ("a b", "white space or control characters"),
        ("a\u2028b", "white space or control characters"),
        ("\x1b[31m", "white space or control characters"),
        ("x" * 513, "is longer than 512 bytes"),
        ("ü" * 257, "is longer than 512 bytes"),
        ("\ud83d", "half of a surrogate pair"),
    ],
)
def test_ids_that_are_refused_with_their_place(tmp_path, given, reason):
    path = write_lines(tmp_path / "c.jsonl", record("fine"), record(given))
    with pytest.raises(InvalidInput, match=rf"c\.jsonl:2: {reason}|c\.jsonl:2: the id .*{reason}") as raised:
        ids(open_corpus(str(path)))
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"_id": "b", "text": ', "not JSON"),
        (b"[1, 2]", "a JSON object is needed, got list"),
        (b'"text"', "a JSON object is needed, got str"),
        (b"[" * 100_000, "not JSON"),
        (b'{"_id": "b", "text": "caf\xe9"}', "not UTF-8 at byte 26"),
        (b'{"_id": "b", "text": "\\ud83d"}', "the text contains half of a surrogate pair"),
        (b'{"_id": "b", "text": "x", "title": "\\udc00"}', "the title contains half of a surrogate pair"),
        (b'{"_id": "b", "text": "x", "k": ["\\ud83d"]}', "the field 'k' cannot be stored: it contains half of"),
        (b'{"_id": "b", "text": "x", "\\ud83d": 1}', r"the field '\\ud83d' cannot be stored: it contains half of"),
        (b'{"_id": "b", "text": "x", "metadata": {"k": 1e999}}', "the field 'k' cannot be stored: it is infinite"),
        (b'{"_id": "b", "text": "x", "metadata": [1]}', "'metadata' must be an object, got list"),
        (b'{"_id": "b", "text": ["x"]}', "the text must be text, got list"),
        (b'{"_id": "b", "text": true}', "the text must be text, got bool"),
        (b'{"_id": "b", "text": NaN}', "the text must be text, got float"),
        (b'{"_id": "b", "text": "x", "title": {}}', "the title must be text, got dict"),
        (b'{"_id": "b", "title": "x"}', "no text: none of text, contents, .* has a value, there is '_id', 'title'"),
        (b"{}", "no id: .* there is nothing"),
    ],
)
def test_faulty_lines_are_refused_with_their_place_or_left_out_and_counted(tmp_path, line, reason):
    path = write_lines(tmp_path / "c.jsonl", record("a"), line, record("c"))
    with pytest.raises(InvalidInput, match=rf"c\.jsonl:2: {reason}"):
        ids(open_corpus(str(path)))
    corpus = open_corpus(str(path), max_bad_lines=1)
    assert ids(corpus) == ["a", "c"]
    assert (corpus.report.documents, corpus.report.bad_lines_total) == (2, 1)
    (bad,) = corpus.report.bad_lines
    assert isinstance(bad, BadLine)
    assert (bad.path, bad.line) == (str(path), 2)


def test_byte_order_mark_and_crlf_are_accepted(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": "a", "text": "one"}\r\n\r\n{"_id": "b", "text": "two"}\r\n')
    assert [(document.id, document.text) for document in open_corpus(str(path))] == [("a", "one"), ("b", "two")]


def test_too_many_faulty_lines_are_listed(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", record("a"), *[b"{"] * 30)
    corpus = open_corpus(str(path), max_bad_lines=25)
    with pytest.raises(InvalidInput, match=r"26 faulty lines, 25 allowed, the first: ") as raised:
        ids(corpus)
    assert [f"c.jsonl:{number}: " in str(raised.value) for number in (2, 6, 7)] == [True, True, False]
    assert corpus.report.bad_lines_total == 26
    # However many there are, the list stays short.
    assert [bad.line for bad in corpus.report.bad_lines] == list(range(2, 22))


def test_empty_texts_are_kept_and_counted(tmp_path):
    path = write_lines(
        tmp_path / "c.jsonl", record("a", ""), record("b", " \n"), record("c", "", title="T"), record("d")
    )
    corpus = open_corpus(str(path))
    assert ids(corpus) == ["a", "b", "c", "d"]
    assert (corpus.report.documents, corpus.report.empty) == (4, 2)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("skip", [("a", "1"), ("b", "2"), ("c", "4")]), ("overwrite", [("b", "2"), ("c", "4"), ("a", "6")])],
)
def test_duplicate_ids_that_are_allowed(tmp_path, policy, expected):
    path = write_lines(
        tmp_path / "c.jsonl",
        record("a", "1"), record("b", "2"), record("a", "3"), record("c", "4"), b"{", record("a", "6"),
    )  # fmt: skip
    corpus = open_corpus(str(path), duplicates=policy, max_bad_lines=1)
    for _ in range(2):
        assert [(document.id, document.text) for document in corpus] == expected
        assert (corpus.report.documents, corpus.report.duplicates, corpus.report.bad_lines_total) == (3, 2, 1)


def test_a_number_and_its_text_are_the_same_id(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", record(1), record("1"))
    with pytest.raises(InvalidInput, match=r"c\.jsonl:2: the id '1' occurs a second time; .*--duplicates skip"):
        ids(open_corpus(str(path)))


def test_unknown_policies_and_limits_are_refused(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", record("a"))
    with pytest.raises(InvalidInput, match="duplicates must be fail, skip or overwrite, got 'merge'"):
        open_corpus(str(path), duplicates="merge")
    with pytest.raises(InvalidInput, match="max_bad_lines must be 0 or more, got -1"):
        open_corpus(str(path), max_bad_lines=-1)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"the corpus c\.jsonl holds no documents; give one that has some"):
        ids(open_corpus(str(path)))


def test_a_corpus_of_faulty_lines_alone_is_empty(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", b"{", b"}")
    with pytest.raises(InvalidInput, match="holds no documents, 2 faulty lines left out"):
        ids(open_corpus(str(path), max_bad_lines=10))


def test_a_corpus_can_be_read_again_from_the_start(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", *(record(f"d{i}") for i in range(100)))
    corpus = open_corpus(str(path))
    beginning = iter(corpus)
    assert [next(beginning).id for _ in range(3)] == ["d0", "d1", "d2"]
    assert ids(corpus) == ids(corpus) == [f"d{i}" for i in range(100)]
    assert corpus.report.documents == 100


def test_documents_come_while_the_file_is_still_read(tmp_path):
    """A file of 64 MB must not be in memory; what is allocated while it is read stays near one block."""
    path = tmp_path / "c.jsonl"
    with path.open("w") as file:
        for number in range(8_000):
            file.write(json.dumps(record(f"d{number}", "x" * 8_000)) + "\n")
    gc.collect()
    tracemalloc.start()
    assert sum(1 for _ in open_corpus(str(path))) == 8_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_corpus_that_grows_between_two_passes_is_noticed(tmp_path):
    # More than one block of the reader, so that the end is not read yet when the first document comes.
    path = write_lines(tmp_path / "c.jsonl", *(record(f"d{number}", "x" * 10_000) for number in range(300)))
    documents = iter(open_corpus(str(path), duplicates="overwrite"))
    assert next(documents).id == "d0"
    with path.open("a") as file:
        file.write(json.dumps(record("new")) + "\n")
    with pytest.raises(InvalidInput, match=r"c\.jsonl:301: the corpus changes while it is read"):
        list(documents)


def test_standard_input_is_read_once_and_cannot_be_overwritten(monkeypatch):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": 1, "text": "one"}\n{"id": 1, "text": "two"}'))
    )
    with pytest.raises(InvalidInput, match="reads the corpus twice, which standard input does not allow"):
        open_corpus("-", duplicates="overwrite")
    corpus = open_corpus("-", duplicates="skip")
    assert corpus.name == "stdin"
    assert [document.text for document in corpus] == ["one"]
    with pytest.raises(InvalidInput, match="stdin can be read once only; save it to a file"):
        list(corpus)


def test_faults_on_standard_input_have_a_place(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": 1, "text": "one"}\n{')))
    with pytest.raises(InvalidInput, match="standard input:2: not JSON"):
        list(open_corpus("-"))


def test_a_named_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    with pytest.raises(InvalidInput, match="reads the corpus twice"):
        open_corpus(str(path), duplicates="overwrite")
    writer = threading.Thread(target=path.write_bytes, args=(b'{"id": 1, "text": "one"}\n',))
    writer.start()
    corpus = open_corpus(str(path))
    assert ids(corpus) == ["1"]
    writer.join()
    with pytest.raises(InvalidInput, match="can be read once only"):
        ids(corpus)
