"""Continuations of prompts that begin alike are those of each prompt alone, whatever is read once."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from retriever.llm.beginnings import LEAST_SHARED, Beginning
from retriever.llm.continuation import continuations
from tests.retriever.llm.models import save_model

ALIKE = list(range(100, 100 + 2 * LEAST_SHARED))
OWN = ([7, 8, 9, 10, 11], [12], [13, 14], list(range(200, 240)))
DRAWING = {"max_new_tokens": 6, "pad_token_id": 0}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / request.param, kind=request.param)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def alone(model, prompt):
    """Return the likeliest continuation by a forward pass over everything for each token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(DRAWING["max_new_tokens"]):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("places", [(0, 1, 2, 3), (1, 2), (1,)])
@pytest.mark.parametrize("alike", [ALIKE, ALIKE[:3], []])
def test_they_are_those_of_each_prompt_alone(model, alike, places, count):
    prompts = [[*alike, *own] for own in OWN]
    asked = [prompts[place] for place in places]
    with torch.inference_mode():
        beginning = Beginning.of(model, prompts)
        assert beginning.length == (len(alike) if len(alike) >= LEAST_SHARED else 0)
        # One word to draw from, so that all continuations of a prompt are the likeliest.
        found = continuations(model, asked, count, beginning, do_sample=True, top_k=1, **DRAWING)
    assert found == [alone(model, prompt) for prompt in asked for _ in range(count)]


def test_what_was_read_once_serves_again(model):
    prompts = [[*ALIKE, *own] for own in OWN]
    with torch.inference_mode():
        beginning = Beginning.of(model, prompts)
        first, again = (
            continuations(model, prompts, 2, beginning, do_sample=True, top_k=1, **DRAWING) for _ in range(2)
        )
    assert first == again


def test_equal_prompts_keep_a_token_of_their_own(model):
    with torch.inference_mode():
        beginning = Beginning.of(model, [ALIKE, ALIKE])
        assert beginning.length == len(ALIKE) - 1
        found = continuations(model, [ALIKE], 1, beginning, do_sample=False, **DRAWING)
    assert found == [alone(model, ALIKE)]


def test_continuations_of_a_prompt_differ_when_drawn(model):
    prompts = [[*ALIKE, *own] for own in OWN]
    with torch.inference_mode():
        torch.manual_seed(1)
        found = continuations(model, prompts, 4, Beginning.of(model, prompts), do_sample=True, **DRAWING)
    assert len(found) == 4 * len(prompts)
    assert len({tuple(one) for one in found[:4]}) > 1
