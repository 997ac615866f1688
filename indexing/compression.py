"""Smaller forms of an index, tried on queries before one is chosen.

Each form is made of the vectors that the index stores, searched by the code that serves it, and compared query by
query with the exact search of those vectors.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexing.chunking import owner_of
from indexing.codebooks import codebook_for, sample_vectors
from indexing.learned_codes import Learned, Rescoring
from indexing.recoding import recode_index, require_vectors
from indexing.segments import write_dense
from retriever.codebook import Codebook
from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, Qrels
from retriever.evaluation.measures import measure
from retriever.evaluation.significance import Comparison, compare
from retriever.index.codes import CODES, read_codes
from retriever.index.dense import ABSENT, FAISS_FILE, VECTORS, DenseReader
from retriever.index.form import Form, Stored, product_parts, require_form
from retriever.index.local import LOCAL_ABSENT, LOCAL_VECTORS, LocalReader
from retriever.index.manifest import Manifest, Segment, describe_file
from retriever.index.records import Records
from retriever.index.sealed import Index, open_index
from retriever.index.segment import segment_folder
from retriever.index.strings import StringTable
from retriever.index.tombstones import read_live
from retriever.pipeline import Local
from retriever.progress import Progress
from retriever.protocols import Encoder
from retriever.storage import disk_errors
from retriever.types import Run

NDCG, RECALL = "nDCG@10", "R@100"
DEPTH = 100
# Chunks of which some belong to one document.
CHUNK_DEPTH = 400
TIMED = 50
WORST = 10
LEAST_QUERIES = 20
# Without judged queries so many documents' titles, or so many words of their texts, are asked for.
KNOWN, KNOWN_WORDS, KNOWN_BEST = 300, 12, 10
# RaBitQ keeps eight bytes beside the signs: a sixth more at width 384, half as much again at 128.
RABITQ_OVER = 1.5
# Of learned codes' scores beside those of stored vectors: BiDR's, for scores of one scale.
CODE_WEIGHT = 0.3
# Vectors whose mean length tells their scale.
LENGTHS = 1_000

_Found = list[tuple[NDArray[np.float32], NDArray[np.int64]]]
# Of (rows of the queries, k): the scores and ordinals of the best k.
_Search = Callable[[slice, int], _Found]


@dataclass(frozen=True)
class Trial:
    """One form and what was measured of it, or the `problem` for which it cannot be.

    bytes          of a document on disk        memory  those of them that each search reads
    fixed          bytes of the codebook, which do not grow
    ndcg, recall   against the exact search of the stored vectors, by query; None when there is a problem
    model          folder of the model that makes the codes, for a kind that was learned; else empty
    weight         of the codes' scores beside those of stored vectors, for a kind that was learned
    """

    kind: str
    stored: Stored
    bytes: float = 0.0
    memory: float = 0.0
    fixed: int = 0
    ndcg: Comparison | None = None
    recall: Comparison | None = None
    latency_ms: float = 0.0
    queries_per_second: float = 0.0
    per_query: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    model: str = ""
    weight: float = 0.0

    @property
    def name(self) -> str:
        beside = {"float32": "float32", "float16": "float16", "none": "codes alone"}[self.stored]
        return f"{self.kind}, {beside}"


@dataclass(frozen=True)
class Compression:
    """What was tried, and the smallest form within the bound; `closest` is the one that lost least."""

    index: str
    queries: str
    documents: int
    width: int
    target: float
    most_bytes: float
    max_loss: float
    by_mean: bool
    memory_only: bool
    exact: Trial
    trials: list[Trial]
    chosen: Trial | None
    closest: Trial | None
    texts: dict[str, str]
    codebooks: dict[str, Codebook] = field(default_factory=dict, repr=False)
    learned: dict[str, Learned] = field(default_factory=dict, repr=False)

    def over(self, trial: Trial) -> bool:
        """Whether a form takes more bytes than the target allows; such a one is never chosen."""
        return self.counted(trial) > self.most_bytes

    def counted(self, trial: Trial) -> float:
        """Return the bytes that the target is about."""
        return trial.memory if self.memory_only else trial.bytes

    def within(self, trial: Trial) -> bool:
        """Whether a form fits into the target and loses no more than allowed, with confidence unless by the mean."""
        if trial.ndcg is None or self.over(trial):
            return False
        worst = trial.ndcg.difference if self.by_mean else trial.ndcg.interval[0]
        return worst >= -self.max_loss

    def losers(self, trial: Trial) -> list[tuple[str, str, float, float]]:
        """Return (id, text, before, after) of the queries that lose most."""
        lost = sorted(trial.per_query, key=lambda id_: (trial.per_query[id_] - self.exact.per_query[id_], id_))
        return [
            (id_, self.texts[id_], self.exact.per_query[id_], trial.per_query[id_])
            for id_ in lost[:WORST]
            if trial.per_query[id_] < self.exact.per_query[id_]
        ]


def try_forms(
    path: str | Path,
    *,
    target: float = 32.0,
    max_loss: float = 0.02,
    collection: Collection | None = None,
    encoder: Encoder | None = None,
    forms: Sequence[tuple[str, Stored]] | None = None,
    learned: Sequence[Learned] = (),
    by_mean: bool = False,
    memory_only: bool = False,
    keep_self: bool = False,
    generated: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
) -> Compression:
    """Try smaller forms of an index and choose the smallest that keeps the bound, of equal ones the fastest.

    target       bytes of a float32 vector over those of a document in the new form
    max_loss     of nDCG@10 against exact search; the lower end of its 95 % interval counts, or the mean with `by_mean`
    collection   judged queries; without it documents are asked for by title or first words, and what exact search
                 finds first counts as relevant: then the loss is one of agreement
    forms        (kind, stored) to try instead of `candidates`
    learned      models that compress documents themselves, tried too: their codes alone, and with the stored vectors
                 to rescore by where these fit into the target; each encodes all documents, once
    memory_only  count only what each search reads; stored vectors may lie on disk beside it
    keep_self    queries and documents are numbered apart, so that an equal id means nothing
    generated    the queries of `collection` were made up for the documents that are relevant to them

    Cost: training of some codebooks (up to a minute each at width 768) and a search by each form; the vectors are
    copied once, and once as float16. Raises InvalidInput for an index without vectors, or too few queries.
    """
    folder = Path(path)
    require_measurable(target, max_loss, collection)
    with open_index(folder, encoder=encoder, device=device, offline=offline) as index:
        require_vectors(folder, index.manifest)
        assert index.manifest.dense is not None
        width = index.manifest.dense.width
        beside = folder.resolve().parent
        with disk_errors(beside), tempfile.TemporaryDirectory(dir=beside, prefix=".compress-") as scratch:
            bench = _Bench(index, Path(scratch), collection, keep_self, generated)
            most = 4 * width / target
            chosen = list(forms) if forms is not None else candidates(width, most, memory_only=memory_only)
            trials = []
            with Progress("forms", len(chosen) + len(learned), quiet) as progress:
                for kind, stored in chosen:
                    trials.append(bench.trial(kind, stored))
                    progress.advance(1)
                for model in learned:
                    trials += bench.learned_trials(model, most, memory_only)
                    progress.advance(1)
            found = Compression(
                str(folder), bench.queries_are, len(bench.ids), width, target, most, max_loss, by_mean, memory_only,
                bench.exact, trials, None, None, bench.texts, bench.codebooks, {model.name: model for model in learned},
            )  # fmt: skip
    measured = [trial for trial in trials if trial.ndcg is not None]
    fitting = [trial for trial in measured if found.within(trial)]
    small = [trial for trial in measured if not found.over(trial)] or measured
    best = min(
        fitting, key=lambda t: (round(found.counted(t)), round(t.bytes), bool(t.model), t.latency_ms), default=None
    )
    closest = max(small, key=lambda t: t.ndcg.difference if t.ndcg else -1.0, default=None)
    return replace(found, chosen=best, closest=closest)


def require_measurable(target: float, max_loss: float, collection: Collection | None) -> None:
    """Raise InvalidInput for a target or a bound that cannot be, and for judged queries too few to measure a loss."""
    if not target > 1 or not 0 <= max_loss < 1:
        raise InvalidInput(
            f"the target is above 1 and the loss from 0 to below 1, got {target:g} and {max_loss:g}; give others."
        )
    if collection is not None:
        _require_queries(len(collection.judged))


def _require_queries(count: int) -> None:
    if count < LEAST_QUERIES:
        raise InvalidInput(f"{count} queries are too few to measure a loss; give {LEAST_QUERIES} or more.")


def candidates(width: int, most_bytes: float, *, memory_only: bool = False) -> list[tuple[str, Stored]]:
    """Return the forms (kind, stored) worth trying where a document may take so many bytes.

    With `memory_only` RaBitQ is among them up to `RABITQ_OVER` times the bytes: its eight beside the signs leave it
    just over a target such as 32, where it is reported and never chosen.
    """
    beside: list[tuple[Stored, int]] = [("none", 0), ("float16", 2 * width), ("float32", 4 * width)]
    codes: dict[str, float] = {"binary": 8 * -(-width // 64)}
    # Beyond a quarter of the width training takes minutes, and a byte a dimension is as good.
    most_parts = min(most_bytes, width / 4)
    parts = [m for m in range(4, width + 1) if width % m == 0 and m <= most_parts]
    # The largest that fit lose least; much smaller ones may still do.
    for m in [m for m in parts if m >= most_parts / 4][-1:-6:-2] or parts[-1:]:
        codes |= {f"pq{m}": m, f"opq{m}": m}
    found: list[tuple[str, Stored]] = [("flat", "float16")] if 2 * width <= most_bytes else []
    if width <= most_bytes:
        # A byte a dimension, each with its own 256 levels.
        found.append((f"pq{width}", "none"))
    for stored, size in beside:
        for kind, own in codes.items():
            if own + (0 if memory_only else size) <= most_bytes and (kind, stored) not in found:
                found.append((kind, stored))
        allowed = RABITQ_OVER * most_bytes if memory_only else most_bytes
        if stored != "none" and width / 8 + 8 + (0 if memory_only else size) <= allowed:
            found.append(("RaBitQ", stored))
    return found


def compress_index(
    found: Compression, target: str | Path, *, device: str | None = None, quiet: bool = True
) -> Manifest:
    """Write the chosen form of an index that was tried to `target`; nothing is encoded again.

    But by a model that was learned: documents that are new since the trial are. `recode_index` says where it goes.
    Raises InvalidInput when no form was within the bound, or something is there already.
    """
    if found.chosen is None:
        raise InvalidInput(refusal(found))
    if found.chosen.model:
        learned = found.learned[found.chosen.kind]
        rescoring = None
        if found.chosen.stored != "none":
            rescoring = Rescoring(found.chosen.stored, Local(weight=found.chosen.weight))
        return recode_index(
            found.index, target, learned.form, device=device, quiet=quiet, learned=learned, rescoring=rescoring
        )
    kind, stored = found.chosen.kind, found.chosen.stored
    form = Form(found.width, kind, stored, found.codebooks.get(kind))
    return recode_index(found.index, target, form, device=device, quiet=quiet)


def refusal(found: Compression) -> str:
    """Say that no form is within the bound, and what came closest."""
    said = f"no form of at most {found.most_bytes:g} bytes a document keeps nDCG@10 within {found.max_loss:g}"
    closest = found.closest
    if closest is None or closest.ndcg is None:
        return f"{said}: none could be made; see the report."
    low, high = closest.ndcg.interval
    said += (
        f"; closest is {closest.name} with {found.counted(closest):.0f} bytes and {closest.ndcg.difference:+.4f} "
        f"({low:+.4f} to {high:+.4f})"
    )
    if found.counted(closest) <= found.most_bytes and closest.ndcg.difference >= -found.max_loss:
        return f"{said}. Its mean would do: give more queries to be sure, or decide by --mean."
    return (
        f"{said}. Allow more loss or more bytes, or count only memory and rescore by vectors on disk (--memory-only)."
    )


class _Bench:
    """The live vectors of an index in one place, the queries, and the exact answers to them."""

    def __init__(
        self, index: Index, scratch: Path, collection: Collection | None, keep_self: bool, generated: bool
    ) -> None:
        self._folder, self._scratch = index.path, scratch
        self._keep_self = keep_self and collection is not None
        self._manifest = index.manifest
        part = index.manifest.dense
        assert part is not None
        self._width, self._oversample = part.width, part.oversample
        self._sources = [s for s in index.manifest.segments if not s.unencoded and s.documents > s.deleted]
        if not self._sources:
            raise InvalidInput(f"{index.path} has no document with a vector yet.")
        self.codebooks: dict[str, Codebook] = {}
        self._sample: NDArray[np.float32] | None = None
        self._stored: dict[str, Path] = {}
        self.ids = self._live_ids()
        self._rank = np.empty(len(self.ids), np.int32)
        self._rank[sorted(range(len(self.ids)), key=self.ids.__getitem__)] = np.arange(len(self.ids), dtype=np.int32)
        self._owners = self.ids
        if index.manifest.chunking is not None:
            self._owners = [owner_of(id_) or id_ for id_ in self.ids]
        self._whole = self._with_vectors(part.stored)
        sample = sample_vectors([self._whole], LENGTHS)
        if len(sample) > 1 and (sample == sample[0]).all():
            raise InvalidInput(
                f"the dense vectors of {index.path} are all the same; there is nothing to compress. Check its encoder."
            )
        encoder = index.encoder
        assert encoder is not None
        if collection is None:
            self.texts = self._known_items()
            self.queries_are = (
                f"{len(self.texts)} documents asked for by title or first words; agreement with exact search"
            )
        else:
            self.texts = collection.judged
            self.queries_are = (
                f"{len(self.texts)} generated queries held out from training, their own documents relevant"
                if generated
                else f"{len(self.texts)} judged queries of {collection.name}/{collection.split}"
            )
        _require_queries(len(self.texts))
        self._vectors = encoder.encode_queries(list(self.texts.values()))
        reader = DenseReader(self._whole, faiss_sha256=None, oversample=1, live=None)
        run, latency, rate = self._answered(self._by(reader, self._vectors))
        self._qrels: Qrels = (
            {id_: collection.qrels[id_] for id_ in self.texts}
            if collection is not None
            else {id_: {document: 1 for document, _ in found[:KNOWN_BEST]} for id_, found in run.items()}
        )
        measured = measure(run, self._qrels, (NDCG, RECALL))
        self._baseline = measured.per_query
        same = {name: compare(values, values) for name, values in measured.per_query.items()}
        size = _content_bytes(self._whole / VECTORS) / len(self.ids)
        self.exact = Trial(
            "flat", part.stored, size, size, 0, same[NDCG], same[RECALL], latency, rate, measured.per_query[NDCG]
        )

    def _live(self, segment: Segment) -> NDArray[np.bool_] | None:
        return read_live(self._folder / segment.tombstones, segment.documents) if segment.tombstones else None

    def _live_ids(self) -> list[str]:
        ids: list[str] = []
        for segment in self._sources:
            table = StringTable(self._folder / segment_folder(segment.name), "documents.ids")
            live = self._live(segment)
            ids += table.take(np.arange(segment.documents) if live is None else np.flatnonzero(live))
        return ids

    def _with_vectors(self, stored: Stored) -> Path:
        """Return a folder with the vectors of all live documents in one file."""
        if stored not in self._stored:
            folder = self._scratch / stored
            folder.mkdir()
            homes = [self._folder / segment_folder(segment.name) for segment in self._sources]
            kept = [self._live(segment) for segment in self._sources]
            write_dense(homes, kept, len(self.ids), folder, Form(self._width, "flat", stored))
            self._stored[stored] = folder
        return self._stored[stored]

    def _known_items(self) -> dict[str, str]:
        """Return queries that name documents, evenly spaced over the index."""
        texts: dict[str, str] = {}
        with closing(Records(self._folder, self._manifest.generation)) as records:
            for segment in self._sources:
                share = -(-KNOWN * segment.documents // sum(s.documents for s in self._sources))
                step = max(1, segment.documents // share)
                live = self._live(segment)
                for ordinal, document in records.segment_documents(segment.number):
                    words = (document.title or document.text).split()[:KNOWN_WORDS]
                    if ordinal % step == 0 and words and (live is None or live[ordinal]):
                        texts[document.id] = " ".join(words)
        return dict(list(texts.items())[:KNOWN])

    def _by(self, reader: DenseReader, vectors: NDArray[np.float32]) -> _Search:
        """Return the search for queries (Q, H) by a reader."""
        return lambda rows, k: reader.search(vectors[rows], k, self._rank, None)[0]

    def _ordered_by_stored(self, search: _Search, reader: LocalReader, stage: Local) -> _Search:
        """Return a search whose best `stage.depth` are put in order as the stage `local` of a pipeline does."""

        def best(rows: slice, k: int) -> _Found:
            answers = []
            for query, (scores, ordinals) in zip(self._vectors[rows], search(rows, stage.depth), strict=True):
                own = reader.scores(query, ordinals)
                there = np.flatnonzero(np.isfinite(own))
                scores, ordinals = own[there] + np.float32(stage.weight) * scores[there], ordinals[there]
                order = np.lexsort((self._rank[ordinals], -scores))[:k]
                answers.append((scores[order], ordinals[order]))
            return answers

        return best

    def _answered(self, search: _Search) -> tuple[Run, float, float]:
        """Return the answers, the median milliseconds of a query alone, and queries a second of all together."""
        grouped = self._owners is not self.ids
        k = CHUNK_DEPTH if grouped else DEPTH + 1
        search(slice(1), k)
        times = []
        for row in range(min(TIMED, len(self.texts))):
            started = time.perf_counter()
            search(slice(row, row + 1), k)
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        found = search(slice(None), k)
        seconds = time.perf_counter() - started
        run: Run = {}
        for id_, (scores, ordinals) in zip(self.texts, found, strict=True):
            best: dict[str, float] = {}
            for score, ordinal in zip(scores.tolist(), ordinals.tolist(), strict=True):
                # A chunk stands for its document; a query that is a document does not find itself.
                best.setdefault(self._owners[ordinal], score)
            if not self._keep_self:
                best.pop(id_, None)
            run[id_] = list(best.items())[:DEPTH]
        return run, 1000 * float(np.median(times)), len(self.texts) / seconds

    def trial(self, kind: str, stored: Stored) -> Trial:
        """Make a form, search by it and compare."""
        try:
            require_form(kind, stored, self._width)
            return self._measured(kind, stored)
        except InvalidInput as error:
            return Trial(kind, stored, problem=str(error))

    def learned_trials(self, learned: Learned, most_bytes: float, memory_only: bool) -> list[Trial]:
        """Encode the documents by a model that makes codes, search by them and compare.

        Then with the stored vectors beside them, where these fit. An index that has local vectors keeps those instead.
        """
        learned.forget()
        generation = self._manifest.generation
        sources = [learned.codes_of(self._folder, generation, segment) for segment in self._sources]
        kept = [self._live(segment) for segment in self._sources]
        folder = self._scratch / learned.name
        folder.mkdir()
        write_dense(sources, kept, len(self.ids), folder, learned.form)
        queries = learned.encoder.encode_queries(list(self.texts.values()))
        trials = [replace(self._searched(folder, learned.name, learned.form, queries), model=str(learned.model))]
        beside: tuple[Stored, ...] = ("float16", "float32")
        for stored in beside if self._manifest.local is None else ():
            rows = self._width * np.dtype(stored).itemsize
            if trials[0].bytes + (0 if memory_only else rows) <= most_bytes:
                stage = Local(weight=self._code_weight(learned.form))
                folder.mkdir()
                write_dense(sources, kept, len(self.ids), folder, learned.form)
                trials.append(
                    replace(
                        self._searched(folder, learned.name, learned.form, queries, (stored, stage)),
                        model=str(learned.model),
                        weight=stage.weight,
                    )
                )
        return trials

    def _code_weight(self, form: Form) -> float:
        """Return what the scores of learned codes count beside those of the stored vectors.

        Centroids are of the vectors' own scale. Signs have the length sqrt(H), whatever that of the vectors is.
        """
        if form.codebook is not None:
            return CODE_WEIGHT
        length = float(np.linalg.norm(sample_vectors([self._whole], LENGTHS), axis=1).mean())
        return round(CODE_WEIGHT * length / float(np.sqrt(form.width)), 6)

    def _measured(self, kind: str, stored: Stored) -> Trial:
        if product_parts(kind) and kind not in self.codebooks:
            if self._sample is None:
                self._sample = sample_vectors([self._whole])
            codebook = codebook_for(kind, self._sample)
            assert codebook is not None
            self.codebooks[kind] = codebook
        form = Form(self._width, kind, stored, self.codebooks.get(kind))
        folder = self._scratch / f"{kind}-{stored}"
        folder.mkdir()
        write_dense([self._whole], [None], len(self.ids), folder, form, anew=True)
        return self._searched(folder, kind, form)

    def _searched(
        self,
        folder: Path,
        name: str,
        form: Form,
        queries: NDArray[np.float32] | None = None,
        local: tuple[Stored, Local] | None = None,
    ) -> Trial:
        """Search by what a folder holds, measure, and remove it.

        queries  their vectors, where they are another encoder's
        local    how the stored vectors put in order what is found
        """
        try:
            codes = read_codes(folder / CODES, form.width, form.codebook) if form.has_codes else None
            faiss = describe_file(folder / FAISS_FILE).sha256 if (folder / FAISS_FILE).is_file() else None
            reader = DenseReader(folder, faiss_sha256=faiss, oversample=self._oversample, live=None, codes=codes)
            search = self._by(reader, self._vectors if queries is None else queries)
            if local is not None:
                for part, link in ((VECTORS, LOCAL_VECTORS), (ABSENT, LOCAL_ABSENT)):
                    (folder / link).symlink_to((self._with_vectors(local[0]) / part).resolve())
                search = self._ordered_by_stored(search, LocalReader(folder), local[1])
            run, latency, rate = self._answered(search)
            measured = measure(run, self._qrels, (NDCG, RECALL)).per_query
            sizes = {
                path.name: _content_bytes(path) for path in folder.iterdir() if path.name not in (ABSENT, LOCAL_ABSENT)
            }
            beside = sizes.get(VECTORS, 0) + sizes.get(LOCAL_VECTORS, 0)
            searched = sum(sizes.values()) - (0 if form.kind == "flat" else beside)
            return Trial(
                name,
                local[0] if local is not None else form.stored,
                sum(sizes.values()) / len(self.ids),
                searched / len(self.ids),
                form.codebook.rotation.nbytes + form.codebook.centroids.nbytes if form.codebook else 0,
                compare(self._baseline[NDCG], measured[NDCG]),
                compare(self._baseline[RECALL], measured[RECALL]),
                latency,
                rate,
                measured[NDCG],
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _content_bytes(path: Path) -> int:
    """Return the bytes of a file without the header of an array, which does not grow."""
    if path.suffix != ".npy":
        return path.stat().st_size
    content: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    return content.nbytes
