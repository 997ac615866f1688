"""Mining negatives from a sealed index as a job: resumable, sharded, and honest about false negatives.

Whatever a source ranks high for a query and is not known to be relevant is a candidate. What is known to be relevant
goes by id and by text, since collections hold copies. What is relevant without anybody knowing it can only be
estimated: a candidate that a judge scores above the known relevant document is counted, and with `denoise` dropped
(TopK-PercPos of NV-Retriever, arXiv:2407.15831).
"""

import hashlib
import itertools
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.evaluation.collections import Collection
from retriever.index.records import ORDINAL_BITS, row_of
from retriever.index.sealed import Index
from retriever.protocols import Reranker
from retriever.search import MAX_K
from training.candidate_files import JUDGED, mined_schema
from training.portions import NAMED, WHOLE, Outcome, Plan, Shard, run
from training.teachers import model_digest, probabilities

if TYPE_CHECKING:
    import pyarrow as pa

Source = Literal["bm25", "dense", "sparse"]

# A chunked index is searched this much deeper, as several chunks of a document count once.
CHUNKS = 4


class MiningSettings(BaseModel):
    """What is mined and how it is cleaned.

    depth          how many documents each source gives for a query, relevant ones among them
    denoise        a cross-encoder; candidates above `denoise_ratio` of the positive's probability are dropped
    estimate       compare candidates with positives by the index's encoder where there is no cross-encoder
    portion        queries between two saves
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[Source, ...] = Field(("bm25", "dense"), min_length=1)
    depth: int = Field(200, ge=1, le=MAX_K)
    denoise: str | None = None
    denoise_ratio: float = Field(0.95, gt=0, le=1)
    estimate: bool = True
    portion: int = Field(1024, ge=1, le=65_536)

    @field_validator("sources")
    @classmethod
    def _once(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if len(set(sources)) != len(sources):
            raise ValueError(f"a source stands twice in {list(sources)}")
        return sources


@dataclass(frozen=True, slots=True)
class Judged:
    """A query with relevant documents in the index.

    relevant  ids of relevant documents that the index holds
    copies    ids of other documents with the text of one of them
    """

    id: str
    text: str
    relevant: frozenset[str]
    copies: frozenset[str]


@dataclass(frozen=True, slots=True)
class Survey:
    """What one reading of the corpus gives.

    queries  those that can be used, in order of id
    rows     rows of each relevant document in the index, several for a chunked one
    facts    counts and first names of all that cannot be used
    """

    queries: list[Judged]
    rows: dict[str, list[int]]
    facts: dict[str, Any]


def mine_index(
    index: Index,
    collection: Collection,
    output: Path,
    settings: MiningSettings | None = None,
    *,
    origin: str = "",
    shard: Shard = WHOLE,
    restart: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
) -> Outcome:
    """Write the candidates of all judged queries of a collection into a file as docs/training-data.md describes it.

    origin  where the collection was read from, noted for later commands
    Other arguments are those of `training.portions.run`, which also says how the job resumes.

    Cost: reads the corpus once, then searches; memory is that of one portion, of 16 bytes a document, and of the
    judgments. Raises InvalidInput when the index lacks a source or no query can be used, ModelFault for vectors or
    scores that are not finite, and what `run` raises.
    """
    settings = settings or MiningSettings()
    _require_sources(index, settings)
    survey = survey_corpus(index, collection)
    if not survey.queries:
        raise InvalidInput(
            f"none of the {len(collection.qrels)} judged queries of {collection.name} ({collection.split}) has a text "
            f"and a relevant document in {index.path}: {survey.facts}. Is it an index of the same corpus?"
        )
    depends_on: dict[str, Any] = {
        "index": index.fingerprint,
        "collection": collection.sha256,
        "split": collection.split,
        **settings.model_dump(mode="json"),
    }
    if settings.denoise is not None:
        depends_on["denoise_sha256"] = model_digest(settings.denoise, offline=offline)
    starts = range(0, len(survey.queries), settings.portion)
    plan = Plan(
        job="mining",
        depends_on=depends_on,
        facts={"index_path": str(index.path), "collection_path": origin, "survey": survey.facts},
        sizes=[min(settings.portion, len(survey.queries) - start) for start in starts],
    )
    miner = _Miner(index, survey, settings, device, offline)
    return run(plan, output, miner.portion, shard=shard, restart=restart, quiet=quiet)


def report_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what a finished mining did, ready for JSON: survey, counts, and the estimated false-negative rate.

    The rate is None where nothing was compared: no cross-encoder, and an index without vectors.
    """
    counts = dict(metadata["counts"])
    compared, above = counts.pop("compared", 0), counts.pop("above_positive", 0)
    judge = metadata["depends_on"]["denoise"] or ("the index's encoder" if compared else None)
    return {
        **metadata["survey"],
        "counts": counts,
        "false_negatives": {
            "judge": judge,
            "compared": compared,
            "above_positive": above,
            "rate": above / compared if compared else None,
        },
    }


