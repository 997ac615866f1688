"""One segment: its ids, its live documents, and its inverted, learned sparse, dense and local parts, memory-mapped.

documents.ids.*     the id of each document, by ordinal
documents.rank.npy  (N,) int32 place of each id among the segment's ids in ascending order
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retriever.codebook import Codebook
from retriever.errors import IndexCorrupt
from retriever.index.codes import CODES, read_codes
from retriever.index.dense import FAISS_FILE, VECTORS, DenseReader
from retriever.index.facets import Column
from retriever.index.impacts import ImpactReader
from retriever.index.inverted import InvertedReader
from retriever.index.local import LocalReader
from retriever.index.manifest import Files, Manifest, Segment
from retriever.index.records import row_of
from retriever.index.strings import StringTable
from retriever.index.tombstones import read_live

RANK_FILE = "documents.rank.npy"


def write_ids(folder: Path, ids: list[str]) -> list[str]:
    """Write the ids of a segment's documents; return the names of the files."""
    names = StringTable.write(folder, "documents.ids", ids)
    rank = np.empty(len(ids), np.int32)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids), dtype=np.int32)
    np.save(folder / RANK_FILE, rank)
    return [*names, RANK_FILE]


def segment_folder(name: str) -> str:
    """Return the path of a segment's folder relative to the index."""
    return f"segments/{name}"


class SegmentReader:
    """Answers for one segment in ordinals; the index turns them into ids."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        segment: Segment,
        device: str = "cpu",
        codebook: Codebook | None = None,
    ) -> None:
        """Open. Raises IndexCorrupt when a file is missing or not of the manifest's size.

        codebook  of the index, where it has product codes
        """
        for name, entry in segment.files.items():
            require_size(folder / name, entry.bytes)
        self.number = segment.number
        self.documents = segment.documents
        self.entry = segment
        self.columns: dict[str, Column] = {}
        """Fields that were counted before; a race only reads one twice."""
        try:
            self._open(folder, manifest, segment, device, codebook)
        except (ValueError, OSError) as error:
            raise IndexCorrupt(f"segment {segment.name} of {folder} cannot be read: {error}") from error
        self._require_agreement(segment)

    def _open(self, folder: Path, manifest: Manifest, segment: Segment, device: str, codebook: Codebook | None) -> None:
        self.live: NDArray[np.bool_] | None = None
        if segment.tombstones is not None:
            self.live = read_live(folder / segment.tombstones, segment.documents)
        home = folder / segment_folder(segment.name)
        self.ids = StringTable(home, "documents.ids")
        # A plain array over the same memory: each slice of a memmap costs more than what is done with it.
        self.id_rank = np.load(home / RANK_FILE, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        self.inverted: InvertedReader | None = None
        self.search_fields: dict[str, InvertedReader] = {}
        if manifest.inverted:
            positions = manifest.inverted.positions
            self.inverted = InvertedReader(home, self.live, positions=positions)
            for number, name in enumerate(manifest.inverted.search_fields):
                self.search_fields[name] = InvertedReader(home, self.live, field=number, positions=positions)
        self.impacts: ImpactReader | None = None
        if manifest.sparse:
            self.impacts = ImpactReader(home, manifest.sparse.step, self.live)
        self.dense: DenseReader | None = None
        if manifest.dense:
            faiss_entry = segment.files.get(f"{segment_folder(segment.name)}/{FAISS_FILE}")
            has_codes = f"{segment_folder(segment.name)}/{CODES}" in segment.files
            self.dense = DenseReader(
                home,
                faiss_sha256=faiss_entry.sha256 if faiss_entry else None,
                oversample=manifest.dense.oversample,
                live=self.live,
                device=device,
                codes=read_codes(home / CODES, manifest.dense.width, codebook) if has_codes else None,
            )
        self.local = LocalReader(home) if manifest.local else None

    def _require_agreement(self, segment: Segment) -> None:
        counts = {"ids": len(self.ids), "ranks": len(self.id_rank)}
        if self.inverted:
            counts["postings"] = self.inverted.documents
        for name, reader in self.search_fields.items():
            counts[f"postings of {name}"] = reader.documents
        if self.impacts:
            counts["impacts"] = self.impacts.documents
        if self.dense:
            counts["vectors"] = self.dense.documents
            if self.dense.codes:
                counts["codes"] = self.dense.codes.documents
        if self.local:
            counts["local vectors"] = self.local.documents
        if set(counts.values()) != {segment.documents}:
            found = ", ".join(f"{part} {count}" for part, count in counts.items())
            raise IndexCorrupt(
                f"segment {segment.name}: the manifest says {segment.documents} documents, but {found}; "
                "restore it or rebuild the index."
            )

    def adopt(self, older: "SegmentReader") -> None:
        """Take over what a reader of the same files has read into memory; tombstones may differ."""
        if older.entry.records_sha256 != self.entry.records_sha256:
            return
        self.columns = older.columns
        if self.dense and older.dense and self._dense_files() == older._dense_files():
            self.dense.adopt(older.dense)

    def _dense_files(self) -> Files:
        """Return the files that a dense reader keeps in memory, with their digests: other codes are other files."""
        names = {f"{segment_folder(self.entry.name)}/{name}" for name in (VECTORS, CODES, FAISS_FILE)}
        return {name: entry for name, entry in self.entry.files.items() if name in names}

    def row(self, ordinal: int) -> int:
        """Return the row of a document in the records."""
        return row_of(self.number, ordinal)

    def allowed(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (N,) True for the live documents among ascending rows of all segments."""
        first, last = np.searchsorted(rows, [row_of(self.number, 0), row_of(self.number + 1, 0)])
        mask = np.zeros(self.documents, np.bool_)
        mask[rows[first:last] - row_of(self.number, 0)] = True
        return mask if self.live is None else mask & self.live


def require_size(path: Path, size: int) -> None:
    """Raise IndexCorrupt unless the file exists with that many bytes."""
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        raise IndexCorrupt(f"{path} is missing; restore it or rebuild the index.") from None
    if actual != size:
        raise IndexCorrupt(f"{path} has {actual:,} bytes, the manifest says {size:,}; restore it or rebuild the index.")
