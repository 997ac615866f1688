"""Adapting keeps the trained model when it is better, and the base otherwise."""

import json

import pytest

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
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
