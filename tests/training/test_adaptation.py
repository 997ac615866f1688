"""Adapting keeps the trained model when it is better, and the base otherwise."""

import json
import re
import subprocess
import sys

import pytest

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput, StorageFull
from training import adaptation
from training.adaptation import adapt
from training.encoders import as_encoder, open_base
from training.recipes.contrastive import ContrastiveSettings
from training.settings import FitSettings


def settings_of(steps, rate=3e-4):
    fit = FitSettings(batch_size=16, learning_rate=rate, steps=steps)
    return ContrastiveSettings(base="splade-tiny", query_tokens=12, document_tokens=24, hard="mined", fit=fit)


@pytest.fixture
def pairs(pydocs, tmp_path):
    """Return the small *pydocs* as lines of query and document id."""
    queries = {}
    for line in (pydocs / "queries.jsonl").read_text().splitlines():
        record = json.loads(line)
        queries[record["_id"]] = record["text"]
    rows = [line.split("\t") for line in (pydocs / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{queries[query]}\t{document}\n" for query, document, _ in rows))
    return path


def test_a_better_model_is_kept(pydocs, pairs, tmp_path):
    found = adapt(str(pydocs / "corpus.jsonl"), tmp_path / "model", settings_of(20), pairs=pairs, offline=True)
    assert found["kept"] == "trained"
    assert found["end"] > found["start"]
    assert found["p"] < 0.05
    assert json.loads((tmp_path / "model" / "adaptation.json").read_text())["decision"]["p"] == found["p"]
    load_encoder(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_no_gain_keeps_the_base(pydocs, pairs, tmp_path):
    settings = settings_of(1, rate=1e-12)
    found = adapt(str(pydocs / "corpus.jsonl"), tmp_path / "model", settings, pairs=pairs, offline=True)
    assert found["kept"] == "base"
    base = as_encoder(open_base(settings, offline=True))
    kept = as_encoder(open_base(settings, base=tmp_path / "model", offline=True))
    assert (kept.encode_queries(["a file"]) == base.encode_queries(["a file"])).all()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("no tab here\n", "pairs.tsv:1: a pair is a query, a tab and a document id"),
        ("query\t\n", "pairs.tsv:1"),
        ("query\tid\n", "none of them for"),
    ],
)
def test_faulty_pairs_are_named(pydocs, tmp_path, lines, message):
    (tmp_path / "pairs.tsv").write_text(lines)
    with pytest.raises(InvalidInput, match=message):
        adapt(str(pydocs / "corpus.jsonl"), tmp_path / "model", settings_of(1), pairs=tmp_path / "pairs.tsv")


def test_a_corpus_without_judgments_needs_pairs(pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="--pairs"):
        adapt(str(pydocs / "corpus.jsonl"), tmp_path / "model", settings_of(1))


def test_an_interrupted_adaptation_does_not_take_over_what_belongs_to_other_data(pydocs, pairs, tmp_path, monkeypatch):
    corpus, output = str(pydocs / "corpus.jsonl"), tmp_path / "model"

    def full(*_, **__):
        raise StorageFull("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(adaptation, "publish", full)
        with pytest.raises(StorageFull):
            adapt(corpus, output, settings_of(1), pairs=pairs, offline=True)
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(lines[: len(lines) // 2]))
    with pytest.raises(InvalidInput, match=r"other settings or data \(data\.train"):
        adapt(corpus, output, settings_of(1), pairs=pairs, offline=True)
    pairs.write_text("\n".join(lines) + "\n")
    with pytest.raises(InvalidInput, match=r"settings\.fit\.steps: 1 then, 2 now"):
        adapt(corpus, output, settings_of(2), pairs=pairs, offline=True)
    before = json.loads((tmp_path / ".model.adapt" / "trained" / "training_report.json").read_text())
    assert adapt(corpus, output, settings_of(1), pairs=pairs, offline=True)["split"] == "test"
    assert json.loads((output / "adaptation.json").read_text())["training"] == before
    assert not (tmp_path / ".model.adapt").exists()


def test_what_no_adaptation_made_is_never_replaced(pydocs, pairs, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="no finished training"):
        adapt(str(pydocs / "corpus.jsonl"), tmp_path / "model", settings_of(1), pairs=pairs, restart=True)
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_the_command_says_what_was_kept(pydocs, pairs, tmp_path):
    changes = ["base=splade-tiny", "query_tokens=12", "document_tokens=24", "fit.batch_size=16", "fit.steps=2"]
    arguments = ["adapt", str(pydocs / "corpus.jsonl"), "--pairs", str(pairs), "--output", str(tmp_path / "model")]
    arguments += ["--base", "splade-tiny", "--offline", *(part for change in changes for part in ("--set", change))]
    command = [sys.executable, "-m", "retriever.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.search(r"model: the (trained model|base, splade-tiny).*nDCG@10 .* -> .*, p = ", done.stdout)
    again = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert again.returncode != 0
    assert "finished training" in again.stderr
    assert "Traceback" not in again.stderr
