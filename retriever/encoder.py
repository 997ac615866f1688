"""The bi-encoder: a sentence-transformers model with its whole recipe bound to it."""

import copy
import functools
import hashlib
import itertools
import json
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.progress import without_transformers_bars
from retriever.types import Document

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from retriever.codebook import Codebook

Precision = Literal["float32", "bfloat16"]

# The part of a fingerprint that documents' vectors do not depend on.
QUERY_ADAPTER = "query_adapter"

# What turns a document into the text that is encoded; part of the fingerprint.
TITLE_RULE = "title + space + text"

# What a tokeniser is given at once: it makes some hundred bytes of each token, and a shard has millions.
COUNTED_TEXTS = 1_024
COUNTED_CHARACTERS = 1_000_000


def load_encoder(
    name: str | Path,
    *,
    device: str | None = None,
    precision: Precision = "float32",
    offline: bool = False,
) -> "DenseEncoder":
    """Load a sentence-transformers model by folder, hub name or pinned name.

    precision  "bfloat16" casts the weights: about four times faster on CPUs with bf16 units, vectors at
               cosine 0.9999 of float32
    Raises BackendUnavailable when the name cannot be resolved or loaded.
    """
    from retriever.heads import open_model
    from retriever.models import resolve

    folder = resolve(str(name), offline=offline)
    try:
        with without_transformers_bars():
            model = open_model(folder, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is not a sentence-transformers model: {error}") from error
    return DenseEncoder(model, name=str(name), precision=precision)


class DenseEncoder:
    """Encodes queries and documents; fits `retriever.protocols.Encoder`. Threads wait for each other."""

    def __init__(self, model: "SentenceTransformer", *, name: str, precision: Precision = "float32") -> None:
        import torch

        self.name = name
        self.precision = precision
        self.model = model.eval()
        self._normalise = model.similarity_fn_name in (None, "cosine")
        self._fingerprint = recipe_of(model, "unit length" if self._normalise else "none")
        if precision == "bfloat16":
            model.to(torch.bfloat16)
        self._batch_tokens = 65536 if model.device.type == "cuda" else 4096
        # A fast tokenizer holds truncation and padding as state, which threads would change under each other.
        self._lock = threading.RLock()
        self._counter = TokenCounter(model.tokenizer)

    @property
    def width(self) -> int:
        width = self.model.get_embedding_dimension()
        assert width is not None
        return int(width)

    @property
    def max_tokens(self) -> int:
        return int(self.model.max_seq_length or 512)

    def replica(self) -> "DenseEncoder":
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

    @property
    def codes(self) -> "Codebook | Literal['sign'] | None":
        """How documents are compressed by the model itself: to signs, by a codebook, or not at all.

        The vectors of `encode_documents` are then what codes stand for, and those of queries are in the same space.
        """
        from retriever.heads.product import ProductHead
        from retriever.heads.sign import SignHead

        for module in self.model.modules():
            if isinstance(module, SignHead):
                return "sign"
            if isinstance(module, ProductHead):
                return module.codebook
        return None

    @property
    def normalises(self) -> bool:
        """Whether every vector has unit length."""
        return self._normalise

    def fingerprint(self) -> dict[str, str]:
        """Return the parts of the recipe that change vectors: weights, tokenizer, prompts, pooling,
        normalisation, maximum length and title rule. Where the model lies is not among them."""
        return dict(self._fingerprint)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text without truncation, special tokens included.

        Memory is that of the counts and of COUNTED_CHARACTERS of text, or of the longest text where that is more.
        """
        return self._counter.count(texts)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (T, H) vectors of texts as they are, without any prompt."""
        return self._encode(texts, functools.partial(self.model.encode, prompt=""))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens.

        Raises InvalidInput when this model's tokenizer does not give these very ids for that text: then they come
        from another tokenizer, and the text would be another one than was meant.
        """
        return self._counter.text_of(ids)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return (Q, H) vectors; the model's query prompt is applied."""
        return self._encode(queries, self.model.encode_query)

    def encode_documents(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        """Return (D, H) vectors in the order given; the model's document prompt is applied."""
        return self._encode([document.content for document in documents], self.model.encode_document)

    def _encode(self, texts: Sequence[str], encode: Any) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.width), np.float32)
        lengths = [min(count, self.max_tokens) for count in self.count_tokens(texts)]
        for batch in length_batches(lengths, self._batch_tokens):
            with self._lock:
                part = encode(
                    [texts[i] for i in batch],
                    batch_size=len(batch),
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
            vectors[batch] = part.astype(np.float32)
        if self._normalise:
            # Again in float32: a bfloat16 model's own normalisation leaves lengths off by a few thousandths.
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(norms > 0, norms, 1)
        return vectors


def sharing_weights(model: Any) -> Any:
    """Return a copy of a model with a tokenizer of its own and the very weights of the original."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class TokenCounter:
    """Counts tokens beside a model that is busy, on tokenizers of its own; threads do not wait for each other."""

    def __init__(self, tokenizer: Any) -> None:
        self._original = copy.deepcopy(tokenizer)
        self._idle: list[Any] = []

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """Lend a tokenizer that nobody else uses, for it holds truncation and padding as state."""
        try:
            tokenizer = self._idle.pop()
        except IndexError:
            tokenizer = copy.deepcopy(self._original)
        try:
            yield tokenizer
        finally:
            self._idle.append(tokenizer)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, see `DenseEncoder.count_tokens`."""
        counts: list[int] = []
        for batch in _portions(texts):
            counts += map(len, self._ids(batch))
        return counts

    def count_pairs(self, first: str, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of `first` with each text behind it, special tokens included."""
        counts: list[int] = []
        for batch in _portions(texts):
            counts += map(len, self._ids([first] * len(batch), batch))
        return counts

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, see `DenseEncoder.text_of`."""
        size = len(self._original)
        if not all(0 <= number < size for number in ids):
            raise InvalidInput(
                f"token ids of this model go from 0 to {size - 1}; other tokenizers' do not fit, send text."
            )
        with self._borrowed() as tokenizer:
            text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
            again = tokenizer(text, truncation=False, padding=False, add_special_tokens=False, verbose=False)
        if again["input_ids"] != list(ids):
            raise InvalidInput(
                "these token ids are not what this model's tokenizer makes of any text; send text, or ids of its own "
                "tokenizer without special tokens."
            )
        return text

    def cut(self, text: str, tokens: int) -> str:
        """Return the beginning of a text that has at most so many tokens, special tokens not counted."""
        with self._borrowed() as tokenizer:
            encoded = tokenizer(
                text, truncation=False, padding=False, add_special_tokens=False, return_offsets_mapping=True,
                verbose=False,
            )  # fmt: skip
        offsets = encoded["offset_mapping"]
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]

    def bare_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens and without truncation."""
        with self._borrowed() as tokenizer:
            encoded = tokenizer(text, truncation=False, padding=False, add_special_tokens=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _ids(self, *batches: list[str]) -> list[list[int]]:
        # verbose=False: lengths beyond the model's are what is asked for.
        with self._borrowed() as tokenizer:
            encoded = tokenizer(
                *batches,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def length_batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Yield positions in batches of similar length and at most so many tokens, so that little is padding."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # The newest is the longest, so its length is the padded one.
        if batch and (len(batch) + 1) * lengths[position] > most_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    characters = 0
    for text in texts:
        if portion and (len(portion) == COUNTED_TEXTS or characters + len(text) > COUNTED_CHARACTERS):
            yield portion
            portion, characters = [], 0
        portion.append(text)
        characters += len(text)
    if portion:
        yield portion


def recipe_of(model: Any, normalisation: str) -> dict[str, str]:
    """Return the fingerprint of a sentence-transformers model: see `DenseEncoder.fingerprint`.

    An adapter of queries alone at its end is a part of its own, QUERY_ADAPTER; the others are those of the model
    without it, whose documents have the same vectors.
    """
    adapter = _query_adapter(model)
    shared = {name: module for name, module in model.named_children() if module is not adapter}
    prompts = {
        side: next((model.prompts[name] for name in names if model.prompts.get(name)), "")
        for side, names in {"query": ("query",), "document": ("document", "passage", "corpus")}.items()
    }
    return {
        "weights": hash_weights(model, shared),
        "tokenizer": hash_tokenizer(model.tokenizer),
        "modules": " > ".join(_describe_module(module) for module in shared.values()),
        "prompts": json.dumps(prompts, sort_keys=True, ensure_ascii=False),
        "normalisation": normalisation,
        "max_tokens": str(model.max_seq_length),
        "title_rule": TITLE_RULE,
    } | ({QUERY_ADAPTER: hash_weights(adapter)} if adapter is not None else {})


def _query_adapter(model: Any) -> Any:
    """Return the module at a model's end that changes queries alone, None without one."""
    from retriever.heads.adapter import AdapterHead

    last = list(model)[-1]
    return last if isinstance(last, AdapterHead) and last.sides == "query" else None


def hash_weights(model: Any, parts: Collection[str] | None = None) -> str:
    """Return a sha256 over the names, shapes and numbers of a model's weights.

    parts  names of the modules that count; None for all
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if parts is not None and name.partition(".")[0] not in parts:
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:
    """Return a sha256 over a fast tokenizer's rules. Raises InvalidInput for another one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InvalidInput(f"{type(tokenizer).__name__} is not a fast tokenizer; convert it to tokenizer.json.")
    content = json.loads(backend.to_str())
    # These two are state that every call changes, not part of the recipe.
    content.pop("truncation", None)
    content.pop("padding", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe_module(module: Any) -> str:
    name = type(module).__name__
    if getattr(module, "include_prompt", True) is False:
        name = f"{name} without the prompt"
    if hasattr(module, "get_pooling_mode_str"):
        return f"{name}({module.get_pooling_mode_str()})"
    if hasattr(module, "long_context"):
        return f"{name}({module.long_context.describe()})"
    return name


def differences(expected: dict[str, str], got: dict[str, str]) -> list[str]:
    """Return a sentence for each part in which two fingerprints differ; what adapts queries alone is none of them."""
    return [
        f"{part}: the index has {_short(expected.get(part))}, the encoder has {_short(got.get(part))}"
        for part in sorted((expected.keys() | got.keys()) - {QUERY_ADAPTER})
        if expected.get(part) != got.get(part)
    ]


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return f"{value[:12]}…" if is_digest else repr(value)


CANARY_TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "how long does it take for an index to be built",
    "Deoxyribonucleic acid carries genetic instructions for growth and reproduction.",
    "def parse(line: str) -> list[int]: return [int(part) for part in line.split(',')]",
    "Le café de la gare ouvre à 7 h 30; the fee is €4.50.",
    "42",
]
"""Texts whose vectors are stored with an index, to notice what no hash can see."""

# 1 - cosine between a stored canary vector and a fresh one; bfloat16 against float32 differs by 1e-4.
CANARY_TOLERANCE = 1e-3
# For documents as the model's own codes: bfloat16 flips some half a percent of sign bits, which gives 1e-2.
CODE_TOLERANCE = 5e-2


def encode_canaries(encoder: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return (2, C, H): the texts encoded as queries and as documents."""
    documents = [Document(id=str(i), text=text) for i, text in enumerate(texts)]
    return np.stack([encoder.encode_queries(texts), encoder.encode_documents(documents)])


def canary_drift(stored: NDArray[np.float32], fresh: NDArray[np.float32]) -> float:
    """Return the largest 1 - cosine between stored and fresh canary vectors."""
    norms = np.linalg.norm(stored, axis=-1) * np.linalg.norm(fresh, axis=-1)
    return float(np.max(1 - (stored * fresh).sum(-1) / np.where(norms > 0, norms, 1)))
