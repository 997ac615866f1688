"""Pooling of token states by latent attention: NV-Embed, arXiv:2405.17428."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from retriever.heads.saved import SavedModule


class LatentAttentionPooling(SavedModule):
    """Lets every token state look up trained latents, and takes the mean over tokens.

    X = S + attention(LN(S), LN(latents)), Y = X + feedforward(LN(X)) with GEGLU of width 4H, mean of Y over the tokens
    that the mask allows. States (B, T, H) are queries, `latents` (R, H) keys and values, so only the mean needs a mask.
    A `pooling_mask` (B, T) among the features, where there is one, narrows the mean, such as to leave out
    instructions; the attention below still saw their tokens. A row without any token gives zeros.

    heads  must divide width; each attends with width / heads numbers, where the published model has width
    """

    config_keys: ClassVar[list[str]] = ["width", "latents", "heads"]

    def __init__(self, width: int, latents: int = 512, heads: int = 8) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}.")
        if latents < 1:
            raise ValueError(f"latents must be at least 1, got {latents}.")
        self.width, self.latents, self.heads = width, latents, heads
        self.dictionary = nn.Parameter(torch.randn(latents, width))
        self.norm_states, self.norm_latents, self.norm_between = (nn.LayerNorm(width) for _ in range(3))
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.widening = nn.Linear(width, 8 * width)
        self.narrowing = nn.Linear(4 * width, width)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `sentence_embedding` (B, H) from `token_embeddings` and `attention_mask`."""
        states: Tensor = features["token_embeddings"]
        mask = features["attention_mask"].to(states.dtype)
        if "pooling_mask" in features:
            mask = mask * features["pooling_mask"].to(states.dtype)
        read = states + self._attended(states)
        gate, value = self.widening(self.norm_between(read)).chunk(2, dim=-1)
        read = read + self.narrowing(value * functional.gelu(gate))
        # Padding may hold numbers that are not finite, which times 0 would stay so.
        summed = read.masked_fill(mask.unsqueeze(-1) == 0, 0.0).sum(dim=1)
        features["sentence_embedding"] = summed / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return features

    def _attended(self, states: Tensor) -> Tensor:
        batch, tokens, _ = states.shape
        query = self._split(self.query(self.norm_states(states)))
        key, value = self.key_value(self.norm_latents(self.dictionary)).chunk(2, dim=-1)
        keys, values = (self._split(part.unsqueeze(0)).expand(batch, -1, -1, -1) for part in (key, value))
        found = functional.scaled_dot_product_attention(query, keys, values)
        joined: Tensor = self.output(found.transpose(1, 2).reshape(batch, tokens, self.width))
        return joined

    def _split(self, rows: Tensor) -> Tensor:
        """Return (B, heads, T, H / heads)."""
        return rows.reshape(*rows.shape[:2], self.heads, -1).transpose(1, 2)

    def get_embedding_dimension(self) -> int:
        return self.width
