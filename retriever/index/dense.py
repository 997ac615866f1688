"""The dense part of a segment: vectors, and codes or a FAISS index by which they are found unless all are looked at.

    dense.vectors.npy   (N, H) float32 or float16, what exact search and rescoring read; absent where codes stand alone
    dense.absent.npy    int32 ordinals of documents without a vector (no text, or not finite)
    dense.codes.npy     codes of our own, see `retriever.index.codes`
    dense.faiss         the FAISS index, for other kinds than "flat"

A segment is searched by the files that it has. Inner product everywhere; larger is better.
"""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.errors import BackendUnavailable, IndexCorrupt, InvalidInput
from retriever.index.codes import Codes
from retriever.index.faiss_module import load_faiss
from retriever.index.form import KINDS
from retriever.storage import sha256_of

VECTORS, ABSENT, FAISS_FILE = "dense.vectors.npy", "dense.absent.npy", "dense.faiss"

# With so few documents left by a filter, reading them all costs less than an ANN search.
EXACT_BELOW = 50_000
BLOCK = 65_536
# Vectors that are not float32 become so in blocks that stay in the cache.
CONVERTED = 8_192
# Candidates by codes: sign codes need some hundred for the best ten, whatever is asked for, and more among more
# documents. Twice the square root is 500 of 62,500 and 2,000 of a million, where 500 find .905 of the best ten and
# 2,000 .981 (benchmarks/results/quantised.csv).
LEAST_CANDIDATES = 500
CANDIDATES_BY_ROOT = 2
# No FAISS index that this project writes loops more often than this while it is read.
LOOP_LIMIT = 100_000_000


