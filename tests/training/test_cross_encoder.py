"""The recipe of the reranker on real docstrings: its negatives, its stages, and what it does with bad input."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from retriever.errors import InvalidInput, ModelFault
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec, Rerank
from retriever.rerank import CrossEncoderReranker
from training.candidates import Candidates
from training.collection import open_training_collection, pooled
from training.commands import app
from training.evaluation import measured
from training.fitting import run as fitting_run
from training.rankers import ListLoss, open_ranker
from training.recipe import run_recipe, split_of
from training.recipes import cross_encoder
from training.recipes.cross_encoder import RECIPE, draw_queries, hard_negatives, pooled_candidates, ranked
from training.settings import read_settings
from training.stages import Stages

QUICK = (
    "base=splade-tiny", "joint_layers=1", "max_tokens=32", "read_tokens=64", "document_tokens=32", "max_queries=24",
    "max_documents=60", "depth=10", "negatives=2", "max_eval_queries=8", "eval_depth=5", "fit.save_steps=2",
    "fit.learning_rate=1e-3", "fit.batch_size=4", "positive_ratio=0.95",
)  # fmt: skip


def settings_of(*changes):
    return read_settings(RECIPE.settings, None, [*QUICK, *changes])


@pytest.fixture(scope="module")
def folders(pydocs, tmp_path_factory):
    """Return two collections of the small *pydocs* with train and dev; the first has a query without positive and test."""
    made = []
    header, *lines = (pydocs / "qrels" / "test.tsv").read_text().splitlines()
    for number, name in enumerate(("first", "second")):
        folder = tmp_path_factory.mktemp("collections") / name
        shutil.copytree(pydocs, folder)
        shutil.rmtree(folder / "qrels")
        (folder / "qrels").mkdir()
        part = lines[number::2]
        (folder / "qrels" / "dev.tsv").write_text("\n".join([header, *part[:20]]) + "\n")
        lost = [part[20].split("\t")[0] + "\tno such document\t1"] if number == 0 else []
        (folder / "qrels" / "train.tsv").write_text("\n".join([header, *lost, *part[21:-12]]) + "\n")
        if number == 0:
            (folder / "qrels" / "test.tsv").write_text("\n".join([header, *part[-12:]]) + "\n")
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "model"
    return output, run_recipe(RECIPE, settings_of(), folders, output, keep_work=True, offline=True)


def test_two_collections_give_a_reranker_with_card_and_report(trained):
    output, report = trained
    assert set(report["evaluation"]) == {"first dev", "first test", "second dev"}
    for measures in report["evaluation"].values():
        found = measures["nDCG@10"]
        assert found["queries"] == found["untrained"]["queries"] == 8
        assert found["end"] == found["untrained"]["end"]
        assert found["difference"] == pytest.approx(found["end"] - found["start"])
        assert 0 < found["untrained"]["p"] <= 1
    assert set(report["data"]) == {"first", "second"}
    assert report["queries"] == 48
    assert report["dropped"]["queries_without_relevant_document"] == 1
    assert report["stages"]["mine-first"]["documents"] == 60
    assert json.loads((output / "training_report.json").read_text())["recipe"] == "cross_encoder"
    card = (output / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in card
    assert "| first dev | nDCG@10 |" in card
    assert "| first test | nDCG@10, start: reranked untrained |" in card
    reranker = CrossEncoderReranker(output)
    assert reranker.max_tokens == 64
    index_folder = output.parent / ".model.work" / "mine-first" / "index"
    encoder = open_encoder_of(trained)
    with open_index(index_folder, encoder=encoder) as index:
        spec = PipelineSpec(first=("bm25", "dense"), rerank=Rerank(model=str(output), depth=5, weight=0.5))
        answer = index.search("read a JSON document", 5, pipeline=spec)
    assert answer.degraded == []
    assert all("rerank" in hit.scores for hit in answer.hits)


def open_encoder_of(trained):
    from retriever.encoder import DenseEncoder
    from training.encoders import open_base

    base = open_base(settings_of(), offline=True)
    base.max_seq_length = 32
    return DenseEncoder(base, name="splade-tiny")


def test_what_training_adds_is_measured_against_the_untrained_start(folders, trained):
    output, report = trained
    work = output.parent / ".model.work"
    (split,) = [found for found in [split_of(folders[0], "test")] if found]
    chosen = draw_queries(split, 8, settings_of().seed)
    relevant = {id_ for graded in chosen.qrels.values() for id_ in graded}
    with open_index(work / "compare-first-test" / "index", encoder=open_encoder_of(trained)) as index:
        assert relevant <= {id_ for segment in index.segments for id_ in segment.ids}
        spec = PipelineSpec(first=("bm25", "dense"), rerank=Rerank(model=str(work / "start"), depth=5))
        values = measured(ranked(index, chosen, spec), chosen, ("nDCG@10",))["nDCG@10"].values()
    found = report["evaluation"]["first test"]["nDCG@10"]["untrained"]
    assert found["start"] == pytest.approx(sum(values) / 8)
    # It reads as much as the trained one, and what was mined from is not larger for the second split.
    assert CrossEncoderReranker(work / "start").max_tokens == CrossEncoderReranker(output).max_tokens == 64
    assert report["stages"]["mine-first"]["documents"] == 60


def test_negatives_are_neither_relevant_nor_near_it_nor_from_elsewhere(folders, trained):
    output, _ = trained
    work = output.parent / ".model.work"
    settings = settings_of()
    for folder in folders:
        collection = open_training_collection(folder, max_queries=24, seed=settings.seed)
        with np.load(work / f"mine-{folder.name}" / "candidates.npz") as arrays:
            mined = Candidates(arrays["offsets"], arrays["documents"], arrays["scores"])
        assert len(mined) == 24
        assert len(mined.documents) > 24
        encoder = open_encoder_of(trained)
        queries = encoder.encode_queries(collection.queries)
        for row in range(len(mined)):
            documents = mined.of(row)[0]
            relevant = collection.judgments.relevant(row)
            assert not np.isin(documents, relevant).any()
            near = encoder.encode_documents([collection.documents[d] for d in [*relevant, *documents]]) @ queries[row]
            bound = 0.95 * near[: len(relevant)].mean()
            assert (near[len(relevant) :] < bound + 1e-3).all()


def test_a_higher_ratio_leaves_more_candidates(folders, trained):
    output, _ = trained
    collection = open_training_collection(folders[0], max_queries=24, seed=42)
    with open_index(output.parent / ".model.work" / "mine-first" / "index", encoder=open_encoder_of(trained)) as index:
        counts = [len(hard_negatives(index, collection, 40, ratio).documents) for ratio in (0.5, 0.95, None)]
    assert counts[0] < counts[1] <= counts[2]


def test_pooled_collections_count_through(folders):
    parts = [open_training_collection(folder, max_queries=5) for folder in folders]
    whole = pooled(parts)
    assert whole.queries == parts[0].queries + parts[1].queries
    first = len(parts[0].documents)
    for row in range(5):
        assert (whole.judgments.relevant(5 + row) == parts[1].judgments.relevant(row) + first).all()
        for document in whole.judgments.relevant(5 + row):
            assert whole.documents[document].content == parts[1].documents[document - first].content
    assert pooled(parts[:1]) is parts[0]
    made = Candidates(np.array([0, 1, 1], np.int64), np.array([3], np.int32), np.array([1.0], np.float32))
    other = Candidates(np.array([0, 2], np.int64), np.array([0, 2], np.int32), np.array([2.0, 1.0], np.float32))
    both = pooled_candidates([made, other], [10, 5])
    assert both.offsets.tolist() == [0, 1, 1, 3]
    assert both.documents.tolist() == [3, 10, 12]


def test_an_interrupted_training_goes_on_to_the_same_weights(folders, trained, tmp_path, monkeypatch):
    output, report = trained
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    def stopping(trainer, model, folder, finish):
        trainer.add_callback(Stop())
        return fitting_run(trainer, model, folder, finish)

    with monkeypatch.context() as patch:
        patch.setattr("training.fitting.run", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(RECIPE, settings_of(), folders, tmp_path / "model", offline=True)
    resumed = run_recipe(RECIPE, settings_of(), folders, tmp_path / "model", offline=True)
    assert resumed["stages"]["cross-encoder"]["resumed_from"] == 2
    assert resumed["stages"]["cross-encoder"]["steps"] == report["stages"]["cross-encoder"]["steps"] == 12
    before, after = ((place / "model.safetensors").read_bytes() for place in (output, tmp_path / "model"))
    assert before == after
    assert not (tmp_path / ".model.work").exists()


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(folders, tmp_path, monkeypatch):
    forward = ListLoss.scores
    calls = []

    def broken(self, queries, documents):
        calls.append(queries)
        return forward(self, queries, documents) * (torch.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(ListLoss, "scores", broken)
    with pytest.raises(ModelFault, match=r"step 2: the loss of a batch is nan; its queries are \['[01]:q:.*stopped"):
        run_recipe(RECIPE, settings_of(), folders, tmp_path / "model", offline=True)
    stopped = tmp_path / ".model.work" / "cross-encoder" / "stopped"
    model = open_ranker(stopped, max_tokens=32, seed=0, offline=True)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_bi_encoder_inside_stays_as_it_was(trained):
    output, _ = trained
    start = output.parent / ".model.work" / "start"
    before, after = (open_ranker(place, max_tokens=32, seed=0, offline=True).model for place in (start, output))
    for name, parameter in before.bert.named_parameters():
        assert torch.equal(parameter, after.bert.get_parameter(name)), name
    assert not torch.equal(before.classifier.weight, after.classifier.weight)


def test_a_classifier_starts_from_any_body(folders, tmp_path):
    report = run_recipe(
        RECIPE, settings_of("start=classifier", "fit.steps=2"), folders[:1], tmp_path / "model", offline=True
    )
    assert set(report["evaluation"]) == {"first dev", "first test"}
    assert CrossEncoderReranker(tmp_path / "model").max_tokens == 64


def test_collections_without_use(folders, pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="has no split 'train'"):
        run_recipe(RECIPE, settings_of(), pydocs, tmp_path / "model")
    with pytest.raises(InvalidInput, match="folder of another name, got first, first"):
        run_recipe(RECIPE, settings_of(), [folders[0], folders[0]], tmp_path / "model")
    lost = tmp_path / "lost"
    shutil.copytree(folders[0], lost)
    (lost / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq:json\tnothing\t1\n")
    with pytest.raises(InvalidInput, match="no train query with a relevant document"):
        run_recipe(RECIPE, settings_of(), [folders[1], lost], tmp_path / "model")


def test_a_recipe_of_one_collection_refuses_two(folders, tmp_path):
    options = [option for folder in folders for option in ("--data", str(folder))]
    result = CliRunner().invoke(app, ["run", "contrastive", *options, "--output", str(tmp_path / "model")])
    assert isinstance(result.exception, InvalidInput)
    assert "learns from one collection, got 2" in str(result.exception)


def test_a_joint_start_needs_a_bert(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("training.rankers.read_object", lambda path: {"model_type": "mpnet"})
    task = cross_encoder.Task(
        open_training_collection(folders[0]), settings_of(), Stages(tmp_path / "work", {}), True, []
    )
    with pytest.raises(InvalidInput, match="start=joint needs a BERT, splade-tiny is 'mpnet'; set start=classifier"):
        cross_encoder.write_start(task, tmp_path)
