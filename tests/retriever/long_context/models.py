"""Small encoders with rotary positions and random weights, to test mechanisms with."""

from pathlib import Path

import torch


def write_rotary_encoder(
    folder: Path, *, causal: bool = True, pooling: str = "mean", positions: int = 32, rope: dict | None = None
) -> Path:
    """Write a Llama body of 32 positions with grouped key heads, random weights and MiniLM's tokenizer, and pool it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    from retriever.models import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2", offline=True))
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=positions, initializer_range=0.4, pad_token_id=0,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 10_000.0},
    )  # fmt: skip
    config.is_causal = causal
    LlamaModel(config).save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    modules = [Transformer(str(folder / "body")), Pooling(48, pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules).save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


def write_table_encoder(folder: Path, kind: str, *, positions: int = 32) -> Path:
    """Write a body of 32 positions behind the row of the padding, with random weights and MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel, RobertaConfig, RobertaModel

    from retriever.models import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2", offline=True))
    torch.manual_seed(6)
    config, model = {"roberta": (RobertaConfig, RobertaModel), "mpnet": (MPNetConfig, MPNetModel)}[kind]
    # Both begin behind the row of their padding; MPNet's is always 1.
    rows = positions + (2 if kind == "mpnet" else 1)
    body = model(
        config(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=rows, pad_token_id=0, initializer_range=0.4,
        )
    )  # fmt: skip
    body.save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    modules = [Transformer(str(folder / "body")), Pooling(48)]
    SentenceTransformer(modules=modules).save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"
