"""Sign codes of documents, learned with the encoder: BPR, arXiv:2106.00882."""

from typing import Any, ClassVar, Literal

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

Slope = Literal["tanh", "straight-through"]


class SignHead(Module):
    """Turns a document's embedding into +1 and -1, 0 into +1; a query's stays as it is.

    What is not finite becomes NaN: a sign would hide that the document has no usable embedding.

    slope  how training sees through the step: "tanh" of beta times the embedding, where beta grows and in the end
           is the step itself, or "straight-through", the step with the gradient of the identity
    scale  what training multiplies embeddings by before the step, so that tanh bends: sqrt(H) for those of unit
           length, whose numbers are small; no sign depends on it
    beta   1 at the start; training sets it, see `training.schedules`
    """

    config_keys: ClassVar[list[str]] = ["width", "slope", "scale"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(self, width: int, slope: Slope = "tanh", scale: float = 1.0) -> None:
        super().__init__()
        if slope not in ("tanh", "straight-through"):
            raise ValueError(f"slope must be tanh or straight-through, got {slope!r}.")
        self.width = width
        self.slope = slope
        self.scale = scale
        self.beta = 1.0

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Replace a document's `sentence_embedding`; in training by its soft form."""
        if (task or features.get("task")) != "query":
            features["sentence_embedding"] = self.codes(features["sentence_embedding"])
        return features

    def codes(self, embeddings: Tensor) -> Tensor:
        """Return the codes of (N, H) embeddings; in training soft ones, that gradients pass."""
        signs = torch.where(embeddings >= 0, 1.0, -1.0)
        hard = torch.where(embeddings.isfinite(), signs, torch.nan).to(embeddings.dtype)
        if not self.training:
            return hard
        scaled = self.scale * embeddings
        if self.slope == "tanh":
            return torch.tanh(self.beta * scaled)
        return hard + scaled - scaled.detach()

    def get_embedding_dimension(self) -> int:
        return self.width

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
