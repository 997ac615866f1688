"""A small encoder with rotary positions and a window that is really its own, for benchmarks.long_context.

A causal body of two layers, pooled at its last token, so that attention has to fetch what a text says from wherever it
stands; trained from random weights to find passkeys in documents within the window, on other seeds than are measured.
"""

import random
from pathlib import Path

from retriever.encoder import TokenCounter
from retriever.evaluation.planted import SHORTEST, plant
from retriever.models import resolve

WIDTH = 128
STEPS = 250
SEED = 1_000
"""Of the first training collection; the benchmark's are below."""


def train_rotary_encoder(folder: Path, window: int) -> None:
    """Train and save it; about a minute of one core for a window of 128 tokens."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2", offline=True))
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=window, pad_token_id=0,
    )  # fmt: skip
    body = folder.with_name(f"{folder.name}-body")
    LlamaModel(config).save_pretrained(body)
    tokenizer.save_pretrained(body)
    modules = [Transformer(str(body)), Pooling(WIDTH, pooling_mode="lasttoken"), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu")
    pairs = []
    for number, length in enumerate((window, window, 3 * window // 4, max(SHORTEST, window // 2))):
        planted = plant("passkey", length, TokenCounter(tokenizer), seed=SEED + number, queries=1_000, documents=1_000)
        texts = {document.id: document.text for document in planted.documents}
        for query, text in planted.collection.queries.items():
            (relevant,) = planted.collection.qrels[query]
            pairs.append((text, texts[relevant]))
    random.Random(SEED).shuffle(pairs)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder.with_name(f"{folder.name}-training")), max_steps=STEPS, per_device_train_batch_size=32,
        learning_rate=2e-3, warmup_steps=20, seed=SEED, report_to="none", save_strategy="no", use_cpu=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"anchor": [query for query, _ in pairs], "positive": [text for _, text in pairs]})
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.save(str(folder), create_model_card=False)
