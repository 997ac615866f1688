"""From a name to a corpus: formats told by their names, and what is said about names that mean nothing."""

import gzip
import json

import pytest

from indexing.corpora import FORMATS, open_corpus
from retriever.errors import InvalidInput

LINE = json.dumps({"_id": "a", "text": "some text"}) + "\n"


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("c.jsonl", "jsonl"),
        ("c.ndjson", "jsonl"),
        ("c.JSONL", "jsonl"),
        ("c.v2.json", "jsonl"),
        ("c.csv", "csv"),
        ("c.tsv", "tsv"),
    ],
)
def test_the_format_is_told_by_the_name(tmp_path, name, format):
    content = LINE if format == "jsonl" else "id{0}text\na{0}some text\n".format("," if format == "csv" else "\t")
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        corpus = open_corpus(str(path))
        assert corpus.describe()["format"] == format
        assert [(document.id, document.text) for document in corpus] == [("a", "some text")]


def test_suffixes_in_capitals(tmp_path):
    (tmp_path / "C.JSONL.GZ").write_bytes(gzip.compress(LINE.encode()))
    assert [document.id for document in open_corpus(str(tmp_path / "C.JSONL.GZ"))] == ["a"]


def test_a_format_can_be_given(tmp_path):
    path = tmp_path / "dump"
    path.write_text(LINE)
    with pytest.raises(InvalidInput, match=r"cannot tell the format of .*dump from its name; say --format with one of"):
        open_corpus(str(path))
    assert len(list(open_corpus(str(path), format="jsonl"))) == 1
    with pytest.raises(InvalidInput, match="unknown format 'xml'; use one of beir, jsonl"):
        open_corpus(str(path), format="xml")


def test_a_folder_with_a_corpus_file_is_beir_whatever_else_it_holds(tmp_path):
    (tmp_path / "README.md").write_text("# About")
    assert open_corpus(str(tmp_path)).describe()["format"] == "folder"
    (tmp_path / "corpus.jsonl").write_text(LINE)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "?"}\n')
    corpus = open_corpus(str(tmp_path))
    assert corpus.describe()["format"] == "beir"
    assert [document.id for document in corpus] == ["a"]


@pytest.mark.parametrize("source", ["", "missing.jsonl", "no/such/folder", "magic:name", "C:\\corpus.jsonl"])
def test_a_missing_path_names_what_is_accepted(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=r"there is no corpus at .*give a BEIR folder;.*irds:NAME; pydocs"):
        open_corpus(source)


@pytest.mark.parametrize("source", ["nul\0byte.jsonl", "x" * 5000])
def test_a_name_that_can_be_no_path(source):
    with pytest.raises(InvalidInput, match=r"(is no path that can be read|there is no corpus at).*give a BEIR folder"):
        open_corpus(source)


def test_formats_that_do_not_fit_the_path(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(LINE)
    for format in ("beir", "folder"):
        with pytest.raises(InvalidInput, match=f"is a file, not a {format} corpus"):
            open_corpus(str(path), format=format)
    for format in ("jsonl", "parquet"):
        with pytest.raises(InvalidInput, match=f"is a folder, not a {format} corpus"):
            open_corpus(str(tmp_path), format=format)
    with pytest.raises(InvalidInput, match=r"is no BEIR folder: it has none of corpus\.jsonl"):
        list(open_corpus(str(tmp_path), format="beir"))
    with pytest.raises(InvalidInput, match="use pydocs or pydocs:stdlib"):
        open_corpus(str(path), format="pydocs")
    with pytest.raises(InvalidInput, match="standard input is read as jsonl, not as csv"):
        open_corpus("-", format="csv")
    with pytest.raises(InvalidInput, match="header=True is for csv and tsv"):
        open_corpus(str(path), header=True)
    for source in ("-", "irds:beir/nfcorpus", "ir_datasets:x", "pydocs", "pydocs:stdlib"):
        with pytest.raises(InvalidInput, match=f"header=False is for csv and tsv files, {source} is none"):
            open_corpus(source, header=False)
    for name in ("c.parquet.gz", "C.PARQUET.GZ"):
        packed = tmp_path / name
        packed.write_bytes(b"")
        with pytest.raises(InvalidInput, match="unpack it first"):
            open_corpus(str(packed))


def test_every_format_has_a_reader(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(LINE)
    path = tmp_path / "file"
    path.write_text("id\ttext\na\tsome text\n")
    names = {"beir": tmp_path, "folder": tmp_path, "pydocs": "pydocs:stdlib"}
    for format in FORMATS:
        if format != "irds":  # see test_irds.py
            corpus = open_corpus(str(names.get(format, path)), format=format)
            assert corpus.describe()["format"] == format


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(LINE)
    corpus = open_corpus(str(path))
    path.unlink()
    with pytest.raises(InvalidInput, match=r"the corpus c\.jsonl cannot be read: .*No such file"):
        list(corpus)


def test_where_a_corpus_lies_does_not_change_what_it_is(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.jsonl").write_text(LINE)
    one, other = (open_corpus(str(tmp_path / folder / "c.jsonl")) for folder in ("one", "other"))
    assert one.describe() == other.describe()
