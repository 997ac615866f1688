"""An index written anew in another form: its vectors are kept differently, and nothing is encoded again."""

import contextlib
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from indexing.build import with_codebook
from indexing.journal import unapplied
from indexing.learned_codes import Learned, Rescoring
from indexing.segments import write_dense
from retriever.encoder import encode_canaries
from retriever.errors import InvalidInput
from retriever.index.dense import ABSENT, VECTORS
from retriever.index.form import Form, require_form
from retriever.index.local import LOCAL_ABSENT, LOCAL_VECTORS
from retriever.index.manifest import LocalPart, Manifest, Segment, describe_file, publish, read_manifest
from retriever.index.records import FILE
from retriever.index.segment import segment_folder
from retriever.pipeline import PipelineSpec
from retriever.progress import Progress
from retriever.storage import disk_errors, exclusive_lock, require_writable, sync, sync_all

DENSE = "dense."


def encoder_folder(target: Path) -> Path:
    """Return where the model of an index with learned codes lies."""
    return target.with_name(f"{target.name}.encoder")


def recode_index(
    path: str | Path,
    target: str | Path,
    form: Form,
    *,
    device: str | None = None,
    quiet: bool = True,
    learned: Learned | None = None,
    rescoring: Rescoring | None = None,
) -> Manifest:
    """Write a copy of an index at `target` that keeps its vectors in another form; return its manifest.

    learned    a model whose codes of all segments, in this form, take the place of the vectors; queries are its own
               then. It is copied to `target`.encoder, beside the index, which names it
    rescoring  keeps the vectors beside those codes, and offers them as the pipeline `local`, or `local-2` and so on
               where that name is another's; it becomes the default where vectors alone were. Pipelines that find by
               vectors and do more, such as reranking or fusion, keep their names and get the stage too; before they
               fuse, it orders what vectors found

    They appear when they are complete. Segments, deletions and documents are those of the generation in force;
    calibrations are taken over only where no vector has a part in the scores.
    Raises InvalidInput when something is at `target` or where the model goes, the index stores no vectors to begin
    with, or a service promised changes that the generation does not hold yet.
    """
    folder, target = Path(path), Path(target)
    require_writable(folder)
    if target.exists():
        raise InvalidInput(f"{target} is there already; name a folder that is not.")
    home = encoder_folder(target) if learned is not None else None
    if home is not None and home.exists():
        raise InvalidInput(f"{home} is there already, where the model would go; name another --output.")
    with exclusive_lock(folder):
        manifest, _ = read_manifest(folder)
        require_vectors(folder, manifest)
        if waiting := unapplied(folder, manifest.applied):
            raise InvalidInput(
                f"{folder} has {waiting:,} promised changes that are not applied yet; start `retriever serve "
                f"{folder} --writable` until they are, then compress it."
            )
        require_form(form.kind, form.stored, form.width)
        with disk_errors(target.parent), _appearing(*([home] if home else []), target) as parts:
            working = parts[-1]
            _copy_records(folder / FILE, working / FILE)
            segments = []
            with Progress("segments", len(manifest.segments), quiet) as progress:
                for segment in manifest.segments:
                    segments.append(
                        _recoded(folder, working, manifest, segment, form, device or "cpu", learned, rescoring)
                    )
                    progress.advance(1)
            if learned is not None:
                shutil.copytree(learned.model, parts[0], dirs_exist_ok=True)
                sync_all([*parts[0].rglob("*"), parts[0]])
            manifest = _described(folder, working, manifest, segments, form, learned, home)
            if rescoring is not None:
                manifest = _with_local(folder, working, manifest, rescoring)
            publish(working, manifest)
    return manifest


def require_vectors(folder: Path, manifest: Manifest) -> None:
    """Raise InvalidInput unless an index stores the vectors from which codes can be made."""
    if manifest.dense is None:
        raise InvalidInput(f"{folder} has no vectors; build it with --parts bm25,dense.")
    if manifest.dense.stored == "none":
        raise InvalidInput(
            f"{folder} holds codes alone ({manifest.dense.kind}), and others cannot be made of them; compress an index "
            "that stores its vectors."
        )


@contextlib.contextmanager
def _appearing(*places: Path) -> Iterator[list[Path]]:
    """Yield an empty folder for each place, which it takes at the end; after a failure none is there."""
    parts = [place.with_name(f".{place.name}.part") for place in places]
    placed: list[Path] = []
    try:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        yield parts
        for part, place in zip(parts, places, strict=True):
            part.rename(place)
            placed.append(place)
    except BaseException:
        for path in (*parts, *placed):
            shutil.rmtree(path, ignore_errors=True)
        raise
    sync(places[-1].parent)


