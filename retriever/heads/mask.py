"""Which tokens are pooled."""

from typing import Any

from torch import Tensor


def pooled_tokens(features: dict[str, Any], include_prompt: bool) -> Tensor:
    """Return the mask (B, T) of a text's tokens, without those of its prompt where these are to be left out."""
    mask: Tensor = features["attention_mask"]
    if include_prompt or "prompt_length" not in features:
        return mask
    # Counted from the first token, on whichever side the padding is.
    return mask * (mask.cumsum(1) > int(features["prompt_length"]))
