"""Query likelihood through the document's end token alone, from what the index keeps of that one place.

A model that the recipe `llm_ql` taught to write queries sees a document only through its end token (arXiv:2504.05216).
All that a query needs of a document are therefore that token's keys and values in each layer, and its last state, which
tells the query's first token. They are computed when the index is built and kept as its local vectors; ranking runs the
query's tokens alone.

A vector holds, one behind the other: the place of the end token (two numbers), its last state, and layer by layer its
keys and its values. SmolLM2-135M makes 12,098 numbers of a document, 24 KB as float16.
"""

import inspect
import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retriever.encoder import (
    TITLE_RULE,
    Precision,
    TokenCounter,
    hash_tokenizer,
    hash_weights,
    length_batches,
    load_encoder,
)
from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.llm.beginnings import can_be_shared
from retriever.llm.causal import BATCH_TOKENS, load_language_model
from retriever.llm.usage import Deadline, turn
from retriever.models import resolve
from retriever.protocols import Encoder
from retriever.rerank import CHARACTERS_PER_TOKEN
from retriever.types import Document

FILE = "query_writer.json"
"""Stands beside the weights of a model that may be used so."""

# A place is kept as two numbers that float16 holds exactly.
PLACE_BASE = 1024

# Tokens of queries whose logits are computed at a time: some 100 MB of them.
LOGIT_ROWS = 512


