"""A small residual on frozen embeddings: x + f(x), another one for queries and for documents.

After "Adapted Dense Retrieval" (arXiv:2310.05380), whose exact f is not public: both of its likely forms are here.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from retriever.errors import InvalidInput
from retriever.heads.saved import SavedModule

Form = Literal["linear", "lookup", "full"]
Sides = Literal["query", "both"]


class Residual(nn.Module):
    """f(x) for embeddings of a width; zero at the start, so that nothing is changed before training.

    form  "linear": B(Ax) of a rank; "lookup": softmax(xK)V with as many slots; "full": a whole matrix
    """

    def __init__(self, width: int, rank: int, form: Form) -> None:
        super().__init__()
        self.form = form
        if form == "full":
            self.up = nn.Parameter(torch.zeros(width, width))
            return
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return f of (N, H)."""
        if self.form == "full":
            return embeddings @ self.up
        inner = embeddings @ self.down.T
        if self.form == "lookup":
            inner = torch.softmax(inner, dim=1)
        return inner @ self.up


class AdapterHead(SavedModule):
    """Adds the residual of its side to `sentence_embedding`.

    rank   of the residual, or its slots; a "full" one has none
    sides  "query" leaves documents as they are, so that an index stays valid; "both" has one residual for each side
    """

    config_keys: ClassVar[list[str]] = ["width", "rank", "form", "sides"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(self, width: int, rank: int = 32, form: Form = "linear", sides: Sides = "query") -> None:
        super().__init__()
        if form not in ("linear", "lookup", "full") or sides not in ("query", "both"):
            raise InvalidInput(f"an adapter is linear, lookup or full, for query or both; got {form!r}, {sides!r}.")
        if form != "full" and not 1 <= rank < width:
            raise InvalidInput(f"the rank must lie in 1 to {width - 1}, below the width; got {rank}.")
        self.width, self.rank, self.form, self.sides = width, rank, form, sides
        self.query = Residual(width, rank, form)
        self.document = Residual(width, rank, form) if sides == "both" else None

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Replace `sentence_embedding`; a text that is no query counts as a document."""
        side: Literal["query", "document"] = "query" if (task or features.get("task")) == "query" else "document"
        features["sentence_embedding"] = self.adapted(features["sentence_embedding"], side)
        return features

    def adapted(self, embeddings: Tensor, side: Literal["query", "document"]) -> Tensor:
        """Return (N, H) embeddings of one side with their residual."""
        residual = self.query if side == "query" else self.document
        return embeddings if residual is None else embeddings + residual(embeddings)

    def get_embedding_dimension(self) -> int:
        return self.width
