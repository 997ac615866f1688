"""`retriever search` and `retriever index` as a user types them, in processes of their own."""

import json
import subprocess
import sys

import pytest

from retriever.commands.search import read_filter
from retriever.errors import InvalidInput


def call(*arguments, stdin=None):
    command = [sys.executable, "-m", "retriever.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)


def test_searching(small_index):
    done = call("search", small_index, "decode a JSON document", "-k", "3", "-f", "kind=method", "-f", "lines<80")
    assert done.returncode == 0, done.stderr
    assert "json.decoder" in done.stdout
    assert "exact" in done.stdout
    assert "bm25" in done.stdout
    assert done.stderr == ""


def test_queries_from_standard_input_as_json(small_index):
    done = call("search", small_index, "-", "-p", "bm25", "--json", stdin="parse arguments\n\nzip archive\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["query"] for line in lines] == ["parse arguments", "zip archive"]
    assert lines[0]["status"] == "exact"
    assert lines[0]["hits"][0]["scores"]["bm25"] == lines[0]["hits"][0]["score"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "{index}", "x", "-p", "magic"], 2, "unknown pipeline 'magic'; this index offers bm25"),
        (["search", "{index}", "x", "-k", "0"], 2, "k must be a whole number"),
        (["search", "{index}", "x", "-f", "colour=red"], 2, "'colour' is not a filterable field"),
        (["search", "{index}", "x", "-f", "{{bad"], 2, "is not JSON"),
        (["search", "{index}", " "], 2, "the query is empty"),
        (["search", "{tmp}/nowhere", "x"], 3, "retriever index build"),
        (["search", "{index}", "x", "--encoder", "{tmp}"], 2, "{tmp}"),
        (["search", "{index}", "x", "--speed"], 2, "No such option: --speed"),
        (["search"], 2, "Missing argument"),
        (["magic"], 2, "No such command 'magic'"),
        (["index", "build", "{tmp}/nowhere.jsonl", "{tmp}/i"], 2, "there is no corpus at"),
        (["index", "build", "{tmp}", "{tmp}/i", "--parts", "bm25,magic"], 2, "parts"),
        (["index", "build", "{tmp}", "{tmp}/i", "--field", "a:date"], 2, "--field takes NAME"),
        (["index", "build", "{tmp}", "{tmp}/i", "--duplicates", "maybe"], 2, "duplicates"),
        (["index", "build", "{tmp}", "{tmp}/i", "--parts", "bm25", "--chunk", "100"], 2, "needs the dense part"),
        (["index", "build", "pydocs:stdlib", "{index}"], 2, "there is an index at"),
        (["index", "build", "pydocs:magic", "{tmp}/i", "--parts", "bm25"], 2, "use pydocs or pydocs:stdlib"),
        (["index", "delete", "{index}"], 2, "name documents to delete"),
        (["index", "verify", "{tmp}/nowhere"], 3, "no index at"),
        (["index", "describe", "{tmp}/nowhere"], 3, "no index at"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line(small_index, tmp_path, arguments, code, message):
    filled = [argument.format(index=small_index, tmp=tmp_path) for argument in arguments]
    done = call(*filled)
    assert done.returncode == code, done.stderr
    assert message.format(tmp=tmp_path) in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_verify_and_describe(small_index):
    verified = call("index", "verify", small_index, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["sound"] is True
    described = json.loads(call("index", "describe", small_index, "--json").stdout)
    assert described["fields"] == {"module": "keyword", "kind": "keyword", "lines": "number"}
    assert "all-MiniLM-L6-v2" in call("index", "describe", small_index).stdout


def test_help_names_every_command():
    done = call("--help")
    assert done.returncode == 0
    for name in ("models", "index", "search", "eval", "train", "serve"):
        assert name in done.stdout


def test_a_reader_that_leaves_early_is_no_error(small_index):
    command = f"{sys.executable} -m retriever.cli search {small_index} 'parse' -k 300 -p bm25 | head -1"
    done = subprocess.run(["bash", "-c", f"{command}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("parse")


def test_filters_are_read_and_joined():
    fields = {"year": "number", "lang": "keyword"}
    assert read_filter([], fields) is None
    assert read_filter(["year>=2000", '{"lang": "en"}'], fields) == {"and": [{"year": {"gte": 2000.0}}, {"lang": "en"}]}
    with pytest.raises(InvalidInput):
        read_filter(["year"], fields)
