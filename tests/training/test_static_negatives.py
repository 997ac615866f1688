"""Negatives and scores from files: the three commands one after the other, and files that do not fit."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from tests.retriever.test_rerank import save_model
from tests.training.tasks import QUICK, settings_of, task_of
from training.candidate_files import mined_schema
from training.commands import app
from training.mined import Mined
from training.recipe import run_recipe
from training.recipes.registry import recipe
from training.static_negatives import read_negatives, static_negatives
from training.task import Task
from training.teacher_settings import TeacherSettings, open_teacher, score_matrix

SMALL = ("fit.steps=2", "depth=6")


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def files(split_pydocs, tmp_path_factory):
    """Return the files of `train mine`, by words alone, and of `train score`, by a real cross-encoder; and its folder."""
    folder = tmp_path_factory.mktemp("files")
    build_index(open_corpus(str(split_pydocs)), folder / "index", BuildSettings(parts=("bm25",)))
    model = save_model(folder / "cross")
    negatives, scores = folder / "negatives.parquet", folder / "scores.parquet"
    invoke("mine", folder / "index", "--queries", split_pydocs, "--sources", "bm25", "--depth", 12, "--output", negatives,
           "--quiet")  # fmt: skip
    invoke("score", negatives, "--model", model, "--output", scores, "--quiet")
    return negatives, scores, model


def best_by_words(negatives, query, depth):
    """Return the candidates of a query in a file, best first."""
    rows = [row for row in pq.read_table(negatives).to_pylist() if row["query_id"] == query and row["label"] == 0]
    return [row["document_id"] for row in sorted(rows, key=lambda row: -row["score"])][:depth]


def test_mined_and_scored_files_are_trained_on(split_pydocs, files, tmp_path):
    negatives, scores, _ = files
    margin = f"teacher_margin={{teacher: {{kind: cached, scores: {scores}}}, margin: 0.05}}"
    changes = [*QUICK, *SMALL, f"negatives={negatives}", margin, "count=2"]
    options = [option for change in changes for option in ("--set", change)]
    invoke("run", "star", "--data", split_pydocs, "--output", tmp_path / "model", *options)
    report = json.loads((tmp_path / "model" / "training_report.json").read_text())
    assert set(report["files"]) == {"negatives", "teacher_margin.teacher.scores"}
    assert list(report["stages"]) == ["mine", "mine-scores", "mine-margin", "star"]
    mined = report["stages"]["mine"]
    assert mined["file"] == str(negatives)
    assert 0 < mined["candidates"] <= 6 * mined["queries"]
    assert (
        0
        < report["stages"]["mine-margin"]["kept"]
        < mined["candidates"]
        == report["stages"]["mine-margin"]["candidates"]
    )


def test_a_file_takes_the_place_of_mining(split_pydocs, files, tmp_path, monkeypatch):
    monkeypatch.setattr(Task, "mine", None)
    task = task_of(tmp_path, split_pydocs, "star", *SMALL, f"negatives={files[0]}")
    found = static_negatives(task, None).candidates
    collection = task.collection
    for row in (0, 7, len(found) - 1):
        ids = [collection.documents[document].id for document in found.of(row)[0]]
        barred = {collection.documents[document].id for document in collection.barred.relevant(row)}
        wanted = best_by_words(files[0], collection.query_ids[row], 12)
        assert ids == [id_ for id_ in wanted if id_ not in barred][:6]


QUICK_RANKER = ("ranker=splade-tiny", "ranker_tokens=40", "ranker_warmup.batch_size=8", "ranker_warmup.steps=2",
                "ranker_fit.batch_size=8", "ranker_fit.steps=2", "fit.batch_size=8")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("contrastive", ("hard=mined", "ratio=null")),
        ("bpr", ("ratio=null",)),
        ("cornstack", ("filter_model=null", "ratio=null")),
        ("gpl", ("teacher={kind: bi_encoder, model: splade-tiny}",)),
    ],
)
def test_every_recipe_of_static_negatives_takes_a_file(split_pydocs, files, tmp_path, monkeypatch, name, changes):
    monkeypatch.setattr(Task, "mine", None)
    task = task_of(tmp_path, split_pydocs, name, *SMALL, *changes, f"negatives={files[0]}")
    recipe(name).train(task)
    assert next(report for report in task.stages.reports.values() if "file" in report)["file"] == str(files[0])


def test_later_cycles_mine_themselves(split_pydocs, files, tmp_path):
    ance = task_of(tmp_path / "ance", split_pydocs, "ance", *SMALL, "cycles=2", f"negatives={files[0]}")
    recipe("ance").train(ance)
    ar2 = task_of(
        tmp_path / "ar2", split_pydocs, "ar2", *SMALL, *QUICK_RANKER, "count=3", "cycles=2", f"negatives={files[0]}"
    )
    recipe("ar2").train(ar2)
    for task in (ance, ar2):
        assert "file" in task.stages.reports["mine-0"]
        assert "file" not in task.stages.reports["mine-1"]


def candidates_file(path, rows):
    """Write (query, document, rank, score, source, label) as mined candidates."""
    names = ("query_id", "document_id", "rank", "score", "source", "label")
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)} | {
        "teacher": [None] * len(rows)}, schema=mined_schema())  # fmt: skip
    pq.write_table(table, path)
    return path


def test_what_is_relevant_or_unknown_never_is_a_negative(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "star")
    collection = task.collection
    query, other = collection.query_ids[:2]
    (relevant,) = collection.judgments.relevant(0)[:1]
    documents = [document.id for row, document in enumerate(collection.documents) if row != relevant][:4]
    positive = collection.documents[relevant].id
    listed = [(query, positive, 1, 9.0, "dense", 0), *((query, id_, 2 + i, 8.0 - i, "dense", 0) for i, id_ in
              enumerate(documents)), (query, positive, 1, 9.0, "dense", 1)]  # fmt: skip
    found = read_negatives(candidates_file(tmp_path / "a.parquet", listed), collection, 3)
    barred = {collection.documents[row].id for row in collection.barred.relevant(0)}
    ids = [collection.documents[row].id for row in found.candidates.of(0)[0]]
    assert ids == [id_ for id_ in documents if id_ not in barred][:3]
    assert found.positive_scores[0] == 9
    # Nothing of the other queries is in the file, and nothing is compared with them.
    assert len(found.candidates.of(1)[0]) == 0
    assert not np.isnan(found.positive_scores).any()
    # Scores of two sources do not compare.
    two = [*listed, (query, documents[0], 1, 20.0, "bm25", 0)]
    assert np.isnan(read_negatives(candidates_file(tmp_path / "b.parquet", two), collection, 3).positive_scores[0])
    dense = read_negatives(tmp_path / "b.parquet", collection, 3, "dense")
    assert dense.positive_scores[0] == 9
    strangers = [
        *listed,
        ("stranger-1", documents[0], 1, 1.0, "dense", 0),
        ("stranger-2", documents[0], 1, 1.0, "dense", 0),
    ]
    with pytest.raises(InvalidInput, match="names 2 queries that .* does not have, such as 'stranger-1', 'stranger-2'"):
        read_negatives(candidates_file(tmp_path / "c.parquet", strangers), collection, 3)
    with pytest.raises(InvalidInput, match="such as document 'nowhere'"):
        read_negatives(
            candidates_file(tmp_path / "d.parquet", [*listed, (query, "nowhere", 9, 0.1, "dense", 0)]), collection, 3
        )
    # A query that is only not drawn is no stranger.
    few = task_of(tmp_path / "few", split_pydocs, "star").collection
    kept = np.repeat([True, False], [2, len(few.queries) - 2])
    pairs = np.repeat(kept, np.diff(few.judgments.offsets))
    several = [*listed, (few.query_ids[5], documents[0], 1, 1.0, "dense", 0)]
    assert len(read_negatives(candidates_file(tmp_path / "e.parquet", several), few.restrict(pairs), 3).candidates) == 2
    assert other == few.query_ids[1]


def test_a_choice_by_scores_needs_scores_of_relevant_documents(split_pydocs, files, tmp_path):
    # Words do not find every relevant document.
    task = task_of(tmp_path / "work", split_pydocs, "contrastive", *SMALL, "hard=mined", f"negatives={files[0]}")
    with pytest.raises(InvalidInput, match=r"no score that compares .* such as 'q:.*set ratio=null"):
        recipe("contrastive").train(task)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("star", "negatives_source=bm25", "set negatives too"),
        ("star", "count=0", "count=0 takes no mined negatives"),
        ("contrastive", "hard=random", "are for hard=mined, got hard=random"),
        ("tas_b", "pair_teacher={kind: cached, model: null}", "kind=cached needs scores"),
        ("tas_b", "pair_teacher={kind: ensemble, teachers: [{kind: bi_encoder, model: a}]}", "two teachers or more, got 1"),
        ("tas_b", "pair_teacher={kind: bi_encoder, model: null}", "kind=bi_encoder needs a model"),
        ("gpl", "teacher={kind: ensemble, teachers: [{kind: bi_encoder, model: a}, {kind: bi_encoder, model: b}]}",
         "says only which is the better one"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(name, change, message):
    negatives = () if "source" in change else ("negatives=some.parquet",)
    with pytest.raises(InvalidInput, match=message):
        settings_of(name, *negatives, change)


def test_a_file_that_is_not_there_stops_before_any_work(split_pydocs, tmp_path):
    settings = settings_of("star", "negatives=nowhere.parquet")
    with pytest.raises(InvalidInput, match=r"negatives: there is no file nowhere.parquet; a relative path counts from"):
        run_recipe(recipe("star"), settings, split_pydocs, tmp_path / "model")


def test_another_file_of_the_same_name_is_another_training(split_pydocs, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "mine.parquet"
    place.write_bytes(files[0].read_bytes())
    settings = settings_of("star", *SMALL, "negatives=mine.parquet")
    run_recipe(recipe("star"), settings, split_pydocs, tmp_path / "model", splits=(), keep_work=True)
    shutil.rmtree(tmp_path / "model")
    pq.write_table(pq.read_table(place).slice(1), place)
    with pytest.raises(InvalidInput, match=r"other settings or data \(files\.negatives: "):
        run_recipe(recipe("star"), settings, split_pydocs, tmp_path / "model", splits=())


def test_cached_scores_are_those_of_the_file_and_their_model_gives_the_others(split_pydocs, files, tmp_path):
    negatives, scores, model = files
    before = scores.read_bytes()
    task = task_of(tmp_path, split_pydocs, "tas_b", *SMALL, f"negatives={negatives}")
    row = pq.read_table(scores).to_pylist()[3]
    query = np.array([task.collection.query_ids.index(row["query_id"])])
    document = np.array([task.collection.corpus.rows[row["document_id"]]])
    cached = open_teacher(TeacherSettings(kind="cached", scores=scores), task)
    assert cached.scores(query, document) == np.float32(row["score"])
    everything = np.arange(len(task.collection.documents))
    with pytest.raises(InvalidInput, match="lacks the scores of .* pairs, such as query"):
        cached.scores(np.full(len(everything), query[0]), everything)
    filled = open_teacher(TeacherSettings(kind="cached", scores=scores, model=str(model)), task)
    asked = score_matrix(filled, query, everything)
    live = open_teacher(TeacherSettings(kind="cross_encoder", model=str(model)), task)
    np.testing.assert_allclose(asked, score_matrix(live, query, everything), atol=1e-4)
    # What was asked for later is kept with the training.
    assert scores.read_bytes() == before
    with pytest.raises(InvalidInput, match="scores of two teachers do not mix"):
        open_teacher(TeacherSettings(kind="cached", scores=scores, model="splade-tiny"), task)


def test_an_ensemble_compares_all_documents_of_a_query(split_pydocs, files, tmp_path):
    negatives, scores, _ = files
    teacher = (
        f"pair_teacher={{kind: ensemble, scale: 30, teachers: [{{kind: cached, scores: {scores}}},"
        "{kind: bi_encoder, model: splade-tiny}]}"
    )
    task = task_of(
        tmp_path, split_pydocs, "tas_b", *SMALL, f"negatives={negatives}", teacher, "sampling=topic_balanced",
        "supervision=pair", "queries_per_cluster=40", "max_queries=60",
    )  # fmt: skip
    recipe("tas_b").train(task)
    found = np.load(tmp_path / "score" / "scores.npy")
    assert 0 <= found.min() < found.max() <= 1
    # The documents of a query spread over the range of both teachers: the best of one gets a half at least.
    assert found.max() > 0.5
    assert len(np.unique(found)) > 10


def test_a_teacher_drops_what_it_finds_near(split_pydocs, files, tmp_path):
    teacher = "{kind: bi_encoder, model: splade-tiny}"
    kept = {}
    for margin in (-1e9, 0.0, 1e9):
        task = task_of(
            tmp_path / str(margin), split_pydocs, "star", *SMALL, f"negatives={files[0]}",
            f"teacher_margin={{teacher: {teacher}, margin: {margin}}}",
        )  # fmt: skip
        found: Mined = static_negatives(task, None)
        kept[margin] = len(found.candidates.documents)
    assert kept[-1e9] == task.stages.reports["mine"]["candidates"] > kept[0.0] > kept[1e9] == 0
