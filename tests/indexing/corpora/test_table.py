"""CSV, TSV and Parquet: columns by name, rows with their place, texts unchanged."""

import csv
import datetime
import decimal
import io
import random

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from indexing.corpora import open_corpus
from retriever.errors import InvalidInput
from retriever.types import Document


def corpus_of(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_corpus(str(path), **options)


def test_csv_with_a_header(tmp_path):
    content = 'id,title,text,year\r\n1,"A, B","He said ""no"".\nThen left.",2020\r\n\r\n2,,"",\r\n'
    assert list(corpus_of(tmp_path, "c.csv", content)) == [
        Document("1", 'He said "no".\nThen left.', "A, B", {"year": "2020"}),
        Document("2", ""),
    ]


def test_csv_columns_by_choice(tmp_path):
    corpus = corpus_of(
        tmp_path, "c.csv", "key,name,abstract,text\nk,N,A,T\nl,,,\n",
        id_field="key", title_field="name", text_field="abstract", metadata_fields=[],
    )  # fmt: skip
    assert list(corpus) == [Document("k", "A", "N"), Document("l", "")]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"id,text\na,one\nb,two,three\nc,four\n", 3, "2 columns are needed, got 3"),
        (b"id,text\na,one\nb\nc,four\n", 3, "2 columns are needed, got 1"),
        (b'id,text\na,"one\nmore"\nb,"x"y\nc,four\n', 4, "not comma-separated: ',' expected after '\"'"),
        (b"id,text\na,one\nb,caf\xe9\nc,four\n", 3, "not UTF-8 at byte 6"),
        (b'id,text\na,one\nb,"begins\ncaf\xe9\nends"\nc,four\n', 4, "not UTF-8 at byte 4"),
        (b"id,text\na,one\n,two\nc,four\n", 3, "no id: none of _id, id, .* has a value, there is 'id', 'text'"),
    ],
)
def test_faulty_rows_of_csv(tmp_path, content, line, reason):
    with pytest.raises(InvalidInput, match=rf"c\.csv:{line}: {reason}"):
        list(corpus_of(tmp_path, "c.csv", content))
    corpus = corpus_of(tmp_path, "c.csv", content, max_bad_lines=1)
    assert [document.id for document in corpus] == ["a", "c"]
    assert corpus.report.bad_lines_total == 1


def test_a_quotation_that_never_ends_takes_the_rest_and_says_so(tmp_path):
    corpus = corpus_of(tmp_path, "c.csv", 'id,text\na,one\nb,"two\nc,three\nd,four\n', max_bad_lines=1)
    assert [document.id for document in corpus] == ["a"]
    assert [(bad.line, bad.reason) for bad in corpus.report.bad_lines] == [
        (3, "not comma-separated: unexpected end of data")
    ]


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id|caf\xe9\na|one\n", r":1: the header is not UTF-8 at byte 7"),
        (b"id|text|text\na|one|two\n", r"a column name stands twice in the header \['id', 'text', 'text'\]"),
    ],
)
def test_a_faulty_header_is_never_passed_over(tmp_path, name, content, reason):
    content = content.replace(b"|", b"," if name == "c.csv" else b"\t")
    with pytest.raises(InvalidInput, match=reason):
        list(corpus_of(tmp_path, name, content, max_bad_lines=9))


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_csv_gives_back_what_python_wrote(tmp_path_factory, rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "text", "title"])
    writer.writerows([str(number), text, title] for number, (text, title) in enumerate(rows))
    corpus = corpus_of(tmp_path_factory.mktemp("csv"), "c.csv", buffer.getvalue())
    # A carriage return before a line feed belongs to the end of the line.
    expected = [(text.replace("\r\n", "\n"), title.replace("\r\n", "\n")) for text, title in rows]
    assert [(document.text, document.title) for document in corpus] == expected


def test_tsv_of_ms_marco_needs_no_header_and_knows_no_quotation(tmp_path):
    content = '0\t"Beginning" with a mark\n1\tone " only\n\n2\t\n'
    assert list(corpus_of(tmp_path, "collection.tsv", content)) == [
        Document("0", '"Beginning" with a mark'),
        Document("1", 'one " only'),
        Document("2", ""),
    ]


@pytest.mark.parametrize("header", ["docid\ttext", "_id\tstuff\ttext", "a\tText"])
def test_tsv_with_a_header_is_recognised(tmp_path, header):
    columns = header.split("\t")
    content = header + "\n" + "\t".join(["x"] * len(columns)) + "\n"
    id_field, text_field = columns[0], columns[-1]
    (document,) = corpus_of(tmp_path, "c.tsv", content, id_field=id_field, text_field=text_field)
    assert (document.id, document.text) == ("x", "x")


def test_tsv_columns_by_choice_mean_that_there_is_a_header(tmp_path):
    (document,) = corpus_of(tmp_path, "c.tsv", "key\tabstract\nk\tA\n", id_field="key", text_field="abstract")
    assert document == Document("k", "A")


