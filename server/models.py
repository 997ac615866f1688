"""The models in service: each loaded once, behind one batcher that indexes and model routes share."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from retriever.encoder import load_encoder
from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.index.sealed import Index, Loader
from retriever.models import CATALOGUE, resolve
from retriever.models.folder import read_object
from retriever.multi_vector_encoder import TokenVectorEncoder, load_multi_vector_encoder
from retriever.pipeline import Rerank
from retriever.protocols import Encoder, Reranker, TermEncoder
from retriever.rerank import CrossEncoderReranker
from retriever.term_encoder import load_term_encoder
from retriever.types import Document
from server.batching import Batcher, Policy, Ticket
from server.devices import Watched, is_sticky, reason_of
from server.errors import Refusal
from server.metrics import Metrics
from server.settings import Settings

log = logging.getLogger("server.batching")

Side = Literal["query", "document", "plain"]
"""Which of the model's prompts stands before a text; `plain` is none."""

Output = Literal["dense", "sparse", "multi_vector"]

Inner = TypeVar("Inner", bound=Encoder | TermEncoder | TokenVectorEncoder)

# Of models that do not say what fits into one forward pass.
BATCH_TOKENS = 4096

# A batch of the usual size keeps so many cores busy without much waiting for each other.
CORES_A_BATCH = 4


class BatchedModel(Generic[Inner]):
    """An encoder of any kind behind the batcher that all requests for it share."""

    output: ClassVar[Output]

    def __init__(self, inner: Inner, batcher: Batcher[str, Any]) -> None:
        self.inner = inner
        self.batcher = batcher

    @property
    def max_tokens(self) -> int:
        return self.inner.max_tokens

    def longest(self, side: Side) -> int:
        """Return how many tokens of a text on that side are read; what is over is cut off."""
        return self.max_tokens

    def fingerprint(self) -> dict[str, str]:
        return self.inner.fingerprint()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.inner.count_tokens(texts)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises InvalidInput unless they are of this model's tokenizer."""
        if not hasattr(self.inner, "text_of"):
            raise InvalidInput("this model takes no token ids; send text.")
        text: str = self.inner.text_of(ids)
        return text

    def submit(self, side: Side, texts: Sequence[str], counts: Sequence[int]) -> Ticket[Any]:
        """Queue texts whose tokens were counted, longer ones with the tokens that the model reads of them."""
        tokens = self.computed_tokens(side, counts)
        characters = sum(map(len, texts))
        return self.batcher.submit(side, texts, tokens, characters=characters)

    def computed_tokens(self, side: Side, counts: Sequence[int]) -> list[int]:
        """Return the tokens that the model computes for texts of so many tokens."""
        return [min(count, self.longest(side)) for count in counts]

    def rows_until(self, queries: Sequence[str], deadline: float) -> list[Any] | None:
        """Return what is made of queries, or None when it is not there by the deadline.

        deadline  moment of time.perf_counter(); what is not computed by then will not be
        """
        return result_until(self.submit("query", queries, self.count_tokens(queries)), deadline)