def _require_sources(index: Index, settings: MiningSettings) -> None:
    present = {"bm25": index.manifest.inverted, "dense": index.manifest.dense, "sparse": index.manifest.sparse}
    absent = [source for source in settings.sources if present[source] is None]
    if absent:
        has = [source for source, part in present.items() if part is not None]
        raise InvalidInput(f"{index.path} has no {', '.join(absent)} part; mine with --sources {','.join(has)}.")


def normalised(text: str) -> str:
    """Return what two texts share that a reader would call the same: compatible forms, case and white space folded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def survey_corpus(index: Index, collection: Collection) -> Survey:
    """Read all documents once and find which judged ones are there and which others have their text."""
    relevant = {
        # A document with the query's own id is the query itself.
        query: [id_ for id_, grade in judgments.items() if grade > 0 and id_ != query]
        for query, judgments in sorted(collection.qrels.items())
    }
    wanted = {id_ for ids in relevant.values() for id_ in ids}
    digests, first_rows = array("Q"), array("q")
    rows: dict[str, list[int]] = {}
    digest_of: dict[str, int] = {}
    for id_, digest, own_rows in _contents(index):
        digests.append(digest)
        first_rows.append(own_rows[0])
        if id_ in wanted:
            rows[id_], digest_of[id_] = own_rows, digest
    same = _of_digests(index, digests, first_rows, set(digest_of.values()))
    queries = []
    without_text, without_positives, all_missing = [], [], []
    for query, ids in relevant.items():
        known = frozenset(id_ for id_ in ids if id_ in rows)
        if query not in collection.queries:
            without_text.append(query)
        elif not ids:
            without_positives.append(query)
        elif not known:
            all_missing.append(query)
        else:
            copies = frozenset().union(*(same[digest_of[id_]] for id_ in known)) - known
            queries.append(Judged(query, collection.queries[query], known, copies))
    missing = sorted(wanted - rows.keys())
    facts = {
        "queries": {
            "judged": len(relevant),
            "mined": len(queries),
            "without_text": _named(without_text),
            "without_positives": _named(without_positives),
            "positives_all_missing": _named(all_missing),
        },
        "positives": {"judged": len(wanted), "missing_from_corpus": _named(missing)},
    }
    return Survey(queries, rows, facts)


def _named(ids: Sequence[str]) -> dict[str, Any]:
    return {"count": len(ids), "first": list(ids[:NAMED])}


def _contents(index: Index) -> Iterator[tuple[str, int, list[int]]]:
    """Yield id, 64 bits of the normalised content's hash, and rows of every document that was not deleted."""
    for segment in index.segments:
        live = segment.live
        stored = index.records.segment_documents(segment.number)
        visible = ((ordinal, document) for ordinal, document in stored if live is None or live[ordinal])
        # The chunks of a document stand side by side.
        for id_, group in itertools.groupby(visible, key=lambda pair: pair[1].parent or pair[1].id):
            hashed, rows = hashlib.blake2b(digest_size=8), []
            for ordinal, document in group:
                hashed.update(normalised(document.content).encode("utf-8", "surrogatepass") + b"\n")
                rows.append(row_of(segment.number, ordinal))
            yield id_, int.from_bytes(hashed.digest()), rows


def _of_digests(index: Index, digests: "array[int]", rows: "array[int]", wanted: set[int]) -> dict[int, set[str]]:
    """Return for each wanted digest the ids of all documents that have it."""
    all_digests = np.frombuffer(digests, np.uint64) if digests else np.zeros(0, np.uint64)
    places = np.flatnonzero(np.isin(all_digests, np.array(sorted(wanted), np.uint64)))
    documents = index.documents([rows[place] for place in places])
    same: dict[int, set[str]] = {digest: set() for digest in wanted}
    for place in places:
        document = documents[rows[place]]
        same[digests[place]].add(document.parent or document.id)
    return same


