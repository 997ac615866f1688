"""Bi-encoders to train: opening a base, and freezing one of its sides."""

import copy
from pathlib import Path
from typing import Any

from retriever.encoder import DenseEncoder
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.heads import open_model
from retriever.models import resolve
from retriever.progress import quiet_transformers, without_transformers_bars
from training.settings import EncoderSettings


def open_base(settings: EncoderSettings, *, base: Path | None = None, offline: bool = False) -> Any:
    """Return the sentence-transformers model that training starts from.

    A folder that is no bi-encoder (a plain transformer, or one with another head) gets mean pooling and the
    similarity of the settings. Weights become float32. Raises BackendUnavailable.
    """
    folder = base or resolve(settings.base, offline=offline)
    try:
        with without_transformers_bars():
            if _is_bi_encoder(folder):
                model = open_model(folder)
            else:
                model = _pooled(folder, settings)
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is no model to start from: {error}") from error
    if settings.head == "linear_norm" and not any(type(module).__name__ == "LayerNorm" for module in model):
        _add_head(model)
    # A base may be saved in bfloat16, where most updates of training would round away.
    return model.float()


def _is_bi_encoder(folder: Path) -> bool:
    modules = folder / "modules.json"
    if not modules.is_file():
        return False
    listed = modules.read_text(encoding="utf-8")
    return "SpladePooling" not in listed and "MLMTransformer" not in listed


def _pooled(folder: Path, settings: EncoderSettings) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    # A pooler that the checkpoint lacks, and mean pooling never uses, is drawn at random: always the same one.
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        transformer = Transformer(str(folder))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[transformer, pooling], similarity_fn_name=settings.similarity)


def _add_head(model: Any) -> None:
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm

    width = model.get_embedding_dimension()
    linear = Dense(width, width, activation_function=torch.nn.Identity())
    # Starts as the identity, so that nothing of what the base knows is lost.
    with torch.no_grad():
        linear.linear.weight.copy_(torch.eye(width))
        linear.linear.bias.zero_()
    model.append(linear)
    model.append(LayerNorm(width))


def scale_of(settings: EncoderSettings, model: Any) -> float:
    """Return the factor on scores inside the losses."""
    if settings.scale is not None:
        return settings.scale
    return 20.0 if of_unit_length(model) else 1.0


def of_unit_length(model: Any) -> bool:
    """Return whether vectors are compared by their direction alone: by cosine, or normalised by the model."""
    return model.similarity_fn_name in (None, "cosine") or any(_normalises(module) for module in model.modules())


def _normalises(module: Any) -> bool:
    return type(module).__name__ == "Normalize"


def with_head(model: Any, head: Any) -> Any:
    """Return the model with a head of `retriever.heads` at its end; the model itself is changed.

    What a head gives is compared by inner product. A model that compares by cosine gets a normalisation before the
    head, so that the head sees the vectors that the model itself compares.
    Raises InvalidInput where the model has a head already.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    require_no_head(model)
    if model.similarity_fn_name in (None, "cosine") and not any(map(_normalises, model.modules())):
        model.append(Normalize())
    model.append(head)
    model.similarity_fn_name = "dot"
    return model


def head_of(model: Any) -> Any:
    """Return the head that a model ends in, or None."""
    from retriever.heads.product import ProductHead
    from retriever.heads.sign import SignHead

    last = model[-1]
    return last if isinstance(last, ProductHead | SignHead) else None


def require_no_head(model: Any) -> None:
    """Raise InvalidInput where a model compresses documents already."""
    head = head_of(model)
    if head is not None:
        raise InvalidInput(
            f"the base ends in a {type(head).__name__} already, which compresses its documents; start from the model "
            "that it was trained from."
        )


def with_frozen_documents(model: Any) -> Any:
    """Return a two-sided model: queries through a copy of `model` that can be trained, documents as before.

    It is saved as sentence-transformers' Router, so that `encode_query` and `encode_document` go their ways.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    queries, documents = routes(model)
    for module in documents:
        module.requires_grad_(False)
        module.eval()
    router = Router.for_query_document([copy.deepcopy(module) for module in queries], documents)
    for module in router.sub_modules["query"]:
        module.requires_grad_(True)
    return SentenceTransformer(modules=[router], similarity_fn_name=model.similarity_fn_name, prompts=model.prompts)


def routes(model: Any) -> tuple[list[Any], list[Any]]:
    """Return the modules that queries and documents go through."""
    first, *rest = model
    if hasattr(first, "sub_modules"):
        return [*first.sub_modules["query"], *rest], [*first.sub_modules["document"], *rest]
    return list(model), list(model)


def as_encoder(model: Any, name: str = "in training") -> DenseEncoder:
    """Return the model as the engine uses it."""
    return DenseEncoder(model, name=name)
