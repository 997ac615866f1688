"""Pooling by latent attention: its definition, masks, and a model that is saved with it."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from retriever.encoder import load_encoder
from retriever.heads.latent_attention import LatentAttentionPooling
from retriever.models import resolve


def pooled(head, states, mask, **more):
    features = {"token_embeddings": states, "attention_mask": mask, **more}
    with torch.inference_mode():
        return head(features)["sentence_embedding"]


@pytest.fixture
def head():
    torch.manual_seed(3)
    return LatentAttentionPooling(24, latents=7, heads=4).eval()


@pytest.fixture
def states():
    return torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(4))


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])


def test_with_its_parts_at_zero_it_is_the_masked_mean(head, states):
    with torch.no_grad():
        for part in (head.attention.output.weight, head.attention.narrowing.weight, head.attention.narrowing.bias):
            part.zero_()
    expected = torch.stack([row[own.bool()].mean(0) for row, own in zip(states, MASK, strict=True)])
    torch.testing.assert_close(pooled(head, states, MASK), expected)


def test_it_is_what_its_definition_says(head, states):
    """Token by token and head by head, in float64."""
    twin = LatentAttentionPooling(24, latents=7, heads=4).double().eval()
    twin.load_state_dict(head.state_dict())
    block = twin.attention
    found = []
    with torch.inference_mode():
        keys, values = block.key_value(block.norm_asked(twin.dictionary)).chunk(2, dim=-1)
        for row, own in zip(states.double(), MASK, strict=True):
            outcomes = []
            for state in row[own.bool()]:
                query = block.query(block.norm_asking(state))
                parts = []
                for start in range(0, 24, 6):
                    part = slice(start, start + 6)
                    weights = torch.softmax(keys[:, part] @ query[part] / 6**0.5, dim=0)
                    parts.append(weights @ values[:, part])
                state = state + block.output(torch.cat(parts))
                gate, value = block.widening(block.norm_between(state)).chunk(2)
                outcomes.append(state + block.narrowing(value * torch.nn.functional.gelu(gate)))
            found.append(torch.stack(outcomes).mean(0))
    torch.testing.assert_close(pooled(head, states, MASK).double(), torch.stack(found), atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing_whatever_it_holds(head, states):
    expected = pooled(head, states[:, :2], torch.ones(3, 2))
    for filling in (0.0, 1e6, float("nan")):
        padded = torch.cat([states[:, :2], torch.full((3, 4, 24), filling)], dim=1)
        mask = torch.tensor([[1, 1, 0, 0, 0, 0]] * 3)
        torch.testing.assert_close(pooled(head, padded, mask), expected)
        torch.testing.assert_close(pooled(head, padded.flip(1), mask.flip(1)), expected)


def test_instructions_can_be_left_out_of_the_mean(head, states):
    torch.testing.assert_close(
        pooled(head, states, torch.ones(3, 5), prompt_length=2), pooled(head, states, torch.ones(3, 5))
    )
    head.include_prompt = False
    found = pooled(head, states, torch.ones(3, 5), prompt_length=2)
    torch.testing.assert_close(found, pooled(head, states[:, 2:], torch.ones(3, 3)))
    # Padding on the left moves the prompt.
    left = torch.tensor([[0, 1, 1, 1, 1]] * 3)
    found = pooled(head, states, left, prompt_length=2)
    torch.testing.assert_close(found, pooled(head, states[:, 3:], torch.ones(3, 2)))
    assert pooled(head, states, torch.zeros(3, 5)).abs().max() == 0


def test_every_part_is_trained(head, states):
    head.train()
    head({"token_embeddings": states, "attention_mask": MASK})["sentence_embedding"].square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads must divide the width 24, got 5"):
        LatentAttentionPooling(24, heads=5)
    with pytest.raises(ValueError, match="latents"):
        LatentAttentionPooling(24, latents=0, heads=4)


def test_a_model_is_saved_and_loaded_with_it(tmp_path):
    torch.manual_seed(5)
    body = Transformer(str(resolve("all-MiniLM-L6-v2")))
    model = SentenceTransformer(modules=[body, LatentAttentionPooling(384, latents=16, heads=8)], device="cpu")
    texts = ["open a file", "sockets and ports, and a longer text beside them"]
    expected = model.encode(texts, normalize_embeddings=True)
    model.save(str(tmp_path / "model"))
    encoder = load_encoder(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(encoder.encode_queries(texts), expected, atol=1e-4)
    assert "LatentAttentionPooling" in encoder.fingerprint()["modules"]
    assert encoder.width == 384
