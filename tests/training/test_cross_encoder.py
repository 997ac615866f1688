"""The cross-encoder recipe: its pairs, its mistakes, and a real training from MiniLM on *pydocs*."""

import json
import shutil

import pytest

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.evaluation.collections import open_collection
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec, Rerank
from training.recipes.cross_encoder import CrossEncoderConfig, read_config, train_cross_encoder, training_pairs


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


def test_a_short_training_makes_a_reranker_that_the_search_uses(collection, small_index, encoder, tmp_path):
    config = CrossEncoderConfig(max_pairs=32, negatives=1, max_tokens=64, max_eval_queries=10, depth=10)
    report = train_cross_encoder(collection, tmp_path / "model", config, offline=True)
    assert report["pairs"] == 64
    assert json.loads((tmp_path / "model" / "training_report.json").read_text()) == json.loads(json.dumps(report))
    assert report["data"]["train"] == open_collection(str(collection), "train").sha256
    assert 0 <= report["evaluation"]["p"] <= 1
    assert (tmp_path / "model" / "README.md").is_file()
    spec = PipelineSpec(first=("bm25",), rerank=Rerank(model=str(tmp_path / "model"), depth=10))
    with open_index(small_index, encoder=encoder) as index:
        answer = index.search("decode a JSON document", 10, pipeline=spec)
    assert answer.degraded == []
    scores = [hit.scores["rerank"] for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 5


@pytest.mark.slow
def test_a_longer_training_reranks_better_than_chance(collection, tmp_path):
    config = CrossEncoderConfig(max_pairs=200, negatives=4, max_tokens=96, epochs=3, max_eval_queries=100, depth=10)
    report = train_cross_encoder(collection, tmp_path / "model", config, offline=True)
    # In random order the one relevant document of ten gives 0.45 of what it gives in the first place.
    assert report["evaluation"]["reranked"] > 0.6


def test_settings_are_checked(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("negatives: 2\n")
    assert read_config(path, ["seed=5"]).seed == 5
    assert read_config(None).base == "all-MiniLM-L6-v2"
    for change in ("speed=1", "negatives=0", "seed"):
        with pytest.raises(InvalidInput):
            read_config(path, [change])


def test_the_shipped_settings_are_the_defaults():
    from pathlib import Path

    import training

    shipped = Path(training.__file__).parent / "configs" / "cross_encoder.yaml"
    assert read_config(shipped) == CrossEncoderConfig()


def test_a_collection_without_training_judgments(pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="has no split 'train'; it has: test"):
        train_cross_encoder(pydocs, tmp_path / "model", offline=True)
