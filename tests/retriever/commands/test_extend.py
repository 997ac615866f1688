"""`retriever models extend` as a user runs it, and an index of what it made."""

import json

import pytest
from typer.testing import CliRunner

from indexing.build import build_index
from indexing.plan import BuildSettings
from retriever.commands.models import app
from retriever.errors import IndexMismatch, InvalidInput
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import ListCorpus
from tests.retriever.long_context.models import write_rotary_encoder


def extend(*arguments):
    result = CliRunner().invoke(app, ["extend", *map(str, arguments)])
    if isinstance(result.exception, InvalidInput):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_an_index_knows_the_extended_encoder_and_refuses_its_origin(tmp_path):
    source = write_rotary_encoder(tmp_path / "source")
    made = extend(source, "--method", "self_extend", "--length", 128, "--output", tmp_path / "longer", "--json")
    assert json.loads(made.stdout) == {
        "path": str(tmp_path / "longer"), "method": "self_extend", "length": 128, "window": 32, "group": 5,
        "neighbours": 8, "temperature": True,
    }  # fmt: skip
    documents = ListCorpus([Document("1", "wing " * 100), Document("2", "a cone")])
    settings = BuildSettings(parts=("dense",), encoder=str(tmp_path / "longer"))
    build_index(documents, tmp_path / "index", settings, device="cpu")
    with open_index(tmp_path / "index") as index:
        answer = index.search("wing " * 50, 2, pipeline="dense")
    assert (answer.status, answer.hits[0].id) == ("exact", "1")
    with pytest.raises(IndexMismatch, match="max_tokens: the index has '128', the encoder has '32'"):
        open_index(tmp_path / "index", encoder=str(source)).search("wing", 1, pipeline="dense")
    described = CliRunner().invoke(app, ["describe", str(tmp_path / "longer"), "--json"])
    assert json.loads(described.stdout)["max_tokens"] == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "longer", "--length", 128), "method is 'longer'"),
        (("--method", "recurrent", "--length", 128), "does not fit LlamaModel"),
        (("--method", "ntk", "--length", 32), "not above the window"),
        (("--method", "grouped", "--length", 128, "--base-factor", 2), "belongs to the method ntk"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(arguments, message, tmp_path):
    source = write_rotary_encoder(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        extend(source, *arguments, "--output", tmp_path / "longer")
    assert not (tmp_path / "longer").exists()


def test_a_folder_that_is_there_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InvalidInput, match="is there already"):
        extend("no-such-model", "--method", "windows", "--length", 2_048, "--output", tmp_path)
