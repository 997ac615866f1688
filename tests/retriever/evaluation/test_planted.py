"""Documents of a given length with one planted statement: sizes, truth, determinism."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from retriever.commands.evaluate import app
from retriever.encoder import TokenCounter
from retriever.errors import InvalidInput
from retriever.evaluation.collections import read_texts
from retriever.evaluation.planted import evaluate_planted, plant
from retriever.evaluation.records import Record

TEXTS = [
    "The boundary layer grows along the plate. Its thickness is measured with a hot wire! Is it laminar? Not always.",
    "no sentence ends here " * 30,
    "Ein Satz mit Umlauten: Grüße aus Köln. 検索エンジン。 Another follows.",
]


@pytest.fixture(scope="module")
def tokens(encoder):
    return TokenCounter(encoder.model.tokenizer)


@pytest.mark.parametrize("task", ["passkey", "needle"])
@pytest.mark.parametrize("length", [64, 129, 512])
@pytest.mark.parametrize("texts", [(), TEXTS * 4])
def test_documents_have_the_length_and_hold_what_is_asked(task, length, texts, tokens):
    if task == "needle" and not texts:
        return
    planted = plant(task, length, tokens, texts=texts, seed=5, queries=6, documents=9)
    counts = tokens.count([document.text for document in planted.documents])
    assert max(counts) <= length
    assert min(counts) >= length - 12
    judged = planted.collection.judged
    assert (len(judged), len(planted.documents)) == (6, 9)
    texts_by_id = {document.id: document.text for document in planted.documents}
    for query, text in judged.items():
        ((relevant, grade),) = planted.collection.qrels[query].items()
        assert grade == 1
        name = text.split("for ")[1].rstrip("?") if task == "passkey" else " ".join(text.split()[2:4])
        assert [id_ for id_, one in texts_by_id.items() if name in one] == [relevant]
        if task == "passkey":
            key = texts_by_id[relevant].split(f"{name}'s pass key is ")[1][:5]
            assert texts_by_id[relevant].count(key) == 2


def test_statements_stand_anywhere_and_metadata_say_where(tokens):
    planted = plant("passkey", 512, tokens, seed=1, documents=60, queries=20)
    depths = np.array([document.metadata["depth"] for document in planted.documents])
    assert depths.min() < 0.15
    assert depths.max() > 0.8
    assert 0.35 < depths.mean() < 0.65
    for document in planted.documents[:5]:
        assert document.text.index("pass key") / len(document.text) >= document.metadata["depth"] - 1e-3


def test_everything_follows_from_the_seed(tokens):
    def made(**changes):
        return plant(**{"task": "needle", "length": 100, "tokens": tokens, "texts": TEXTS, "seed": 3} | changes)

    first = made()
    assert made() == first
    assert made(seed=4).collection.sha256 != first.collection.sha256
    assert made(length=101).documents != first.documents
    assert made(task="passkey").collection.queries != first.collection.queries
    # In every process: a record of today can be compared with one of tomorrow.
    assert made(documents=2, queries=1).collection.queries == {
        "q000": "where does Esther Lindqvist keep the yellow globe?"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "haystack"}, "'haystack'; it is one of: passkey, needle"),
        ({"length": 20}, "from 64 to 1,048,576"),
        ({"length": 10**12}, "from 64 to 1,048,576"),
        ({"queries": 10, "documents": 5}, "10 queries and 5 documents"),
        ({"documents": 10**6}, "do not go together; 1 to"),
        ({"task": "needle", "texts": ()}, "--texts"),
        ({"task": "needle", "length": 30_000}, "together, a document has 30,000"),
    ],
)
def test_bad_input_is_refused(settings, message, tokens):
    with pytest.raises(InvalidInput, match=message):
        plant(**{"task": "passkey", "length": 100, "tokens": tokens, "texts": TEXTS} | settings)


def test_a_tokenizer_that_needs_more_than_the_length_for_a_statement_is_named():
    class Characters:
        def count(self, texts):
            return [len(text) for text in texts]

    with pytest.raises(InvalidInput, match="of this tokenizer's tokens; give a larger length"):
        plant("passkey", 64, Characters())


def test_minilm_finds_what_it_reads_and_loses_what_it_cuts(encoder, tokens):
    """Its limit is 256 tokens: in documents of 512 every other statement is behind it."""
    short = evaluate_planted(encoder, plant("passkey", 128, tokens, documents=12, queries=12), "minilm")
    long = evaluate_planted(encoder, plant("passkey", 512, tokens, documents=12, queries=12), "minilm")
    assert short.answers == {"documents_cut": 0}
    assert long.answers == {"documents_cut": 12}
    assert short.means["Success@1"] > 0.9
    assert 0.1 < long.means["Success@1"] < 0.8
    assert long.per_query["Success@1"].keys() == long.per_query["RR@10"].keys()


def test_texts_of_files_and_folders(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    (tmp_path / "empty.txt").write_text(" ")
    assert read_texts(tmp_path) == ["first", "second"]
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "third"}\n')
    assert read_texts(tmp_path) == ["third"]
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "third"}\n{"_id": "2"}\n')
    with pytest.raises(InvalidInput, match="corpus.jsonl:2"):
        read_texts(tmp_path)
    with pytest.raises(InvalidInput, match="holds no texts"):
        read_texts(tmp_path / "empty.txt")
    with pytest.raises(InvalidInput, match="cannot read"):
        read_texts(tmp_path / "absent.jsonl")


def test_the_command_writes_records_that_can_be_compared(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arguments = [
        "long", "all-MiniLM-L6-v2", "--task", "passkey", "--task", "needle", "--texts", str(tmp_path / "texts.txt"),
        "--lengths", "64,128", "--queries", "2", "--documents", "3", "--output", str(tmp_path / "runs"), "--offline",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--json", "--name", "minilm"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["accuracy"].keys() == {"passkey", "needle"}
    assert [record["collection"] for record in printed["records"]] == [
        "passkey-64", "passkey-128", "needle-64", "needle-128",
    ]  # fmt: skip
    path = tmp_path / "runs" / "passkey-128.seed42.minilm.json"
    assert Record.read(path).means == printed["records"][1]["means"]
    compared = CliRunner().invoke(app, ["compare", str(path), str(path), "--json"])
    assert json.loads(compared.stdout)["comparisons"][0]["difference"] == 0
    table = CliRunner().invoke(app, [*arguments[:2], "--lengths", "64", *arguments[10:]])
    assert "mean" in table.output, table.output
    with pytest.raises(InvalidInput, match="no lengths"):
        raise CliRunner().invoke(app, ["long", "all-MiniLM-L6-v2", "--lengths", "1k"]).exception
