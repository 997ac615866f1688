"""Small language models with random weights and the tokenizer of SmolLM2."""

import torch

from retriever.models import resolve


def save_model(folder, *, kind="llama", chat=True, pad=True, window=512, scale=0.5):
    """Save an untrained causal model of two layers. Its logits differ enough between tokens to be told apart."""
    from transformers import (
        AutoTokenizer,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MambaConfig,
        MambaForCausalLM,
    )

    tokenizer = AutoTokenizer.from_pretrained(resolve("SmolLM2-135M-Instruct"))
    torch.manual_seed(7)
    size = len(tokenizer)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=window, initializer_range=scale,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    elif kind == "mamba":
        config = MambaConfig(
            vocab_size=size, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=scale,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        model = MambaForCausalLM(config)
    else:
        config = GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=window, initializer_range=scale
        )
        model = GPT2LMHeadModel(config)
    model.eval().save_pretrained(folder)
    if not chat:
        tokenizer.chat_template = None
    if not pad:
        tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    return folder
