"""Product-quantised documents, whose centroids are learned with the encoder: JPQ, arXiv:2108.00644."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retriever.codebook import CENTROIDS, Codebook
from retriever.heads.saved import SavedModule


class ProductHead(SavedModule):
    """Rotates embeddings, and puts a centroid in the place of each part of a document's.

    rotation   buffer (H, H)
    assigning  buffer (M, 256, H / M): the centroids that decide the code, those before training
    centroids  parameter (M, 256, H / M): what a code stands for

    Codes stay what they were while centroids are trained; new documents get theirs by the same rule, as in JPQ.
    With `continuous` set, training gets documents rotated only, for losses that quantise themselves; `settle` then
    lets the trained centroids decide the codes.
    """

    config_keys: ClassVar[list[str]] = ["width", "parts"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.width = width
        self.parts = parts
        self.continuous = False
        shape = (parts, CENTROIDS, width // parts)
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("assigning", torch.zeros(shape))
        self.centroids = nn.Parameter(torch.zeros(shape))

    @classmethod
    def of(cls, codebook: Codebook) -> "ProductHead":
        """Return a head that quantises as the codebook does."""
        head = cls(codebook.width, codebook.parts)
        head.rotation.copy_(torch.from_numpy(codebook.rotation))
        head.assigning.copy_(torch.from_numpy(codebook.centroids))
        with torch.no_grad():
            head.centroids.copy_(torch.from_numpy(codebook.centroids))
        return head

    @property
    def codebook(self) -> Codebook:
        """Return rotation and the centroids as they are, which stand for codes."""
        return Codebook(
            self.rotation.detach().cpu().float().numpy().copy(), self.centroids.detach().cpu().float().numpy().copy()
        )

    @property
    def assigning_codebook(self) -> Codebook:
        """Return rotation and the centroids that decide codes."""
        return Codebook(self.rotation.cpu().float().numpy().copy(), self.assigning.cpu().float().numpy().copy())

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` by the rotated query, or the rotated document after quantisation.

        A document whose embedding is not finite becomes NaN: centroids would hide that it has no usable one.
        """
        turned = self.rotated(features["sentence_embedding"])
        if (task or features.get("task")) != "query" and not (self.training and self.continuous):
            finite = turned.isfinite().all(dim=1, keepdim=True)
            turned = torch.where(finite, self.decode(self.assign(turned)), torch.nan).to(turned.dtype)
        features["sentence_embedding"] = turned
        return features

    def settle(self) -> None:
        """Make the centroids as they are now those that decide codes."""
        self.assigning.copy_(self.centroids.detach())

    def rotated(self, embeddings: Tensor) -> Tensor:
        """Return (N, H) embeddings in the space of the centroids."""
        turned: Tensor = embeddings @ self.rotation.to(embeddings.dtype).T
        return turned

    def assign(self, turned: Tensor) -> Tensor:
        """Return int64 (N, M), the nearest assigning centroid of each part of rotated embeddings."""
        parts = turned.detach().float().reshape(len(turned), self.parts, -1).transpose(0, 1)
        assigning = self.assigning.float()
        distances = (assigning**2).sum(dim=2).unsqueeze(1) - 2 * parts @ assigning.transpose(1, 2)
        codes: Tensor = distances.argmin(dim=2).T
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return (N, H), what codes int64 (N, M) stand for; gradients reach the centroids."""
        part = torch.arange(self.parts, device=codes.device)
        return self.centroids[part, codes].reshape(len(codes), self.width)

    def get_embedding_dimension(self) -> int:
        return self.width