def test_whether_there_is_a_header_can_be_said(tmp_path):
    content = "id\ttext\n1\tone\n"
    assert [document.id for document in corpus_of(tmp_path, "c.tsv", content)] == ["1"]
    corpus = corpus_of(tmp_path, "c.tsv", content, header=False)
    assert [document.id for document in corpus] == ["id", "1"]
    assert corpus.describe()["header"] is False
    (document,) = corpus_of(tmp_path, "c.csv", "1,T,one\n", header=False)
    assert document == Document("1", "one", "T")
    with pytest.raises(
        InvalidInput, match=r"c\.tsv:1: 2 \(id, text\) or 3 \(id, title, text\) columns are needed, got 4"
    ):
        list(corpus_of(tmp_path, "c.tsv", "1\t2\t3\t4\n", header=False))


def test_faulty_rows_of_tsv(tmp_path):
    content = b"1\tone\n2\ttwo\textra\n3\n4\tcaf\xe9\n5\tfive\n"
    corpus = corpus_of(tmp_path, "c.tsv", content, max_bad_lines=3)
    assert [document.id for document in corpus] == ["1", "5"]
    assert [(bad.line, bad.reason.partition(";")[0]) for bad in corpus.report.bad_lines] == [
        (2, "2 columns are needed, got 3"),
        (3, "2 columns are needed, got 1"),
        (4, "not UTF-8 at byte 6"),
    ]


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_an_empty_table(tmp_path, name):
    for content in ("", "\n", "id,text\n".replace(",", "," if name == "c.csv" else "\t")):
        with pytest.raises(InvalidInput, match="holds no documents"):
            list(corpus_of(tmp_path, name, content))


def write_parquet(path, table, **options):
    parquet.write_table(table, path, **options)
    return str(path)


def test_parquet_over_several_row_groups(tmp_path):
    rows = 5_000
    table = pyarrow.table(
        {
            "docid": pyarrow.array(range(rows), pyarrow.int64()),
            "title": [None if number % 2 else f"T{number}" for number in range(rows)],
            "contents": [f"text {number}" for number in range(rows)],
            "tags": [["a", "b"]] * rows,
        }
    )
    corpus = open_corpus(write_parquet(tmp_path / "c.parquet", table, row_group_size=777))
    assert corpus.size_hint() == rows
    documents = list(corpus)
    assert documents[0] == Document("0", "text 0", "T0", {"tags": ["a", "b"]})
    assert [document.id for document in documents] == [str(number) for number in range(rows)]
    assert documents[4_999] == Document("4999", "text 4999", "", {"tags": ["a", "b"]})


def test_parquet_types_become_those_of_json(tmp_path):
    table = pyarrow.table(
        {
            "id": ["a"],
            "text": ["x"],
            "day": [datetime.date(2020, 2, 29)],
            "price": [decimal.Decimal("1.50")],
            "score": pyarrow.array([float("nan")]),
            "nested": [{"k": [1, None]}],
        }
    )
    (document,) = open_corpus(write_parquet(tmp_path / "c.parquet", table))
    assert document.metadata == {"day": "2020-02-29", "price": 1.5, "nested": {"k": [1, None]}}
    blob = table.append_column("blob", pyarrow.array([b"\x00"]))
    path = write_parquet(tmp_path / "blob.parquet", blob)
    with pytest.raises(
        InvalidInput, match=r"blob\.parquet:1: the field 'blob' cannot be stored: it is of the type bytes"
    ):
        list(open_corpus(path))
    assert len(list(open_corpus(path, metadata_fields=["day"]))) == 1


def test_parquet_rows_with_missing_values_or_broken_text_are_named(tmp_path):
    broken = pyarrow.array([b"one", b"caf\xe9", b"three", None]).view(pyarrow.string())
    path = write_parquet(tmp_path / "c.parquet", pyarrow.table({"id": [1, 2, None, 4], "text": broken}))
    corpus = open_corpus(path, max_bad_lines=3)
    assert [document.id for document in corpus] == ["1"]
    assert [(bad.line, bad.reason[:27]) for bad in corpus.report.bad_lines] == [
        (2, "holds an unreadable value: "),
        (3, "no id: none of _id, id, doc"),
        (4, "no text: none of text, cont"),
    ]


def test_parquet_that_is_none_or_damaged(tmp_path):
    generator = random.Random(0)
    texts = ["".join(generator.choices("abcdefgh ", k=200)) for _ in range(3_000)]
    table = pyarrow.table({"id": [str(number) for number in range(3_000)], "text": texts})
    path = tmp_path / "c.parquet"
    write_parquet(path, table, row_group_size=500)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"c\.parquet is not a Parquet file, or damaged after row 0"):
        list(open_corpus(str(path)))
    assert open_corpus(str(path)).size_hint() is None
    path.write_bytes(whole[: len(whole) // 2] + b"\x55" * 20_000 + whole[len(whole) // 2 + 20_000 :])
    with pytest.raises(InvalidInput, match=r"damaged after row \d{3}"):
        list(open_corpus(str(path)))
    path.write_bytes(b"id,text\n")
    with pytest.raises(InvalidInput, match="not a Parquet file"):
        list(open_corpus(str(path)))


def test_parquet_without_rows(tmp_path):
    empty = pyarrow.table({"id": pyarrow.array([], pyarrow.string()), "text": pyarrow.array([], pyarrow.string())})
    with pytest.raises(InvalidInput, match="holds no documents"):
        list(open_corpus(write_parquet(tmp_path / "c.parquet", empty)))
