"""Modules of this project that a sentence-transformers model may end in; they are saved and loaded with it.

A model with a head gives queries and documents whose inner product is the score of the compressed document.
"""

from pathlib import Path
from typing import Any


def open_model(folder: Path, **options: Any) -> Any:
    """Return the sentence-transformers model of a folder, which may hold modules of this project.

    The library imports classes only from itself and refuses all others as remote code. Here ours, which are imported
    already, are named to it one by one; any other class is refused as before.
    """
    from sentence_transformers import SentenceTransformer

    options = {"trust_remote_code": False, "local_files_only": True, **options}
    modules = folder / "modules.json"
    text = modules.read_text(encoding="utf-8") if modules.is_file() else ""
    # Beside the public way only where it is needed: this one is private to the library. The public one with
    # trust_remote_code=True would import any class that the folder names.
    if any(package in text for package in ("retriever.heads.", "retriever.long_context.")):
        return SentenceTransformer._load_with_module_classes(str(folder), _own(), **options)
    return SentenceTransformer(str(folder), **options)


def _own() -> dict[str, type]:
    """Return the classes of this project's modules by the names under which they are saved."""
    from retriever.heads.adapter import AdapterHead
    from retriever.heads.latent_attention import LatentAttentionPooling
    from retriever.heads.multi_layer import MultiLayerPooling
    from retriever.heads.product import ProductHead
    from retriever.heads.sign import SignHead
    from retriever.long_context.transformer import LongContextTransformer
    from retriever.long_context.windows import WindowMean

    kinds = (
        AdapterHead, LatentAttentionPooling, LongContextTransformer, MultiLayerPooling, ProductHead, SignHead,
        WindowMean,
    )  # fmt: skip
    return {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
