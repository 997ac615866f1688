"""What sequences of tokens begin with alike: a causal language model needs to read it once."""

from collections.abc import Sequence
from typing import Any

# Shorter beginnings are not worth the copies of their keys and values.
LEAST_SHARED = 16

# Fewer prompts do not pay for a pass over a beginning of their own.
LEAST_ALIKE = 4


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
