"""The sealed index: one folder that can be copied, served and verified on its own.

    CURRENT  manifest-NNNNNN.json  documents.sqlite  canaries.npy  segments/NNNNNN/...

`open_index` gives a reader of the generation in force. It never changes the folder; `indexing` writes it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from retriever.analysis import Analyser, analyser
from retriever.codebook import Codebook
from retriever.encoder import (
    CANARY_TOLERANCE,
    CODE_TOLERANCE,
    QUERY_ADAPTER,
    canary_drift,
    differences,
    encode_canaries,
    load_encoder,
)
from retriever.errors import IndexCorrupt, IndexMismatch, InvalidInput
from retriever.fields import CONTENTS, field_text, require_known
from retriever.filters import matching_rows
from retriever.index.bm25 import Bm25, inverse_document_frequencies
from retriever.index.facets import column_of, count_values
from retriever.index.fielded import FieldedBm25, FieldTerm, in_fields
from retriever.index.impacts import Impacts
from retriever.index.lease import hold_newest
from retriever.index.local import Compare
from retriever.index.manifest import (
    DensePart,
    ImpactPart,
    InvertedPart,
    LocalPart,
    Manifest,
    Segment,
    form_of,
    manifest_name,
    read_pointer,
)
from retriever.index.query import Execution, QuerySearch
from retriever.index.records import FieldType, Records
from retriever.index.segment import SegmentReader, require_size
from retriever.llm.usage import Deadline
from retriever.models import resolve
from retriever.pipeline import PipelineSpec, Rerank
from retriever.protocols import Encoder, Reranker, TermEncoder
from retriever.storage import sha256_of
from retriever.term_encoder import load_term_encoder
from retriever.types import Answer, Document, TermScore

if TYPE_CHECKING:
    from retriever.llm.judge import Judge

Loaded = TypeVar("Loaded", Encoder, TermEncoder)

Mask = list[NDArray[np.bool_]]
"""For each segment the documents that a filter allows."""


class Candidates:
    """What a first stage found for one query, best first, ties in order of id.

    Held as arrays: what a caller does not ask for is not made into Python objects.
    """

    def __init__(
        self, scores: NDArray[Any], rows: NDArray[np.int64], read_ids: Callable[[NDArray[np.int64]], list[str]]
    ) -> None:
        self._scores = scores
        self._rows = rows
        self._read_ids = read_ids

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def scores(self) -> list[float]:
        scores: list[float] = self._scores.tolist()
        return scores

    @cached_property
    def ids(self) -> list[str]:
        return self._read_ids(self._rows)

    @cached_property
    def rows(self) -> list[int]:
        rows: list[int] = self._rows.tolist()
        return rows

    def ranking(self) -> list[tuple[str, float]]:
        return list(zip(self.ids, self.scores, strict=True))


class Loader:
    """Loads each model once for all indexes that are opened with it; safe for concurrent use."""

    def __init__(self) -> None:
        self._encoders: dict[tuple[str, str | None], Encoder] = {}
        self._term_encoders: dict[tuple[str, str | None], TermEncoder] = {}
        self._writers: dict[tuple[str, str | None], Encoder] = {}
        self.rerankers: dict[str, Reranker] = {}
        self._judges: dict[tuple[str, str, str | None], Judge] = {}
        self._lock = threading.Lock()

    def encoder(self, name: str, *, device: str | None, offline: bool) -> Encoder:
        """Return the encoder of that name or folder. Raises BackendUnavailable."""
        with self._lock:
            if (name, device) not in self._encoders:
                self._encoders[name, device] = load_encoder(name, device=device, offline=offline)
            return self._encoders[name, device]

    def local_encoder(self, name: str, *, device: str | None, offline: bool) -> Encoder:
        """Return what makes local vectors, an encoder or a model that writes queries. Raises BackendUnavailable."""
        from retriever.llm.bottleneck import Bottleneck, is_query_writer

        if not is_query_writer(resolve(name, offline=offline)):
            return self.encoder(name, device=device, offline=offline)
        with self._lock:
            if (name, device) not in self._writers:
                self._writers[name, device] = Bottleneck(name, device=device, offline=offline)
            return self._writers[name, device]

    def term_encoder(self, name: str, *, device: str | None, offline: bool) -> TermEncoder:
        """Return the encoder of terms of that name or folder. Raises BackendUnavailable."""
        with self._lock:
            if (name, device) not in self._term_encoders:
                self._term_encoders[name, device] = load_term_encoder(name, device=device, offline=offline)
            return self._term_encoders[name, device]

    def reranker(self, name: str, *, device: str | None, offline: bool) -> Reranker:
        """Return the cross-encoder of that name or folder. Raises BackendUnavailable."""
        from retriever.rerank import CrossEncoderReranker

        with self._lock:
            if name not in self.rerankers:
                self.rerankers[name] = CrossEncoderReranker(name, device=device, offline=offline)
            return self.rerankers[name]

    def ranker(self, rerank: Rerank, *, device: str | None, offline: bool) -> Reranker:
        """Return a ranking language model; those of one name and precision share weights and answers.

        Raises BackendUnavailable.
        """
        from retriever.llm.rankers import LanguageRanker, open_judge

        with self._lock:
            key = (rerank.backend, rerank.model, rerank.precision)
            if key not in self._judges:
                self._judges[key] = open_judge(
                    rerank.model, rerank.backend, device=device, offline=offline, precision=rerank.precision
                )
            return LanguageRanker(self._judges[key], rerank)


@dataclass
class _Model(Generic[Loaded]):
    """An encoder that is loaded when it is first needed: what the caller chose, or None for the manifest's name.

    loaded  by name, for another generation may have been made with another encoder
    """

    chosen: Loaded | str | None
    load: Callable[..., Loaded]
    loaded: dict[str, Loaded] = field(default_factory=dict)


@dataclass
class _Models:
    """What is loaded, or checked, once and shared by all generations of an index."""

    encoder: _Model[Encoder]
    sparse_encoder: _Model[TermEncoder]
    local_encoder: _Model[Encoder]
    device: str | None
    offline: bool
    loader: Loader
    checked: Set[tuple[str, str]] = frozenset()
    lock: threading.Lock = field(default_factory=threading.Lock)


def open_index(
    path: str | Path,
    *,
    encoder: Encoder | str | None = None,
    sparse_encoder: TermEncoder | str | None = None,
    local_encoder: Encoder | str | None = None,
    device: str | None = None,
    offline: bool = False,
    loader: Loader | None = None,
) -> "Index":
    """Open the generation in force.

    encoder  a name, a folder or an object to use instead of the name in the manifest; the same weights
             under another name are accepted, any other encoder raises IndexMismatch at the first dense search;
             sparse_encoder likewise for learned sparse search, local_encoder for the local vectors
    device   where models run and flat vectors are scanned: "cpu", "cuda", ...; None lets torch choose for
             models and scans on the CPU
    offline  load models without any network call
    loader   shares models with other indexes

    Raises UnknownIndex, IndexCorrupt or IndexMismatch.
    """
    loader = loader or Loader()
    dense, sparse = _Model(encoder, loader.encoder), _Model(sparse_encoder, loader.term_encoder)
    local = _Model(local_encoder, loader.local_encoder)
    return Index(Path(path), _Models(dense, sparse, local, device, offline, loader))


class Index:
    """One generation of an index; safe for concurrent use, immutable. It stays on the disk until it is closed."""

    def __init__(self, path: Path, models: _Models, older: "Index | None" = None) -> None:
        """older: a generation before this one; what both have in common is not read again."""
        self.path = path
        self._models = models
        self.manifest, self.fingerprint, self._lease = hold_newest(path)
        self._pointer = manifest_name(self.manifest.generation), self.fingerprint
        for name, entry in self.manifest.files.items():
            require_size(path / name, entry.bytes)
        models.checked = require_sound(path, self.manifest, models.checked)
        self._analyser: Analyser | None = None
        if self.manifest.inverted:
            self._analyser = _matching_analyser(self.manifest)
        device = models.device or "cpu"
        known: dict[int, SegmentReader] = {}
        if older and _parts(older.manifest) == _parts(self.manifest):
            known = {reader.number: reader for reader in older.segments}
        codebook = form_of(path, self.manifest.dense).codebook if self.manifest.dense else None
        self.segments: list[SegmentReader] = [
            _open_segment(path, self.manifest, segment, device, codebook, known.get(segment.number))
            for segment in self.manifest.segments
        ]
        self.records = Records(path, self.manifest.generation)
        self._impacts: Impacts | None = None
        if self.manifest.sparse:
            self._impacts = Impacts(
                [segment.impacts for segment in self.segments if segment.impacts],
                [segment.id_rank for segment in self.segments],
                self.manifest.sparse.step,
            )
        self._fielded: FieldedBm25 | None = None
        if self.manifest.inverted:
            self._fielded = _open_fields(self.manifest.inverted, self.segments)
        self._bm25 = self._fielded.contents if self._fielded else None
        self._query_search: QuerySearch | None = None

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.manifest.live

    def close(self) -> None:
        """Close the records, and let writers remove this generation; the memory maps go with the object."""
        self.records.close()
        self._lease.release()

    def latest(self) -> "Index":
        """Return this index, or the newer generation that has been published since, models shared."""
        if read_pointer(self.path) == self._pointer:
            return self
        return Index(self.path, self._models, self)

    @property
    def generation(self) -> int:
        return self.manifest.generation

    @property
    def pipelines(self) -> dict[str, PipelineSpec]:
        return dict(self.manifest.pipelines)

    @property
    def default_pipeline(self) -> str:
        return self.manifest.default_pipeline

    @property
    def fields(self) -> dict[str, FieldType]:
        """The metadata fields that can be filtered, with their types."""
        return dict(self.manifest.fields)

    @property
    def search_fields(self) -> tuple[str, ...]:
        """The fields that BM25 can search by name and weigh, `contents` (title and text together) first."""
        return tuple(self._fielded.parts) if self._fielded else ()

    @property
    def analyser(self) -> Analyser | None:
        return self._analyser

    @property
    def encoder(self) -> Encoder | None:
        """The query encoder, loaded at first use; None for an index without vectors.

        Raises IndexMismatch unless its fingerprint is the one that the index was made with.
        """
        part = self.manifest.dense
        return self._matching(self._models.encoder, part) if part else None

    @property
    def sparse_encoder(self) -> TermEncoder | None:
        """The encoder of query terms, loaded at first use; None for an index without a learned sparse part.

        Raises IndexMismatch unless its fingerprint is the one that the index was made with.
        """
        part = self.manifest.sparse
        return self._matching(self._models.sparse_encoder, part) if part else None

    @property
    def local_encoder(self) -> Encoder | None:
        """The encoder of queries for the local vectors, loaded at first use; None for an index without such.

        Raises IndexMismatch unless its fingerprint is the one that the index was made with.
        """
        part = self.manifest.local
        return self._matching(self._models.local_encoder, part) if part else None

    def _matching(self, model: "_Model[Loaded]", part: DensePart | ImpactPart | LocalPart) -> Loaded:
        with self._models.lock:
            name = model.chosen if isinstance(model.chosen, str) else part.encoder
            found = model.loaded.get(name)
            if found is None and model.chosen is not None and not isinstance(model.chosen, str):
                found = model.chosen
            if found is None:
                found = model.load(name, device=self._models.device, offline=self._models.offline)
            _require_same_encoder(self.path, part.fingerprint, found.fingerprint())
            model.loaded[name] = found
        return found

    def reranker(self, model: str) -> Reranker:
        """Return the cross-encoder of that name or folder, loaded once. Raises BackendUnavailable."""
        return self._models.loader.reranker(model, device=self._models.device, offline=self._models.offline)

    def ranker(self, rerank: Rerank) -> Reranker:
        """Return what a pipeline's `rerank` asks for, loaded once. Raises BackendUnavailable."""
        if rerank.kind == "cross_encoder":
            return self.reranker(rerank.model)
        return self._models.loader.ranker(rerank, device=self._models.device, offline=self._models.offline)

    def use_reranker(self, name: str, reranker: Reranker) -> None:
        """Make `reranker` answer for pipelines that ask for the model `name`."""
        self._models.loader.rerankers[name] = reranker

    def use_encoder(self, encoder: Encoder) -> None:
        """Make `encoder` answer for this index; another recipe than the index's is refused at the next search."""
        with self._models.lock:
            self._models.encoder.chosen = encoder
            self._models.encoder.loaded.clear()

    def use_loader(self, loader: Loader) -> None:
        """Take models that are not loaded yet, and all rerankers, from `loader`."""
        with self._models.lock:
            self._models.encoder.load = loader.encoder
            self._models.sparse_encoder.load = loader.term_encoder
            self._models.local_encoder.load = loader.local_encoder
            self._models.loader = loader

    def check_canaries(self) -> float | None:
        """Encode the canary texts and return the largest 1 - cosine to the stored vectors.

        None for an index without vectors. Raises IndexMismatch beyond the tolerance: then the libraries or
        the device give other vectors than those in the index, whatever the fingerprints say.
        """
        drifts = [
            self._canary_drift(part, encoder)
            for part, encoder in ((self.manifest.dense, self.encoder), (self.manifest.local, self.local_encoder))
            if part is not None and encoder is not None
        ]
        return max(drifts, default=None)

    def _canary_drift(self, part: DensePart | LocalPart, encoder: Encoder) -> float:
        stored = np.load(self.path / part.canaries, allow_pickle=False)
        fresh = encode_canaries(encoder, part.canary_texts)
        if part.fingerprint.get(QUERY_ADAPTER) != encoder.fingerprint().get(QUERY_ADAPTER):
            # Queries differ as they are meant to.
            stored, fresh = stored[1:], fresh[1:]
        drift = canary_drift(stored, fresh)
        # Where the model itself makes codes, a number near a border changes a whole one of them.
        coded = part.codes == "model" if isinstance(part, DensePart) else getattr(encoder, "codes", None) is not None
        same = drift <= CANARY_TOLERANCE or (
            coded and drift <= CODE_TOLERANCE and canary_drift(stored[0], fresh[0]) <= CANARY_TOLERANCE
        )
        if not same:
            raise IndexMismatch(
                f"{self.path}: canary texts encode to other vectors than when the index was built "
                f"(1 - cosine = {drift:.2g}, tolerance {CANARY_TOLERANCE:g}); "
                "a library or device has changed. Rebuild the index, or go back to the manifest's versions."
            )
        return drift

    def warm(self) -> None:
        """Load everything that the first search would load: encoder, FAISS indexes, compiled kernels."""
        if self.manifest.dense:
            _ = self.encoder
            for segment in self.segments:
                if segment.dense:
                    segment.dense.load()
                    if segment.dense.codes:
                        nothing = np.zeros((1, self.manifest.dense.width), np.float32)
                        segment.dense.search(nothing, 1, segment.id_rank, None)
        if self.manifest.local:
            _ = self.local_encoder
        if self._impacts:
            _ = self.sparse_encoder
            self._impacts.search({term: 1.0 for part in self._impacts.readers[:1] for term in part.terms[:1]}, 1)
        if self._bm25 and self._bm25.documents:
            # Any term that occurs makes the kernels compile, or load what was compiled.
            reader = next(reader for reader in self._bm25.readers if len(reader.terms))
            self._bm25.search({reader.terms[0]: 1.0}, 1)

    def get(self, id_: str) -> Document | None:
        """Return a document by its id, or None; the id of a chunked document gives the whole of it."""
        return self.records.get(id_)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return those ids that the index does not hold, neither as documents nor as chunked ones."""
        return self.records.missing(ids)

    def documents(self, rows: Sequence[int]) -> dict[int, Document]:
        """Return documents by row."""
        return self.records.fetch(rows)

    def facets(self, name: str, limit: int = 20) -> list[tuple[str | float, int]]:
        """Return the most frequent values of a declared field with their counts. Scans the field."""
        self._require_field(name)
        return self.records.values(name, limit)

    def _require_field(self, name: str) -> None:
        if name not in self.fields:
            declared = ", ".join(self.fields) or "none; declare them with --field when building"
            raise InvalidInput(f"{name[:80]!r} is not a field of this index; it has: {declared}.")

    def count_values(self, name: str, documents: Mask, limit: int) -> list[tuple[str | float, int]]:
        """Return the `limit` most frequent values of a declared field among documents, ties in order of value.

        Cost: the first time about a microsecond for each value in a segment. Raises InvalidInput.
        """
        self._require_field(name)
        for segment in self.segments:
            if name not in segment.columns:
                segment.columns[name] = column_of(self.records.segment_values(segment.number, name))
        columns = [segment.columns[name] for segment in self.segments]
        return count_values(zip(columns, documents, strict=True), limit)

    def holding(self, terms: Iterable[FieldTerm], mask: Mask | None) -> Mask:
        """Return the documents of each segment that hold any of the analysed terms, within a filter's `mask`."""
        found = self._fields().holding(terms)
        return found if mask is None else [part & allowed for part, allowed in zip(found, mask, strict=True)]

    def add_rows(self, documents: Mask, rows: Sequence[int]) -> None:
        """Mark documents, given by row, in masks of all segments."""
        given = np.array(rows, np.int64)
        for segment, part in zip(self.segments, documents, strict=True):
            ordinals = given - segment.row(0)
            part[ordinals[(ordinals >= 0) & (ordinals < segment.documents)]] = True

    def explain_terms(self, weights: Mapping[FieldTerm, float], document: Document) -> list[TermScore]:
        """Return what each analysed term of a query adds to a document's BM25 score. Analyses the document anew."""
        fielded = self._fields()
        assert self._analyser is not None
        fields = dict.fromkeys(field for field, _ in weights)
        counts = {field: Counter(self._analyser.terms(field_text(document, field))) for field in fields}
        return fielded.explain(weights, counts)

    def describe(self) -> dict[str, Any]:
        """Return what the index is made of, ready for JSON."""
        manifest = self.manifest
        files = manifest.all_files()
        size = sum(entry.bytes for entry in files.values())
        records = self.records.path.stat().st_size
        return {
            "path": str(self.path),
            "generation": manifest.generation,
            "fingerprint": self.fingerprint,
            "created": manifest.created,
            "version": manifest.version,
            "documents": manifest.live,
            "deleted": sum(segment.deleted for segment in manifest.segments),
            "empty": sum(segment.empty for segment in manifest.segments),
            "pending_encoding": manifest.unencoded,
            "segments": len(manifest.segments),
            "bytes": {
                "total": size + records,
                "records": records,
                "inverted": sum(e.bytes for name, e in files.items() if "/inverted." in name),
                "positions": sum(e.bytes for name, e in files.items() if ".position" in name),
                "sparse": sum(e.bytes for name, e in files.items() if "/impacts." in name),
                "dense": sum(e.bytes for name, e in files.items() if "/dense." in name),
                "dense_per_document": _bytes_per_document(manifest),
                "local": sum(e.bytes for name, e in files.items() if "/local." in name),
            },
            "inverted": manifest.inverted.model_dump() if manifest.inverted else None,
            "sparse": manifest.sparse.model_dump() if manifest.sparse else None,
            "dense": manifest.dense.model_dump(exclude={"canary_texts"}) if manifest.dense else None,
            "local": manifest.local.model_dump(exclude={"canary_texts"}) if manifest.local else None,
            "fields": manifest.fields,
            "chunking": manifest.chunking.model_dump() if manifest.chunking else None,
            "pipelines": {name: spec.model_dump() for name, spec in manifest.pipelines.items()},
            "default_pipeline": manifest.default_pipeline,
            "calibrations": [calibration.model_dump() for calibration in manifest.calibrations],
            "corpus": manifest.corpus,
            "report": manifest.report,
        }

    def mask(self, condition: Mapping[str, Any]) -> Mask:
        """Return the documents of each segment that a filter allows. Raises InvalidInput."""
        rows = matching_rows(condition, self.fields, self.records.match, self._all_rows)
        return [segment.allowed(rows) for segment in self.segments]

    def _all_rows(self) -> NDArray[np.int64]:
        # An empty index has no segments.
        parts = [np.zeros(0, np.int64)]
        parts += [np.arange(segment.documents) + segment.row(0) for segment in self.segments]
        return np.concatenate(parts)

    def query_terms(self, query: str, field_weights: Mapping[str, float] | None = None) -> dict[FieldTerm, float]:
        """Return the weights of a query's analysed terms: how often each occurs, times the field's weight.

        field_weights  of the fields in which each term is looked for; None is the contents alone

        Raises InvalidInput for an index without BM25 or without such a field.
        """
        counts = self._terms_of(query)
        require_known(field_weights or {}, self.search_fields)
        return in_fields(counts, field_weights)

    def _terms_of(self, query: str) -> Counter[str]:
        self._fields()
        assert self._analyser is not None
        return Counter(self._analyser.terms(query))

    def search_bm25(
        self, query: str, k: int, mask: Mask | None, field_weights: Mapping[str, float] | None = None
    ) -> tuple[Candidates, list[str]]:
        """Return the best k documents by BM25, and the analysed query terms unless none of them occurs."""
        if field_weights is None:
            counts = self._terms_of(query)
            found = self._statistics().search(counts, k, mask)
            return self._merge(found or [], k), list(counts) if found is not None else []
        weights = self.query_terms(query, field_weights)
        found = self._fields().search(weights, k, mask)
        return self._merge(found or [], k), list(dict.fromkeys(term for _, term in weights)) if found else []

    def search_terms(
        self, weights: Mapping[str, float], k: int, mask: Mask | None, field_weights: Mapping[str, float] | None = None
    ) -> Candidates:
        """Return the best k documents by BM25 for analysed terms with weights above 0, in fields as `query_terms`."""
        found = self._fields().search(in_fields(weights, field_weights), k, mask)
        return self._merge(found or [], k)

    def _fields(self) -> FieldedBm25:
        if self._fielded is None:
            raise InvalidInput(f"{self.path} has no BM25 part; build it with --parts bm25,dense.")
        return self._fielded

    def _statistics(self) -> Bm25:
        return self._fields().contents

    @property
    def document_count(self) -> int:
        """How many live documents hold a term: the N of `idf`. Raises InvalidInput for an index without BM25."""
        return self._statistics().documents

    def document_frequency(self, terms: Sequence[str]) -> NDArray[np.int64]:
        """Return (T,) how many live documents hold each analysed term; 0 for unknown ones."""
        bm25 = self._statistics()
        return bm25.document_frequencies(bm25.find(terms)) if terms else np.zeros(0, np.int64)

    def idf(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """Return (T,) ln(1 + (N - df + 0.5) / (df + 0.5)) of each analysed term, as BM25 has it."""
        return inverse_document_frequencies(self.document_count, self.document_frequency(terms))

    def execute_query(
        self, query: str, mask: Mask | None, field_weights: Mapping[str, float] | None = None
    ) -> Execution:
        """Read a query in the syntax of docs/query-syntax.md and find what it matches. Raises InvalidInput.

        field_weights  of the fields in which words without a field are looked for; None is the contents alone
        """
        if self._fielded is None or self._analyser is None:
            raise InvalidInput(f"{self.path} has no BM25 part, which the query syntax needs; build it with it.")
        if self._query_search is None:
            # Two threads may each make one; they are alike.
            ranks = [segment.id_rank for segment in self.segments]
            self._query_search = QuerySearch(self._fielded, self._analyser, ranks, self._read_terms)
        require_known(field_weights or {}, self.search_fields)
        return self._query_search.execute(self._query_search.compile(query, field_weights), mask)

    def best_of_query(self, execution: Execution, k: int) -> Candidates:
        """Return the best k documents of a query that was executed."""
        return self._merge(execution.best(k), k)

    def _read_terms(
        self, segment: int, ordinals: NDArray[np.int32], fields: Sequence[str]
    ) -> dict[str, list[list[str]]]:
        assert self._analyser is not None
        terms = self._analyser.terms
        rows = [self.segments[segment].row(ordinal) for ordinal in ordinals.tolist()]
        documents = self.records.fetch(rows)
        return {field: [terms(field_text(documents[row], field)) for row in rows] for field in fields}

    def search_sparse(self, weights: Mapping[str, float], k: int, mask: Mask | None) -> Candidates:
        """Return the best k documents for the learned weights of a query's terms."""
        if self._impacts is None:
            raise InvalidInput(f"{self.path} has no learned sparse part; build it with --parts bm25,sparse.")
        return self._merge(self._impacts.search(weights, k, mask), k)

    def search_dense(
        self, vectors: NDArray[np.float32], k: int, mask: Mask | None, *, exact: bool = False
    ) -> tuple[list[Candidates], bool]:
        """Return for each query vector (Q, H) the best k documents, and whether the search was exact.

        exact  look at every vector, whatever the index
        """
        per_query: list[list[tuple[NDArray[np.float32], NDArray[np.int64]]]] = [[] for _ in vectors]
        all_exact = True
        for number, segment in enumerate(self.segments):
            if segment.dense is None:
                raise InvalidInput(f"{self.path} has no vectors; build it with --parts bm25,dense.")
            allowed = mask[number] if mask is not None else None
            found, was_exact = segment.dense.search(vectors, k, segment.id_rank, allowed, exact=exact)
            all_exact &= was_exact
            for answers, answer in zip(per_query, found, strict=True):
                answers.append(answer)
        return [self._merge(answers, k) for answers in per_query], all_exact

    def local_scores(
        self, query: NDArray[np.float32], rows: Sequence[int], deadline: float | None = None
    ) -> NDArray[np.float32]:
        """Return (n,) scores of a local query vector (H,) and documents by row; NaN for those without a vector.

        They are inner products, or what the local encoder itself makes of vectors, as `retriever.llm.bottleneck` does.
        deadline  moment of time.perf_counter(), which only the latter heed: raises OutOfTime
        """
        compare: Compare | None = None
        own = getattr(self.local_encoder, "likelihoods", None)
        if own is not None:
            compare = partial(own, deadline=Deadline(deadline))
        given = np.array(rows, np.int64)
        scores = np.full(len(given), np.nan, np.float32)
        for segment in self.segments:
            ordinals = given - segment.row(0)
            inside = (ordinals >= 0) & (ordinals < segment.documents)
            if segment.local is not None and inside.any():
                scores[inside] = segment.local.scores(query, ordinals[inside], compare)
        return scores

    def _merge(self, found: Sequence[tuple[NDArray[Any], NDArray[Any]]], k: int) -> Candidates:
        """Merge each segment's best k into the best k of all; `found` may be empty instead."""
        if not found:
            return Candidates(np.zeros(0, np.float32), np.zeros(0, np.int64), self._ids_of)
        rows = [
            ordinals.astype(np.int64) + segment.row(0)
            for segment, (_, ordinals) in zip(self.segments, found, strict=True)
        ]
        if len(found) == 1:
            return Candidates(found[0][0], rows[0], self._ids_of)
        return self._merged(np.concatenate([scores for scores, _ in found]), np.concatenate(rows), k)

    def _merged(self, scores: NDArray[Any], rows: NDArray[np.int64], k: int) -> Candidates:
        order = np.argsort(-scores, kind="stable")
        scores, rows = scores[order], rows[order]
        equal = scores[1:] == scores[:-1]
        if equal.any():
            # Only equal scores need ids.
            tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
            ids = self._ids_of(rows[tied])
            places = tied[sorted(range(len(tied)), key=lambda i: (-scores[tied[i]], ids[i]))]
            rows[tied] = rows[places]
        return Candidates(scores[:k], rows[:k], self._ids_of)

    def _ids_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of documents by their rows."""
        if len(self.segments) == 1:
            return self.segments[0].ids.take(rows - self.segments[0].row(0))
        ids = np.empty(len(rows), object)
        for segment in self.segments:
            inside = np.flatnonzero((rows >= segment.row(0)) & (rows < segment.row(segment.documents)))
            ids[inside] = segment.ids.take(rows[inside] - segment.row(0))
        return ids.tolist()

    def search(self, query: str, k: int = 10, **options: Any) -> Answer:
        """Answer one query; the options are those of `batch_search`."""
        return self.batch_search([query], k, **options)[0]

    def batch_search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        pipeline: str | PipelineSpec | None = None,
        field_weights: Mapping[str, float] | None = None,
        filter: Mapping[str, Any] | None = None,
        group_by_parent: bool = False,
        highlight: bool = False,
        documents: bool = True,
        offset: int = 0,
        deadline_ms: float | None = None,
        syntax: bool = False,
        facets: Sequence[str] = (),
        facet_values: int = 10,
        explain: bool = False,
        min_relevance: float | None = None,
    ) -> list[Answer]:
        """Answer queries, one `Answer` each, in order.

        k                how many hits, from `offset` on
        pipeline         a name in `pipelines`, a PipelineSpec, or None for the index's default
        field_weights    instead of the pipeline's: BM25 is the sum over these `search_fields` of weight times the
                         field's own BM25, such as {"title": 2.0, "contents": 1.0}; fields not named do not count
        filter           metadata condition, see `retriever.filters`
        group_by_parent  one hit for each document that was chunked, its best chunk; the hit's id is then the
                         parent's and `hit.document` the chunk
        highlight        mark where query terms stand in each hit's text
        documents        fetch texts and metadata; without them only ids and scores are returned
        deadline_ms      time for the whole query; when it runs out reranking is left out, and said so, and so is
                         encoding by a model that is shared with other requests, where another first stage is left
        syntax           read queries as docs/query-syntax.md says; every hit of every stage fulfils the query, models
                         see its words that are not excluded
        facets           declared fields whose values are counted over what matches, see `retriever.types.Facets`
        facet_values     how many values of each are returned, the most frequent ones
        explain          say for each hit what each term adds; costs an analysis of each hit's text
        min_relevance    leave out hits that are less probably relevant, before `offset` is counted; needs a calibration
                         for the pipeline (`retriever.calibration`)

        Raises InvalidInput for an empty query, k or offset out of range, a faulty filter or pipeline, or a query that
        is not of the syntax; DeadlineExceeded or ModelUnavailable when a model is late or takes no work and no other
        first stage is left.
        """
        from retriever.search import Request, run

        spec = self._pipeline(pipeline)
        if field_weights is not None:
            spec = spec.weighing(field_weights)
        request = Request(
            k, spec, filter, group_by_parent, highlight, documents, offset, deadline_ms, syntax,
            tuple(facets), facet_values, explain, min_relevance,
        )  # fmt: skip
        name = pipeline if isinstance(pipeline, str) else "custom" if pipeline else self.default_pipeline
        return run(self, queries, request, name)

    def _pipeline(self, pipeline: str | PipelineSpec | None) -> PipelineSpec:
        if isinstance(pipeline, PipelineSpec):
            return pipeline
        name = pipeline or self.default_pipeline
        if name not in self.manifest.pipelines:
            known = ", ".join(self.manifest.pipelines)
            raise InvalidInput(f"unknown pipeline {name!r}; this index offers {known}.")
        return self.manifest.pipelines[name]


def _open_fields(part: InvertedPart, segments: Sequence[SegmentReader]) -> FieldedBm25:
    ranks = [segment.id_rank for segment in segments]
    readers = {CONTENTS: [segment.inverted for segment in segments if segment.inverted]}
    for name in part.search_fields:
        readers[name] = [segment.search_fields[name] for segment in segments]
    return FieldedBm25({name: Bm25(found, ranks, part.k1, part.b) for name, found in readers.items()}, ranks)


def _parts(manifest: Manifest) -> tuple[object, ...]:
    """Return what the files of a segment are read by; it changes where a folder is exchanged for another's."""
    codebook = manifest.files.get(manifest.dense.codebook) if manifest.dense else None
    return manifest.inverted, manifest.sparse, manifest.dense, manifest.local, codebook


def _open_segment(
    path: Path,
    manifest: Manifest,
    segment: Segment,
    device: str,
    codebook: Codebook | None,
    older: SegmentReader | None,
) -> SegmentReader:
    if older is not None and older.entry == segment:
        return older
    reader = SegmentReader(path, manifest, segment, device, codebook)
    if older is not None:
        reader.adopt(older)
    return reader


def require_sound(path: Path, manifest: Manifest, checked: Set[tuple[str, str]]) -> Set[tuple[str, str]]:
    """Return the files, by name and sha256, that are what was sealed: postings and codebook of this generation.

    checked  those of an earlier generation; what is in neither is forgotten, for a service sees thousands of them
    Compiled code reads postings unchecked, and a codebook decides about every score.
    Cost: reads them once, at 1 to 2 GB a second. Raises IndexCorrupt.
    """
    sound = set[tuple[str, str]]()
    for name, entry in manifest.all_files().items():
        checks = name.startswith("codebook-") or any(part in name for part in ("/inverted.", "/impacts."))
        if not checks:
            continue
        if (name, entry.sha256) not in checked:
            require_size(path / name, entry.bytes)
            if sha256_of(path / name) != entry.sha256:
                raise IndexCorrupt(f"{path / name} was altered: its sha256 is not the manifest's; restore it.")
        sound.add((name, entry.sha256))
    return sound


def _bytes_per_document(manifest: Manifest) -> dict[str, float]:
    """Return what the dense part takes for each document, deleted ones included, by what the bytes are."""
    documents = sum(segment.documents for segment in manifest.segments)
    found: Counter[str] = Counter()
    for name, entry in manifest.all_files().items():
        part = name.rpartition("/")[2]
        if part.startswith("dense."):
            found[part.split(".")[1]] += entry.bytes
    return {name: round(size / documents, 2) for name, size in found.items() if name != "absent"} if documents else {}


def _matching_analyser(manifest: Manifest) -> Analyser:
    part = manifest.inverted
    assert part is not None
    found = analyser(part.analyser)
    if found.fingerprint() != part.analyser_fingerprint:
        raise IndexMismatch(
            f"the index was analysed by {part.analyser_fingerprint}, this version has {found.fingerprint()}; "
            "rebuild the index or go back to the version that made it."
        )
    return found


def _require_same_encoder(path: Path, expected: dict[str, str], got: dict[str, str]) -> None:
    found = differences(expected, got)
    if found:
        raise IndexMismatch(
            f"{path} was made with another encoder. {'; '.join(found)}. "
            "Use the encoder named in the manifest, or rebuild the index with this one."
        )
