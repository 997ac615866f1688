"""Teachers: whatever scores a query against documents for a student to imitate, and the arithmetic on their scores.

A teacher is given the texts once and is asked by rows, so that a training loop only carries numbers. The arithmetic
is in pure functions: `min_max`, `ensemble`, `cosines`, `unit_labels`, `probabilities`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retriever.encoder import length_batches
from retriever.errors import InvalidInput, ModelFault
from retriever.models import resolve
from retriever.storage import disk_errors, require_writable, sha256_of, write_atomically
from retriever.types import Document
from training.candidate_files import floats_of, read_columns, rows_of, score_schema
from training.portions import encoded, read_metadata

if TYPE_CHECKING:
    import pyarrow as pa
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

    from retriever.protocols import Encoder
    from retriever.rerank import CrossEncoderReranker

Rows = NDArray[np.integer]
Scores = NDArray[np.float32]

# Padded tokens of one forward pass.
BATCH_TOKENS = {"cuda": 65536, "cpu": 4096}


class Teacher(Protocol):
    """Scores pairs that are given by rows of the texts that it was made with; larger is better."""

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        """Return float32[n] for pairs (query_rows[i], document_rows[i])."""
        ...


def probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logistic function of logits; in float64, so that large ones stay apart."""
    logits = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(logits))
    chances: NDArray[np.float64] = np.where(logits >= 0, 1, small) / (1 + small)
    return chances


