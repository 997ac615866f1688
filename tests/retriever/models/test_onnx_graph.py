"""Encoders as ONNX graphs: what other engines read gives the vectors that an index has."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from retriever.codebook import train_codebook
from retriever.commands.models import app
from retriever.encoder import load_encoder
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.heads.adapter import AdapterHead
from retriever.heads.product import ProductHead
from retriever.heads.sign import SignHead
from retriever.long_context.extension import extend, save_extended
from retriever.long_context.settings import read_long_context
from retriever.models import onnx_graph
from retriever.models.onnx_graph import export
from retriever.storage import sha256_of
from retriever.types import Document
from tests.retriever.llm.models import save_model
from tests.retriever.long_context.models import write_rotary_encoder
from training.decoders import DecoderSettings, open_decoder
from training.encoders import open_base
from training.settings import EncoderSettings

TEXTS = ["a cat", "a much longer text about dogs, their owners and 7 other animals", "b", "wing " * 300]


def by_the_folder_alone(folder, side, texts):
    """Encode as docs/usage.md says, by tokenizers and ONNX Runtime."""
    recipe = json.loads((folder / "export.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(recipe["max_tokens"])
    tokenizer.enable_padding()
    made = recipe["sides"][side]
    session = onnxruntime.InferenceSession(folder / made["file"])
    tokens = tokenizer.encode_batch([made["prompt"] + text for text in texts])
    every = {
        "input_ids": [text.ids for text in tokens],
        "attention_mask": [text.attention_mask for text in tokens],
        "token_type_ids": [text.type_ids for text in tokens],
    }
    (vectors,) = session.run(None, {given.name: np.array(every[given.name]) for given in session.get_inputs()})
    return vectors


def agrees(source, folder, tolerance=1e-5):
    encoder = load_encoder(source, device="cpu", offline=True)
    for side, expected in {
        "query": encoder.encode_queries(TEXTS),
        "document": encoder.encode_documents([Document("", text) for text in TEXTS]),
    }.items():
        for some in (slice(0, 1), slice(0, 3), slice(None)):
            got = by_the_folder_alone(folder, side, TEXTS[some])
            assert np.abs(got - expected[some]).max() < tolerance * np.abs(expected).max()


def test_a_published_encoder(tmp_path):
    shown = CliRunner().invoke(app, ["export", "all-MiniLM-L6-v2", str(tmp_path / "made"), "--offline", "--json"])
    assert shown.exit_code == 0, shown.output
    recipe = json.loads(shown.stdout)
    assert recipe == json.loads((tmp_path / "made/export.json").read_text())
    assert {made["file"] for made in recipe["sides"].values()} == {"model.onnx"}
    assert recipe["width"] == 384
    assert recipe["encoder"] == load_encoder("all-MiniLM-L6-v2", offline=True).fingerprint()
    files = {path.name: sha256_of(path) for path in (tmp_path / "made").iterdir() if path.name != "export.json"}
    assert recipe["sha256"] == files
    agrees("all-MiniLM-L6-v2", tmp_path / "made")
    assert all(0 < made["largest_difference"] < 1e-5 for made in recipe["sides"].values())
    with pytest.raises(InvalidInput, match="is there already"):
        export("all-MiniLM-L6-v2", tmp_path / "made", offline=True)


@pytest.mark.parametrize(
    ("attention", "pooling"),
    [
        ("bidirectional", "mean"),
        ("causal", "multi_layer"),
        pytest.param("causal", "last", marks=pytest.mark.slow),
        pytest.param("bidirectional", "latent_attention", marks=pytest.mark.slow),
    ],
)
def test_encoders_from_language_models(tmp_path, attention, pooling):
    base = save_model(tmp_path / "base", scale=0.2)
    model = open_decoder(DecoderSettings(attention=attention, pooling=pooling, latents=5), folder=base)
    without_prompt = pooling in ("mean", "latent_attention")
    if without_prompt:
        model[1].include_prompt = False
    model.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    recipe = export(tmp_path / "encoder", tmp_path / "made")
    assert {side: made["prompt"] for side, made in recipe["sides"].items()} == {
        "query": "query: ", "document": "passage: ",
    }  # fmt: skip
    assert len({made["file"] for made in recipe["sides"].values()}) == (2 if without_prompt else 1)
    agrees(tmp_path / "encoder", tmp_path / "made")


@pytest.mark.parametrize("code", ["sign", "product"])
def test_heads_make_a_graph_of_each_side(tmp_path, code):
    model = open_base(EncoderSettings(base="splade-tiny", similarity="dot"), offline=True)
    width = model.get_embedding_dimension()
    adapter = AdapterHead(width, rank=4)
    adapter.query.up.data.normal_()
    model.append(adapter)
    if code == "sign":
        model.append(SignHead(width))
    else:
        sample = np.random.default_rng(3).normal(size=(600, width)).astype(np.float32)
        model.append(ProductHead.of(train_codebook(sample, 8, seed=1)))
    model.save(str(tmp_path / "encoder"))
    recipe = export(tmp_path / "encoder", tmp_path / "made")
    assert [made["file"] for made in recipe["sides"].values()] == ["query.onnx", "document.onnx"]
    agrees(tmp_path / "encoder", tmp_path / "made", 1e-4)


def test_a_graph_that_is_wrong_is_not_written(tmp_path, monkeypatch):
    source = write_rotary_encoder(tmp_path / "source")
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path / "made")
    monkeypatch.setattr(onnx_graph, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(InvalidInput, match="gives other vectors than the encoder"):
        export(source, Path())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"]


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="splade-tiny is not a dense encoder"):
        export("splade-tiny", tmp_path / "made", offline=True)
    with pytest.raises(InvalidInput, match="There is no model 'nosuch'"):
        export("nosuch", tmp_path / "made", offline=True)
    monkeypatch.setattr(onnx_graph, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(BackendUnavailable, match=r"not installed: no_such_package.*retriever-engine\[onnx\]"):
        export("all-MiniLM-L6-v2", tmp_path / "made", offline=True)
    assert not list(tmp_path.iterdir())
    settings = read_long_context({"method": "ntk", "length": 128, "temperature": False})
    longer = extend(write_rotary_encoder(tmp_path / "source"), settings)
    save_extended(longer, "source", tmp_path / "longer")
    monkeypatch.undo()
    with pytest.raises(InvalidInput, match="export the model that it was made of"):
        export(tmp_path / "longer", tmp_path / "made")
    assert not (tmp_path / "made").exists()
