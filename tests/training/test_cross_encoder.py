"""The cross-encoder recipe: its pairs, its mistakes, and a real training from MiniLM on *pydocs*."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.evaluation.collections import open_collection
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec, Rerank
from training.recipes.cross_encoder import (
    CrossEncoderConfig,
    _bm25_index,
    _corpus_digests,
    read_config,
    train_cross_encoder,
    training_pairs,
)


@pytest.fixture(scope="module")
def collection(pydocs, tmp_path_factory):
    """Return the small collection with two thirds of its judgments for training."""
    folder = tmp_path_factory.mktemp("pairs") / "pydocs"
    shutil.copytree(pydocs, folder)
    header, *lines = (folder / "qrels" / "test.tsv").read_text().splitlines()
    for split, part in (("train", lines[: 2 * len(lines) // 3]), ("dev", lines[2 * len(lines) // 3 :])):
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([header, *part]) + "\n")
    return folder


@pytest.fixture(scope="module")
def pairs_and_index(collection, tmp_path_factory):
    path = tmp_path_factory.mktemp("bm25") / "index"
    build_index(open_corpus(str(collection)), path, BuildSettings(parts=("bm25",)))
    with open_index(path) as index:
        config = CrossEncoderConfig(negatives=4, depth=20)
        yield list(training_pairs(index, open_collection(str(collection), "train"), config)), index


def test_no_negative_is_a_positive_by_id_or_by_text(pairs_and_index, collection):
    pairs, _ = pairs_and_index
    train = open_collection(str(collection), "train")
    positives = {(pair.query, pair.document) for pair in pairs if pair.label == 1}
    negatives = [(pair.query, pair.document) for pair in pairs if pair.label == 0]
    assert len(positives) == len(train.qrels)
    assert not positives.intersection(negatives)
    assert 3 * len(positives) < len(negatives) <= 4 * len(positives)


def test_negatives_are_hard_and_easy(pairs_and_index):
    pairs, index = pairs_and_index
    query = pairs[0].query
    listed = {hit.document.content for hit in index.search(query, 20).hits}
    negatives = [pair.document for pair in pairs if pair.query == query and pair.label == 0]
    assert sum(negative in listed for negative in negatives) >= 2


def test_the_seed_decides_the_order(pairs_and_index, collection):
    pairs, index = pairs_and_index
    train = open_collection(str(collection), "train")
    assert list(training_pairs(index, train, CrossEncoderConfig(negatives=4, depth=20))) == pairs
    assert list(training_pairs(index, train, CrossEncoderConfig(negatives=4, depth=20, seed=14))) != pairs


def test_a_short_training_makes_a_reranker_that_the_search_uses(collection, small_index, encoder, tmp_path, capsys):
    config = CrossEncoderConfig(max_pairs=32, negatives=1, max_tokens=64, max_eval_queries=10, depth=10)
    report = train_cross_encoder(collection, tmp_path / "model", config, offline=True)
    assert report["pairs"] == 64
    assert json.loads((tmp_path / "model" / "training_report.json").read_text()) == json.loads(json.dumps(report))
    assert report["data"]["train"] == open_collection(str(collection), "train").sha256
    content = (collection / "corpus.jsonl").read_bytes()
    assert report["data"]["corpus"] == {"corpus.jsonl": hashlib.sha256(content).hexdigest()}
    assert report["config"]["precision"] == "auto"
    # The report has standard output to itself.
    assert capsys.readouterr().out == ""
    assert 0 <= report["evaluation"]["p"] <= 1
    assert (tmp_path / "model" / "README.md").is_file()
    spec = PipelineSpec(first=("bm25",), rerank=Rerank(model=str(tmp_path / "model"), depth=10))
    with open_index(small_index, encoder=encoder) as index:
        answer = index.search("decode a JSON document", 10, pipeline=spec)
    assert answer.degraded == []
    scores = [hit.scores["rerank"] for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 5


def test_another_corpus_has_another_bm25_index(collection, tmp_path):
    folder = tmp_path / "collection"
    shutil.copytree(collection, folder)
    output = tmp_path / "model"

    def ids():
        with _bm25_index(folder, output, _corpus_digests(folder)) as index:
            return {id_ for segment in index.segments for id_ in segment.ids}

    def indexes():
        return {path.name: (path / "CURRENT").stat().st_mtime_ns for path in tmp_path.glob(".model.bm25-*")}

    before = ids()
    (name, made) = next(iter(indexes().items()))
    # The same files: nothing is built again.
    assert (ids(), indexes()) == (before, {name: made})
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write(json.dumps({"_id": "new", "text": "one document more"}) + "\n")
    assert ids() == before | {"new"}
    assert len(indexes()) == 2
    assert indexes()[name] == made


def test_a_packed_corpus_and_none(tmp_path):
    with pytest.raises(InvalidInput, match=r"is no BEIR folder: it has none of corpus\.jsonl, "):
        _corpus_digests(tmp_path)
    (tmp_path / "corpus.jsonl.gz").write_bytes(b"packed")
    assert _corpus_digests(tmp_path) == {"corpus.jsonl.gz": hashlib.sha256(b"packed").hexdigest()}
    # The file that is read is the one whose digest counts.
    (tmp_path / "corpus.jsonl.bak").write_bytes(b"old")
    (tmp_path / "corpus.jsonl").write_bytes(b"plain")
    assert _corpus_digests(tmp_path) == {"corpus.jsonl": hashlib.sha256(b"plain").hexdigest()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_longer_training_reranks_better_than_chance(collection, tmp_path):
    """Two hundred judged pairs teach a new head a little about queries that it has not seen, not enough for use.

    Measured nDCG@10: BM25's order .559, reranked .390, chance .327; with 2 negatives and 64 tokens .296.
    """
    config = CrossEncoderConfig(max_pairs=200, negatives=4, max_tokens=96, epochs=3, max_eval_queries=100, depth=10)
    evaluation = train_cross_encoder(collection, tmp_path / "model", config, offline=True)["evaluation"]
    dev = open_collection(str(collection), "dev")
    assert evaluation["queries"] == len(dev.judged) == 100
    (path,) = tmp_path.glob(".model.bm25-*")
    with open_index(path) as index:
        found = sum(
            not {hit.id for hit in index.search(dev.queries[query], 10).hits}.isdisjoint(dev.qrels[query])
            for query in dev.judged
        )
    # What the one relevant document gives in a random one of ten places, where it is among them at all.
    chance = found / 100 * np.mean(1 / np.log2(np.arange(2, 12)))
    assert evaluation["reranked"] > 1.05 * chance


def test_settings_are_checked(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("negatives: 2\n")
    assert read_config(path, ["seed=5"]).seed == 5
    assert read_config(None).base == "all-MiniLM-L6-v2"
    for change in ("speed=1", "negatives=0", "seed"):
        with pytest.raises(InvalidInput):
            read_config(path, [change])
    for precision in ("auto", "float32", "bfloat16"):
        assert read_config(path, [f"precision={precision}"]).precision == precision
    for precision in ("float16", "Float32", "16", "null"):
        with pytest.raises(InvalidInput, match="precision\n.*'auto', 'float32' or 'bfloat16'"):
            read_config(path, [f"precision={precision}"])
    path.write_text("")
    assert read_config(path, ["seed=5"]).seed == 5
    path.write_text("- a list\n")
    with pytest.raises(InvalidInput, match="must map settings to values, got list"):
        read_config(path)


def test_the_shipped_settings_are_the_defaults():
    from pathlib import Path

    import training

    shipped = Path(training.__file__).parent / "configs" / "cross_encoder.yaml"
    assert read_config(shipped) == CrossEncoderConfig()


def test_a_collection_without_training_judgments(pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="has no split 'train'; it has: test"):
        train_cross_encoder(pydocs, tmp_path / "model", offline=True)
