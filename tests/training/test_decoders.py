"""Encoders from causal models: what they attend to, how they pool, and that all of it is saved."""

import numpy as np
import pytest
import torch

from retriever.encoder import load_encoder
from retriever.heads import open_model
from tests.retriever.llm.models import save_model
from training.decoders import DecoderSettings, open_decoder


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