def min_max(scores: NDArray[np.floating], offsets: NDArray[np.int64]) -> Scores:
    """Stretch the scores of each query to 0..1: its worst candidate gets 0, its best 1.

    scores   [nnz]
    offsets  int64[Q + 1]; the candidates of query q stand at offsets[q] to offsets[q + 1]

    Where all are equal they get 1, as in `retriever.fusion.weighted_minmax`. Raises InvalidInput for scores that are
    not finite and offsets that do not fit.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(values):
        raise InvalidInput(f"offsets must rise from 0 to {values.size}, the number of scores.")
    if not np.isfinite(values).all():
        raise InvalidInput(f"teacher score {int(np.argmin(np.isfinite(values)))} is NaN or infinite.")
    counts = np.diff(offsets)
    starts = offsets[:-1][counts > 0]
    if len(starts) == 0:
        return values.astype(np.float32)
    lowest = np.repeat(np.minimum.reduceat(values, starts), counts[counts > 0])
    span = np.repeat(np.maximum.reduceat(values, starts), counts[counts > 0]) - lowest
    stretched = np.where(span > 0, (values - lowest) / np.where(span > 0, span, 1), 1.0)
    return stretched.astype(np.float32)


def ensemble(
    scores: Sequence[NDArray[np.floating]], offsets: NDArray[np.int64] | None = None, scale: float = 30.0
) -> Scores:
    """Join teachers of different scales: min-max for each query over its candidates, mean, times `scale`.

    scores   of each teacher, all of one shape: (Q, C), or [nnz] with `offsets`
    scale    30 in OpenSearch's training of inference-free sparse encoders, whose losses take a softmax of it
             (arXiv:2411.04403)
    """
    if not scores or any(part.shape != scores[0].shape for part in scores):
        raise InvalidInput(f"an ensemble needs scores of one shape, got {[part.shape for part in scores]}.")
    shape = scores[0].shape
    if offsets is None:
        if len(shape) != 2:
            raise InvalidInput(f"scores must be (Q, C), or come with offsets; got shape {shape}.")
        offsets = np.arange(shape[0] + 1, dtype=np.int64) * shape[1]
    stretched = [min_max(part.ravel(), offsets) for part in scores]
    joined: Scores = (scale * np.mean(stretched, axis=0)).astype(np.float32).reshape(shape)
    return joined


def cosines(first: NDArray[np.floating], second: NDArray[np.floating]) -> Scores:
    """Return float32[n], the cosine of each row of (n, H) with its counterpart; 0 where one has no length.

    Trans-Encoder's labels of a pair by the bi-encoder itself (arXiv:2109.13059).
    """
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = np.einsum("nh,nh->n", first, second)
    found: Scores = (products / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return found


def unit_labels(values: NDArray[np.floating], how: Literal["clip", "rescale"] = "clip") -> Scores:
    """Return cosines as labels of binary cross-entropy, which must lie in 0..1.

    "clip" makes negative ones 0; "rescale" maps -1..1 to 0..1.
    """
    if how not in ("clip", "rescale"):
        raise InvalidInput(f"how must be clip or rescale, got {how!r}.")
    stretched = (np.asarray(values, np.float64) + 1) / 2 if how == "rescale" else values
    return np.clip(stretched, 0, 1).astype(np.float32)


def mutual(labels: Sequence[NDArray[np.floating]]) -> Scores:
    """Return the mean of the labels that several models give the same pairs (Trans-Encoder's mutual distillation)."""
    if not labels or any(part.shape != labels[0].shape for part in labels):
        raise InvalidInput(f"mutual labels must be of one shape, got {[part.shape for part in labels]}.")
    joined: Scores = np.mean(labels, axis=0).astype(np.float32)
    return joined


def model_digest(name: str | Path, *, offline: bool = False) -> str:
    """Return a sha256 over weights, configuration and tokenizer of a model folder. Reads all of them."""
    folder = resolve(name, offline=offline)
    names = ("config.json", "modules.json", "tokenizer.json")
    files = sorted([*folder.rglob("*.safetensors"), *(folder / name for name in names if (folder / name).is_file())])
    lines = [f"{path.relative_to(folder).as_posix()} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off, and on again for a model that is in training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _require_finite(scores: Scores, query_rows: Rows, document_rows: Rows, who: str) -> Scores:
    finite = np.isfinite(scores)
    if not finite.all():
        place = int(finite.argmin())
        raise ModelFault(
            f"{who} gave {scores[place]} for query row {query_rows[place]} and document row {document_rows[place]}; "
            "it was not used."
        )
    return scores


class CrossEncoderTeacher:
    """A cross-encoder's raw logits.

    model  a sentence-transformers CrossEncoder with one output, also one that is in training: pairs of any queries
           are batched by length, and its mode is as before afterwards. Or a CrossEncoderReranker, which takes the
           documents of one query after another.
    """

    def __init__(
        self,
        model: "CrossEncoder | CrossEncoderReranker",
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_batch_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.queries = queries
        self.documents = documents
        self.max_batch_tokens = max_batch_tokens

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        from retriever.rerank import CrossEncoderReranker

        if isinstance(self.model, CrossEncoderReranker):
            found = self._by_query(self.model, query_rows, document_rows)
        else:
            found = self._by_length(self.model, query_rows, document_rows)
        return _require_finite(found, query_rows, document_rows, "the cross-encoder")

    def _by_query(self, reranker: "CrossEncoderReranker", query_rows: Rows, document_rows: Rows) -> Scores:
        found = np.empty(len(query_rows), np.float32)
        for row in np.unique(query_rows):
            places = np.flatnonzero(query_rows == row)
            texts = [Document(str(i), self.documents[i]) for i in document_rows[places]]
            found[places], _ = reranker.score(self.queries[row], texts)
        return found

    def _by_length(self, model: "CrossEncoder", query_rows: Rows, document_rows: Rows) -> Scores:
        import torch

        pairs = [(self.queries[q], self.documents[d]) for q, d in zip(query_rows, document_rows, strict=True)]
        if not pairs:
            return np.zeros(0, np.float32)
        counted = model.tokenizer([q for q, _ in pairs], [d for _, d in pairs], padding=False, verbose=False)
        most = model.max_seq_length or 512
        lengths = [min(len(ids), most) for ids in counted["input_ids"]]
        found = np.empty(len(pairs), np.float32)
        with _evaluating(model):
            for batch in length_batches(lengths, self.max_batch_tokens or BATCH_TOKENS.get(model.device.type, 4096)):
                found[batch] = model.predict(
                    [pairs[i] for i in batch],
                    batch_size=len(batch),
                    activation_fn=torch.nn.Identity(),
                    show_progress_bar=False,
                ).reshape(len(batch))
        return found


class LateInteractionTeacher:
    """MaxSim of a late-interaction model, computed live: also of every query with every document of a batch.

    TAS-B's teacher of in-batch scores (arXiv:2104.06967). Holds no embeddings between calls.
    """

    def __init__(self, model: "MultiVectorEncoder", queries: Sequence[str], documents: Sequence[str]) -> None:
        self.model = model
        self.queries = queries
        self.documents = documents

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        """Return MaxSim of each pair; a text that occurs several times is encoded once."""
        distinct_queries, queries = np.unique(query_rows, return_inverse=True)
        distinct_documents, documents = np.unique(document_rows, return_inverse=True)
        if len(queries) == 0:
            return np.zeros(0, np.float32)
        with _evaluating(self.model):
            ours, theirs = self._embed(distinct_queries, distinct_documents)
            found = self.model.similarity_pairwise([ours[i] for i in queries], [theirs[i] for i in documents])
        return _require_finite(_array(found), query_rows, document_rows, "the late-interaction model")

    def matrix(self, query_rows: Rows, document_rows: Rows) -> Scores:
        """Return (B, D): MaxSim of each query with each document."""
        with _evaluating(self.model):
            found = _array(self.model.similarity(*self._embed(query_rows, document_rows)))
        if not np.isfinite(found).all():
            raise ModelFault("the late-interaction model gave a score that is not finite; it was not used.")
        return found

    def _embed(self, query_rows: Rows, document_rows: Rows) -> tuple[list[Any], list[Any]]:
        queries = self.model.encode_query([self.queries[i] for i in query_rows], show_progress_bar=False)
        documents = self.model.encode_document([self.documents[i] for i in document_rows], show_progress_bar=False)
        return list(queries), list(documents)


def _array(tensor: Any) -> Scores:
    values: Scores = tensor.float().cpu().numpy()
    return values


class BiEncoderTeacher:
    """Inner products of an encoder's vectors; each text is encoded when it is first asked for, and kept.

    cosine  compare by angle whatever the lengths of the vectors: Trans-Encoder's label of a model by itself
    Memory: (Q + D) * H float32.
    """

    def __init__(
        self, encoder: "Encoder", queries: Sequence[str], documents: Sequence[str], *, cosine: bool = False
    ) -> None:
        self.encoder = encoder
        self.texts = {"query": queries, "document": documents}
        self.cosine = cosine
        self._vectors = {side: np.zeros((len(texts), encoder.width), np.float32) for side, texts in self.texts.items()}
        self._known = {side: np.zeros(len(texts), np.bool_) for side, texts in self.texts.items()}

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        queries, documents = self._embed("query", query_rows), self._embed("document", document_rows)
        found = cosines(queries, documents) if self.cosine else np.einsum("nh,nh->n", queries, documents)
        return _require_finite(found, query_rows, document_rows, "the bi-encoder")

    def _embed(self, side: Literal["query", "document"], rows: Rows) -> NDArray[np.float32]:
        new = np.unique(rows[~self._known[side][rows]])
        if len(new):
            texts = [self.texts[side][row] for row in new]
            if side == "query":
                self._vectors[side][new] = self.encoder.encode_queries(texts)
            else:
                documents = [Document(str(row), text) for row, text in zip(new, texts, strict=True)]
                self._vectors[side][new] = self.encoder.encode_documents(documents)
            self._known[side][new] = True
        return self._vectors[side][rows]


class EnsembleTeacher:
    """Several teachers as one: `ensemble` over the pairs of each query that are asked for together."""

    def __init__(self, teachers: Sequence[Teacher], scale: float = 30.0) -> None:
        self.teachers = list(teachers)
        self.scale = scale

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        order = np.argsort(query_rows, kind="stable")
        _, counts = np.unique(query_rows, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        parts = [teacher.scores(query_rows, document_rows)[order] for teacher in self.teachers]
        found = np.empty(len(query_rows), np.float32)
        found[order] = ensemble(parts, offsets, self.scale)
        return found


class CachedScores:
    """Scores from a file of teacher scores; pairs that it lacks are scored by a live teacher and saved.

    path                       as docs/training-data.md describes it; made when there is a teacher and no file
    query_rows, document_rows  row of each id; pairs of other ids stay in the file untouched
    teacher                    asked for what is missing; without one a missing pair is an error
    name                       of the teacher, kept in the file; a file of another teacher is refused
    save_every                 new scores after which the file is written again

    Use it as a context, or call `save`, so that the last scores are written too. For one process at a time.
    Raises InvalidInput for a file that is none, or holds a score that is not finite.
    """

    def __init__(
        self,
        path: Path,
        query_rows: Mapping[str, int],
        document_rows: Mapping[str, int],
        *,
        teacher: Teacher | None = None,
        name: str | None = None,
        save_every: int = 10_000,
    ) -> None:
        self.path = path
        self.teacher = teacher
        self.name = name
        self.save_every = save_every
        self._query_ids, self._document_ids = _ids(query_rows), _ids(document_rows)
        self._width = len(self._document_ids)
        self._keys, self._values = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._others: pa.Table | None = None
        self._metadata: dict[str, Any] = {"format": 1, "job": "scoring", "model": name}
        self._unsaved = 0
        if path.exists():
            self._read(query_rows, document_rows)
        elif teacher is None:
            raise InvalidInput(f"there is no file {path}; make it with `retriever train score`, or give a teacher.")
        else:
            require_writable(path.parent)

    def __enter__(self) -> "CachedScores":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()

    def __len__(self) -> int:
        """How many pairs of these queries and documents have a score."""
        return len(self._keys)

    def _read(self, query_rows: Mapping[str, int], document_rows: Mapping[str, int]) -> None:
        self._metadata = read_metadata(self.path)
        made_by = self._metadata.get("model")
        if self.name is not None and made_by != self.name:
            raise InvalidInput(
                f"{self.path} holds scores of {made_by!r}, not of {self.name!r}; scores of two teachers do not mix. "
                "Choose another file."
            )
        table = read_columns(self.path, ["query_id", "document_id", "score"])
        queries, documents = rows_of(table["query_id"], query_rows), rows_of(table["document_id"], document_rows)
        values = floats_of(table["score"])
        if not np.isfinite(values).all():
            raise InvalidInput(f"{self.path} holds a score that is not finite; make it again.")
        ours = (queries >= 0) & (documents >= 0)
        self._others = table.filter(~ours)
        self._add(queries[ours] * self._width + documents[ours], values[ours])

    def _add(self, keys: NDArray[np.int64], values: Scores) -> None:
        self._keys, first = np.unique(np.concatenate([self._keys, keys]), return_index=True)
        self._values = np.concatenate([self._values, values])[first]

    def _find(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if len(self._keys) == 0:
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return places, self._keys[places] == keys

    def scores(self, query_rows: Rows, document_rows: Rows) -> Scores:
        """Return the score of each pair. Raises InvalidInput naming a pair that nobody scored."""
        keys = np.asarray(query_rows, np.int64) * self._width + np.asarray(document_rows, np.int64)
        places, known = self._find(keys)
        if not known.all():
            new = np.unique(keys[~known])
            queries, documents = new // self._width, new % self._width
            if self.teacher is None:
                raise InvalidInput(
                    f"{self.path} lacks the scores of {len(new)} pairs, such as query "
                    f"{self._query_ids[queries[0]]!r} with document {self._document_ids[documents[0]]!r}; "
                    "score them with `retriever train score`."
                )
            values = self.teacher.scores(queries, documents)
            self._add(new, _require_finite(values, queries, documents, "the teacher"))
            self._unsaved += len(new)
            if self._unsaved >= self.save_every:
                self.save()
            places, _ = self._find(keys)
        return self._values[places]

    def save(self) -> None:
        """Write all scores, when there are new ones; a crash leaves the old file or the new one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._unsaved == 0:
            return
        queries, documents = self._keys // self._width, self._keys % self._width
        columns = {
            "query_id": [self._query_ids[row] for row in queries],
            "document_id": [self._document_ids[row] for row in documents],
            "score": self._values,
        }
        schema = score_schema()
        table = pa.table(columns, schema=schema)
        if self._others is not None:
            table = pa.concat_tables([self._others.cast(schema), table])
        sink = pa.BufferOutputStream()
        # What a job promised of its pairs no longer describes all that the file holds.
        self._metadata.pop("plan", None)
        pq.write_table(table.replace_schema_metadata(encoded(self._metadata)), sink, compression="zstd")
        with disk_errors(self.path.parent):
            write_atomically(self.path, sink.getvalue().to_pybytes())
        self._unsaved = 0


def _ids(rows: Mapping[str, int]) -> list[str]:
    ids = [""] * len(rows)
    for id_, row in rows.items():
        ids[row] = id_
    return ids
