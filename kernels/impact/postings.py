"""The layout of an inverted index whose postings carry one byte of impact each.

Documents are numbered in blocks of 65,536, so that the 16-bit accumulators of a block stay in a core's
second-level cache. How a term's postings are stored follows from their number n alone:

    tiny    n <= 16          documents as uint32
    sparse  n < N / 232      places within the block as uint16, the number of postings in each block
    dense   otherwise        distances within the block as uint8; a distance above 255 is bridged by entries of
                             distance 255 and code 0, and every run is filled up to a multiple of 32 in the same
                             way, so that decoding has no branch and every 32nd entry has a checkpoint

Each posting of a block's run has a code from 1 to 255; the largest code of a run is kept as its bound. All
codes lie in one array: those of the tiny terms, the sparse ones, the dense ones.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled

BLOCK_BITS = 16
BLOCK = 1 << BLOCK_BITS
TINY = 16
SPARSE_KIND = TINY + 1
DENSE_KIND = TINY + 2
# Above this mean distance, two bytes a document are fewer than one byte and its bridges.
DENSE_DISTANCE = 232
# Terms are counted in groups, so that one byte a term tells where its postings are.
GROUP = 64
CHECKPOINT = 32


class ImpactPostings(NamedTuple):
    """The arrays of one segment with N documents in B blocks and V terms.

    documents        (1,) int64, N
    kinds            (V,) uint8: the number of postings of a tiny term, SPARSE_KIND or DENSE_KIND
    groups           (V / 64 + 1, 3) int64: tiny postings, sparse terms, dense terms before each group of terms
    codes            (C,) uint8, tiny then sparse then dense
    tiny_documents   (Pt,) uint32
    sparse_starts    (S + 1,) int64 into sparse_documents
    sparse_counts    (S, B) uint16 postings in each block
    sparse_bounds    (S, B) uint8 largest code in each block
    sparse_documents (Ps,) uint16
    dense_sizes      (D,) int64 postings of each dense term, bridges left out
    dense_starts     (D + 1,) int64 into dense_distances
    dense_counts     (D, B) uint32 entries in each block, a multiple of 32
    dense_bounds     (D, B) uint8
    dense_distances  (Pd,) uint8
    checkpoints      (Pd / 32,) uint16: place reached before each 32 entries
    """

    documents: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    groups: NDArray[np.int64]
    codes: NDArray[np.uint8]
    tiny_documents: NDArray[np.uint32]
    sparse_starts: NDArray[np.int64]
    sparse_counts: NDArray[np.uint16]
    sparse_bounds: NDArray[np.uint8]
    sparse_documents: NDArray[np.uint16]
    dense_sizes: NDArray[np.int64]
    dense_starts: NDArray[np.int64]
    dense_counts: NDArray[np.uint32]
    dense_bounds: NDArray[np.uint8]
    dense_distances: NDArray[np.uint8]
    checkpoints: NDArray[np.uint16]

    @property
    def size(self) -> int:
        """The number of documents."""
        return int(self.documents[0])

    @property
    def blocks(self) -> int:
        return block_count(self.size)


DTYPES: Mapping[str, type[np.generic]] = {
    "documents": np.int64,
    "kinds": np.uint8,
    "groups": np.int64,
    "codes": np.uint8,
    "tiny_documents": np.uint32,
    "sparse_starts": np.int64,
    "sparse_counts": np.uint16,
    "sparse_bounds": np.uint8,
    "sparse_documents": np.uint16,
    "dense_sizes": np.int64,
    "dense_starts": np.int64,
    "dense_counts": np.uint32,
    "dense_bounds": np.uint8,
    "dense_distances": np.uint8,
    "checkpoints": np.uint16,
}


def block_count(documents: int) -> int:
    """Return how many blocks hold that many documents, at least 1."""
    return max(1, -(-documents // BLOCK))


def lay_out(
    offsets: NDArray[np.int64], documents: NDArray[np.int32], codes: NDArray[np.uint8], size: int
) -> ImpactPostings:
    """Lay out plain postings.

    offsets    (V + 1,) where each term's postings begin; every term has at least one
    documents  (P,) ascending within a term, below `size`
    codes      (P,) from 1 to 255
    """
    counts = np.diff(offsets)
    terms = len(counts)
    blocks = block_count(size)
    if terms and counts.min() < 1:
        raise ValueError("a term without postings cannot be laid out")
    if len(codes) and codes.min() < 1:
        raise ValueError("codes must be from 1 to 255")
    dense = (counts > TINY) & (counts * DENSE_DISTANCE >= size)
    kinds = np.where(counts <= TINY, counts, np.where(dense, DENSE_KIND, SPARSE_KIND)).astype(np.uint8)
    before = np.zeros((terms + 1, 3), np.int64)
    before[1:, 0] = np.cumsum(np.where(kinds <= TINY, counts, 0))
    before[1:, 1] = np.cumsum(kinds == SPARSE_KIND)
    before[1:, 2] = np.cumsum(kinds == DENSE_KIND)
    tiny, sparse_terms, dense_terms = (int(n) for n in before[-1])
    sparse_starts = _starts(counts[kinds == SPARSE_KIND])
    entries = np.zeros((dense_terms, blocks), np.uint32)
    _count_entries(offsets, documents, np.flatnonzero(kinds == DENSE_KIND), entries)
    dense_starts = _starts(entries.sum(axis=1, dtype=np.int64))
    sparse, packed = int(sparse_starts[-1]), int(dense_starts[-1])
    postings = ImpactPostings(
        documents=np.array([size], np.int64),
        kinds=kinds,
        groups=before[::GROUP].copy(),
        codes=np.zeros(tiny + sparse + packed, np.uint8),
        tiny_documents=np.zeros(tiny, np.uint32),
        sparse_starts=sparse_starts,
        sparse_counts=np.zeros((sparse_terms, blocks), np.uint16),
        sparse_bounds=np.zeros((sparse_terms, blocks), np.uint8),
        sparse_documents=np.zeros(sparse, np.uint16),
        dense_sizes=counts[kinds == DENSE_KIND].astype(np.int64),
        dense_starts=dense_starts,
        dense_counts=entries,
        dense_bounds=np.zeros((dense_terms, blocks), np.uint8),
        dense_distances=np.zeros(packed, np.uint8),
        checkpoints=np.zeros(packed // CHECKPOINT, np.uint16),
    )
    _fill_short(
        offsets,
        documents,
        codes,
        kinds,
        postings.codes,
        postings.tiny_documents,
        postings.sparse_counts,
        postings.sparse_bounds,
        postings.sparse_documents,
        tiny,
    )
    _fill_dense(
        offsets,
        documents,
        codes,
        np.flatnonzero(kinds == DENSE_KIND),
        dense_starts,
        entries,
        postings.codes[tiny + sparse :],
        postings.dense_bounds,
        postings.dense_distances,
        postings.checkpoints,
    )
    return postings


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def require_sound(postings: ImpactPostings) -> None:
    """Raise ValueError unless all arrays fit together, so that compiled code stays inside them.

    Places within a block need no check, for 16 bits cannot leave it. Cost: a pass over the terms, not the postings.
    """
    size, blocks, kinds = postings.size, postings.blocks, postings.kinds
    if len(postings.documents) != 1 or not 0 <= size < 2**31:
        raise ValueError(f"{size} documents")
    if len(kinds) and not 1 <= kinds.min() <= kinds.max() <= DENSE_KIND:
        raise ValueError("a list is of no known kind")
    tiny = np.where(kinds <= TINY, kinds, 0).astype(np.int64)
    before = np.stack([_starts(tiny), _starts(kinds == SPARSE_KIND), _starts(kinds == DENSE_KIND)], axis=1)
    packed = len(postings.dense_distances)
    expected = {
        "groups": before[::GROUP],
        "sparse_starts": _starts(postings.sparse_counts.sum(axis=1, dtype=np.int64)),
        "dense_starts": _starts(postings.dense_counts.sum(axis=1, dtype=np.int64)),
    }
    for name, content in expected.items():
        if not np.array_equal(getattr(postings, name), content):
            raise ValueError(f"{name} do not fit the lists")
    sparse_terms, dense_terms = int(before[-1, 1]), int(before[-1, 2])
    shapes = {
        "codes": (len(postings.tiny_documents) + len(postings.sparse_documents) + packed,),
        "tiny_documents": (int(before[-1, 0]),),
        "sparse_counts": (sparse_terms, blocks),
        "sparse_bounds": (sparse_terms, blocks),
        "sparse_documents": (int(postings.sparse_starts[-1]),),
        "dense_sizes": (dense_terms,),
        "dense_counts": (dense_terms, blocks),
        "dense_bounds": (dense_terms, blocks),
        "dense_distances": (int(postings.dense_starts[-1]),),
        "checkpoints": (packed // CHECKPOINT,),
    }
    for name, shape in shapes.items():
        if getattr(postings, name).shape != shape:
            raise ValueError(f"{name} have shape {getattr(postings, name).shape}, not {shape}")
    if (postings.dense_counts % CHECKPOINT).any():
        raise ValueError("a dense run does not end with a checkpoint")
    if len(postings.tiny_documents) and int(postings.tiny_documents.max()) >= size:
        raise ValueError("postings name documents that do not exist")


@compiled
def _count_entries(offsets, documents, terms, entries):
    for row in range(len(terms)):
        block = -1
        place = 0
        count = 0
        for posting in range(offsets[terms[row]], offsets[terms[row] + 1]):
            document = documents[posting]
            if document >> BLOCK_BITS != block:
                if block >= 0:
                    entries[row, block] = (count + CHECKPOINT - 1) // CHECKPOINT * CHECKPOINT
                block = document >> BLOCK_BITS
                place = 0
                count = 0
            distance = (document & (BLOCK - 1)) - place
            count += 1 + (max(distance, 1) - 1) // 255
            place += distance
        if block >= 0:
            entries[row, block] = (count + CHECKPOINT - 1) // CHECKPOINT * CHECKPOINT


@compiled
def _fill_short(offsets, documents, codes, kinds, all_codes, tiny_documents, counts, bounds, places, tiny):
    next_tiny = 0
    next_sparse = 0
    row = 0
    for term in range(len(kinds)):
        if kinds[term] <= TINY:
            for posting in range(offsets[term], offsets[term + 1]):
                tiny_documents[next_tiny] = documents[posting]
                all_codes[next_tiny] = codes[posting]
                next_tiny += 1
        elif kinds[term] == SPARSE_KIND:
            for posting in range(offsets[term], offsets[term + 1]):
                block = documents[posting] >> BLOCK_BITS
                places[next_sparse] = documents[posting] & (BLOCK - 1)
                all_codes[tiny + next_sparse] = codes[posting]
                counts[row, block] += 1
                bounds[row, block] = max(bounds[row, block], codes[posting])
                next_sparse += 1
            row += 1


@compiled
def _fill_dense(offsets, documents, codes, terms, starts, entries, all_codes, bounds, distances, checkpoints):
    for row in range(len(terms)):
        posting = offsets[terms[row]]
        end = offsets[terms[row] + 1]
        entry = starts[row]
        for block in range(entries.shape[1]):
            stop = entry + entries[row, block]
            place = 0
            while entry < stop:
                if entry % CHECKPOINT == 0:
                    checkpoints[entry // CHECKPOINT] = place
                if posting < end and documents[posting] >> BLOCK_BITS == block:
                    distance = (documents[posting] & (BLOCK - 1)) - place
                    if distance > 255:
                        distances[entry] = 255
                        place += 255
                    else:
                        distances[entry] = distance
                        all_codes[entry] = codes[posting]
                        bounds[row, block] = max(bounds[row, block], codes[posting])
                        place += distance
                        posting += 1
                entry += 1


@compiled
def _unfold(
    kinds, first, all_codes, tiny_documents, counts, places, entries, distances, cursors, offsets, documents, codes
):
    next_tiny, sparse_row, dense_row, next_sparse, next_dense = cursors
    sparse_codes = len(tiny_documents)
    dense_codes = len(tiny_documents) + len(places)
    for term in range(len(offsets) - 1):
        kind = kinds[first + term]
        posting = offsets[term]
        if kind <= TINY:
            for _ in range(kind):
                documents[posting] = tiny_documents[next_tiny]
                codes[posting] = all_codes[next_tiny]
                next_tiny += 1
                posting += 1
        elif kind == SPARSE_KIND:
            for block in range(counts.shape[1]):
                for _ in range(counts[sparse_row, block]):
                    documents[posting] = (block << BLOCK_BITS) + places[next_sparse]
                    codes[posting] = all_codes[sparse_codes + next_sparse]
                    next_sparse += 1
                    posting += 1
            sparse_row += 1
        else:
            for block in range(entries.shape[1]):
                place = block << BLOCK_BITS
                for _ in range(entries[dense_row, block]):
                    place += distances[next_dense]
                    code = all_codes[dense_codes + next_dense]
                    # As many as were promised, even if damage has made more of them.
                    if code and posting < offsets[term + 1]:
                        documents[posting] = place
                        codes[posting] = code
                        posting += 1
                    next_dense += 1
            dense_row += 1


def posting_counts(postings: ImpactPostings, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
    """Return the number of postings of each term from `first` up to `last`."""
    kinds = postings.kinds[first:last]
    counts = kinds.astype(np.int64)
    _, sparse_row, dense_row = _rows_before(postings, first)
    sparse, dense = kinds == SPARSE_KIND, kinds == DENSE_KIND
    rows = sparse_row + np.arange(np.count_nonzero(sparse))
    counts[sparse] = postings.sparse_starts[rows + 1] - postings.sparse_starts[rows]
    counts[dense] = postings.dense_sizes[dense_row : dense_row + np.count_nonzero(dense)]
    return counts


def _rows_before(postings: ImpactPostings, term: int) -> tuple[int, int, int]:
    """Return tiny postings, sparse terms and dense terms before a term."""
    start = term // GROUP * GROUP
    tiny, sparse, dense = (int(count) for count in postings.groups[term // GROUP])
    kinds = postings.kinds[start:term].astype(np.int64)
    return (
        tiny + int(kinds[kinds <= TINY].sum()),
        sparse + int(np.count_nonzero(kinds == SPARSE_KIND)),
        dense + int(np.count_nonzero(kinds == DENSE_KIND)),
    )


def unfold(
    postings: ImpactPostings, first: int = 0, last: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
    """Return plain (offsets, documents, codes) of the terms from `first` up to `last`: the inverse of `lay_out`."""
    offsets = _starts(posting_counts(postings, first, last))
    documents = np.zeros(offsets[-1], np.int32)
    codes = np.zeros(offsets[-1], np.uint8)
    tiny, sparse, dense = _rows_before(postings, first)
    _unfold(
        postings.kinds,
        first,
        postings.codes,
        postings.tiny_documents,
        postings.sparse_counts,
        postings.sparse_documents,
        postings.dense_counts,
        postings.dense_distances,
        (tiny, sparse, dense, int(postings.sparse_starts[sparse]), int(postings.dense_starts[dense])),
        offsets,
        documents,
        codes,
    )
    return offsets, documents, codes
