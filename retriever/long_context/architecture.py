"""What kind of positions a transformers model has, and how many."""

import inspect
from typing import Any, Literal

from retriever.errors import InvalidInput
from retriever.long_context.rotary import check_rotary
from retriever.long_context.settings import LongContext

Kind = Literal["absolute", "rotary", "other"]

FITTING: dict[Kind, tuple[str, ...]] = {
    "absolute": ("windows", "grouped", "recurrent", "interpolated"),
    "rotary": ("windows", "grouped", "interpolated", "ntk", "self_extend"),
    "other": ("windows",),
}


def kind_of(model: Any) -> Kind:
    """Return whether positions are rows of a table, turns of heads, or something that is not known here."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "other"
    if position_table(model) is not None:
        return "absolute" if getattr(model.config, "position_embedding_type", "absolute") == "absolute" else "other"
    return "rotary" if hasattr(model, "rotary_emb") else "other"


def position_table(model: Any) -> Any:
    """Return the embedding of positions, or None."""
    return getattr(getattr(model, "embeddings", None), "position_embeddings", None)


def first_position(model: Any) -> int:
    """Return the row of the first token: RoBERTa's family begins behind the row of the padding."""
    padding = position_table(model).padding_idx
    return 0 if padding is None else int(padding) + 1


def positions_of(model: Any) -> int | None:
    """Return how many positions a model has, None where nothing bounds them."""
    if kind_of(model) == "absolute":
        return int(position_table(model).num_embeddings) - first_position(model)
    found = getattr(model.config, "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def head_width(model: Any) -> int:
    """Return d, the width of one head."""
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def check_fit(model: Any, settings: LongContext) -> None:
    """Raise InvalidInput where a method does not fit a model, naming those that do."""
    kind = kind_of(model)
    name = type(model).__name__
    if settings.method not in FITTING[kind]:
        positions = {"absolute": "a table of positions", "rotary": "rotary positions", "other": "other positions"}
        raise InvalidInput(
            f"the method {settings.method} does not fit {name}, which has {positions[kind]}; "
            f"these fit: {', '.join(FITTING[kind])}."
        )
    if settings.method == "windows":
        return
    if not type(model).is_backend_compatible() and (settings.temperature or kind == "rotary"):
        raise InvalidInput(
            f"the attention of {name} cannot be changed from outside, which {settings.method} with temperature needs; "
            "turn the temperature off (--no-temperature), or take the method windows."
        )
    if kind == "rotary":
        check_rotary(model, head_width(model))
