"""A SPLADE checkpoint saved as a plain masked language model, without saying how its logits are pooled."""

import json
from pathlib import Path

from retriever.models import as_published

# max over tokens of log(1 + relu(logit)), arXiv:2107.05720 with the max pooling of arXiv:2109.10086.
DESCRIPTION = {
    "modules.json": [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        },
        {
            "idx": 1,
            "name": "1",
            "path": "1_SpladePooling",
            "type": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
        },
    ],
    "1_SpladePooling/config.json": {
        "pooling_strategy": "max",
        "activation_function": "relu",
        "embedding_dimension": None,
    },
    "sentence_bert_config.json": {
        "transformer_task": "fill-mask",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "token_embeddings",
    },
    "config_sentence_transformers.json": {
        "model_type": "SparseEncoder",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    },
}


def build(members: Path, out: Path) -> None:
    """Move the members to `out` and add the files that make it a SparseEncoder folder."""
    as_published.build(members, out)
    for name, content in DESCRIPTION.items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
