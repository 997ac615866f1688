"""Pooling over all layers of a model by trained latents: arXiv:2409.02727."""

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from retriever.heads.cross_attention import CrossAttention
from retriever.heads.mask import pooled_tokens
from retriever.heads.saved import SavedModule

Summary = Literal["last", "mean"]


class MultiLayerPooling(SavedModule):
    """Lets trained latents look at one state of each layer, and takes the mean over latents.

    A layer's state is that of the last token or the mean over tokens, plus an embedding of the layer's number; the
    embeddings below the first layer are none. The latents (R, H) ask, the layers (L, H) are asked, the other way
    round than in `LatentAttentionPooling`. Reads `all_layer_embeddings`, which the module before it gives where its
    model's configuration has `output_hidden_states`. Masks decide what is a token, not ids: an end token that is also
    the padding token counts. A row without any token gives a vector that hangs on no text.

    layers          how many the model has
    summary         "last" for causal attention, "mean" for attention to both sides
    heads           must divide width
    include_prompt  whether the prompt's tokens are in the mean; the last token is none of them
    """

    config_keys: ClassVar[list[str]] = ["width", "layers", "summary", "latents", "heads", "include_prompt"]

    def __init__(
        self,
        width: int,
        layers: int,
        summary: Summary = "last",
        latents: int = 768,
        heads: int = 8,
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        if summary not in get_args(Summary):
            raise ValueError(f"summary must be one of {', '.join(get_args(Summary))}, got {summary!r}.")
        if layers < 1 or latents < 1:
            raise ValueError(f"layers and latents must be at least 1, got {layers} and {latents}.")
        self.width, self.layers, self.latents, self.heads = width, layers, latents, heads
        self.summary, self.include_prompt = summary, include_prompt
        self.numbers = nn.Parameter(torch.zeros(layers, width))
        self.dictionary = nn.Parameter(torch.randn(latents, width))
        self.attention = CrossAttention(width, heads)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `sentence_embedding` (B, H) from `all_layer_embeddings`, `attention_mask` and `prompt_length`.

        Raises ValueError where the states of all layers are not there.
        """
        states = features.get("all_layer_embeddings")
        if states is None or len(states) != self.layers + 1:
            raise ValueError(
                f"the pooling reads the states of {self.layers} layers and the embeddings below them, got "
                f"{0 if states is None else len(states)}; set output_hidden_states in the model's configuration."
            )
        mask = pooled_tokens(features, self.include_prompt)
        rows = torch.stack([self._summary(layer, mask) for layer in states[1:]], dim=1)  # (B, L, H)
        features["sentence_embedding"] = self.attention(self.dictionary.unsqueeze(0), rows + self.numbers).mean(1)
        return features

    def _summary(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return (B, H) of one layer's (B, T, H)."""
        if self.summary == "mean":
            # Padding may hold numbers that are not finite, which times 0 would stay so.
            summed = states.masked_fill(mask.unsqueeze(-1) == 0, 0.0).sum(dim=1)
            return summed / mask.sum(dim=1, keepdim=True).clamp(min=1).to(states.dtype)
        places = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask > 0, places, 0).amax(dim=1)
        return states[torch.arange(len(states), device=mask.device), last]

    def get_embedding_dimension(self) -> int:
        return self.width
