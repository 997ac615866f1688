"""Late-interaction encoders: a sentence-transformers MultiVectorEncoder (ColBERT and its kin), a vector a token."""

import copy
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retriever.encoder import TokenCounter, length_batches, recipe_of, sharing_weights
from retriever.errors import BackendUnavailable
from retriever.progress import without_transformers_bars
from retriever.types import Document

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def load_multi_vector_encoder(
    name: str | Path, *, device: str | None = None, offline: bool = False
) -> "TokenVectorEncoder":
    """Load a multi-vector encoder by folder or hub name, PyLate's and Stanford's forms included.

    Raises BackendUnavailable when the name cannot be resolved or loaded.
    """
    from sentence_transformers import MultiVectorEncoder

    from retriever.models import resolve

    folder = resolve(str(name), offline=offline)
    try:
        with without_transformers_bars():
            model = MultiVectorEncoder(str(folder), device=device, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is not a multi-vector sentence-transformers model: {error}") from error
    return TokenVectorEncoder(model, name=str(name))


class TokenVectorEncoder:
    """Gives several vectors for each query and document, compared by MaxSim. Threads wait for each other."""

    def __init__(self, model: "MultiVectorEncoder", *, name: str) -> None:
        self.name = name
        self.model = model.eval()
        first: Any = model[0]
        self._expansion: dict[str, Any] | None = getattr(first, "query_expansion", None)
        self._query_length: int | None = getattr(first, "query_length", None)
        self._document_length: int | None = getattr(first, "document_length", None)
        self._fingerprint = recipe_of(model, "none") | {"token_vectors": self._recipe()}
        self._batch_tokens = 65536 if model.device.type == "cuda" else 4096
        self._lock = threading.RLock()
        self._counter = TokenCounter(model.tokenizer)
        query, document = (self._prompt_tokens(names) for names in (("query",), ("document", "passage", "corpus")))
        whole = int(model.max_seq_length or 512)
        expansion = self._expansion or {}
        fixed: int | None = expansion["length"] if expansion.get("strategy") == "fixed" else None
        self._query_prompt, self._document_prompt = query, document
        self._max_query_tokens = (fixed or self._query_length or whole) - query
        self._max_tokens = (self._document_length or whole) - document

    def _prompt_tokens(self, names: Sequence[str]) -> int:
        """Return how many tokens the prompt of a side takes from each text."""
        prompt = next((self.model.prompts[name] for name in names if self.model.prompts.get(name)), "")
        none, some = self._counter.count(["", prompt])
        return some - none

    def _recipe(self) -> str:
        """Return what decides which tokens have a vector, beyond what all models have."""
        masks = [module.get_config_dict() for module in self.model if hasattr(module, "skiplist_words")]
        lengths = {"query": self._query_length, "document": self._document_length, "expansion": self._expansion}
        return json.dumps({**lengths, "masks": masks}, sort_keys=True, ensure_ascii=False)

    @property
    def width(self) -> int:
        """Length H of each vector."""
        width = self.model.get_embedding_dimension()
        assert width is not None
        return int(width)

    @property
    def max_tokens(self) -> int:
        """Longest document in tokens, special tokens included, beside the prompt."""
        return self._max_tokens

    @property
    def max_query_tokens(self) -> int:
        """Longest query in tokens, special tokens included, beside the prompt."""
        return self._max_query_tokens

    @property
    def min_query_tokens(self) -> int:
        """Tokens that every query is filled up to, prompt included; all have vectors. 0 without query expansion."""
        return 0 if self._expansion is None else int(self._expansion["length"])

    @property
    def device_type(self) -> str:
        """Where the model runs: "cpu", "cuda", ..."""
        return str(self.model.device.type)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass at most."""
        return self._batch_tokens

    def replica(self) -> "TokenVectorEncoder":
        """Return an encoder over the same weights that can work at the same time as this one."""
        twin = copy.copy(self)
        twin.model = sharing_weights(self.model)
        twin._lock = threading.RLock()
        return twin

    def fingerprint(self) -> dict[str, str]:
        """Return the parts of the recipe that change vectors, see `retriever.encoder.DenseEncoder.fingerprint`."""
        return dict(self._fingerprint)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text without truncation, special tokens included."""
        return self._counter.count(texts)

    def computed_query_tokens(self, counts: Sequence[int]) -> list[int]:
        """Return the tokens computed for queries of so many, prompt and expansion included."""
        longest, prompt, least = self.max_query_tokens, self._query_prompt, self.min_query_tokens
        return [max(least, min(count, longest) + prompt) for count in counts]

    def computed_document_tokens(self, counts: Sequence[int]) -> list[int]:
        """Return the tokens computed for documents of so many, prompt included."""
        return [min(count, self.max_tokens) + self._document_prompt for count in counts]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, see `retriever.encoder.DenseEncoder.text_of`."""
        return self._counter.text_of(ids)

    def encode_queries(self, queries: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return (S, H) of each query, S tokens that are scored; prompt, length and expansion are the model's."""
        return self._encode(queries, self.model.encode_query, self.computed_query_tokens)

    def encode_documents(self, documents: Sequence[Document]) -> list[NDArray[np.float32]]:
        """Return (T, H) of each document, in the order given; tokens that the model leaves out have no vector."""
        texts = [document.content for document in documents]
        return self._encode(texts, self.model.encode_document, self.computed_document_tokens)

    def _encode(
        self, texts: Sequence[str], encode: Any, computed: Callable[[Sequence[int]], list[int]]
    ) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = [np.zeros((0, self.width), np.float32)] * len(texts)
        for batch in length_batches(computed(self.count_tokens(texts)), self._batch_tokens):
            with self._lock:
                rows = encode(
                    [texts[i] for i in batch], batch_size=len(batch), show_progress_bar=False, convert_to_numpy=True
                )
            for place, row in zip(batch, rows, strict=True):
                found[place] = row.astype(np.float32)
        return found