class QueryWriter(BaseModel):
    """How a model was taught to write queries: what stands before documents, and how much is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    document_prompt: str = ""
    document_tokens: int = Field(ge=4, le=8192)
    query_tokens: int = Field(ge=2, le=8192)


def is_query_writer(folder: Path) -> bool:
    return (folder / FILE).is_file()


def save_query_writer(folder: Path, writer: QueryWriter) -> None:
    (folder / FILE).write_text(writer.model_dump_json(indent=1) + "\n", encoding="utf-8")


class Bottleneck:
    """Fits `retriever.protocols.Encoder`, for local vectors alone: scores are `likelihoods`, no inner products.

    The vector of a query holds its tokens' ids, the end token's last, behind how many they are.
    Safe to call from many threads; passes of the model wait for each other.
    Raises BackendUnavailable for a model of which keys and values of one place cannot be kept, such as one with sliding
    windows or a recurrent state, and InvalidInput for lengths and a prompt that do not fit the model.
    """

    def __init__(
        self, name: str | Path, *, device: str | None = None, offline: bool = False, precision: Precision = "float32"
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        folder = resolve(str(name), offline=offline)
        self.name = str(name)
        self.precision = precision
        self._writer = _read(folder)
        model, tokenizer = load_language_model(folder, AutoModelForCausalLM)
        if tokenizer.eos_token_id is None:
            raise InvalidInput(f"the tokenizer of {name} has no end token; set eos_token in its tokenizer_config.json.")
        document_tokens, query_tokens = self._writer.document_tokens, self._writer.query_tokens
        window = getattr(model.config, "max_position_embeddings", None)
        # The query's last token is told, but not read.
        if window and document_tokens + query_tokens - 1 > window:
            raise InvalidInput(
                f"{name} reads {window} tokens, fewer than the {document_tokens} of a document with the "
                f"{query_tokens} of a query but its last; lower document_tokens or query_tokens in its {FILE}."
            )
        weights = hash_weights(model)
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(where, getattr(torch, precision)).eval()
        self._batch_tokens = BATCH_TOKENS.get(self._model.device.type, BATCH_TOKENS["cpu"])
        # One pass at a time, for several would need the memory of all.
        self._lock = threading.Lock()
        self._counter = TokenCounter(tokenizer)
        self._end = int(tokenizer.eos_token_id)
        before = tokenizer("", verbose=False)["input_ids"]
        self._before: list[int] = before[:-1] if before[-1:] == [self._end] else before
        # The tokenizer may or may not add the end token by itself.
        self._uncounted = 1 + len(self._before) - len(before)
        # A blank at the prompt's end is part of the word behind it.
        alone, prompted = (len(self._counter.bare_ids(text)) for text in ("x", f"{self._writer.document_prompt}x"))
        self._prompt_tokens = prompted - alone
        if self.max_tokens < len(self._before) + 2:
            raise InvalidInput(
                f"the document_prompt of {name} leaves no room for text within its {document_tokens} tokens; "
                f"shorten it or raise document_tokens in its {FILE}."
            )
        self._fingerprint = {
            "weights": weights,
            "tokenizer": hash_tokenizer(tokenizer),
            "end": str(self._end),
            "scores": "query likelihood through the end token",
            "prompts": json.dumps({"document": self._writer.document_prompt}, ensure_ascii=False),
            "max_tokens": f"{self._writer.document_tokens} of documents, {self._writer.query_tokens} of queries",
            "title_rule": TITLE_RULE,
        }
        if "position_ids" not in inspect.signature(self._model.base_model.forward).parameters:
            raise BackendUnavailable(f"{name} cannot be told the places of tokens, so that a query cannot stand alone.")
        # A short document tells what there is to keep.
        states, layers = self._documents([[self._end]])
        self._hidden = int(states.shape[1])
        # Of keys and values, layer by layer.
        self._shapes: list[tuple[int, ...]] = [tuple(part.shape[1:]) for layer in layers for part in layer]
        if self.width <= self._writer.query_tokens:
            raise InvalidInput(
                f"{name} keeps {self.width} numbers, which do not hold the {self._writer.query_tokens} tokens of a "
                f"query; lower query_tokens in its {FILE}."
            )

    @property
    def width(self) -> int:
        return 2 + self._hidden + sum(map(math.prod, self._shapes))

    @property
    def max_tokens(self) -> int:
        """Tokens that are read of a document, the prompt's not counted."""
        return self._writer.document_tokens - self._prompt_tokens

    @property
    def max_query_tokens(self) -> int:
        """The same of queries."""
        return self._writer.query_tokens

    def fingerprint(self) -> dict[str, str]:
        """Return weights, tokenizer, end token, prompt and lengths; precision and device are not among them."""
        return dict(self._fingerprint)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text with the end token, without truncation and without the prompt."""
        return [count + self._uncounted for count in self._counter.count(texts)]

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(queries), self.width), np.float32)
        for vector, query in zip(vectors, queries, strict=True):
            ids = self._query(query)
            vector[: len(ids) + 1] = [len(ids), *ids]
        return vectors

    def encode_documents(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        import torch

        vectors = np.zeros((len(documents), self.width), np.float32)
        rows = [self._document(document.content) for document in documents]
        for batch in length_batches(list(map(len, rows)), self._batch_tokens):
            with turn(self._lock, Deadline()), torch.inference_mode():
                states, layers = self._documents([rows[place] for place in batch])
                parts = [states, *(part.flatten(1) for layer in layers for part in layer)]
                vectors[batch, 2:] = torch.cat(parts, 1).float().cpu().numpy()
            vectors[batch, :2] = [divmod(len(rows[place]) - 1, PLACE_BASE) for place in batch]
        return vectors

    def likelihoods(
        self, query: NDArray[np.float32], documents: NDArray[np.float32], deadline: Deadline
    ) -> NDArray[np.float32]:
        """Return (n,) log p(query | document) of vectors (W,) and (n, W), the query's end token included.

        Raises OutOfTime, also where other callers keep the model busy until then, and ModelFault for a number that is
        not finite.
        """
        import torch

        ids = query[1 : 1 + int(query[0])].astype(np.int64).tolist()
        ends = documents[:, 0] * PLACE_BASE + documents[:, 1]
        if not ((ends >= 0) & (ends < self._writer.document_tokens)).all():
            raise ModelFault("what the index keeps of a document is damaged; run `retriever index verify`.")
        scores = np.empty(len(documents), np.float32)
        step = max(1, LOGIT_ROWS // len(ids))
        for start in range(0, len(documents), step):
            with turn(self._lock, deadline), torch.inference_mode():
                logits = self._logits(ids, documents[start : start + step])
                found = torch.log_softmax(logits, -1).gather(
                    2, torch.tensor(ids, device=logits.device).expand(len(logits), -1)[:, :, None]
                )
                scores[start : start + step] = found[:, :, 0].double().sum(1).cpu().numpy()
        if not np.isfinite(scores).all():
            raise ModelFault(f"{self.name} gave a likelihood that is not finite.")
        return scores

    def _query(self, text: str) -> list[int]:
        text = text[: CHARACTERS_PER_TOKEN * self._writer.query_tokens]
        return [*self._counter.bare_ids(text)[: self._writer.query_tokens - 1], self._end]

    def _document(self, text: str) -> list[int]:
        text = self._writer.document_prompt + text[: CHARACTERS_PER_TOKEN * self._writer.document_tokens]
        room = self._writer.document_tokens - len(self._before) - 1
        return [*self._before, *self._counter.bare_ids(text)[:room], self._end]

    def _documents(self, rows: Sequence[list[int]]) -> tuple[Any, list[tuple[Any, Any]]]:
        """Return the end tokens' last states (n, H), and for each layer their keys and values (n, heads, size)."""
        import torch

        lengths = [len(row) for row in rows]
        ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        device = self._model.device
        with torch.inference_mode():
            made = self._model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=True)
        if not can_be_shared(getattr(made, "past_key_values", None)):
            raise BackendUnavailable(
                f"{self.name} keeps no keys and values of single places; rank by its likelihoods without an index."
            )
        places = torch.arange(len(rows), device=device), torch.tensor(lengths, device=device) - 1
        layers = made.past_key_values.layers
        kept = [(layer.keys[places[0], :, places[1]], layer.values[places[0], :, places[1]]) for layer in layers]
        return made.last_hidden_state[places], kept

    def _logits(self, ids: Sequence[int], documents: NDArray[np.float32]) -> Any:
        """Return (n, Q, V) float32 logits that tell the Q tokens of a query."""
        import torch
        from transformers import DynamicCache

        device, dtype = self._model.device, self._model.dtype
        vectors = torch.from_numpy(documents).to(device)
        ends = (vectors[:, 0] * PLACE_BASE + vectors[:, 1]).long()
        at = 2 + self._hidden
        states = vectors[:, None, 2:at].to(dtype)
        if len(ids) > 1:
            cache = DynamicCache()
            parts = []
            for shape in self._shapes:
                part = vectors[:, at : at + math.prod(shape)].to(dtype)
                parts.append(part.reshape(len(part), *shape).unsqueeze(2))
                at += math.prod(shape)
            for layer in range(len(parts) // 2):
                cache.update(parts[2 * layer], parts[2 * layer + 1], layer)
            asked = torch.tensor(ids[:-1], device=device).expand(len(vectors), -1)
            places = ends[:, None] + torch.arange(1, len(ids), device=device)
            made = self._model.base_model(
                input_ids=asked,
                attention_mask=torch.ones(len(vectors), len(ids), dtype=torch.long, device=device),
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            )
            states = torch.cat([states, made.last_hidden_state], 1)
        return self._model.get_output_embeddings()(states).float()


def _read(folder: Path) -> QueryWriter:
    try:
        return QueryWriter.model_validate_json((folder / FILE).read_bytes())
    except OSError as error:
        raise BackendUnavailable(f"{folder} is no model that writes queries through one token: {error}") from error
    except ValidationError as error:
        raise BackendUnavailable(f"{folder / FILE} is damaged: {error}") from error


def load_local_encoder(
    name: str | Path, *, device: str | None = None, precision: Precision = "float32", offline: bool = False
) -> Encoder:
    """Return what makes an index's local vectors: a `Bottleneck` where the folder is one, else a bi-encoder.

    Raises BackendUnavailable.
    """
    if is_query_writer(resolve(str(name), offline=offline)):
        return Bottleneck(name, device=device, offline=offline, precision=precision)
    return load_encoder(name, device=device, precision=precision, offline=offline)
