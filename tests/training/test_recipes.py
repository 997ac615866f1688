"""Recipes from data to model folder, on real text with a real two-layer model."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.encoder import load_encoder
from retriever.errors import InvalidInput, ModelFault
from retriever.index.sealed import open_index
from training.batch import BatchLoss
from training.collection import open_training_collection
from training.encoders import as_encoder, open_base
from training.negatives import positives_only
from training.recipe import run_recipe
from training.recipes.registry import CONFIGS, NAMES, configured, recipe
from training.settings import EncoderSettings, read_settings
from training.stages import Stages
from training.task import Task

QUICK = ("base=splade-tiny", "document_tokens=24", "query_tokens=12", "fit.batch_size=16", "fit.learning_rate=3e-4")


@pytest.fixture(scope="module")
def pydocs(pydocs, tmp_path_factory):
    """Return the small *pydocs* with two thirds of its judgments for training."""
    folder = tmp_path_factory.mktemp("split") / "pydocs"
    shutil.copytree(pydocs, folder)
    head, *lines = (folder / "qrels" / "test.tsv").read_text().splitlines()
    (folder / "qrels" / "train.tsv").write_text("\n".join([head, *(line for i, line in enumerate(lines) if i % 3)]))
    (folder / "qrels" / "test.tsv").write_text("\n".join([head, *lines[::3]]))
    return folder


def settings_of(name, *changes):
    return read_settings(recipe(name).settings, None, [*QUICK, *changes])


def task_of(folder, pydocs, name, *changes):
    settings = settings_of(name, *changes)
    collection = open_training_collection(pydocs)
    return Task(collection, settings, Stages(folder, {"settings": settings.model_dump()}), True)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_a_file_of_its_defaults(name):
    found, path = configured(name)
    assert path == CONFIGS / f"{name}.yaml"
    read = read_settings(found.settings, path, ignore=("recipe",))
    assert read.model_fields_set >= {"base"}


def test_training_lifts_the_measures_and_the_index_takes_the_model(pydocs, tmp_path):
    report = run_recipe(recipe("contrastive"), settings_of("contrastive", "fit.steps=12"), pydocs, tmp_path / "model")
    found = report["evaluation"]["test"]["nDCG@10"]
    assert found["end"] > found["start"]
    assert (tmp_path / "model" / "README.md").read_text().startswith("---\nlibrary_name")
    assert not (tmp_path / ".model.work").exists()
    build_index(
        open_corpus(str(pydocs)), tmp_path / "index", BuildSettings(parts=("dense",), encoder=str(tmp_path / "model"))
    )
    with open_index(tmp_path / "index") as index:
        assert index.search("read a file", 3).hits
    with pytest.raises(InvalidInput, match="finished training"):
        run_recipe(recipe("contrastive"), settings_of("contrastive"), pydocs, tmp_path / "model")


def test_adore_changes_queries_and_leaves_documents_to_the_bit(pydocs, tmp_path):
    task = task_of(tmp_path / "work", pydocs, "adore", "fit.steps=4", "depth=20", "scale=20")
    folder = recipe("adore").train(task)
    before, after = as_encoder(task.open_base()), load_encoder(folder)
    documents = task.collection.documents[:40]
    assert np.array_equal(before.encode_documents(documents), after.encode_documents(documents))
    queries = task.collection.queries[:8]
    assert not np.allclose(before.encode_queries(queries), after.encode_queries(queries), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("contrastive", ("hard=mined", "fit.steps=3")),
        ("contrastive", ("hard=random", "fit.steps=3", "head=linear_norm", "similarity=dot")),
        ("star", ("fit.steps=3",)),
        ("star", ("fit.steps=3", "in_batch=false")),
        ("star", ("fit.steps=3", "count=0")),
        ("ance", ("cycles=2", "fit.steps=2")),
        ("ance", ("cycles=1", "fit.steps=2", "in_batch=true")),
    ],
)
def test_recipes_train(pydocs, tmp_path, name, changes):
    task = task_of(tmp_path / "work", pydocs, name, *changes)
    folder = recipe(name).train(task)
    vectors = load_encoder(folder).encode_queries(["open a socket"])
    assert np.isfinite(vectors).all()


def test_a_killed_training_goes_on_to_the_same_weights(pydocs, tmp_path):
    command = (
        "import sys; from pathlib import Path; from training.recipe import run_recipe; "
        "from training.recipes.registry import recipe; from training.settings import read_settings; "
        "run_recipe(recipe('contrastive'), read_settings(recipe('contrastive').settings, None, sys.argv[3:]),"
        " Path(sys.argv[1]), Path(sys.argv[2]), splits=(), keep_work=True)"
    )
    changes = [*QUICK, "hard=random", "fit.steps=24", "fit.save_steps=4"]
    arguments = [sys.executable, "-c", command, str(pydocs)]
    whole = tmp_path / "whole"
    subprocess.run([*arguments, str(whole), *changes], check=True, capture_output=True, timeout=240)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*arguments, str(killed), *changes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / ".killed.work" / "contrastive" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run([*arguments, str(killed), *changes], check=True, capture_output=True, timeout=240)
    report = json.loads((killed / "training_report.json").read_text())
    assert report["stages"]["contrastive"]["resumed_from"] > 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_other_settings_do_not_go_on_in_the_same_work_folder(tmp_path):
    Stages(tmp_path, {"settings": {"seed": 1}})
    with pytest.raises(InvalidInput, match=r"settings\.seed: 1 then, 2 now"):
        Stages(tmp_path, {"settings": {"seed": 2}})


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(pydocs, tmp_path):
    task = task_of(tmp_path / "work", pydocs, "contrastive", "fit.steps=3")
    model = task.open_base()
    calls = []

    def objective(batch):
        calls.append(batch.query_rows)
        loss = batch.scores().mean()
        return loss * float("nan") if len(calls) == 2 else loss

    loss = BatchLoss(model, task.collection, objective)
    with pytest.raises(ModelFault, match="step 1: the loss of a batch is nan; its queries are") as caught:
        task.fit_loss("fit", model, loss, positives_only(task.collection.judgments))
    assert task.collection.query_ids[calls[1][0]] in str(caught.value)
    weights = load_encoder(tmp_path / "work" / "fit" / "stopped").model.state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(InvalidInput, match=r"fit\.rate: Extra inputs.*fit\.learning_rate"):
        read_settings(EncoderSettings, None, ["fit.rate=1"])
    with pytest.raises(InvalidInput, match="key=value"):
        read_settings(EncoderSettings, None, ["seed"])
    with pytest.raises(InvalidInput, match="contrastive, star"):
        recipe("nothing")


def test_the_head_starts_as_the_identity(tmp_path):
    settings = EncoderSettings(base="splade-tiny", head="linear_norm")
    plain = open_base(EncoderSettings(base="splade-tiny"), offline=True)
    headed = open_base(settings, offline=True)
    assert len(list(headed)) == len(list(plain)) + 2
    tokens = plain.preprocess(["some words"])
    expected = torch.nn.functional.layer_norm(plain(dict(tokens))["sentence_embedding"], (128,))
    assert torch.allclose(headed(dict(tokens))["sentence_embedding"], expected, atol=1e-5)
