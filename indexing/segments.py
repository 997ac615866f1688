"""Sealing segments: shards or older segments merged into the files that are served."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from retriever.index.dense import ABSENT, FAISS_FILE, VECTORS, factory_string, train_index, write_faiss
from retriever.index.impacts import ImpactReader, write_impacts
from retriever.index.inverted import read_plain, write_inverted
from retriever.index.manifest import FileEntry, ImpactPart, InvertedPart, describe_file
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
    dense: str | None,
    device: str,
    encoded: Sequence[Path] | None = None,
) -> dict[str, FileEntry]:
    """Merge `sources` (folders of shards or segments) into a new segment; return its files.

    kept      for each source the documents to take over, None for all
    ids       of all documents taken over, in order
    inverted  how the BM25 part is built, None when there is none
    sparse    how the learned sparse part is built, None when there is none
    dense     a kind or factory string, None when there are no vectors
    encoded   for each source the folder of its vectors and learned weights, when it is another one
    The folder appears under its final name only when it is complete.
    """
    encoded = sources if encoded is None else encoded
    name = segment_folder(segment_name(number))
    working = index / "building" / "segments" / segment_name(number)
    needed = sum(file.stat().st_size for source in {*sources, *encoded} for file in source.iterdir())
    with disk_errors(index, needed):
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        write_ids(working, ids)
        if inverted is not None:
            for field in (None, *range(len(inverted.search_fields))):
                plain = merge_plain([read_plain(source, field) for source in sources], kept)
                write_inverted(plain, working, inverted.k1, inverted.b, field=field)
        if sparse is not None:
            plain = merge_plain([_read_impacts(source, sparse) for source in encoded], kept)
            write_impacts(plain, working, sparse.step, sparse.precision)
        if dense is not None:
            merge_vectors(encoded, kept, len(ids), working)
            build_faiss(working, dense, device)
        sync_all([*working.iterdir(), working])
        files = {f"{name}/{path.name}": describe_file(path) for path in sorted(working.iterdir())}
        target = index / name
        # A folder of that name can only be the leftover of a build that never was published.
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        working.rename(target)
        sync(target.parent)
    return files


def _read_impacts(source: Path, sparse: ImpactPart) -> PlainPostings:
    """Return the weights of a shard or of a segment."""
    if (source / f"{PLAIN_IMPACTS}.offsets.npy").is_file():
        return PlainPostings.read(source, PLAIN_IMPACTS)
    return ImpactReader(source, sparse.step).plain()


def merge_vectors(
    sources: Sequence[Path], kept: Sequence[NDArray[np.bool_] | None], documents: int, folder: Path
) -> None:
    """Write the vectors of all kept documents end to end, a block at a time."""
    width = np.load(sources[0] / VECTORS, mmap_mode="r", allow_pickle=False).shape[1]
    merged = open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=(documents, width))
    absent = []
    end = 0
    for source, keep in zip(sources, kept, strict=True):
        vectors = np.load(source / VECTORS, mmap_mode="r", allow_pickle=False)
        gone = np.zeros(len(vectors), np.bool_)
        gone[np.load(source / ABSENT, allow_pickle=False)] = True
        chosen = np.arange(len(vectors)) if keep is None else np.flatnonzero(keep)
        absent.append(np.flatnonzero(gone[chosen]) + end)
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            merged[end : end + len(block)] = vectors[block]
            end += len(block)
    merged.flush()
    np.save(folder / ABSENT, np.concatenate(absent).astype(np.int32))


def build_faiss(folder: Path, kind: str, device: str) -> bool:
    """Write a FAISS index over a segment's vectors; return False when exact search serves better."""
    vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    factory = factory_string(kind, len(vectors), vectors.shape[1])
    if factory is None or len(vectors) == 0:
        return False
    write_faiss(train_index(vectors, factory, device), folder / FAISS_FILE)
    return True
