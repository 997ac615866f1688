"""The cross-encoder: reads query and document together and gives one score for the pair."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retriever.encoder import TokenCounter, length_batches, sharing_weights
from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.models import resolve
from retriever.models.folder import read_object
from retriever.types import Document

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Precision = Literal["float32", "bfloat16"]

# No tokenizer makes fewer tokens of real text; what lies beyond could only be cut off.
CHARACTERS_PER_TOKEN = 64

# Assumed for tokenizers that state no length of their own.
DEFAULT_MAX_TOKENS = 512


class CrossEncoderReranker:
    """Scores a query against documents with a cross-encoder; fits `retriever.protocols.Reranker`.

    model             a folder, hub name or pinned name
    device            where torch runs it; None takes the GPU if there is one
    precision         None means bfloat16 on a GPU that has it, else float32. The last layer stays float32, as
                      bfloat16 scores would tie.
    max_batch_tokens  padded tokens of one forward pass; None means 65536 on a GPU, 4096 on a CPU

    Safe to call from many threads; calls wait for each other.
    Raises InvalidInput for a model that is not a cross-encoder with one output, BackendUnavailable when it
    cannot be found or loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        offline: bool = False,
        precision: Precision | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        if precision is not None and precision not in get_args(Precision):
            raise InvalidInput(f"precision must be float32 or bfloat16, got {precision!r}.")
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise InvalidInput(f"max_batch_tokens must be at least 1, got {max_batch_tokens}.")
        self._name = str(model)
        self._model = _load(model, device, offline)
        on_gpu = self._model.device.type == "cuda"
        self.precision = precision or _default_precision(self._model.device)
        if self.precision == "bfloat16":
            _to_bfloat16(self._model)
        self.max_tokens = _max_tokens(self._model)
        self._model.max_seq_length = self.max_tokens
        self._batch_tokens = max_batch_tokens or (65536 if on_gpu else 4096)
        # A fast tokenizer holds truncation and padding as state, which threads would change under each other.
        self._lock = threading.Lock()
        self._counter = TokenCounter(self._model.tokenizer)

    @property
    def name(self) -> str:
        return self._name

    def replica(self) -> "CrossEncoderReranker":
        """Return a reranker over the same weights that can work at the same time as this one."""
        twin = copy.copy(self)
        twin._model = sharing_weights(self._model)
        twin._lock = threading.Lock()
        return twin

    @property
    def device_type(self) -> str:
        """Where the model runs: "cpu", "cuda", ..."""
        return str(self._model.device.type)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass at most."""
        return self._batch_tokens

    @property
    def max_characters(self) -> int:
        """What of a query or a document is read at most; more could only be cut off."""
        return CHARACTERS_PER_TOKEN * self.max_tokens

    def count_tokens(self, query: str, contents: Sequence[str]) -> list[int]:
        """Return the tokens of the query with each text, special tokens included, without truncation."""
        return self._counter.count_pairs(query, contents)

    def cut(self, content: str, tokens: int) -> str:
        """Return the beginning of a text that has at most so many tokens."""
        return self._counter.cut(content, tokens)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return (B,) raw logits of queries with texts, in one forward pass.

        Nothing is split or checked here: torch.OutOfMemoryError and numbers that are not finite are the caller's.
        """
        with self._lock:
            return self._forward(list(pairs))

    def score(self, query: str, documents: Sequence[Document]) -> tuple[NDArray[np.float32], int]:
        """Return ((D,) raw logits, larger is better; how many documents were cut to the model's length).

        A score depends on the query and the document's title and text alone, so equal documents tie.
        Raises ModelFault when a score is not finite.
        """
        limit = self.max_characters
        # Each distinct content is scored once, in an order that the caller's does not change.
        contents = sorted({document.content[:limit] for document in documents})
        lengths = self.count_tokens(query[:limit], contents)
        with self._lock:
            scores = np.empty(len(contents), np.float32)
            for batch in length_batches([min(length, self.max_tokens) for length in lengths], self._batch_tokens):
                scores[batch] = self._predict([(query[:limit], contents[i]) for i in batch])
        if not np.isfinite(scores).all():
            raise ModelFault(
                f"the reranker {self.name} gave a score that is not finite for {query[:80]!r}; "
                f"try precision='float32' (now {self.precision}) or another model."
            )
        place = {content: i for i, content in enumerate(contents)}
        places = [place[document.content[:limit]] for document in documents]
        truncated = sum(
            lengths[i] > self.max_tokens or len(document.content) > limit
            for i, document in zip(places, documents, strict=True)
        )
        return scores[np.array(places, np.int64)], truncated

    def _predict(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        """Score one batch; when the GPU's memory does not hold it, score its halves."""
        import torch

        try:
            return self._forward(pairs)
        except torch.OutOfMemoryError:
            # Outside this clause, or the exception would keep the batch's tensors alive.
            pass
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = (len(pairs) + 1) // 2
        try:
            return np.concatenate([self._forward(half) for half in (pairs[:middle], pairs[middle:]) if half])
        except torch.OutOfMemoryError as error:
            raise BackendUnavailable(
                f"{self._model.device} has too little memory to rerank {middle} documents at once; give "
                f"max_batch_tokens below {self._batch_tokens}, or device='cpu'."
            ) from error

    def _forward(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        import torch

        scores = self._model.predict(
            pairs,
            batch_size=len(pairs),
            # Raw logits: a sigmoid in float32 makes all scores above 17 equal.
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(scores, np.float32).reshape(len(pairs))


def _load(model: str | Path, device: str | None, offline: bool) -> "CrossEncoder":
    import torch
    from sentence_transformers import CrossEncoder

    import retriever.models.joint_bert  # noqa: F401  makes the architecture known

    folder = resolve(model, offline=offline)
    _require_scoring_head(folder)
    try:
        if device is not None:
            torch.empty(0, device=device)
        loaded = CrossEncoder(str(folder), device=device, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        where = f" on {device}" if device else ""
        raise BackendUnavailable(f"the reranker {folder} cannot be loaded{where}: {error}") from error
    if loaded.num_labels != 1:
        raise InvalidInput(
            f"{folder} gives {loaded.num_labels} scores for a pair; a reranker must give one (num_labels=1)."
        )
    return loaded.eval()


def _require_scoring_head(folder: Path) -> None:
    """Refuse a model without a trained head: sentence-transformers would put a random one on it."""
    architectures = read_object(folder / "config.json").get("architectures") or []
    kind = read_object(folder / "config_sentence_transformers.json").get("model_type")
    trained = any(name.endswith(("ForSequenceClassification", "ForCausalLM")) for name in architectures)
    if not trained and kind != "CrossEncoder":
        raise InvalidInput(
            f"{folder} is not a cross-encoder (its architecture is {architectures or 'not stated'}). "
            "Train one from it with: retriever train reranker"
        )


def _default_precision(device: Any) -> Precision:
    import torch

    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _to_bfloat16(model: "CrossEncoder") -> None:
    import torch

    model.to(torch.bfloat16)
    heads = [module for module in model.modules() if type(module) is torch.nn.Linear]
    for head in heads:
        if head.out_features == 1:
            head.float()
            head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _max_tokens(model: "CrossEncoder") -> int:
    stated = model.max_seq_length or DEFAULT_MAX_TOKENS
    positions = getattr(model.config, "max_position_embeddings", None) or stated
    # Tokenizers without a limit of their own state 1e30.
    longest = int(min(stated, positions))
    return longest if longest < 1_000_000 else DEFAULT_MAX_TOKENS
