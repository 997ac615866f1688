"""Pooling of token states by latent attention: NV-Embed, arXiv:2405.17428."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retriever.heads.cross_attention import CrossAttention
from retriever.heads.mask import pooled_tokens
from retriever.heads.saved import SavedModule


class LatentAttentionPooling(SavedModule):
    """Lets every token state look up trained latents, and takes the mean over the tokens that the mask allows.

    States (B, T, H) ask, `latents` (R, H) are asked, so only the mean needs a mask; see `CrossAttention`.
    A row without any token gives zeros.

    heads           must divide width; each attends with width / heads numbers, where the published model has width
    include_prompt  whether the prompt's tokens are in the mean; the attention below saw them either way
    """

    config_keys: ClassVar[list[str]] = ["width", "latents", "heads", "include_prompt"]

    def __init__(self, width: int, latents: int = 512, heads: int = 8, include_prompt: bool = True) -> None:
        super().__init__()
        if latents < 1:
            raise ValueError(f"latents must be at least 1, got {latents}.")
        self.width, self.latents, self.heads = width, latents, heads
        self.include_prompt = include_prompt
        self.dictionary = nn.Parameter(torch.randn(latents, width))
        self.attention = CrossAttention(width, heads)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `sentence_embedding` (B, H) from `token_embeddings`, `attention_mask` and `prompt_length`."""
        states: Tensor = features["token_embeddings"]
        mask = pooled_tokens(features, self.include_prompt).to(states.dtype)
        read = self.attention(states, self.dictionary.unsqueeze(0))
        # Padding may hold numbers that are not finite, which times 0 would stay so.
        summed = read.masked_fill(mask.unsqueeze(-1) == 0, 0.0).sum(dim=1)
        features["sentence_embedding"] = summed / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return features

    def get_embedding_dimension(self) -> int:
        return self.width
