"""What sequences of tokens begin with alike: a causal language model needs to read it once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

# Shorter beginnings are not worth the copies of their keys and values.
LEAST_SHARED = 16

# Fewer prompts do not pay for a pass over a beginning of their own.
LEAST_ALIKE = 4


class Beginning(NamedTuple):
    """How many tokens prompts begin with alike, and their keys and values; 0 and None where that does not pay."""

    length: int
    cache: Any

    @classmethod
    def of(cls, model: Any, prompts: Sequence[Sequence[int]]) -> "Beginning":
        """Read what all prompts begin with; each keeps a token of its own."""
        import torch

        length = min(common_length(prompts), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
        if length < LEAST_SHARED:
            return cls(0, None)
        ids = torch.tensor([list(prompts[0][:length])], device=model.device)
        cache = getattr(model.base_model(input_ids=ids, use_cache=True), "past_key_values", None)
        return cls(length, cache) if can_be_shared(cache) else cls(0, None)


def can_be_shared(cache: Any) -> bool:
    """Tell whether keys and values can be cut and repeated: not those of sliding windows, nor recurrent states."""
    from transformers import DynamicCache

    if not isinstance(cache, DynamicCache):
        return False
    return all(getattr(layer, "keys", None) is not None and not layer.is_sliding for layer in cache.layers)


def alike(sequences: Sequence[list[int]]) -> list[list[int]]:
    """Return the places of sequences in groups that begin alike for more than half of their length.

    Those that are alike with fewer than LEAST_ALIKE are one group together, the last one.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    groups: list[list[int]] = []
    for number, place in enumerate(order):
        pair = [sequences[order[number - 1]], sequences[place]]
        if number and 2 * common_length(pair) > max(map(len, pair)):
            groups[-1].append(place)
        else:
            groups.append([place])
    rest = [place for group in groups if len(group) < LEAST_ALIKE for place in group]
    large = [group for group in groups if len(group) >= LEAST_ALIKE]
    return [*large, rest] if rest else large


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many items all sequences begin with."""
    shortest = min(map(len, sequences))
    first = sequences[0]
    return next(
        (place for place in range(shortest) if any(other[place] != first[place] for other in sequences)), shortest
    )
