"""The dense part as an index of FAISS that gives the same scores, for programs that read such."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.codebook import Codebook
from retriever.errors import InvalidInput
from retriever.index.codes import CODES, read_rows
from retriever.index.dense import ABSENT, VECTORS, write_faiss
from retriever.index.faiss_module import load_faiss
from retriever.index.form import product_parts
from retriever.index.lease import newest
from retriever.index.manifest import Manifest, Segment, form_of
from retriever.index.segment import segment_folder
from retriever.index.strings import StringTable
from retriever.index.tombstones import read_live
from retriever.storage import disk_errors, write_atomically


def product_index(codebook: Codebook, codes: NDArray[np.uint8]) -> Any:
    """Return a FAISS index over product codes (N, M): rotation, then PQ by inner product, with these centroids."""
    faiss = load_faiss()
    width, parts = codebook.width, codebook.parts
    inner = faiss.IndexPQ(width, parts, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook.centroids.ravel()), inner.pq.centroids)
    faiss.copy_array_to_vector(np.ascontiguousarray(codes.ravel()), inner.codes)
    inner.ntotal = len(codes)
    inner.is_trained = True
    turn = faiss.LinearTransform(width, width, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook.rotation.ravel()), turn.A)
    turn.is_trained = True
    turn.set_is_orthonormal()
    whole = faiss.IndexPreTransform(inner)
    whole.prepend_transform(turn)
    whole.ntotal = inner.ntotal
    whole.is_trained = True
    return whole


def export_faiss(path: str | Path, file: str | Path) -> dict[str, Any]:
    """Write what lives of an index to `file` and its ids to `file`.ids.json, in FAISS' order.

    Product codes become an IndexPQ with the rotation before it, stored vectors an IndexFlatIP; both score as the
    index does, to the last bits of a float32. Where there are codes and vectors, the codes are exported: rescoring is
    not FAISS'. Raises InvalidInput for sign codes alone, whose scores FAISS has no index for.
    """
    folder = Path(path)
    with newest(folder) as manifest:
        return _export(folder, manifest, Path(file))


def _export(folder: Path, manifest: Manifest, file: Path) -> dict[str, Any]:
    if manifest.dense is None:
        raise InvalidInput(f"{folder} has no vectors.")
    form = form_of(folder, manifest.dense)
    product = product_parts(form.kind) is not None
    if form.stored == "none" and not product:
        raise InvalidInput(
            f"{folder} holds sign codes alone, which FAISS scores by Hamming distance only; export an index that "
            "stores vectors or has product codes."
        )
    rows, ids = [], []
    for segment in manifest.segments:
        home = folder / segment_folder(segment.name)
        kept = _kept(folder, segment)
        ids += StringTable(home, "documents.ids").take(kept)
        rows.append(read_rows(home / CODES, form)[kept] if product else _vectors(home)[kept].astype(np.float32))
    index = _index(manifest, form.codebook, np.concatenate(rows))
    with disk_errors(file.parent):
        write_faiss(index, file)
        write_atomically(file.with_name(f"{file.name}.ids.json"), json.dumps(ids, ensure_ascii=False).encode())
    return {"file": str(file), "documents": len(ids), "form": "IndexPQ" if product else "IndexFlatIP"}


def _kept(folder: Path, segment: Segment) -> NDArray[np.int64]:
    """Return the ordinals of documents that live and have a vector."""
    live = np.ones(segment.documents, np.bool_)
    if segment.tombstones:
        live = read_live(folder / segment.tombstones, segment.documents)
    live[np.load(folder / segment_folder(segment.name) / ABSENT, allow_pickle=False)] = False
    return np.flatnonzero(live)


def _vectors(home: Path) -> NDArray[Any]:
    vectors: NDArray[Any] = np.load(home / VECTORS, mmap_mode="r", allow_pickle=False)
    return vectors


def _index(manifest: Manifest, codebook: Codebook | None, rows: NDArray[Any]) -> Any:
    if codebook is not None:
        return product_index(codebook, rows)
    assert manifest.dense is not None
    faiss = load_faiss()
    flat = faiss.IndexFlatIP(manifest.dense.width)
    flat.add(rows)
    return flat
