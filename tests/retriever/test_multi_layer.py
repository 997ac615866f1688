"""Pooling over all layers: its definition, layers in another order, padding."""

import pytest
import torch

from retriever.heads.multi_layer import MultiLayerPooling

LAYERS, WIDTH = 3, 24
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randn(3, 5, WIDTH, generator=generator) for _ in range(LAYERS + 1))


def head_of(summary):
    torch.manual_seed(3)
    head = MultiLayerPooling(WIDTH, LAYERS, summary, latents=7, heads=4).eval()
    torch.nn.init.normal_(head.numbers)
    return head


def pooled(head, states, mask):
    with torch.inference_mode():
        return head({"all_layer_embeddings": states, "attention_mask": mask})["sentence_embedding"]


@pytest.mark.parametrize("summary", ["last", "mean"])
def test_it_is_what_its_definition_says(states, summary):
    head = head_of(summary)
    found = []
    with torch.inference_mode():
        for row, own in enumerate(MASK.bool()):
            kept = [layer[row][own] for layer in states[1:]]
            asked = torch.stack([layer[-1] if summary == "last" else layer.mean(0) for layer in kept]) + head.numbers
            found.append(head.attention(head.dictionary[None], asked[None])[0].mean(0))
    torch.testing.assert_close(pooled(head, states, MASK), torch.stack(found))


def test_layers_differ_by_their_embedding_alone(states):
    head = head_of("last")
    turned = (states[0], *states[:0:-1])
    assert (pooled(head, states, MASK) - pooled(head, turned, MASK)).abs().max() > 1e-3
    torch.nn.init.zeros_(head.numbers)
    torch.testing.assert_close(pooled(head, states, MASK), pooled(head, turned, MASK))


@pytest.mark.parametrize("summary", ["last", "mean"])
def test_padding_changes_nothing_whatever_it_holds(states, summary):
    head = head_of(summary)
    short = tuple(layer[:, :2] for layer in states)
    expected = pooled(head, short, torch.ones(3, 2, dtype=torch.long))
    for filling in (0.0, float("nan")):
        longer = tuple(torch.cat([layer, torch.full((3, 4, WIDTH), filling)], 1) for layer in short)
        mask = torch.tensor([[1, 1, 0, 0, 0, 0]] * 3)
        torch.testing.assert_close(pooled(head, longer, mask), expected)
        shifted = tuple(layer.roll(4, 1) for layer in longer)
        torch.testing.assert_close(pooled(head, shifted, mask.roll(4, 1)), expected)


@pytest.mark.parametrize("summary", ["last", "mean"])
def test_a_prompt_can_be_left_out_of_the_mean(states, summary, tmp_path):
    head = head_of(summary)
    head.include_prompt = False
    head.save(str(tmp_path))
    head = MultiLayerPooling.load(str(tmp_path)).eval()
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    features = {"all_layer_embeddings": states, "attention_mask": mask, "prompt_length": 2}
    with torch.inference_mode():
        found = head(features)["sentence_embedding"]
    behind = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    assert torch.equal(found, pooled(head, states, behind))
    assert torch.equal(found, pooled(head, states, mask)) == (summary == "last")


def test_faulty_settings_and_missing_layers_are_named(states):
    with pytest.raises(ValueError, match="last, mean"):
        MultiLayerPooling(WIDTH, LAYERS, "first")
    with pytest.raises(ValueError, match="heads must divide"):
        MultiLayerPooling(WIDTH, LAYERS, heads=5)
    with pytest.raises(ValueError, match="output_hidden_states"):
        pooled(head_of("last"), None, MASK)
    with pytest.raises(ValueError, match="got 2"):
        pooled(head_of("last"), states[:2], MASK)
