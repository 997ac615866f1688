"""Parallel context windows: a long text as several inputs, whose vectors are averaged."""

from typing import Any, ClassVar, Self

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from retriever.errors import InvalidInput

# Which row of the batch each window is of.
ROWS = "window_rows"


def split_windows(ids: list[int], window: int, head: int, tail: int) -> list[list[int]]:
    """Return a text's token ids in windows; each begins with the first `head` ids and ends with the last `tail`.

    A text within the window is its own only one. The last window holds the last tokens and may overlap the one before.
    Raises InvalidInput where the window has no room beside head and tail.
    """
    if len(ids) <= window:
        return [ids]
    room = window - head - tail
    if room < 1:
        raise InvalidInput(
            f"a window of {window} tokens has no room beside the {head + tail} of prompt and special tokens; give a "
            "larger window or a shorter prompt."
        )
    end = len(ids) - tail
    begins = [*range(head, end - room, room), end - room]
    return [[*ids[:head], *ids[begin : begin + room], *ids[end:]] for begin in begins]


def split_features(features: dict[str, Any], window: int, head: int, tail: int, padding: int) -> dict[str, Any]:
    """Return features (B, T) as rows of windows (W, at most window), padded at the right, with `ROWS` (W,)."""
    ids, mask = features["input_ids"], features["attention_mask"].bool()
    split = [split_windows(row[own].tolist(), window, head, tail) for row, own in zip(ids, mask, strict=True)]
    rows = [torch.tensor(one, device=ids.device) for windows in split for one in windows]
    pad = torch.nn.utils.rnn.pad_sequence
    found = {name: value for name, value in features.items() if not isinstance(value, Tensor)}
    found["input_ids"] = pad(rows, batch_first=True, padding_value=padding)
    found["attention_mask"] = pad([torch.ones_like(row) for row in rows], batch_first=True)
    if "token_type_ids" in features:
        found["token_type_ids"] = torch.zeros_like(found["input_ids"])
    counts = torch.tensor([len(windows) for windows in split], device=ids.device)
    found[ROWS] = torch.arange(len(split), device=ids.device).repeat_interleave(counts)
    return found


class WindowMean(Module):
    """Makes the mean of the vectors of a text's windows; stands before what normalises or compresses them."""

    config_keys: ClassVar[list[str]] = []

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `sentence_embedding` (B, H) from (W, H); leaves it alone where nothing was split."""
        rows = features.pop(ROWS, None)
        if rows is None:
            return features
        vectors = features["sentence_embedding"]
        sums = vectors.new_zeros(int(rows[-1]) + 1, vectors.shape[1]).index_add(0, rows, vectors)
        features["sentence_embedding"] = sums / rows.bincount()[:, None].to(vectors.dtype)
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:
        return cls()
