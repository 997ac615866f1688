"""The commands that read a corpus: the same options, with the same meaning, in all of them."""

import inspect
import json

import pytest
from typer.testing import CliRunner

from indexing import commands
from indexing.commands import app
from retriever.errors import InvalidInput
from retriever.index.sealed import open_index

# What `open_corpus` takes, by the name of its option.
READING = {
    "format", "id_field", "title_field", "text_field", "metadata_field", "header", "max_bad_lines", "duplicates",
}  # fmt: skip
ROWS = "k1\tFirst\tsome words\ten\t1999\nk2\tSecond\tother words\tde\t2001\n"
HEADER = "key\theadword\tabstract\tlang\tyear\n"
FIELDS = ["--id-field", "key", "--title-field", "headword", "--text-field", "abstract"]


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def documents_of(command, source, target, *options):
    """Return what a command made of a corpus: id to title, text and metadata."""
    if command == "corpus":
        run("corpus", source, "--to", target, *options)
        records = [json.loads(line) for line in (target / "corpus.jsonl").read_text().splitlines()]
        return {record["_id"]: (record["title"], record["text"], record["metadata"]) for record in records}
    if command == "add":
        first = target.parent / "first.jsonl"
        first.write_text('{"_id": "first", "text": "x"}\n')
        run("build", first, target, "--parts", "bm25", "--quiet")
        run("add", source, target, "--quiet", *options)
    else:
        run("build", source, target, "--parts", "bm25", "--quiet", *options)
    with open_index(target) as index:
        documents = [index.get(id_) for segment in index.segments for id_ in segment.ids if id_ != "first"]
        return {document.id: (document.title, document.text, dict(document.metadata)) for document in documents}


commands_that_read = pytest.mark.parametrize("command", ["build", "add", "corpus"])


def test_the_options_of_reading_are_defined_once():
    signatures = [inspect.signature(getattr(commands, name)).parameters for name in ("build", "add", "corpus")]
    for parameters in signatures:
        assert parameters.keys() >= READING
        for name in READING:
            # The very same object: its help and its limits cannot differ.
            assert parameters[name].annotation is signatures[0][name].annotation
            assert parameters[name].default == signatures[0][name].default


@commands_that_read
def test_fields_by_name(tmp_path, command):
    source = tmp_path / "c.tsv"
    source.write_text(HEADER + ROWS)
    assert documents_of(command, source, tmp_path / "all", *FIELDS) == {
        "k1": ("First", "some words", {"lang": "en", "year": "1999"}),
        "k2": ("Second", "other words", {"lang": "de", "year": "2001"}),
    }
    for kept in (["lang"], ["year", "lang"], [""]):
        options = [part for name in kept for part in ("--metadata-field", name)]
        found = documents_of(command, source, tmp_path / f"kept{len(kept)}{kept[0]}", *FIELDS, *options)
        assert {name for _, _, metadata in found.values() for name in metadata} == set(kept) - {""}


@commands_that_read
def test_with_and_without_a_header(tmp_path, command):
    source = tmp_path / "c.csv"
    source.write_text("id,text\nb,words\n")
    assert documents_of(command, source, tmp_path / "judged").keys() == {"b"}
    assert documents_of(command, source, tmp_path / "with", "--header").keys() == {"b"}
    found = documents_of(command, source, tmp_path / "without", "--no-header")
    assert found == {"id": ("", "text", {}), "b": ("", "words", {})}


@commands_that_read
def test_options_that_do_not_fit_the_corpus(tmp_path, command):
    source = tmp_path / "c.jsonl"
    source.write_text('{"_id": "a", "text": "x"}\n')
    with pytest.raises(InvalidInput, match=r"no id: none of key has a value, there is '_id', 'text'"):
        documents_of(command, source, tmp_path / "one", "--id-field", "key")
    with pytest.raises(InvalidInput, match="header=True is for csv and tsv"):
        documents_of(command, source, tmp_path / "two", "--header")
    with pytest.raises(InvalidInput, match="header=False is for csv and tsv files, pydocs:stdlib is none"):
        documents_of(command, "pydocs:stdlib", tmp_path / "three", "--no-header")


def test_a_build_is_not_resumed_with_other_fields(tmp_path):
    source = tmp_path / "c.csv"
    source.write_text("id,text,other\na,x,y\na,x,y\n")
    index = tmp_path / "index"
    with pytest.raises(InvalidInput, match="the id 'a' occurs a second time"):
        run("build", source, index, "--parts", "bm25", "--quiet", "--shard-documents", 1)
    for options in (["--text-field", "other"], ["--metadata-field", ""], ["--header"]):
        with pytest.raises(InvalidInput, match=r"an unfinished build with other settings \(corpus: "):
            run("build", source, index, "--parts", "bm25", "--quiet", "--shard-documents", 1, *options)
