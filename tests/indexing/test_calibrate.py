"""Calibrations from judged queries: fitted, stored, used, and refused where they would mean nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from indexing.change import store_calibration
from indexing.commands import app
from retriever.errors import InvalidInput
from retriever.evaluation.calibration import calibrate
from retriever.evaluation.collections import Collection, open_collection
from retriever.index.sealed import open_index

QUERY = "decode json"


@pytest.fixture
def own_index(small_index: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_index, tmp_path / "index")


@pytest.fixture
def judged(pydocs: Path) -> Collection:
    split = next((pydocs / "qrels").glob("*.tsv")).stem
    return open_collection(str(pydocs), split)


def test_the_command_stores_what_searches_use(own_index: Path, pydocs: Path) -> None:
    split = next((pydocs / "qrels").glob("*.tsv")).stem
    runner = CliRunner()
    command = ["calibrate", str(own_index), str(pydocs), "--split", split, "-p", "bm25", "--json", "--quiet"]
    dry = json.loads(runner.invoke(app, [*command, "--dry-run"]).stdout)
    assert not dry["stored"]
    with open_index(own_index) as index:
        assert index.search(QUERY, 3, pipeline="bm25").hits[0].relevance is None
        plain = index.search(QUERY, 50, pipeline="bm25")
    report = json.loads(runner.invoke(app, command).stdout)
    assert report["stored"]
    assert report["pairs"] >= report["relevant"] > 0
    # Of pages of a manual the one that a query names is mostly first: much better than always saying the mean.
    assert report["brier"] < report["brier_of_mean"]
    assert report["error"] < 0.05
    with open_index(own_index) as index:
        assert index.generation == dry["generation"] + 1
        answer = index.search(QUERY, 50, pipeline="bm25")
        assert answer.ranking() == plain.ranking()
        relevances = [hit.relevance for hit in answer.hits]
        assert relevances == sorted(relevances, reverse=True)
        assert relevances[0] > relevances[-1]
        least = relevances[4]
        cut = index.search(QUERY, 50, pipeline="bm25", min_relevance=least)
        assert [hit.id for hit in cut.hits] == [hit.id for hit in answer.hits if hit.relevance >= least]
        # Before the offset, so pages go on where the last one ended.
        page = index.search(QUERY, 50, pipeline="bm25", min_relevance=least, offset=2)
        assert [hit.id for hit in page.hits] == [hit.id for hit in cut.hits][2:]
        assert index.search(QUERY, pipeline="bm25", min_relevance=1).hits == []
        assert index.describe()["calibrations"][0]["pipeline"]["first"] == ("bm25",)
        for other in ({"pipeline": "hybrid"}, {"pipeline": "bm25", "field_weights": {"contents": 2.0}}):
            with pytest.raises(InvalidInput, match="retriever index calibrate"):
                index.search(QUERY, min_relevance=0.5, **other)
        with pytest.raises(InvalidInput, match="from 0 to 1"):
            index.search(QUERY, pipeline="bm25", min_relevance=1.5)


def test_a_second_calibration_replaces_the_first(own_index: Path, judged: Collection) -> None:
    with open_index(own_index) as index:
        spec = index.pipelines["bm25"]
        first, second = (calibrate(index, judged, spec, depth=depth) for depth in (10, 20))
    store_calibration(own_index, first)
    store_calibration(own_index, second)
    with open_index(own_index) as index:
        assert index.manifest.calibrations == [second]


class FailingReranker:
    """Scores by length, or not at all."""

    name = "length"
    failing = False

    def score(self, query, documents):
        if self.failing:
            raise RuntimeError("out of order")
        return np.array([-len(document.text) for document in documents], np.float32), 0


def test_a_degraded_answer_has_no_probabilities(own_index: Path, judged: Collection) -> None:
    from retriever.pipeline import PipelineSpec, Rerank

    spec = PipelineSpec(first=("bm25",), rerank=Rerank(model="length", depth=5))
    reranker = FailingReranker()
    with open_index(own_index) as index:
        index.use_reranker("length", reranker)
        store_calibration(own_index, calibrate(index, judged, spec))
    with open_index(own_index) as index:
        index.use_reranker("length", reranker)
        answer = index.search(QUERY, 10, pipeline=spec)
        # Only what the last stage scored.
        assert [hit.relevance is not None for hit in answer.hits] == [True] * 5 + [False] * (len(answer.hits) - 5)
        assert len(answer.hits) > 5
        assert len(index.search(QUERY, 10, pipeline=spec, min_relevance=0).hits) == 5
        reranker.failing = True
        answer = index.search(QUERY, 10, pipeline=spec, min_relevance=0.9)
        assert answer.degraded == ["rerank_failed"]
        assert "not_calibrated" in answer.warnings
        assert len(answer.hits) > 5
        assert {hit.relevance for hit in answer.hits} == {None}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: Collection("few", "test", dict(list(c.queries.items())[:5]), c.qrels), "at least 10"),
        (lambda c: Collection("none", "test", c.queries, {q: {"nowhere": 1} for q in c.qrels}), "0 are relevant"),
    ],
)
def test_judgments_that_teach_nothing_are_refused(
    small_index: Path, judged: Collection, change: Callable[[Collection], Collection], word: str
) -> None:
    with open_index(small_index) as index, pytest.raises(InvalidInput, match=word):
        calibrate(index, change(judged), index.pipelines["bm25"])


def test_unknown_methods_and_pipelines_are_refused(small_index: Path, pydocs: Path) -> None:
    split = next((pydocs / "qrels").glob("*.tsv")).stem
    for flags, word in ((["--method", "magic"], "isotonic or logistic"), (["-p", "nothing"], "this index offers")):
        result = CliRunner().invoke(app, ["calibrate", str(small_index), str(pydocs), "--split", split, *flags])
        assert word in str(result.exception)