def factory_string(kind: str, documents: int, width: int) -> str | None:
    """Return the FAISS factory string for a kind, or None for "flat"; other strings as they are.

    Returns None too when there are too few documents to train the index: such a search is exact and fast.
    """
    if kind == "flat":
        return None
    if kind == "hnsw":
        return "HNSW32"
    if kind == "ivf,pq":
        # FAISS wants 39 training vectors a list; about 4 * sqrt(N) lists balance the two scans.
        lists = 1 << max(0, int(np.log2(max(1.0, min(4 * documents**0.5, documents / 39)))))
        subspaces = next((m for m in (width // 4, width // 8, 1) if m and width % m == 0), 1)
        return None if documents < 2_000 else f"IVF{lists},PQ{subspaces}"
    return kind


def train_index(vectors: NDArray[Any], factory: str, device: str = "cpu") -> Any:
    """Return a trained FAISS index holding all vectors, float32 or float16.

    device  "cuda" trains and adds on the first GPU when FAISS was built for it; the result is a CPU index
    Raises InvalidInput with FAISS' own words when it refuses the factory string or the data.
    """
    faiss = load_faiss()
    count, width = vectors.shape
    try:
        if factory.startswith("B"):
            index = faiss.index_binary_factory(width, factory)
            data: NDArray[Any] = pack_signs(np.asarray(vectors))
        else:
            index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
            data = vectors
    except RuntimeError as error:
        raise InvalidInput(
            f"FAISS cannot make {factory!r} for vectors of width {width}: {_reason(error)}. "
            f"Use one of {', '.join(KINDS)} or another factory string."
        ) from error
    on_gpu = device.startswith("cuda") and not factory.startswith("B")
    if on_gpu:
        index = faiss.index_cpu_to_gpu(_gpu(faiss), 0, index)
    try:
        if not index.is_trained:
            # FAISS samples from what it gets; more than this only costs memory.
            step = max(1, count // 500_000)
            index.train(_given(data[::step]))
        for start in range(0, count, BLOCK):
            index.add(_given(data[start : start + BLOCK]))
    except RuntimeError as error:
        raise InvalidInput(
            f"FAISS could not train {factory!r} on {count} vectors: {_reason(error)}. "
            'Use "flat" or an index with fewer centroids.'
        ) from error
    return faiss.index_gpu_to_cpu(index) if on_gpu else index


def _given(data: NDArray[Any]) -> NDArray[Any]:
    """Return what FAISS takes: float32, or the bytes of a binary index."""
    return np.ascontiguousarray(data, None if data.dtype == np.uint8 else np.float32)


def _gpu(faiss: Any) -> Any:
    if not hasattr(faiss, "StandardGpuResources"):
        raise BackendUnavailable("this FAISS has no GPU code; uninstall faiss-cpu and install retriever-engine[gpu].")
    return faiss.StandardGpuResources()


def _reason(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1][:300]


def pack_signs(vectors: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (N, H / 8) sign bits. Raises InvalidInput when H is not a multiple of 8."""
    if vectors.shape[1] % 8:
        raise InvalidInput(f"a binary index needs a width that 8 divides, got {vectors.shape[1]}.")
    return np.packbits(vectors > 0, axis=1)


def write_faiss(index: Any, path: Path) -> None:
    """Write a float or binary FAISS index."""
    faiss = load_faiss()
    if isinstance(index, faiss.IndexBinary):
        faiss.write_index_binary(index, str(path))
    else:
        faiss.write_index(index, str(path))


def read_faiss(path: Path, sha256: str) -> Any:
    """Read a FAISS index after checking its digest, with caps on what the file may make FAISS allocate.

    Raises IndexCorrupt.
    """
    faiss = load_faiss()
    if sha256_of(path) != sha256:
        raise IndexCorrupt(f"{path} was altered: its sha256 is not the manifest's; restore it or rebuild.")
    faiss.set_deserialization_loop_limit(LOOP_LIMIT)
    # No vector inside the file can be longer than the file.
    faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
    with path.open("rb") as file:
        is_binary = file.read(2) == b"IB"
    try:
        if is_binary:
            return faiss.read_index_binary(str(path))
        # The table serves L2 only, and its size is what the cap on allocations would refuse.
        return faiss.read_index(str(path), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except RuntimeError as error:
        raise IndexCorrupt(f"FAISS refuses {path}: {_reason(error)}; rebuild the index.") from error


def least_candidates(documents: int) -> int:
    """Return how many of so many documents are scored again at the least, where codes find them."""
    return max(LEAST_CANDIDATES, math.ceil(CANDIDATES_BY_ROOT * math.sqrt(documents)))


class DenseReader:
    """The vectors of one segment, memory-mapped; codes and the FAISS index are read at the first search."""

    def __init__(
        self,
        folder: Path,
        *,
        faiss_sha256: str | None,
        oversample: int,
        live: NDArray[np.bool_] | None,
        device: str = "cpu",
        codes: Codes | None = None,
        candidates: int | None = None,
    ) -> None:
        """Open a segment; `faiss_sha256` is None when there is no FAISS index.

        live   (N,) documents that are not tombstoned, None when all live
        codes  by which documents are found; without a file of vectors they are scored by them too
        candidates  found by codes and scored again; None for `oversample` times k, `least_candidates` at the least
        """
        self.vectors: NDArray[Any] | None = None
        if codes is None or (folder / VECTORS).exists():
            self.vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        self.codes = codes
        self.documents = len(self.vectors) if self.vectors is not None else codes.documents if codes else 0
        absent = np.load(folder / ABSENT, allow_pickle=False)
        self.allowed = live
        if len(absent):
            self.allowed = np.ones(self.documents, np.bool_) if live is None else live.copy()
            self.allowed[absent] = False
        self._path = folder / FAISS_FILE
        self._sha256 = faiss_sha256
        self._oversample = oversample
        self._candidates_by_codes = candidates
        self._device = device
        self._lock = threading.Lock()
        self._index: Any = None
        self._on_device: Any = None
        self._codes_are_read = False

    @property
    def is_exact(self) -> bool:
        """Whether every search finds the best of what is stored: of the vectors, or of product codes alone."""
        if self.codes is not None:
            return self.vectors is None and self.codes.finds_best
        return self._sha256 is None

    def load(self) -> None:
        """Read what the first search would read: codes, the FAISS index, or the vectors onto the GPU."""
        with self._lock:
            if self.codes is not None and not self._codes_are_read:
                self.codes, self._codes_are_read = self.codes.in_memory(), True
            if self._sha256 is not None and self._index is None:
                self._index = read_faiss(self._path, self._sha256)
            if self._device.startswith("cuda") and self._on_device is None and self.vectors is not None:
                import torch

                self._on_device = torch.from_numpy(np.array(self.vectors)).to(self._device).float()

    def stored(self, ordinals: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return (n, H), what is stored of documents: their vectors, or what their codes stand for."""
        if self.vectors is not None:
            return np.asarray(self.vectors[ordinals], np.float32)
        assert self.codes is not None
        return self.codes.decoded(np.asarray(ordinals, np.int64))

    def adopt(self, older: "DenseReader") -> None:
        """Take over what a reader of the same files has loaded."""
        with older._lock, self._lock:
            self._index, self._on_device = older._index, older._on_device
            self.codes, self._codes_are_read = older.codes, older._codes_are_read

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        id_rank: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None,
        *,
        exact: bool = False,
    ) -> tuple[list[tuple[NDArray[np.float32], NDArray[np.int64]]], bool]:
        """Return for each query (scores, ordinals) of the best k, ties by `id_rank`; and whether exact.

        queries  (Q, H)
        allowed  (N,) a filter within the live documents, or None
        exact    look at every vector; filters that leave few documents are answered so whatever the index
        """
        if self.allowed is not None:
            allowed = self.allowed if allowed is None else allowed & self.allowed
        count = self.documents if allowed is None else int(np.count_nonzero(allowed))
        if count == 0:
            nothing = (np.zeros(0, np.float32), np.zeros(0, np.int64))
            return [nothing] * len(queries), True
        self.load()
        few = count <= EXACT_BELOW and count < self.documents
        candidates = k
        if self.codes is not None:
            candidates = self._candidates_by_codes or max(least_candidates(count), k * self._oversample)
        if exact or self.is_exact or few or candidates >= count:
            return self._exact(queries, k, id_rank, allowed), True
        if self.codes is not None:
            found = self.codes.nearest(queries, candidates, allowed)
            return [self._rescored(query, part, k, id_rank) for query, part in zip(queries, found, strict=True)], False
        return [self._approximate(query, k, id_rank, allowed, count) for query in queries], False

    def _exact(
        self,
        queries: NDArray[np.float32],
        k: int,
        id_rank: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None,
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        def best(part: NDArray[np.float32], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
            if self._on_device is not None:
                return self._best_on_device(part, k, allowed)
            if self.vectors is not None:
                return exact_search(self.vectors, part, k, allowed)
            assert self.codes is not None
            return self.codes.best(part, k, allowed)

        return _batch(best, queries, k, id_rank, self.documents)

    def _rescored(
        self, query: NDArray[np.float32], found: NDArray[np.int64], k: int, id_rank: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Score documents that their codes suggest: by their vectors, or by the codes where there are no others."""
        # In order, for memory that is read forwards is read faster.
        candidates = np.sort(found)
        if self.vectors is not None:
            scores = np.asarray(self.vectors[candidates], np.float32) @ query
        else:
            assert self.codes is not None
            scores = self.codes.scores(query, candidates)
        return _ordered(scores, candidates, k, id_rank)

    def _best_on_device(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        import torch

        from kernels.topk import topk

        mask = None if allowed is None else torch.from_numpy(allowed).to(self._device)
        scores, ordinals = topk(torch.from_numpy(queries).to(self._device), self._on_device, k, mask)
        # Places beyond the last allowed document hold -1, in every row alike.
        found = int((ordinals[0] >= 0).sum())
        return scores[:, :found].cpu().numpy(), ordinals[:, :found].cpu().numpy()

    def _approximate(
        self,
        query: NDArray[np.float32],
        k: int,
        id_rank: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None,
        count: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        assert self.vectors is not None
        total = self.documents
        # Enough candidates that, by the filter's share of documents, k times the oversampling pass it.
        fetch = min(total, int(np.ceil(max(k, 10) * self._oversample * total / count)))
        while True:
            candidates = self._candidates(query, fetch)
            candidates = candidates[candidates >= 0]
            if allowed is not None:
                candidates = candidates[allowed[candidates]]
            if len(candidates) >= k or fetch == total:
                break
            fetch = min(total, fetch * 4)
        scores = np.asarray(self.vectors[candidates], np.float32) @ query
        order = np.lexsort((id_rank[candidates], -scores))[:k]
        return scores[order], candidates[order]

    def _candidates(self, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        faiss = load_faiss()
        if isinstance(self._index, faiss.IndexBinary):
            _, ordinals = self._index.search(pack_signs(query[None]), count)
        else:
            _, ordinals = self._index.search(query[None], count, params=search_parameters(faiss, self._index, count))
        found: NDArray[np.int64] = np.sort(ordinals[0])
        return found


def search_parameters(faiss: Any, index: Any, count: int) -> Any:
    """Return FAISS search parameters that look far enough for `count` candidates, None where none apply."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_parameters(faiss, index.index, count)
        return None if inner is None else faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(128, count))
    if isinstance(index, faiss.IndexIVF):
        # A sixteenth of the lists, and always enough of them to hold the candidates twice over.
        needed = int(np.ceil(2 * count * index.nlist / max(1, index.ntotal)))
        return faiss.SearchParametersIVF(nprobe=min(index.nlist, max(8, index.nlist // 16, needed)))
    return None


def exact_search(
    vectors: NDArray[np.floating],
    queries: NDArray[np.float32],
    k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (Q, k') scores and ordinals of the largest inner products, k' = min(k, allowed documents).

    Ties at the k-th place are cut in no order; copies BLOCK vectors at a time when there is a filter, and CONVERTED
    ones when they are not float32.
    """
    faiss = load_faiss()
    queries = np.ascontiguousarray(queries)
    whole = vectors.dtype == np.float32
    if allowed is None and whole:
        return _knn(faiss, vectors, queries, k)
    chosen = None if allowed is None else np.flatnonzero(allowed)
    total, size = len(vectors) if chosen is None else len(chosen), BLOCK if whole else CONVERTED
    scores = np.zeros((len(queries), 0), np.float32)
    ordinals = np.zeros((len(queries), 0), np.int64)
    for start in range(0, total, size):
        rows = slice(start, start + size)
        block = np.arange(start, min(start + size, total)) if chosen is None else chosen[rows]
        part = vectors[rows] if chosen is None else vectors[block]
        new_scores, new = _knn(faiss, np.ascontiguousarray(part, np.float32), queries, k)
        scores = np.concatenate([scores, new_scores], axis=1)
        ordinals = np.concatenate([ordinals, block[new]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        ordinals = np.take_along_axis(ordinals, order, axis=1)
    return scores, ordinals


def _knn(
    faiss: Any, vectors: NDArray[Any], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scores, ordinals = faiss.knn(queries, vectors, min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    return scores, ordinals


Best = Callable[[NDArray[np.float32], int], tuple[NDArray[Any], NDArray[Any]]]


def _batch(
    best: Best, queries: NDArray[np.float32], k: int, id_rank: NDArray[np.int32], total: int
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    scores, ordinals = best(queries, k + 1)
    answers = []
    for row, query in enumerate(queries):
        if scores.shape[1] > k and scores[row, k - 1] == scores[row, k]:
            answers.append(_resolve_ties(best, query[None], k, id_rank, total))
        else:
            answers.append(_ordered(scores[row], ordinals[row], k, id_rank))
    return answers


def _resolve_ties(
    best: Best, query: NDArray[np.float32], k: int, id_rank: NDArray[np.int32], total: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search deeper until the tie at the k-th place ends, then cut it in order of id."""
    fetch = k + 1
    while True:
        scores, ordinals = best(query, fetch)
        if scores.shape[1] < fetch or scores[0, k - 1] > scores[0, -1] or fetch >= total:
            return _ordered(scores[0], ordinals[0], k, id_rank)
        fetch = min(total, fetch * 4)


def _ordered(
    scores: NDArray[Any], ordinals: NDArray[Any], k: int, id_rank: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((id_rank[ordinals], -scores))[:k]
    return scores[order].astype(np.float32), ordinals[order].astype(np.int64)