class BatchedEncoder(BatchedModel[Encoder]):
    """An encoder whose texts share batches with those of other requests; fits `retriever.protocols.Encoder`."""

    output = "dense"

    @property
    def width(self) -> int:
        return self.inner.width

    @property
    def normalises(self) -> bool:
        """Whether every vector has unit length."""
        return bool(getattr(self.inner, "normalises", False))

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return self._stacked(self.submit("query", queries, self.count_tokens(queries)).wait())

    def encode_documents(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        texts = [document.content for document in documents]
        return self._stacked(self.submit("document", texts, self.count_tokens(texts)).wait())

    def encode_queries_until(self, queries: Sequence[str], deadline: float) -> NDArray[np.float32] | None:
        """Return the vectors of queries, or None; see `rows_until`."""
        rows = self.rows_until(queries, deadline)
        return None if rows is None else self._stacked(rows)

    def _stacked(self, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(rows) if rows else np.zeros((0, self.width), np.float32)


class BatchedTermEncoder(BatchedModel[TermEncoder]):
    """The same for learned sparse encoders; fits `retriever.protocols.TermEncoder`."""

    output = "sparse"

    def encode_queries_until(self, queries: Sequence[str], deadline: float) -> list[dict[str, float]] | None:
        """Return the weights of queries' terms, or None; see `rows_until`."""
        return self.rows_until(queries, deadline)

    def encode_queries(self, queries: Sequence[str]) -> list[dict[str, float]]:
        return self.submit("query", queries, self.count_tokens(queries)).wait()

    def encode_documents(self, documents: Sequence[Document]) -> list[dict[str, float]]:
        texts = [document.content for document in documents]
        return self.submit("document", texts, self.count_tokens(texts)).wait()


class BatchedTokenVectorEncoder(BatchedModel[TokenVectorEncoder]):
    """The same for late-interaction encoders, which no index uses yet."""

    output = "multi_vector"

    @property
    def width(self) -> int:
        return self.inner.width

    def longest(self, side: Side) -> int:
        return self.inner.max_query_tokens if side == "query" else self.max_tokens

    def computed_tokens(self, side: Side, counts: Sequence[int]) -> list[int]:
        of_side = self.inner.computed_query_tokens if side == "query" else self.inner.computed_document_tokens
        return of_side(counts)


Embedder = BatchedEncoder | BatchedTermEncoder | BatchedTokenVectorEncoder


def result_until(ticket: Ticket[Any], deadline: float) -> list[Any] | None:
    """Return a ticket's results, or None after giving it up at a moment of time.perf_counter()."""
    try:
        return ticket.future.result(max(0.0, deadline - time.perf_counter()))
    except TimeoutError:
        ticket.cancel()
        return None


def encoding(inner: Any) -> Callable[[str, list[str]], Sequence[Any]]:
    """Return the function that computes a batch of an encoder of any kind."""

    def compute(side: str, texts: list[str]) -> Sequence[Any]:
        found: Sequence[Any]
        if side == "document":
            found = inner.encode_documents([Document(id="", text=text) for text in texts])
        elif side == "plain" and hasattr(inner, "encode_texts"):
            found = inner.encode_texts(texts)
        else:
            found = inner.encode_queries(texts)
        return found

    return compute


def scoring(inner: CrossEncoderReranker) -> Callable[[str, list[tuple[str, str]]], list[float]]:
    """Return the function that computes a batch of a cross-encoder."""

    def compute(_: str, pairs: list[tuple[str, str]]) -> list[float]:
        scores: list[float] = inner.score_pairs(pairs).tolist()
        return scores

    return compute


def layout(inner: Any) -> tuple[int, int | None]:
    """Return how many batches of a model are computed side by side, and the threads of torch for each.

    On a CPU cores are shared out, up to CORES_A_BATCH to a batch; a GPU computes one batch after another.
    """
    if getattr(inner, "device_type", None) != "cpu" or not hasattr(inner, "replica"):
        return 1, None
    # Not torch's own number, which these very threads change for those that begin later.
    stated = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(stated) if stated.isdigit() and int(stated) else os.cpu_count() or 1
    threads = max(1, min(CORES_A_BATCH, cores // 4))
    return max(1, cores // threads), threads


@dataclass(frozen=True, slots=True)
class Scored:
    """Documents of a rerank request on their way: `ticket` has one score for each distinct content."""

    ticket: Ticket[float]
    places: list[int]
    truncated: list[bool]
    tokens: int

    def logits(self, scores: Sequence[float]) -> NDArray[np.float32]:
        """Return (D,) scores in the order of the documents, equal ones for equal texts.

        Raises ModelFault when one is not finite.
        """
        found = np.array(scores, np.float32)[np.array(self.places, np.int64)]
        if not np.isfinite(found).all():
            raise ModelFault("the reranker gave a score that is not finite; its order was not used.")
        return found


class BatchedReranker:
    """A cross-encoder whose pairs share batches with those of other requests; fits `retriever.protocols.Reranker`."""

    def __init__(self, inner: CrossEncoderReranker, batcher: Batcher[tuple[str, str], float]) -> None:
        self.inner = inner
        self.batcher = batcher

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def max_tokens(self) -> int:
        return self.inner.max_tokens

    def submit(self, query: str, texts: Sequence[str]) -> Scored:
        """Queue a query with documents; see `Batcher.submit`. Reads no more of each than the model can."""
        limit = self.inner.max_characters
        contents = sorted({text[:limit] for text in texts})
        place = {content: i for i, content in enumerate(contents)}
        places = [place[text[:limit]] for text in texts]
        lengths = self.inner.count_tokens(query[:limit], contents) if contents else []
        tokens = [min(length, self.max_tokens) for length in lengths]
        pairs = [(query[:limit], content) for content in contents]
        characters = sum(map(len, contents)) + len(query)
        ticket = self.batcher.submit("pair", pairs, tokens, characters=characters)
        cut = [lengths[i] > self.max_tokens or len(text) > limit for i, text in zip(places, texts, strict=True)]
        return Scored(ticket, places, cut, sum(tokens))

    def score(self, query: str, documents: Sequence[Document]) -> tuple[NDArray[np.float32], int]:
        scored = self.submit(query, [document.content for document in documents])
        return scored.logits(scored.ticket.wait()), sum(scored.truncated)

    def score_until(self, query: str, documents: Sequence[Document], deadline: float) -> tuple[list[float], int] | None:
        """Return scores and how many documents were cut, or None when they are not there by the deadline.

        deadline  moment of time.perf_counter(); what is not computed by then will not be
        """
        scored = self.submit(query, [document.content for document in documents])
        scores = result_until(scored.ticket, deadline)
        if scores is None:
            return None
        found: list[float] = scored.logits(scores).tolist()
        return found, sum(scored.truncated)


@dataclass(frozen=True, slots=True)
class Offered:
    """A model as /v1/models lists it."""

    name: str
    task: Literal["embedding", "rerank"]
    output: Output | None
    width: int | None
    max_tokens: int
    created: int


class Models(Loader):
    """All models of one service. An index opened with this loader searches through the same batchers.

    embedding_models and rerank_models of the settings are offered too. A model is offered under the last part of
    its folder or under its whole name; the publisher's name of a pinned model stands for the pinned one.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__()
        self._settings = settings
        self._metrics = metrics
        self._loading = threading.RLock()
        self._by_name: dict[str, Embedder] = {}
        self._by_fingerprint: dict[tuple[tuple[str, str], ...], Embedder] = {}
        self._embedders: dict[str, Embedder] = {}
        self._reranking: dict[str, BatchedReranker] = {}
        self._created: dict[str, int] = {}
        self._lost: str | None = None

    def prepare(self) -> None:
        """Load the models that the settings name. Raises BackendUnavailable or InvalidInput."""
        settings = self._settings
        for name in settings.embedding_models:
            offered = {"dense": self.encoder, "sparse": self.term_encoder, "multi_vector": self.multi_vector_encoder}
            offer = offered[output_of(name, settings.offline)]
            offer(name, device=settings.device, offline=settings.offline)
        rerank = Rerank.read(settings.reranker) if settings.reranker else None
        if rerank is not None and rerank.kind != "cross_encoder":
            self.ranker(rerank, device=settings.device, offline=settings.offline)
        for name in [*([rerank.model] if rerank and rerank.kind == "cross_encoder" else []), *settings.rerank_models]:
            self.reranker(name, device=settings.device, offline=settings.offline)

    def encoder(self, name: str, *, device: str | None, offline: bool) -> Encoder:
        with self._loading:
            if name not in self._by_name:
                self.add_encoder(name, load_encoder(name, device=device, offline=offline))
            found = self._by_name[name]
        if not isinstance(found, BatchedEncoder):
            raise BackendUnavailable(f"{name} is an encoder of {found.output} output; it gives no dense vectors.")
        return found

    def term_encoder(self, name: str, *, device: str | None, offline: bool) -> TermEncoder:
        with self._loading:
            if name not in self._by_name:
                inner = load_term_encoder(name, device=device, offline=offline)
                self._by_name[name] = self._offer(name, inner, BatchedTermEncoder)
            found = self._by_name[name]
        if not isinstance(found, BatchedTermEncoder):
            raise BackendUnavailable(f"{name} is an encoder of {found.output} output; it gives no weights of terms.")
        return found

    def multi_vector_encoder(self, name: str, *, device: str | None, offline: bool) -> BatchedTokenVectorEncoder:
        """Return the late-interaction encoder of that name or folder, loaded once. Raises BackendUnavailable."""
        with self._loading:
            if name not in self._by_name:
                inner = load_multi_vector_encoder(name, device=device, offline=offline)
                self._by_name[name] = self._offer(name, inner, BatchedTokenVectorEncoder)
            found = self._by_name[name]
        if not isinstance(found, BatchedTokenVectorEncoder):
            raise BackendUnavailable(f"{name} is an encoder of {found.output} output; it gives one vector at most.")
        return found

    def reranker(self, name: str, *, device: str | None, offline: bool) -> Reranker:
        """Return the cross-encoder of that name or folder, loaded once. Raises BackendUnavailable or InvalidInput."""
        with self._loading:
            found = self.rerankers.get(name)
            if found is None:
                inner = CrossEncoderReranker(name, device=device, offline=offline)
                public = self._free_name(public_name(name))
                found = BatchedReranker(inner, self._batcher(public, inner, scoring))
                self.rerankers[name] = self._reranking[public] = found
                self._created[public] = int(time.time())
            return found

    def ranker(self, rerank: Rerank, *, device: str | None, offline: bool) -> Reranker:
        """Return a ranking language model, which no batcher runs. Raises BackendUnavailable."""
        found: Any = Watched(super().ranker(rerank, device=device, offline=offline), self._note_failure)
        return cast(Reranker, found)

    def local_encoder(self, name: str, *, device: str | None, offline: bool) -> Encoder:
        """Return what makes local vectors, behind a batcher unless it writes queries. Raises BackendUnavailable."""
        found: Any = super().local_encoder(name, device=device, offline=offline)
        return found if isinstance(found, BatchedEncoder) else cast(Encoder, Watched(found, self._note_failure))

    def _note_failure(self, error: Exception) -> None:
        if self._lost is None and is_sticky(error):
            self._lost = reason_of(error)
            log.critical("the device of a language model cannot be used any more: %s", error)

    def add_encoder(self, name: str, inner: Encoder) -> BatchedEncoder:
        """Offer an encoder that was loaded elsewhere, under a name or a folder's last part."""
        with self._loading:
            found = self._offer(name, inner, BatchedEncoder)
            assert isinstance(found, BatchedEncoder)
            self._by_name[name] = found
            return found

    def adopt(self, index: Index) -> None:
        """Make an index that was opened without this loader search through its batchers."""
        index.use_loader(self)
        part, encoder = index.manifest.dense, index.encoder
        if part is not None and encoder is not None and not isinstance(encoder, BatchedEncoder):
            index.use_encoder(self.add_encoder(part.encoder, encoder))

    def _offer(self, name: str, inner: Any, kind: Callable[[Any, Batcher[str, Any]], Embedder]) -> Embedder:
        recipe = tuple(sorted(inner.fingerprint().items()))
        known = self._by_fingerprint.get(recipe)
        public = public_name(name)
        if known is not None:
            # The same weights under another name: one copy answers for both.
            self._embedders.setdefault(public, known)
            self._created.setdefault(public, int(time.time()))
            return known
        public = self._free_name(public)
        found = kind(inner, self._batcher(public, inner, encoding))
        self._by_fingerprint[recipe] = self._embedders[public] = found
        self._created[public] = int(time.time())
        return found

    def _free_name(self, public: str) -> str:
        """Return a name under which nothing else is offered."""
        taken = self._created.keys()
        names = (f"{public}@{number}" for number in range(2, 1000))
        return public if public not in taken else next(name for name in names if name not in taken)

    def _batcher(
        self, public: str, inner: Any, computing: Callable[[Any], Callable[[str, list[Any]], Sequence[Any]]]
    ) -> Batcher[Any, Any]:
        limits = self._settings.limits
        own: int = getattr(inner, "batch_tokens", BATCH_TOKENS)
        batch_tokens = own if limits.batch_tokens is None else limits.batch_tokens
        policy = Policy(
            batch_tokens, limits.batch_wait_ms, limits.batch_queue, limits.queue_seconds, limits.batch_seconds
        )
        workers, threads = layout(inner)
        copies = [inner, *(inner.replica() for _ in range(workers - 1))]
        return Batcher(public, [computing(copy) for copy in copies], policy, self._metrics.batches(public), threads)

    def offered(self) -> list[Offered]:
        """Return all models, in the order in which they were loaded."""
        found = [
            Offered(
                name, "embedding", model.output, getattr(model, "width", None), model.max_tokens, self._created[name]
            )
            for name, model in self._embedders.items()
        ]
        return found + [
            Offered(name, "rerank", None, None, model.max_tokens, self._created[name])
            for name, model in self._reranking.items()
        ]

    def embedder(self, name: str | None) -> tuple[str, Embedder]:
        """Return an encoder by name, or the first dense one, with its name.

        Raises Refusal, 404, for an unknown name; BackendUnavailable when there is none at all.
        """
        if name is None:
            for known, model in self._embedders.items():
                if isinstance(model, BatchedEncoder):
                    return known, model
        if not self._embedders:
            raise BackendUnavailable(
                "no encoder is served: the indexes have no vectors; start the service with --embedding-model MODEL."
            )
        found = known_name(name or "", self._embedders)
        return found, self._embedders[found]

    def cross_encoder(self, name: str | None) -> tuple[str, BatchedReranker]:
        """Return a reranker by name, or the first one, with its name. Raises as `embedder` does."""
        if not self._reranking:
            raise BackendUnavailable(
                "no reranker is configured; start the service with --reranker MODEL or --rerank-model MODEL."
            )
        found = next(iter(self._reranking)) if name is None else known_name(name, self._reranking)
        return found, self._reranking[found]

    def broken(self) -> str | None:
        """Return why a model's device cannot be used any more, or None."""
        return next((batcher.broken for batcher in self._batchers() if batcher.broken), self._lost)

    def hanging(self, seconds: float) -> str | None:
        """Return the name of a model that has been at one batch for longer than that, or None."""
        return next((batcher.name for batcher in self._batchers() if batcher.hanging(seconds)), None)

    def _batchers(self) -> Iterator[Batcher[Any, Any]]:
        for model in [*self._by_fingerprint.values(), *self._reranking.values()]:
            yield model.batcher

    def close(self) -> None:
        """Stop all batchers; what waits is refused."""
        for batcher in list(self._batchers()):
            batcher.close()


def known_name(asked: str, offered: dict[str, Any]) -> str:
    """Return the name under which a model is offered. Raises Refusal, 404, when it is not."""
    if asked in offered:
        return asked
    for name, model in CATALOGUE.items():
        if model.published and asked == model.hub and name in offered:
            return name
    raise Refusal(
        404,
        f"the model {asked[:80]!r} is not here; this service offers {', '.join(map(repr, offered))}.",
        code="model_not_found",
        param="model",
    )


def output_of(name: str, offline: bool) -> Output:
    """Return what a model's folder says that it gives. Raises BackendUnavailable when it cannot be found."""
    folder = resolve(name, offline=offline)
    kind = read_object(folder / "config_sentence_transformers.json").get("model_type")
    if kind == "SparseEncoder":
        return "sparse"
    # PyLate's own folders say ColBERT, those of Stanford's ColBERT only name their network so.
    networks = read_object(folder / "config.json").get("architectures")
    late = kind in ("MultiVectorEncoder", "ColBERT") or (isinstance(networks, list) and "HF_ColBERT" in networks)
    return "multi_vector" if late else "dense"


def public_name(model: str) -> str:
    """Return the name under which a model is offered: its hub or pinned name, or its folder's last part."""
    path = Path(model)
    return path.name if path.is_absolute() or model.startswith((".", "~")) else model