def _copy_records(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _recoded(
    folder: Path,
    working: Path,
    manifest: Manifest,
    segment: Segment,
    form: Form,
    device: str,
    learned: Learned | None,
    rescoring: Rescoring | None,
) -> Segment:
    home = segment_folder(segment.name)
    (working / home).mkdir(parents=True)
    files = {name: entry for name, entry in segment.files.items() if not Path(name).name.startswith(DENSE)}
    for name in files:
        shutil.copyfile(folder / name, working / name)
    shape = form.untrained() if segment.unencoded else form
    known = learned is not None and not segment.unencoded
    source = learned.codes_of(folder, manifest.generation, segment) if learned and known else folder / home
    if rescoring is not None:
        vectors = Form(form.width, "flat", rescoring.stored)
        write_dense([folder / home], [None], segment.documents, working / home, vectors)
        for name, local in ((VECTORS, LOCAL_VECTORS), (ABSENT, LOCAL_ABSENT)):
            (working / home / name).rename(working / home / local)
            files[f"{home}/{local}"] = describe_file(working / home / local)
    write_dense([source], [None], segment.documents, working / home, shape, device, anew=not known)
    for found in sorted((working / home).glob(f"{DENSE}*")):
        files[f"{home}/{found.name}"] = describe_file(found)
    sync_all([*(working / home).iterdir(), working / home])
    return segment.model_copy(update={"files": files})


def _described(
    folder: Path,
    working: Path,
    manifest: Manifest,
    segments: list[Segment],
    form: Form,
    learned: Learned | None,
    home: Path | None,
) -> Manifest:
    assert manifest.dense is not None
    parts = (manifest.dense if learned is None else None, manifest.local)
    canaries = {part.canaries for part in parts if part is not None}
    kept = {name: entry for name, entry in manifest.files.items() if name in canaries}
    for name in kept:
        shutil.copyfile(folder / name, working / name)
    dense = manifest.dense.model_copy(
        update={"kind": form.kind, "stored": form.stored, "codes": "index", "codebook": ""}
    )
    if learned is not None and home is not None:
        encoder = learned.encoder
        name = f"canaries-{manifest.generation:06d}.npy"
        np.save(working / name, encode_canaries(encoder, dense.canary_texts))
        kept[name] = describe_file(working / name)
        dense = dense.model_copy(
            update={
                "encoder": str(home.resolve()),
                "fingerprint": encoder.fingerprint(),
                "codes": "model",
                "canaries": name,
            }
        )
    manifest = manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version("retriever-engine"),
            "segments": segments,
            "dense": dense,
            "files": kept,
            "calibrations": [found for found in manifest.calibrations if "dense" not in found.pipeline.first],
        }
    )
    return with_codebook(working, manifest, form.codebook)


def _with_local(folder: Path, working: Path, manifest: Manifest, rescoring: Rescoring) -> Manifest:
    """Return the manifest of an index whose old vectors have become local ones."""
    before, _ = read_manifest(folder)
    assert before.dense is not None
    assert rescoring.stored != "none"
    name = f"local-canaries-{before.generation:06d}.npy"
    shutil.copyfile(folder / before.dense.canaries, working / name)
    local = LocalPart(
        encoder=before.dense.encoder,
        fingerprint=before.dense.fingerprint,
        width=before.dense.width,
        stored=rescoring.stored,
        canaries=name,
        canary_texts=before.dense.canary_texts,
    )
    plain, offered = PipelineSpec(first=("dense",)), manifest.pipelines
    of_dense = rescoring.stage.model_copy(update={"of": "dense"})
    rescored = {
        name: spec.model_copy(update={"local": rescoring.stage if spec.first == plain.first else of_dense})
        for name, spec in offered.items()
        if "dense" in spec.first and spec != plain
    }
    # A pipeline of this name that reads local vectors is that of an index which had others, and they are these now.
    own = next(
        name
        for name in itertools.chain(["local"], (f"local-{number}" for number in itertools.count(2)))
        if name not in offered or offered[name].local is not None
    )
    rescored[own] = plain.model_copy(update={"local": rescoring.stage})
    return manifest.model_copy(
        update={
            "local": local,
            "files": manifest.files | {name: describe_file(working / name)},
            "pipelines": offered | rescored,
            "default_pipeline": own if offered[manifest.default_pipeline] == plain else manifest.default_pipeline,
        }
    )
