"""Learned sparse encoders: a sentence-transformers SparseEncoder (SPLADE, inference-free and their kin)."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retriever.encoder import TokenCounter, length_batches, recipe_of, sharing_weights
from retriever.errors import BackendUnavailable
from retriever.progress import without_transformers_bars
from retriever.types import Document

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder

# Logits of 4,096 tokens for so many terms stay in the caches of a core.
VOCABULARY_PORTION = 256


def load_term_encoder(name: str | Path, *, device: str | None = None, offline: bool = False) -> "SparseTermEncoder":
    """Load a sparse encoder by folder, hub name or pinned name.

    Raises BackendUnavailable when the name cannot be resolved or is no sparse encoder.
    """
    from sentence_transformers import SparseEncoder

    from retriever.models import resolve

    folder = resolve(str(name), offline=offline)
    try:
        with without_transformers_bars():
            model = SparseEncoder(str(folder), device=device, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is not a sparse sentence-transformers model: {error}") from error
    dimension = model.get_embedding_dimension()
    if dimension is not None and dimension > len(model.tokenizer):
        raise BackendUnavailable(
            f"{folder} gives {dimension} weights but its tokenizer has {len(model.tokenizer)} terms; "
            "a model whose dimensions are not terms cannot be indexed."
        )
    return SparseTermEncoder(model, name=str(name))


def _pool_in_portions(model: "SparseEncoder") -> bool:
    """Make a SPLADE model with maximum pooling take logits and maxima a portion of the vocabulary at a time.

    The values are the same, for log and relu keep the order; faster on a CPU (benchmarks/pooling.py), since logits
    of all tokens times 30,000 terms never leave its caches, and logarithms are taken of the maxima only. Returns
    False, and changes nothing, for any other model.
    """
    import torch
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    modules = list(model)
    if len(modules) != 2 or not isinstance(modules[1], SpladePooling) or modules[1].pooling_strategy != "max":
        return False
    network = getattr(modules[0], "auto_model", None)
    if network is None:
        return False
    found = network.get_output_embeddings()
    names = [name for name, module in network.named_modules() if module is found]
    if not isinstance(found, torch.nn.Linear) or len(names) != 1:
        return False
    decoder: torch.nn.Linear = found
    twice = modules[1].activation_function == "log1p_relu"

    class PortionedPooling(torch.nn.Module):
        """Stands where SpladePooling stood, with the decoder that stood before it."""

        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            hidden = features["token_embeddings"]
            padding = features["attention_mask"].unsqueeze(-1) == 0
            padded = bool(padding.any())
            bias = self.decoder.bias
            maxima = []
            for start in range(0, self.decoder.weight.shape[0], VOCABULARY_PORTION):
                part = slice(start, start + VOCABULARY_PORTION)
                logits = torch.nn.functional.linear(
                    hidden, self.decoder.weight[part], None if bias is None else bias[part]
                )
                if padded:
                    logits = logits.masked_fill_(padding, 0.0)
                maxima.append(logits.amax(dim=1))
            weights = torch.cat(maxima, dim=1).relu_().log1p_()
            features["sentence_embedding"] = weights.log1p_() if twice else weights
            return features

    network.set_submodule(names[0], torch.nn.Identity())
    model[1] = PortionedPooling()
    return True


class SparseTermEncoder:
    """Encodes queries and documents; fits `retriever.protocols.TermEncoder`. Threads wait for each other."""

    def __init__(self, model: "SparseEncoder", *, name: str) -> None:
        self.name = name
        self.model = model.eval()
        self._fingerprint = recipe_of(model, "none")
        self._terms = model.tokenizer.convert_ids_to_tokens(list(range(len(model.tokenizer))))
        # Without portions the logits take 4 bytes for each token and each term: 120 MB for 1,024 tokens.
        in_portions = _pool_in_portions(self.model)
        self._batch_tokens = 16384 if model.device.type == "cuda" else 4096 if in_portions else 1024
        self._lock = threading.RLock()
        self._counter = TokenCounter(model.tokenizer)

    @property
    def max_tokens(self) -> int:
        return int(self.model.max_seq_length or 512)

    def fingerprint(self) -> dict[str, str]:
        """Return the parts of the recipe that change weights."""
        return dict(self._fingerprint)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text without truncation, special tokens included."""
        return self._counter.count(texts)

    def replica(self) -> "SparseTermEncoder":
        """Return an encoder over the same weights that can work at the same time as this one."""
        twin = copy.copy(self)
        twin.model = sharing_weights(self.model)
        twin._lock = threading.RLock()
        return twin

    @property
    def device_type(self) -> str:
        """Where the model runs: "cpu", "cuda", ..."""
        return str(self.model.device.type)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass at most."""
        return self._batch_tokens

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, see `retriever.encoder.DenseEncoder.text_of`."""
        return self._counter.text_of(ids)

    def encode_queries(self, queries: Sequence[str]) -> list[dict[str, float]]:
        """Return the terms of each query with their weights; the model's query prompt or module is applied."""
        return self._encode(queries, self.model.encode_query)

    def encode_documents(self, documents: Sequence[Document]) -> list[dict[str, float]]:
        """Return the terms of each document with their weights."""
        return self._encode([document.content for document in documents], self.model.encode_document)

    def _encode(self, texts: Sequence[str], encode: Any) -> list[dict[str, float]]:
        found: list[dict[str, float]] = [{} for _ in texts]
        lengths = [min(count, self.max_tokens) for count in self.count_tokens(texts)]
        for batch in length_batches(lengths, self._batch_tokens):
            with self._lock:
                weights = encode(
                    [texts[i] for i in batch],
                    batch_size=len(batch),
                    show_progress_bar=False,
                    convert_to_sparse_tensor=True,
                )
            weights = weights.float().cpu().coalesce()
            rows, columns = weights.indices().tolist()
            for row, column, weight in zip(rows, columns, weights.values().tolist(), strict=True):
                # A weight that is not a number stays: the caller counts it as unusable.
                if not weight <= 0:
                    found[batch[row]][self._terms[column]] = weight
        return found