@dataclass(slots=True)
class _Found:
    """One document that sources found for a query, or that is judged relevant to it.

    places   rank (from 1, 0 where it was not found) and score by source
    row      of the document, or of its best chunk, in the index
    """

    label: int
    row: int
    places: dict[str, tuple[int, float | None]]


class _Miner:
    """Makes the portions of one job; models are loaded when the first portion needs them."""

    def __init__(
        self, index: Index, survey: Survey, settings: MiningSettings, device: str | None, offline: bool
    ) -> None:
        self.index = index
        self.survey = survey
        self.settings = settings
        self.device = device
        self.offline = offline
        self.segments = {segment.number: segment for segment in index.segments}
        self.chunked = index.manifest.chunking is not None
        self._judge: Reranker | None = None

    @property
    def compares_vectors(self) -> bool:
        return self.settings.denoise is None and self.settings.estimate and self.index.manifest.dense is not None

    def portion(self, number: int) -> tuple["pa.Table", Counter[str]]:
        """Return the rows of a portion and what was counted on the way."""
        size = self.settings.portion
        queries = self.survey.queries[number * size : (number + 1) * size]
        vectors = None
        if "dense" in self.settings.sources or self.compares_vectors:
            vectors = self._encode(queries)
        found = {source: self._search(source, queries, vectors) for source in self.settings.sources}
        counts: Counter[str] = Counter()
        columns: dict[str, list[Any]] = {name: [] for name in mined_schema().names}
        for place, query in enumerate(queries):
            documents = self._gather(query, {source: lists[place] for source, lists in found.items()}, counts)
            teacher: dict[str, float] = {}
            if self.settings.denoise is not None:
                teacher = self._denoise(query, documents, counts)
            elif self.compares_vectors and vectors is not None:
                self._compare(vectors[place], documents, counts)
            self._write(query, documents, teacher, columns, counts)
        return _table(columns), counts

    def _encode(self, queries: Sequence[Judged]) -> NDArray[np.float32]:
        try:
            encoder = self.index.encoder
        except BackendUnavailable as error:
            if "dense" in self.settings.sources:
                raise
            raise BackendUnavailable(f"{error} Or leave out the estimate of false negatives: --no-estimate.") from error
        assert encoder is not None
        vectors = encoder.encode_queries([query.text for query in queries])
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise ModelFault(
                f"the encoder gave a vector that is not finite for query {queries[int(finite.argmin())].id!r}."
            )
        return vectors

    def _search(
        self, source: Source, queries: Sequence[Judged], vectors: NDArray[np.float32] | None
    ) -> list[list[tuple[str, float, int]]]:
        """Return (document, score, row) for each query, best first."""
        depth = self.settings.depth * (CHUNKS if self.chunked else 1)
        if source == "dense":
            assert vectors is not None
            candidates, _ = self.index.search_dense(vectors, depth, None)
        elif source == "sparse":
            encoder = self.index.sparse_encoder
            assert encoder is not None
            weights = encoder.encode_queries([query.text for query in queries])
            candidates = [self.index.search_sparse(terms, depth, None) for terms in weights]
        else:
            candidates = [self.index.search_bm25(query.text, depth, None)[0] for query in queries]
        lists = [list(zip(one.ids, one.scores, one.rows, strict=True)) for one in candidates]
        return [self._whole(hits) for hits in lists] if self.chunked else lists

    def _whole(self, hits: list[tuple[str, float, int]]) -> list[tuple[str, float, int]]:
        """Return the best chunk of each document, under the document's id."""
        chunks = self.index.documents([row for _, _, row in hits])
        best: dict[str, tuple[str, float, int]] = {}
        for id_, score, row in hits:
            parent = chunks[row].parent or id_
            best.setdefault(parent, (parent, score, row))
        return list(best.values())[: self.settings.depth]

    def _gather(
        self, query: Judged, lists: dict[str, list[tuple[str, float, int]]], counts: Counter[str]
    ) -> dict[str, _Found]:
        """Join what the sources found, the relevant documents known as such, copies and the query itself left out."""
        documents: dict[str, _Found] = {}
        removed: dict[str, str] = {}
        for source, hits in lists.items():
            for rank, (id_, score, row) in enumerate(hits, 1):
                if id_ in query.copies:
                    removed[id_] = "removed_by_text"
                    continue
                if id_ == query.id:
                    removed[id_] = "removed_as_the_query_itself"
                    continue
                entry = documents.get(id_)
                if entry is None:
                    relevant = id_ in query.relevant
                    if relevant:
                        removed[id_] = "removed_by_id"
                    entry = documents[id_] = _Found(int(relevant), row, {})
                entry.places[source] = (rank, score)
        for id_ in sorted(query.relevant - documents.keys()):
            documents[id_] = _Found(1, self.survey.rows[id_][0], {})
        counts.update(removed.values())
        return documents

    def _compare(self, vector: NDArray[np.float32], documents: dict[str, _Found], counts: Counter[str]) -> None:
        """Count the candidates whose inner product is above the positive's; fill in the positives' dense scores."""
        positives: dict[str, float] = {}
        for id_, entry in documents.items():
            if entry.label:
                products = self._products(vector, self.survey.rows[id_])
                if not np.isnan(products).all():
                    positives[id_] = float(np.nanmax(products))
        if "dense" in self.settings.sources:
            for id_, score in positives.items():
                documents[id_].places.setdefault("dense", (0, score))
        if positives:
            candidates = self._products(vector, [entry.row for entry in documents.values() if not entry.label])
            counts["compared"] += int(np.count_nonzero(~np.isnan(candidates)))
            counts["above_positive"] += int(np.count_nonzero(candidates > np.median(list(positives.values()))))

    def _products(self, vector: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the inner product of each document, NaN where it has no vector."""
        numbers = np.array(rows, np.int64)
        products = np.full(len(rows), np.nan, np.float32)
        for number in np.unique(numbers >> ORDINAL_BITS).tolist():
            dense = self.segments[number].dense
            assert dense is not None
            here = numbers >> ORDINAL_BITS == number
            stored = dense.stored(numbers[here] & ((1 << ORDINAL_BITS) - 1))
            products[here] = np.where(stored.any(axis=1), stored @ vector, np.nan)
        return products

    def _denoise(self, query: Judged, documents: dict[str, _Found], counts: Counter[str]) -> dict[str, float]:
        """Drop candidates that the cross-encoder finds about as relevant as the positive; return all its scores."""
        scores = self._judge_all(query.text, documents)
        chances = probabilities(np.array(list(scores.values()), np.float32))
        labels = np.array([entry.label for entry in documents.values()], np.bool_)
        positive = float(np.median(chances[labels]))
        counts["compared"] += int(np.count_nonzero(~labels))
        counts["above_positive"] += int(np.count_nonzero(~labels & (chances > positive)))
        for id_, drop in zip(scores, ~labels & (chances > self.settings.denoise_ratio * positive), strict=True):
            if drop:
                del documents[id_]
                counts["denoised"] += 1
        return scores

    def _judge_all(self, query: str, documents: dict[str, _Found]) -> dict[str, float]:
        """Return the cross-encoder's score of each document, of its best chunk where it has several."""
        if self._judge is None:
            from retriever.rerank import CrossEncoderReranker

            assert self.settings.denoise is not None
            self._judge = CrossEncoderReranker(self.settings.denoise, device=self.device, offline=self.offline)
        rows = {id_: self.survey.rows[id_] if entry.label else [entry.row] for id_, entry in documents.items()}
        flat = [row for own in rows.values() for row in own]
        texts = self.index.documents(flat)
        values, _ = self._judge.score(query, [texts[row] for row in flat])
        by_row = dict(zip(flat, values.tolist(), strict=True))
        return {id_: max(by_row[row] for row in own) for id_, own in rows.items()}

    def _write(
        self,
        query: Judged,
        documents: dict[str, _Found],
        teacher: dict[str, float],
        columns: dict[str, list[Any]],
        counts: Counter[str],
    ) -> None:
        lines = []
        counts["queries_without_candidates"] += all(entry.label for entry in documents.values())
        for id_, entry in documents.items():
            counts["positives" if entry.label else "candidates"] += 1
            places = entry.places or {JUDGED: (0, None)}
            for source, (rank, score) in places.items():
                lines.append((source, rank, id_, score, entry.label, teacher.get(id_)))
                if not entry.label:
                    counts[f"candidates_{source}"] += 1
        order = [*self.settings.sources, JUDGED]
        # Those that were found stand in order of rank, positives that were not behind them.
        lines.sort(key=lambda line: (order.index(line[0]), line[1] or MAX_K + 1, line[2]))
        columns["query_id"] += [query.id] * len(lines)
        for name, values in zip(
            ("source", "rank", "document_id", "score", "label", "teacher"), zip(*lines, strict=True), strict=True
        ):
            columns[name] += values


def _table(columns: dict[str, list[Any]]) -> "pa.Table":
    import pyarrow as pa

    schema = mined_schema()
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)
