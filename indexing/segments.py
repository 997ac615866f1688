"""Sealing segments: shards or older segments merged into the files that are served."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from retriever.index.codes import CODES, read_rows, write_rows
from retriever.index.dense import ABSENT, FAISS_FILE, VECTORS, factory_string, train_index, write_faiss
from retriever.index.form import Form
from retriever.index.impacts import ImpactReader, write_impacts
from retriever.index.inverted import read_plain, write_inverted
from retriever.index.local import LOCAL_ABSENT, LOCAL_VECTORS
from retriever.index.manifest import FileEntry, ImpactPart, InvertedPart, LocalPart, describe_file
from retriever.index.plain import PLAIN_IMPACTS, PlainPostings, merge_plain
from retriever.index.segment import segment_folder, write_ids
from retriever.storage import disk_errors, sync, sync_all

BLOCK = 65_536


def segment_name(number: int) -> str:
    return f"{number:06d}"


def seal_segment(
    index: Path,
    number: int,
    sources: Sequence[Path],
    kept: Sequence[NDArray[np.bool_] | None],
    ids: list[str],
    *,
    inverted: InvertedPart | None,
    sparse: ImpactPart | None,
    dense: Form | None,
    device: str,
    local: LocalPart | None = None,
    encoded: Sequence[Path] | None = None,
) -> dict[str, FileEntry]:
    """Merge `sources` (folders of shards or segments) into a new segment; return its files.

    kept      for each source the documents to take over, None for all
    ids       of all documents taken over, in order
    inverted  how the BM25 part is built, None when there is none
    sparse    how the learned sparse part is built, None when there is none
    dense     how vectors are kept and searched, None when there are none
    local     how local vectors are kept, None when there are none
    encoded   for each source the folder of its vectors and learned weights, when it is another one
    The folder appears under its final name only when it is complete.
    """
    working = index / "building" / "segments" / segment_name(number)
    files = write_segment(index, working, sources, kept, ids, inverted=inverted, sparse=sparse, dense=dense,
                          device=device, local=local, encoded=encoded)  # fmt: skip
    return place_segment(index, number, working, files)


def write_segment(
    index: Path,
    working: Path,
    sources: Sequence[Path],
    kept: Sequence[NDArray[np.bool_] | None],
    ids: list[str],
    *,
    inverted: InvertedPart | None,
    sparse: ImpactPart | None,
    dense: Form | None,
    device: str,
    local: LocalPart | None = None,
    encoded: Sequence[Path] | None = None,
) -> dict[str, FileEntry]:
    """Merge sources into the folder `working`, as `seal_segment` says; return its files by their names."""
    encoded = sources if encoded is None else encoded
    needed = sum(file.stat().st_size for source in {*sources, *encoded} for file in source.iterdir())
    with disk_errors(index, needed):
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        write_ids(working, ids)
        if inverted is not None:
            for field in (None, *range(len(inverted.search_fields))):
                parts = [read_plain(source, field, positions=inverted.positions) for source in sources]
                plain = merge_plain(parts, kept, working if inverted.positions else None)
                write_inverted(plain, working, inverted.k1, inverted.b, field=field)
        if sparse is not None:
            plain = merge_plain([_read_impacts(source, sparse) for source in encoded], kept)
            write_impacts(plain, working, sparse.step, sparse.precision)
        if dense is not None:
            write_dense(encoded, kept, len(ids), working, dense, device)
        if local is not None:
            write_local(encoded, kept, len(ids), working, local)
        sync_all([*working.iterdir(), working])
        return {path.name: describe_file(path) for path in sorted(working.iterdir())}


def place_segment(index: Path, number: int, working: Path, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    """Give a folder of finished files the name of a segment; return the files by their paths in the index."""
    name = segment_folder(segment_name(number))
    target = index / name
    with disk_errors(index):
        # A folder of that name can only be the leftover of a build that never was published.
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        working.rename(target)
        sync(target.parent)
    return {f"{name}/{file}": entry for file, entry in files.items()}


def _read_impacts(source: Path, sparse: ImpactPart) -> PlainPostings:
    """Return the weights of a shard or of a segment."""
    if (source / f"{PLAIN_IMPACTS}.offsets.npy").is_file():
        return PlainPostings.read(source, PLAIN_IMPACTS)
    return ImpactReader(source, sparse.step).plain()


def write_dense(
    sources: Sequence[Path],
    kept: Sequence[NDArray[np.bool_] | None],
    documents: int,
    folder: Path,
    form: Form,
    device: str = "cpu",
    *,
    anew: bool = False,
) -> None:
    """Write the dense part of all kept documents of shards or segments end to end, a block at a time.

    Codes are copied from sources that have such, and made from vectors otherwise; there is one codebook for all.

    anew  make codes from vectors everywhere, for those of the sources are of another form
    Raises InvalidInput for numbers beyond float16 where that is to be stored.
    """
    stored = None
    if form.stored != "none":
        stored = open_memmap(folder / VECTORS, mode="w+", dtype=form.stored, shape=(documents, form.width))
    codes: list[NDArray[Any]] = []
    absent: list[NDArray[np.int64]] = []
    end = 0
    for source, keep in zip(sources, kept, strict=True):
        gone = np.load(source / ABSENT, allow_pickle=False)
        vectors, rows = _vectors(source), None if anew else _codes(source, form)
        total = len(vectors) if vectors is not None else len(rows) if rows is not None else 0
        chosen = np.arange(total) if keep is None else np.flatnonzero(keep)
        absent.append(np.flatnonzero(np.isin(chosen, gone)) + end)
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            if stored is not None:
                assert vectors is not None, "an index that stores vectors has them in each segment"
                _store(vectors[block], stored[end : end + len(block)])
            if form.has_codes:
                codes.append(rows[block] if rows is not None else _encoded(form, vectors, block))
            end += len(block)
    np.save(folder / ABSENT, np.concatenate(absent).astype(np.int32))
    if form.has_codes:
        write_rows(folder, np.concatenate(codes))
    if stored is not None:
        stored.flush()
        if not form.has_codes:
            build_faiss(folder, form.kind, device)


def write_local(
    sources: Sequence[Path], kept: Sequence[NDArray[np.bool_] | None], documents: int, folder: Path, part: LocalPart
) -> None:
    """Write the local vectors of all kept documents of shards or segments end to end, a block at a time.

    Raises InvalidInput for numbers beyond float16 where that is to be stored.
    """
    stored = open_memmap(folder / LOCAL_VECTORS, mode="w+", dtype=part.stored, shape=(documents, part.width))
    absent: list[NDArray[np.int64]] = []
    end = 0
    for source, keep in zip(sources, kept, strict=True):
        vectors = np.load(source / LOCAL_VECTORS, mmap_mode="r", allow_pickle=False)
        chosen = np.arange(len(vectors)) if keep is None else np.flatnonzero(keep)
        absent.append(np.flatnonzero(np.isin(chosen, np.load(source / LOCAL_ABSENT, allow_pickle=False))) + end)
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            _store(vectors[block], stored[end : end + len(block)])
            end += len(block)
    stored.flush()
    np.save(folder / LOCAL_ABSENT, np.concatenate(absent).astype(np.int32))


def _encoded(form: Form, vectors: NDArray[Any] | None, block: NDArray[np.int64]) -> NDArray[Any]:
    assert vectors is not None, "a source has vectors or codes"
    return form.encode(np.asarray(vectors[block], np.float32))


def _vectors(folder: Path) -> NDArray[Any] | None:
    path = folder / VECTORS
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None


def _codes(folder: Path, form: Form) -> NDArray[Any] | None:
    path = folder / CODES
    return read_rows(path, form) if form.has_codes and path.is_file() else None


def _store(vectors: NDArray[Any], target: NDArray[Any]) -> None:
    with np.errstate(over="ignore"):
        target[:] = vectors
    if target.dtype == np.float16 and not np.isfinite(target).all():
        raise InvalidInput(
            f"vectors hold numbers up to {np.abs(vectors).max():.3g}, and float16 goes to 65504; store float32."
        )


def build_faiss(folder: Path, kind: str, device: str) -> bool:
    """Write a FAISS index over a segment's vectors; return False when exact search serves better."""
    vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    factory = factory_string(kind, len(vectors), vectors.shape[1])
    if factory is None or len(vectors) == 0:
        return False
    write_faiss(train_index(vectors, factory, device), folder / FAISS_FILE)
    return True
