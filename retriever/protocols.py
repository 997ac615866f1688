"""What a pipeline asks of its parts. Pass any object that fits."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from retriever.types import Document


@runtime_checkable
class Encoder(Protocol):
    """Maps text to vectors; larger inner products are better."""

    @property
    def width(self) -> int:
        """Length H of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens, special tokens included; what is over is cut off and counted."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return one hash or value for each part of the recipe that changes vectors, by part's name."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included, without truncation."""
        ...

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return (Q, H)."""
        ...

    def encode_documents(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        """Return (D, H), in the order given."""
        ...


@runtime_checkable
class TermEncoder(Protocol):
    """Maps text to weights of terms (learned sparse vectors); larger inner products are better."""

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens, special tokens included; what is over is cut off and counted."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return one hash or value for each part of the recipe that changes weights, by part's name."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included, without truncation."""
        ...

    def encode_queries(self, queries: Sequence[str]) -> list[dict[str, float]]:
        """Return for each query its terms with their weights, all above 0."""
        ...

    def encode_documents(self, documents: Sequence[Document]) -> list[dict[str, float]]:
        """Return for each document, in the order given, its terms with their weights, all above 0."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """Scores a query against documents, all at once."""

    @property
    def name(self) -> str: ...

    def score(self, query: str, documents: Sequence[Document]) -> tuple[NDArray[np.float32], int]:
        """Return ((D,) scores, larger is better; how many documents were cut to the model's length)."""
        ...
