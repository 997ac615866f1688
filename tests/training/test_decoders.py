"""Encoders from causal models: what they attend to, how they pool, and that all of it is saved."""

import numpy as np
import pytest
import torch

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.heads import open_model
from tests.retriever.llm.models import save_model
from training.decoders import DecoderSettings, open_decoder
from training.recipes.registry import recipe
from training.settings import read_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", scale=0.2)


def first_states(model, last):
    inputs = {"input_ids": torch.tensor([[5, 6, 7, last]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.inference_mode():
        return model[0].model(**inputs).last_hidden_state[0, 0]


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("pooling", ["last", "mean", "latent_attention", "multi_layer"])
def test_every_form_is_saved_and_served(folder, tmp_path, attention, pooling):
    made = open_decoder(DecoderSettings(attention=attention, pooling=pooling, latents=5), folder=folder)
    made.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    opened = open_model(tmp_path / "encoder")
    assert torch.equal(first_states(opened, 8), first_states(opened, 9)) == (attention == "causal")
    texts = ["a cat", "a much longer text about dogs and their owners", "b"]
    with torch.inference_mode():
        expected = made.encode_query(texts, normalize_embeddings=True)
    encoder = load_encoder(str(tmp_path / "encoder"), device="cpu")
    assert np.abs(encoder.encode_queries(texts) - expected).max() < 1e-4
    alone = np.concatenate([encoder.encode_queries([text]) for text in texts])
    assert np.abs(alone - expected).max() < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_state_space_model_is_an_encoder_too(tmp_path, side):
    """Padding, which is the end token, changes no vector, on whichever side; so lengths are exact."""
    from transformers import AutoTokenizer, MambaConfig, MambaModel

    folder = save_model(tmp_path / "mamba")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    assert tokenizer.pad_token == tokenizer.eos_token
    torch.manual_seed(7)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    MambaModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    open_decoder(DecoderSettings(), folder=folder).save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    encoder = load_encoder(str(tmp_path / "encoder"), device="cpu")
    texts = ["a cat", "a much longer text about dogs and their owners", "b"]
    alone = np.concatenate([encoder.encode_queries([text]) for text in texts])
    assert np.abs(alone[0] - alone[2]).max() > 1e-2
    assert np.abs(encoder.encode_queries(texts) - alone).max() < 1e-4


@pytest.mark.parametrize(("kind", "sees"), [("llama", True), ("gpt2", True), ("mamba", False)])
def test_attention_to_both_sides_is_had_or_refused(tmp_path, kind, sees):
    folder = save_model(tmp_path, kind=kind, scale=0.2)
    causal = open_decoder(DecoderSettings(base=str(folder)))
    assert torch.equal(first_states(causal, 8), first_states(causal, 9))
    settings = DecoderSettings(base=str(folder), attention="bidirectional")
    if sees:
        model = open_decoder(settings)
        assert not torch.equal(first_states(model, 8), first_states(model, 9))
    else:
        with pytest.raises(
            InvalidInput, match=r"attention=bidirectional changes nothing in .*\(mamba\).*attention=causal"
        ):
            open_decoder(settings)


@pytest.mark.parametrize("name", ["repllama", "llm_ql"])
def test_an_encoder_is_no_base_and_takes_no_head(name):
    kind = recipe(name).settings
    with pytest.raises(InvalidInput, match="all-MiniLM-L6-v2 is an encoder already.*recipe contrastive"):
        open_decoder(kind(base="all-MiniLM-L6-v2"), offline=True)
    with pytest.raises(InvalidInput, match="head: Input should be 'none'"):
        read_settings(kind, None, ["head=linear_norm"])
