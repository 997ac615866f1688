"""Building an index from a corpus, and adding to one; both resume after any interruption."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from indexing.analysing import Analysing
from indexing.codebooks import codebook_for, own_codebook, own_kind, sample_vectors
from indexing.garbage import readable, remove_unneeded
from indexing.plan import BuildSettings, Plan
from indexing.segments import seal_segment, segment_name
from indexing.shards import Shard, ShardWriter, portions
from retriever.analysis import Analyser, analyser
from retriever.codebook import Codebook
from retriever.encoder import CANARY_TEXTS, differences, encode_canaries, load_encoder
from retriever.errors import IndexMismatch, InvalidInput, UnknownIndex
from retriever.fields import CONTENTS, require_known
from retriever.index.form import Form, product_parts, read_codebook, require_form, write_codebook
from retriever.index.manifest import (
    Chunking,
    DensePart,
    ImpactPart,
    InvertedPart,
    LocalPart,
    Manifest,
    Segment,
    describe_file,
    form_of,
    publish,
    read_manifest,
)
from retriever.index.records import Records, RecordWriter
from retriever.index.segment import segment_folder
from retriever.index.tombstones import write_tombstones
from retriever.llm.bottleneck import load_local_encoder
from retriever.pipeline import Local, PipelineSpec, default_pipelines
from retriever.progress import Progress
from retriever.protocols import Encoder, TermEncoder
from retriever.storage import disk_errors, exclusive_lock, require_writable, sync
from retriever.term_encoder import load_term_encoder
from retriever.types import Document

# Documents between two points to resume from; fewer where a model takes minutes for them.
SHARD_DOCUMENTS = 16_384
READ_SHARD_DOCUMENTS = 4096

# So many documents of different texts do not have one vector by chance.
FEW = 10
# Documents whose local vectors a language model reads, in the pipeline that an index offers by itself.
READ_BY_A_MODEL = 100


class Corpus(Protocol):
    """A stream of documents that can be read again from the start; see indexing.corpora."""

    def __iter__(self) -> Iterator[Document]: ...

    def describe(self) -> dict[str, Any]: ...

    def size_hint(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """What turns documents into an index."""

    encoder: Encoder | None
    sparse: TermEncoder | None
    analyser: Analyser | None
    local: Encoder | None = None


def build_index(
    corpus: Corpus,
    path: str | Path,
    settings: BuildSettings | None = None,
    *,
    encoder: Encoder | None = None,
    sparse_encoder: TermEncoder | None = None,
    local_encoder: Encoder | None = None,
    pipelines: dict[str, PipelineSpec] | None = None,
    default_pipeline: str | None = None,
    device: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    restart: bool = False,
    quiet: bool = True,
    processes: int = 1,
    codebook: str | Path | None = None,
) -> dict[str, Any]:
    """Build an index of all documents of a corpus and return the report that is stored with it.

    encoder    an object instead of the name in the settings; sparse_encoder and local_encoder likewise
    overwrite  replace an index that is there; it is served until the new one is complete
    restart    throw away an unfinished build instead of resuming it
    processes  that analyse text; above 1 a script needs the usual `if __name__ == "__main__"`
    codebook   file of another index with the same encoder, for kinds pqM and opqM, instead of a new one

    A build that was stopped, by whatever, resumes at the last finished shard when it is called again with
    the same arguments, with the same result. Raises InvalidInput, ModelFault, IndexLocked or StorageFull; an
    index that was there is intact then.
    """
    folder = Path(path)
    settings = settings or BuildSettings()
    require_writable(folder)
    _require_consistent(settings)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder):
        current = _current(folder)
        if current is not None and not overwrite:
            raise InvalidInput(
                f"there is an index at {folder} already; add documents with `retriever index add`, "
                "or replace it with --overwrite."
            )
        parts = _load_parts(settings, encoder, sparse_encoder, local_encoder, device, offline)
        offered = default_pipelines(settings.parts, local=_local_stage(parts)) | (pipelines or {})
        _require_known(default_pipeline, offered)
        for spec in offered.values():
            require_known(spec.field_weights or {}, (CONTENTS, *settings.search_fields))
        base = Manifest(
            generation=current.generation if current else 0,
            created="",
            version="",
            segments=[],
            inverted=_inverted_part(settings, parts),
            sparse=_sparse_part(settings, parts),
            dense=_dense_part(settings, parts),
            local=_local_part(settings, parts),
            fields=settings.fields,
            chunking=Chunking(window=settings.window, overlap=settings.overlap) if settings.window else None,
            pipelines=offered,
            default_pipeline=default_pipeline or list(default_pipelines(settings.parts, local=_local_stage(parts)))[-1],
            # What the index held is replaced, and must not come back out of the journal.
            applied=current.applied if current else 0,
        )
        given = _given_codebook(Path(codebook), base.dense) if codebook is not None else None
        return _write(folder, corpus, settings, parts, base, current, device, restart, quiet, processes, given)


def add_documents(
    corpus: Corpus,
    path: str | Path,
    *,
    duplicates: str = "fail",
    positions: bool = False,
    shard_documents: int | None = None,
    encoder: Encoder | None = None,
    sparse_encoder: TermEncoder | None = None,
    local_encoder: Encoder | None = None,
    device: str | None = None,
    offline: bool = False,
    restart: bool = False,
    quiet: bool = True,
    processes: int = 1,
) -> dict[str, Any]:
    """Add a corpus to an index as new segments, with the encoder, analyser and chunking that it has.

    duplicates       what happens with ids that are in the index: "fail", "skip" or "overwrite"
    positions        refuse an index that keeps none; one that does keeps them of new documents in any case
    shard_documents  documents between two points to resume from; None for 16,384, 4,096 where a model reads them
    processes        that analyse text, see `build_index`
    Returns a report. Resumes like `build_index`.
    """
    folder = Path(path)
    require_writable(folder)
    current, _ = read_manifest(folder)
    with exclusive_lock(folder):
        current, _ = read_manifest(folder)
        if positions and not (current.inverted and current.inverted.positions):
            raise InvalidInput(
                f"{folder} was built without positions, and they cannot be added later; build it again with "
                f"`retriever index build CORPUS {folder} --positions --overwrite`, or leave out --positions: phrases "
                "are then looked for in the texts."
            )
        settings = settings_of(current, duplicates, shard_documents)
        parts = _load_parts(settings, encoder, sparse_encoder, local_encoder, device, offline)
        made_by = ((current.dense, parts.encoder), (current.sparse, parts.sparse), (current.local, parts.local))
        for part, loaded in made_by:
            found = differences(part.fingerprint, loaded.fingerprint()) if part and loaded else []
            if found:
                raise IndexMismatch(
                    f"{folder} was made with another encoder. {'; '.join(found)}. "
                    "Add with the same encoder, or rebuild the index."
                )
        return _write(folder, corpus, settings, parts, current, current, device, restart, quiet, processes)


def _require_consistent(settings: BuildSettings) -> None:
    if settings.search_fields and "bm25" not in settings.parts:
        raise InvalidInput("--search-fields are searched by BM25; they need the bm25 part.")
    if settings.positions and "bm25" not in settings.parts:
        raise InvalidInput("--positions are those of BM25's terms; they need the bm25 part.")
    numbers = [name for name in settings.search_fields if settings.fields.get(name) == "number"]
    if numbers:
        raise InvalidInput(f"the search field {numbers[0]!r} is declared as a number; only text can be searched.")
    if settings.window is not None and "dense" not in settings.parts:
        raise InvalidInput("--chunk counts in the encoder's tokens; it needs the dense part.")
    if settings.window is not None and settings.overlap >= settings.window:
        raise InvalidInput(f"the overlap must be below the window of {settings.window} tokens, got {settings.overlap}.")


def _require_known(default: str | None, offered: dict[str, PipelineSpec]) -> None:
    if default is not None and default not in offered:
        raise InvalidInput(f"unknown default pipeline {default!r}; there are {', '.join(offered)}.")


def _current(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)[0]
    except UnknownIndex:
        return None


def settings_of(manifest: Manifest, duplicates: str, shard_documents: int | None) -> BuildSettings:
    """Return the settings that an index was built with. Raises InvalidInput."""
    if duplicates not in ("fail", "skip", "overwrite"):
        raise InvalidInput(f"duplicates must be fail, skip or overwrite, got {duplicates!r}.")
    parts = [
        name
        for name, part in (("bm25", manifest.inverted), ("sparse", manifest.sparse), ("dense", manifest.dense))
        if part
    ]
    content: dict[str, Any] = {"parts": parts, "duplicates": duplicates, "fields": manifest.fields}
    content["shard_documents"] = shard_documents
    if manifest.inverted:
        content["analyser"] = manifest.inverted.analyser
        content |= {"k1": manifest.inverted.k1, "b": manifest.inverted.b}
        content["search_fields"] = manifest.inverted.search_fields
        content["positions"] = manifest.inverted.positions
    if manifest.sparse:
        content |= {"sparse_encoder": manifest.sparse.encoder, "sparse_precision": manifest.sparse.precision}
        content["sparse_step"] = manifest.sparse.step
    if manifest.dense:
        content |= {"encoder": manifest.dense.encoder, "precision": manifest.dense.precision}
        content |= {"dense": manifest.dense.kind, "store": manifest.dense.stored}
        content["oversample"] = manifest.dense.oversample
    if manifest.local:
        content |= {"local_encoder": manifest.local.encoder, "local_store": manifest.local.stored}
    if manifest.chunking:
        content |= {"window": manifest.chunking.window, "overlap": manifest.chunking.overlap}
    return BuildSettings.model_validate(content)


def _load_parts(
    settings: BuildSettings,
    encoder: Encoder | None,
    sparse: TermEncoder | None,
    local: Encoder | None,
    device: str | None,
    offline: bool,
) -> _Parts:
    if "dense" in settings.parts and encoder is None:
        encoder = load_encoder(settings.encoder, device=device, precision=settings.precision, offline=offline)
    if "sparse" in settings.parts and sparse is None:
        sparse = load_term_encoder(settings.sparse_encoder, device=device, offline=offline)
    if settings.local_encoder is not None and local is None:
        local = load_local_encoder(settings.local_encoder, device=device, precision=settings.precision, offline=offline)
    parts = _Parts(
        encoder if "dense" in settings.parts else None,
        sparse if "sparse" in settings.parts else None,
        analyser(settings.analyser) if "bm25" in settings.parts else None,
        local,
    )
    readers = (("encoder", parts.encoder), ("sparse encoder", parts.sparse), ("local encoder", parts.local))
    for name, reader in readers:
        if settings.window is not None and reader is not None and settings.window > reader.max_tokens:
            raise InvalidInput(
                f"the window of {settings.window} tokens is longer than the {name}'s {reader.max_tokens}, which would "
                "cut off the rest; use a smaller --chunk."
            )
    return parts


def _inverted_part(settings: BuildSettings, parts: _Parts) -> InvertedPart | None:
    if parts.analyser is None:
        return None
    return InvertedPart(
        # Of a custom analyser the whole content, so that the index needs no other file.
        analyser=parts.analyser.name,
        analyser_fingerprint=parts.analyser.fingerprint(),
        k1=settings.k1,
        b=settings.b,
        search_fields=settings.search_fields,
        positions=settings.positions,
    )


def _sparse_part(settings: BuildSettings, parts: _Parts) -> ImpactPart | None:
    if parts.sparse is None:
        return None
    return ImpactPart(
        encoder=settings.sparse_encoder,
        fingerprint=parts.sparse.fingerprint(),
        precision=settings.sparse_precision,
        step=settings.sparse_step,
    )


def _dense_part(settings: BuildSettings, parts: _Parts) -> DensePart | None:
    if parts.encoder is None:
        return None
    own = own_kind(parts.encoder)
    # Said by nobody, documents are kept as the model makes them.
    kind = own if own and settings.dense == "flat" and settings.store is None else settings.dense
    stored = settings.store or ("none" if kind == own else "float32")
    require_form(kind, stored, parts.encoder.width)
    return DensePart(
        encoder=settings.encoder,
        fingerprint=parts.encoder.fingerprint(),
        width=parts.encoder.width,
        precision=settings.precision,
        kind=kind,
        stored=stored,
        codes="model" if kind == own else "index",
        oversample=settings.oversample,
        canaries="",
        canary_texts=CANARY_TEXTS,
    )


def _local_stage(parts: _Parts) -> Local | None:
    if parts.local is None:
        return None
    # A language model reads the query once for each document.
    return Local(depth=READ_BY_A_MODEL) if hasattr(parts.local, "likelihoods") else Local()


def _local_part(settings: BuildSettings, parts: _Parts) -> LocalPart | None:
    if parts.local is None:
        return None
    name = settings.local_encoder or getattr(parts.local, "name", None)
    if not name:
        raise InvalidInput("an index names its local encoder; set `local_encoder` in the settings to a name or folder.")
    return LocalPart(
        encoder=name,
        fingerprint=parts.local.fingerprint(),
        width=parts.local.width,
        stored=settings.local_store,
        canaries="",
        canary_texts=CANARY_TEXTS,
    )


def _write(
    folder: Path,
    corpus: Corpus,
    settings: BuildSettings,
    parts: _Parts,
    base: Manifest,
    current: Manifest | None,
    device: str | None,
    restart: bool,
    quiet: bool,
    processes: int,
    codebook: Codebook | None = None,
) -> dict[str, Any]:
    """Make the generation after `current` from the segments of `base` and the corpus."""
    started = time.monotonic()
    # The plan holds the number itself, so that another default of a later version changes no build that goes on.
    size = _shard_documents(settings, parts)
    settings = settings.model_copy(update={"shard_documents": size})
    kept = [s.number for manifest in (readable(folder, current) if current else []) for s in manifest.segments]
    plan = Plan(
        generation=(current.generation if current else 0) + 1,
        first_segment=max(kept, default=0) + 1,
        replaces=current is not None and not base.segments,
        settings=settings,
        corpus=corpus.describe(),
        encoder=parts.encoder.fingerprint() if parts.encoder else None,
        sparse=parts.sparse.fingerprint() if parts.sparse else None,
        local=parts.local.fingerprint() if parts.local else None,
        analyser=parts.analyser.fingerprint() if parts.analyser else None,
    )
    building = folder / "building"
    if restart:
        shutil.rmtree(building, ignore_errors=True)
    with contextlib.closing(RecordWriter(folder, plan.generation)) as records:
        analysis = Analysing(parts.analyser, processes, positions=settings.positions) if parts.analyser else None
        with analysis or contextlib.nullcontext() as analysing:
            writer = ShardWriter(
                building / "shards", settings, records, plan.first_segment, parts.encoder, parts.sparse, analysing,
                parts.local,
            )  # fmt: skip
            if (building / "plan.json").is_file():
                plan.require_same(building / "plan.json")
            else:
                with disk_errors(folder):
                    records.roll_back(kept)
                    plan.write(building / "plan.json")
            writer.clear_unfinished()
            if plan.replaces:
                records.delete_all(before=plan.first_segment)
            resumed = _read_corpus(writer, corpus, size, quiet)
            if not writer.shards:
                raise InvalidInput("the corpus holds no documents; nothing was changed.")
            form = _form(folder, writer, parts, base, codebook) if base.dense else None
            segments = _seal(folder, writer, form, base, device, quiet)
        for segment in base.segments:
            segments.append(with_tombstones(folder, segment, records, plan.generation))
    report = _report(writer.shards, corpus, resumed, started)
    manifest = base.model_copy(
        update={
            "generation": plan.generation,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version("retriever-engine"),
            "segments": sorted(segments, key=lambda segment: segment.number),
            "corpus": plan.corpus if current is None or plan.replaces else base.corpus,
            "report": report,
        }
    )
    manifest = _with_canaries(folder, manifest, parts)
    manifest = with_codebook(folder, manifest, form.codebook if form else None)
    publish(folder, manifest)
    shutil.rmtree(building)
    remove_unneeded(folder, manifest)
    return report


def _shard_documents(settings: BuildSettings, parts: _Parts) -> int:
    if settings.shard_documents is not None:
        return settings.shard_documents
    is_read = any(reader is not None for reader in (parts.encoder, parts.sparse, parts.local))
    return min(READ_SHARD_DOCUMENTS if is_read else SHARD_DOCUMENTS, settings.segment_documents)


def _read_corpus(writer: ShardWriter, corpus: Corpus, size: int, quiet: bool) -> int:
    """Feed the corpus to the writer shard by shard; return how many shards were there already."""
    finished = writer.finished()
    with Progress("documents", corpus.size_hint(), quiet) as progress:
        for portion in portions(corpus, size):
            writer.take(finished, portion)
            progress.advance(len(portion))
    writer.finish()
    if len(finished) > len(writer.shards):
        raise InvalidInput("the corpus has become shorter since the unfinished build; add --restart to begin again.")
    return len(finished)


def _given_codebook(path: Path, part: DensePart | None) -> Codebook:
    """Read the codebook that a new index is to have. Raises InvalidInput, IndexMismatch or IndexCorrupt."""
    product = product_parts(part.kind) if part else None
    if part is None or product is None or part.codes == "model":
        raise InvalidInput("a codebook is for an index of kind pqM or opqM with codes made for it.")
    codebook = read_codebook(path, part.fingerprint)
    if codebook.parts != product[0]:
        raise InvalidInput(f"{path} has {codebook.parts} parts; build with opq{codebook.parts}, not {part.kind}.")
    return codebook


def _require_variety(writer: ShardWriter, part: DensePart) -> None:
    """Raise InvalidInput where documents of different texts all have one vector, whose codes would be one code.

    Copies of one text may have one, and so may a few short texts, by an encoder that overlooks case.
    """
    sample = sample_vectors([writer.path(number) for number in range(len(writer.shards))])
    alike = len(sample) >= FEW and bool((sample == sample[0]).all())
    if alike and writer.records.texts_differ(first=writer.first_segment):
        raise InvalidInput(
            f"the dense vectors of all {len(sample):,} documents looked at are the same, though their texts differ; "
            f"{part.kind} codes would tell nothing apart. Check the encoder {part.encoder}, or build with --parts bm25."
        )


def _form(folder: Path, writer: ShardWriter, parts: _Parts, base: Manifest, codebook: Codebook | None) -> Form:
    """Return how new segments keep vectors: as the older ones do, or with a codebook of their own."""
    part = base.dense
    assert part is not None
    if part.codebook:
        return form_of(folder, part)
    if Form(part.width, part.kind).has_codes and part.codes == "index" and not base.segments:
        _require_variety(writer, part)
    if codebook is None and product_parts(part.kind):
        codes = getattr(parts.encoder, "codes", None)
        if part.codes == "model" and isinstance(codes, Codebook):
            codebook = own_codebook(codes)
        else:
            shards = [writer.path(number) for number in range(len(writer.shards))]
            codebook = codebook_for(part.kind, sample_vectors(shards))
    return Form(part.width, part.kind, part.stored, codebook)


def _seal(
    folder: Path,
    writer: ShardWriter,
    form: Form | None,
    base: Manifest,
    device: str | None,
    quiet: bool,
) -> list[Segment]:
    by_segment: dict[int, list[int]] = {}
    for number, shard in enumerate(writer.shards):
        if shard.documents:
            by_segment.setdefault(shard.segment, []).append(number)
    reader = Records(folder, writer.records.generation)
    segments = []
    with contextlib.closing(reader), Progress("segments", len(by_segment), quiet) as progress:
        for number, members in by_segment.items():
            shards = [writer.shards[i] for i in members]
            begun = writer.analysing.digest(folder, reader.generation, number) if writer.analysing else None
            files = seal_segment(
                folder,
                number,
                [writer.path(i) for i in members],
                [None] * len(members),
                reader.segment_ids(number),
                inverted=base.inverted,
                sparse=base.sparse,
                dense=form,
                local=base.local,
                device=device or "cpu",
            )
            segments.append(
                Segment(
                    name=segment_name(number),
                    number=number,
                    documents=sum(shard.documents for shard in shards),
                    records_sha256=begun.result() if begun else reader.digest(number),
                    empty=sum(shard.empty for shard in shards),
                    files=files,
                )
            )
            progress.advance(1)
    return segments


def with_tombstones(folder: Path, segment: Segment, records: RecordWriter, generation: int) -> Segment:
    """Return a segment of the generation before with all that this generation has deleted from it."""
    deleted = records.deleted_ordinals(segment.number)
    if len(deleted) == segment.deleted:
        return segment
    name = f"{segment_folder(segment.name)}/tombstones-{generation:06d}.npy"
    with disk_errors(folder):
        write_tombstones(folder / name, deleted, segment.documents)
        sync(folder / name)
    files = {path: entry for path, entry in segment.files.items() if path != segment.tombstones}
    return segment.model_copy(
        update={
            "deleted": len(deleted),
            "tombstones": name,
            "files": files | {name: describe_file(folder / name)},
        }
    )


def _with_canaries(folder: Path, manifest: Manifest, parts: _Parts) -> Manifest:
    of_part = (
        ("dense", "canaries", manifest.dense, parts.encoder),
        ("local", "local-canaries", manifest.local, parts.local),
    )
    for key, label, part, encoder in of_part:
        if encoder is None or part is None or part.canaries in manifest.files:
            continue
        # A rebuilt index gets a file of its own, so that the one still served keeps its canaries.
        name = f"{label}-{manifest.generation:06d}.npy"
        with disk_errors(folder):
            np.save(folder / name, encode_canaries(encoder, part.canary_texts))
            sync(folder / name)
        manifest = manifest.model_copy(
            update={
                "files": manifest.files | {name: describe_file(folder / name)},
                key: part.model_copy(update={"canaries": name}),
            }
        )
    return manifest


def with_codebook(folder: Path, manifest: Manifest, codebook: Codebook | None) -> Manifest:
    """Return a manifest with a new index's codebook, which is written; the manifest itself where there is none."""
    if codebook is None or manifest.dense is None or manifest.dense.codebook in manifest.files:
        return manifest
    name = f"codebook-{manifest.generation:06d}.safetensors"
    with disk_errors(folder):
        write_codebook(folder / name, codebook, manifest.dense.fingerprint)
        sync(folder / name)
    return manifest.model_copy(
        update={
            "files": manifest.files | {name: describe_file(folder / name)},
            "dense": manifest.dense.model_copy(update={"codebook": name}),
        }
    )


def _report(shards: Iterable[Shard], corpus: Corpus, resumed: int, started: float) -> dict[str, Any]:
    shards = list(shards)
    fields: Counter[str] = Counter()
    for shard in shards:
        fields.update(shard.search_fields)
    report: dict[str, Any] = {
        "source_documents": sum(shard.source_documents for shard in shards),
        "documents": sum(shard.documents for shard in shards),
        "empty": sum(shard.empty for shard in shards),
        "search_fields": dict(fields),
        "truncated": sum(shard.truncated for shard in shards),
        "clipped": sum(shard.clipped for shard in shards),
        "skipped": sum(shard.skipped for shard in shards),
        "overwritten": sum(shard.overwritten for shard in shards),
        "bad_vectors": list(dict.fromkeys(id_ for shard in shards for id_ in shard.bad_vectors)),
        "shards": len(shards),
        "resumed_shards": resumed,
        "seconds": round(time.monotonic() - started, 1),
    }
    read = getattr(corpus, "report", None)
    if read is not None:
        report["bad_lines"] = getattr(read, "bad_lines_total", 0)
        report["duplicates"] = getattr(read, "duplicates", 0)
    return report
