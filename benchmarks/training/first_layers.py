"""A language model cut down to its first layers, so that two cores can train it."""

import shutil
from pathlib import Path

from retriever.models import resolve


def shortened(layers: int, folder: Path) -> Path:
    """Save the first layers of SmolLM2-135M-Instruct, with its embeddings and output layer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not folder.is_dir():
        source = resolve("SmolLM2-135M-Instruct")
        model = AutoModelForCausalLM.from_pretrained(source)
        model.model.layers = model.model.layers[:layers]
        model.config.num_hidden_layers = layers
        # Newer configurations name the kind of each layer.
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:layers]
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        AutoTokenizer.from_pretrained(source).save_pretrained(part)
        part.replace(folder)
    return folder
