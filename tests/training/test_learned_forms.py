"""Codes that are trained for an index which is there: tried beside the others, and written with their model."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from indexing import recoding
from indexing.build import add_documents, build_index
from indexing.change import delete_documents, store_pipelines
from indexing.commands import app
from indexing.compression import compress_index, try_forms
from indexing.compression_report import as_markdown, report
from indexing.corpora import open_corpus
from indexing.learned_codes import Learned, Rescoring
from indexing.plan import BuildSettings
from indexing.recoding import encoder_folder, recode_index
from indexing.verification import verify_index
from retriever.errors import IndexLocked, InvalidInput, StorageFull
from retriever.evaluation.collections import open_collection
from retriever.evaluation.measures import measure
from retriever.heads.sign import SignHead
from retriever.index.manifest import read_manifest
from retriever.index.sealed import open_index
from retriever.pipeline import Local, PipelineSpec, Rerank
from retriever.storage import exclusive_lock
from retriever.types import Document
from tests.factories import ListCorpus
from tests.training.test_generation import FirstWords
from training.collection import read_corpus
from training.encoders import open_base
from training.learned_forms import learned_forms
from training.settings import EncoderSettings

QUICK = [f"{name}.{change}" for name in ("bpr", "jpq") for change in ("fit.steps=2", "fit.batch_size=16", "depth=10",
         "document_tokens=24", "query_tokens=12")]  # fmt: skip


@pytest.fixture(scope="module")
def path(split_pydocs, tmp_path_factory):
    """Return an index by a real encoder of two layers, with deleted and overwritten documents and a deleted segment."""
    folder = tmp_path_factory.mktemp("learned")
    open_base(EncoderSettings(base="splade-tiny"), offline=True).save(str(folder / "encoder"))
    settings = BuildSettings(
        encoder=str(folder / "encoder"), precision="bfloat16", shard_documents=100, segment_documents=200
    )
    build_index(open_corpus(str(split_pydocs)), folder / "index", settings, offline=True)
    judged = set().union(*open_collection(str(split_pydocs), "test").qrels.values())
    unjudged = [document.id for document in read_corpus(split_pydocs).documents if document.id not in judged]
    delete_documents(folder / "index", unjudged[:20:2])
    for id_ in ("short", unjudged[1]):
        document = Document(id_, "a text that takes another's place")
        add_documents(ListCorpus([document]), folder / "index", duplicates="overwrite", offline=True)
    delete_documents(folder / "index", ["short"])
    return folder / "index"


def test_learned_codes_are_tried_and_written_with_their_model(path, split_pydocs, tmp_path):
    work, output = tmp_path / "work", tmp_path / "small"
    options = {"times": 32, "changes": QUICK, "offline": True, "generator": FirstWords()}
    options["generation"] = ["queries=3", "documents=150"]
    options["consistent_top_k"] = 100
    learned, held_out = learned_forms(path, work, **options)
    # As later documents will be, so that all codes of an index come of one arithmetic.
    assert {model.precision for model in learned} == {"bfloat16"}
    assert [model.name for model in learned] == ["bpr", "jpq16"]
    _assert_held_out(path, work, held_out)
    reports = [work / model.name / "training_report.json" for model in learned]
    written = [report.stat().st_mtime_ns for report in reports]
    collection = open_collection(str(split_pydocs), "test")
    for model in learned:
        tried = {"max_loss": 0.99, "by_mean": True, "collection": collection, "forms": [], "learned": [model]}
        found = try_forms(path, target=32, memory_only=True, **tried)
        trial, half, whole = found.trials
        assert (trial.bytes, trial.stored) == (16, "none")
        # The stored vectors of width 128 lie beside, and are not what each search reads.
        assert [(t.stored, t.bytes, t.memory) for t in (half, whole)] == [("float16", 272, 16), ("float32", 528, 16)]
        assert half.weight == pytest.approx(0.3 if model.name == "jpq16" else 0.3 * _length(path) / 128**0.5, rel=0.05)
        assert found.chosen is trial
        assert f"| {model.name}, codes alone | 16.0" in as_markdown(found)
        assert report(found)["trials"][0]["model"] == str(work / model.name)
        target = output.with_name(f"small-{model.name}")
        _assert_failures_leave_nothing(found, target)
        compress_index(found, target)
        part = read_manifest(target)[0].dense
        assert (part.kind, part.codes) == ("binary" if model.name == "bpr" else "pq16", "model")
        assert verify_index(target, offline=True).sound
        # What serves the index gives the very answers that were measured.
        with open_index(target, offline=True) as index:
            assert index.encoder.name == str(encoder_folder(target))
            run = {
                id_: index.search(text, 20, pipeline="dense", documents=False).ranking()
                for id_, text in list(found.texts.items())[:30]
            }
        served = measure(run, {id_: collection.qrels[id_] for id_ in run}, ["nDCG@10"]).per_query["nDCG@10"]
        assert served == pytest.approx({id_: trial.per_query[id_] for id_ in run}, abs=1e-6)
        assert max(served.values()) > 0
        _assert_rescored(replace(found, chosen=half), output.with_name(f"rescored-{model.name}"), collection)
    # An index that was added to since is compressed whole.
    later = shutil.copytree(path, tmp_path / "later")
    add_documents(ListCorpus([Document("new", "a text that came late")]), later, offline=True)
    compress_index(replace(found, index=str(later)), tmp_path / "compressed")
    assert verify_index(tmp_path / "compressed", offline=True).sound
    with open_index(tmp_path / "compressed", offline=True) as index:
        assert "new" in {hit.id for hit in index.search("late", len(index), pipeline="dense").hits}
    # A second run takes the models that are there.
    learned_forms(path, work, **options)
    assert written == [report.stat().st_mtime_ns for report in reports]
    with pytest.raises(InvalidInput, match=r"fit.steps"):
        learned_forms(path, work, **(options | {"changes": [*QUICK, "bpr.fit.steps=3"]}))
    # Another target trains what fits it beside what is there.
    assert [model.name for model in learned_forms(path, work, **(options | {"times": 64}))[0]] == ["jpq8"]
    assert written == [report.stat().st_mtime_ns for report in reports]
    with pytest.raises(InvalidInput, match=r"1 of \d+ generated queries are held out, too few.*documents="):
        learned_forms(path, tmp_path / "few", **(options | {"generation": ["queries=1", "documents=12"]}))


def _assert_held_out(path, work, held_out):
    """No training saw a document that is asked for, and the encoder finds it, as was asked."""
    trained = open_collection(str(work / "data"), "train")
    documents = [{id_ for found in split.qrels.values() for id_ in found} for split in (trained, held_out)]
    assert not documents[0] & documents[1]
    assert len(held_out.judged) >= 20
    with open_index(path, offline=True) as index:
        for id_, text in list(held_out.judged.items())[:5]:
            hits = {hit.id for hit in index.search(text, 100, pipeline="dense", documents=False).hits}
            assert hits & held_out.qrels[id_].keys()


def _length(path):
    """Return the mean length of the stored vectors."""
    stored = np.concatenate([np.load(file) for file in path.glob("segments/*/dense.vectors.npy")])
    return float(np.linalg.norm(stored, axis=1).mean())


def _assert_rescored(found, target, collection):
    """An index of learned codes with the old vectors beside gives the answers that were measured."""
    compress_index(found, target)
    manifest, _ = read_manifest(target)
    assert (manifest.dense.stored, manifest.local.stored) == ("none", "float16")
    assert manifest.local.encoder != manifest.dense.encoder
    assert verify_index(target, offline=True).sound
    with open_index(target, offline=True) as index:
        run = {
            id_: index.search(text, 20, pipeline="local", documents=False).ranking()
            for id_, text in list(found.texts.items())[:20]
        }
    served = measure(run, {id_: collection.qrels[id_] for id_ in run}, ["nDCG@10"]).per_query["nDCG@10"]
    assert served == pytest.approx({id_: found.chosen.per_query[id_] for id_ in run}, abs=1e-6)
    assert any(found.chosen.per_query[id_] != found.trials[0].per_query[id_] for id_ in found.texts)


def _assert_failures_leave_nothing(found, target):
    before = set(target.parent.iterdir())
    with exclusive_lock(Path(found.index)), pytest.raises(IndexLocked):
        compress_index(found, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recoding, "publish", _disk_full)
        with pytest.raises(StorageFull):
            compress_index(found, target)
    assert set(target.parent.iterdir()) == before


def _disk_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_pipelines_that_find_by_vectors_rescore(path, tmp_path):
    open_base(EncoderSettings(base="splade-tiny"), offline=True).append(SignHead(128)).save(str(tmp_path / "signs"))
    learned = Learned("bpr", tmp_path / "signs", tmp_path / "codes", None, True, "bfloat16")
    rescoring = Rescoring("float16", Local(weight=0.2))
    dense, reranked = PipelineSpec(first=("dense",)), PipelineSpec(first=("dense",), rerank=Rerank(model="a-reranker"))

    def written(name, own, default):
        source = shutil.copytree(path, tmp_path / name / "before")
        store_pipelines(source, own, default)
        return recode_index(source, tmp_path / name / "after", learned.form, learned=learned, rescoring=rescoring)

    found = written("hybrid", {}, "hybrid")
    assert found.default_pipeline == "hybrid"
    assert (found.pipelines["dense"], found.pipelines["local"].local) == (dense, rescoring.stage)
    assert found.pipelines["hybrid"].local == Local(of="dense", weight=0.2)
    assert found.pipelines["bm25"].local is None
    found = written("dense", {}, "dense")
    assert found.default_pipeline == "local"
    # What stands behind the vectors stays behind them.
    found = written("reranked", {"best": reranked}, "best")
    assert found.default_pipeline == "best"
    assert found.pipelines["best"] == reranked.model_copy(update={"local": rescoring.stage})
    # A name that is taken stays its owner's.
    found = written("named", {"local": reranked, "plain": dense}, "plain")
    assert found.default_pipeline == "local-2"
    assert found.pipelines["local-2"] == dense.model_copy(update={"local": rescoring.stage})
    assert found.pipelines["local"].rerank == reranked.rerank
    assert written("words", {}, "bm25").default_pipeline == "bm25"


@pytest.mark.slow
def test_the_command_trains_on_one_split_and_compares_on_another(path, split_pydocs, tmp_path):
    arguments = ["compress", path, "--output", tmp_path / "small", "--queries", split_pydocs, "--train", "--offline",
                 "--max-loss", "0.9", "--mean", "--json", "--quiet"]  # fmt: skip
    for change in QUICK:
        arguments += ["--set", change]

    def run(*more):
        return CliRunner().invoke(app, [str(argument) for argument in [*arguments, *more]], catch_exceptions=False)

    result = run("--split", "test")
    content = json.loads(result.stdout)
    names = [trial["name"] for trial in content["trials"]]
    assert {"binary, codes alone", "bpr, codes alone", "jpq16, codes alone"} <= set(names)
    assert content["chosen"]
    assert read_manifest(tmp_path / "small")[0].dense.stored == "none"
    assert not (tmp_path / ".small.learned").exists()
    with pytest.raises(InvalidInput, match="compare on another"):
        learned_forms(path, tmp_path / "work", times=32, queries=str(split_pydocs), split="train")


def test_bad_input(path, split_pydocs, tmp_path):
    generator = FirstWords()
    for changes, message in ((["fit.steps=1"], "RECIPE.key=value"), (["bpr.nonesuch=1"], "nonesuch")):
        with pytest.raises(InvalidInput, match=message):
            learned_forms(path, tmp_path / "w", times=32, changes=changes, generator=generator)
    assert not generator.asked
    with pytest.raises(InvalidInput, match="no learned code is 1000 times smaller"):
        learned_forms(path, tmp_path / "w", times=1000)
    arguments = ["compress", str(path), "--output", str(tmp_path / "x"), "--set", "bpr.fit.steps=1"]
    with pytest.raises(InvalidInput, match="belong to --train"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_cannot_be_compared_is_refused_before_training(path, split_pydocs, tmp_path):
    few = shutil.copytree(split_pydocs, tmp_path / "few")
    lines = (few / "qrels" / "test.tsv").read_text().splitlines()
    (few / "qrels" / "test.tsv").write_text("\n".join(lines[:4]) + "\n")
    for given, message in (
        (["--queries", split_pydocs, "--split", "nonesuch"], "has no split 'nonesuch'"),
        (["--queries", few, "--split", "test"], r"\d+ queries are too few"),
        (["--queries", split_pydocs, "--split", "test", "--max-loss", "1"], "the loss from 0 to below 1, got 32 and 1"),
    ):
        arguments = ["compress", path, "--output", tmp_path / "small", "--train", "--offline", "--quiet", *given]
        with pytest.raises(InvalidInput, match=message):
            CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert not (tmp_path / ".small.learned").exists()
