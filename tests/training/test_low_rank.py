"""Changes of low rank: nothing at the start, the weights' own when merged, and resumable in between."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from retriever.encoder import load_encoder
from retriever.errors import BackendUnavailable, ModelFault
from tests.retriever.llm.models import save_model
from training.collection import open_training_collection
from training.decoders import DecoderSettings, open_decoder
from training.fitting import FINISHED
from training.low_rank import LowRankSettings, add_low_rank, merge_low_rank
from training.query_writing import LANGUAGE_MODEL
from training.recipes import repllama
from training.recipes.registry import recipe
from training.settings import read_settings
from training.stages import Stages
from training.task import Task

TEXTS = ["open a file", "how do I read a file line by line", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", scale=0.2)


def vectors(model):
    return model.eval().encode_query(TEXTS)


LAYERS = {"llama": 7, "gpt2": 4, "mamba": 1}
"""Linear layers of each of two layers that get a change: of a Mamba the input projection alone."""


@pytest.mark.parametrize("kind", LAYERS)
def test_a_change_starts_as_none_and_ends_in_the_weights(tmp_path, kind):
    model = open_decoder(DecoderSettings(pooling="latent_attention", latents=3), folder=save_model(tmp_path, kind=kind))
    names, before = list(model.state_dict()), vectors(model)
    frozen = {name: value.clone() for name, value in model[0].model.state_dict().items()}
    add_low_rank(model, LowRankSettings(rank=2, alpha=4, dropout=0.5), seed=1)
    assert np.abs(vectors(model) - before).max() < 1e-5
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    body = {name for name in trained if name.startswith("0.")}
    assert all("lora_" in name for name in body)
    # Two matrices for each.
    assert len(body) == 2 * 2 * LAYERS[kind]
    assert kind != "mamba" or all(".in_proj." in name for name in body)
    # What pools is trained as a whole.
    assert len(trained - body) == len(list(model[1].parameters())) > 0
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(3), std=0.2)
    changed = vectors(model)
    assert np.abs(changed - before).max() > 1e-2
    merge_low_rank(model)
    assert np.abs(vectors(model) - changed).max() < 1e-5
    assert list(model.state_dict()) == names
    assert all(value.requires_grad for value in model.parameters())
    moved = {name for name, value in model[0].model.state_dict().items() if not torch.equal(frozen[name], value)}
    assert len(moved) == 2 * LAYERS[kind]
    assert all("weight" in name for name in moved)


def settings_of(folder, *changes):
    little = (
        "document_tokens=16",
        "query_tokens=8",
        "hard=none",
        "fit.batch_size=8",
        "fit.steps=4",
        "fit.save_steps=2",
    )
    return read_settings(
        recipe("repllama").settings, None, [f"base={folder}", *little, "fit.learning_rate=1e-2", *changes]
    )


def weights(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping


def test_an_interrupted_training_ends_in_the_same_plain_model(split_pydocs, folder, tmp_path, monkeypatch):
    collection = open_training_collection(split_pydocs)
    settings = settings_of(folder, "lora.rank=2", "lora.dropout=0.3")

    def train(name):
        return repllama.train(Task(collection, settings, Stages(tmp_path / name, {}), True))

    straight = train("straight")
    calls = []
    with monkeypatch.context() as patched:
        loss = repllama.info_nce

        def stopping(*given):
            calls.append(given)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return loss(*given)

        patched.setattr(repllama, "info_nce", stopping)
        with pytest.raises(KeyboardInterrupt):
            train("broken")
    resumed = train("broken")
    assert json.loads((resumed / FINISHED).read_text())["resumed_from"] == 2
    found, expected, start = weights(resumed), weights(straight), weights(folder)
    assert not list(resumed.glob("adapter_*"))
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in expected.items())
    # The base in its own names: the causal model's body.
    changed = [name for name, value in expected.items() if not torch.equal(value, start[f"model.{name}"])]
    assert len(changed) == 14
    monkeypatch.setitem(sys.modules, "peft", None)
    assert load_encoder(str(resumed), device="cpu").encode_queries(TEXTS).shape == (3, 32)


def test_writing_trains_all_weights_and_the_contrast_those_of_low_rank(split_pydocs, folder, tmp_path):
    writing = ("writing.fit.batch_size=8", "writing.fit.steps=2", "writing.fit.learning_rate=1e-3")
    settings = read_settings(
        recipe("llm_ql").settings, None,
        [f"base={folder}", "document_tokens=16", "query_tokens=8", "hard=none", "fit.batch_size=8", "fit.steps=2",
         "fit.learning_rate=1e-2", "lora.rank=2", *writing],
    )  # fmt: skip
    task = Task(open_training_collection(split_pydocs), settings, Stages(tmp_path, {}), True)
    trained = recipe("llm_ql").train(task)
    assert not [*trained.glob("adapter_*"), *(trained / LANGUAGE_MODEL).glob("adapter_*")]
    start, written, found = weights(folder), weights(tmp_path / "query_likelihood"), weights(trained)
    assert found.keys() == written.keys()
    assert all(not torch.equal(value, start[f"model.{name}"]) for name, value in written.items())
    assert sum(not torch.equal(value, written[name]) for name, value in found.items()) == 14
    kept = weights(trained / LANGUAGE_MODEL)
    assert all(torch.equal(kept[f"model.{name}"], value) for name, value in written.items())
    # The output layer is no part of the encoder.
    assert torch.equal(kept["lm_head.weight"], start["lm_head.weight"])


def test_a_training_that_is_stopped_leaves_a_plain_model(split_pydocs, folder, tmp_path, monkeypatch):
    task = Task(open_training_collection(split_pydocs), settings_of(folder, "lora.rank=2"), Stages(tmp_path, {}), True)
    loss, calls = repllama.info_nce, []

    def breaking(*given):
        calls.append(given)
        return loss(*given) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(repllama, "info_nce", breaking)
    with pytest.raises(ModelFault, match=r"^step 2: .*is in .*stopped"):
        repllama.train(task)
    stopped = tmp_path / "contrastive" / "stopped"
    assert not list(stopped.rglob("adapter_*"))
    found, start = weights(stopped), weights(folder)
    assert all(name in start for name in (f"model.{name}" for name in found))
    assert sum(not torch.equal(value, start[f"model.{name}"]) for name, value in found.items()) == 14
    assert load_encoder(str(stopped), device="cpu").encode_queries(TEXTS).shape == (3, 32)


def test_a_training_that_breaks_weights_says_so(split_pydocs, folder, tmp_path, monkeypatch):
    task = Task(open_training_collection(split_pydocs), settings_of(folder, "lora.rank=2"), Stages(tmp_path, {}), True)
    loss, broken = repllama.info_nce, []

    def breaking(*given):
        # The weights become infinite in a step whose loss is finite.
        for layer in broken[0].modules():
            if hasattr(layer, "lora_B"):
                layer.lora_B["default"].weight.data.fill_(float("inf"))
        return loss(*given) * float("nan")

    changed = repllama.add_low_rank
    monkeypatch.setattr(repllama, "info_nce", breaking)
    monkeypatch.setattr(repllama, "add_low_rank", lambda model, *rest: (changed(model, *rest), broken.append(model)))
    with pytest.raises(ModelFault, match=r"^step 0: .* broken too: the weights of .*_proj are not finite"):
        repllama.train(task)
    assert not (tmp_path / "contrastive" / "stopped").exists()
    model = open_decoder(DecoderSettings(), folder=folder)
    add_low_rank(model, LowRankSettings(rank=2), seed=1)
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(ModelFault, match="not finite"):
        merge_low_rank(model)


def test_without_the_package_nothing_begins(split_pydocs, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    task = Task(open_training_collection(split_pydocs), settings_of(folder, "lora.rank=2"), Stages(tmp_path, {}), True)
    for name in ("repllama", "llm_ql"):
        settings = read_settings(recipe(name).settings, None, [f"base={folder}", "lora.rank=2"])
        task.settings = settings
        with pytest.raises(BackendUnavailable, match=r"retriever-engine\[lora\].*lora\.rank=0"):
            recipe(name).train(task)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
