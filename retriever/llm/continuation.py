"""What a causal language model goes on with behind prompts that begin alike, each of which it reads once."""

import copy
from collections.abc import Sequence
from typing import Any

from retriever.llm.beginnings import Beginning


def continuations(
    model: Any, prompts: Sequence[Sequence[int]], count: int, beginning: Beginning, **drawing: Any
) -> list[list[int]]:
    """Return the tokens of `count` continuations of each prompt, those of one prompt behind each other, filled up.

    beginning  of these prompts, or of more
    drawing    what `generate` of transformers takes, such as max_new_tokens and pad_token_id

    To be called with gradients off. Takes the memory of `count` copies of each prompt's keys and values.
    """
    import torch

    shared, cache = beginning
    longest = max(map(len, prompts))
    # Filled up behind what is shared, which therefore has the same places in all rows; the mask hides the zeros.
    filled = [longest - len(prompt) for prompt in prompts]
    rows = [[*p[:shared], *[0] * more, *p[shared:]] for p, more in zip(prompts, filled, strict=True)]
    ids = torch.tensor(rows, device=model.device)
    mask = torch.ones_like(ids)
    for row, more in enumerate(filled):
        mask[row, shared : shared + more] = 0
    if cache is None:
        made = model.generate(input_ids=ids, attention_mask=mask, num_return_sequences=count, **drawing)
    else:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(prompts))
        if longest - 1 > shared:
            # All but the last token, behind which the continuations differ.
            cache = model.base_model(
                input_ids=ids[:, shared:-1],
                attention_mask=mask[:, :-1],
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, shared:-1],
                past_key_values=cache,
                use_cache=True,
            ).past_key_values
        cache.batch_repeat_interleave(count)
        ids, mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
        made = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **drawing)
    answers: list[list[int]] = made[:, longest:].tolist()
    return answers
