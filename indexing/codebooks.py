"""The codebook of an index: trained on a sample of its vectors, the model's own, or that of another index."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.codebook import CENTROIDS, Codebook, train_codebook
from retriever.errors import InvalidInput
from retriever.index.dense import ABSENT, VECTORS
from retriever.index.form import Form, product_parts, require_form

# Some hundred vectors a centroid; more change little.
SAMPLE = 32_768
# Of k-means and of OPQ's alternation; what comes later moves little and costs as much.
ROUNDS = 10
# Numbers of a vector within so many times their root mean square: of 100,000 that are normally distributed all but six.
SPREAD = 4.0


def sample_vectors(sources: Sequence[Path], most: int = SAMPLE) -> NDArray[np.float32]:
    """Return up to `most` vectors (n, H), evenly spaced over those that shards or segments hold."""
    vectors = [np.load(source / VECTORS, mmap_mode="r", allow_pickle=False) for source in sources]
    present = []
    for source, part in zip(sources, vectors, strict=True):
        there = np.ones(len(part), np.bool_)
        there[np.load(source / ABSENT, allow_pickle=False)] = False
        present.append(np.flatnonzero(there))
    starts = np.cumsum([0, *(len(rows) for rows in present)])
    chosen = np.unique(np.linspace(0, max(0, starts[-1] - 1), min(most, int(starts[-1]))).astype(np.int64))
    found = [
        part[rows[chosen[(chosen >= start) & (chosen < end)] - start]]
        for part, rows, start, end in zip(vectors, present, starts, starts[1:], strict=False)
    ]
    return np.concatenate(found).astype(np.float32)


def codebook_for(kind: str, sample: NDArray[np.float32]) -> Codebook | None:
    """Return a codebook for a kind, trained on vectors; None for kinds without one.

    Raises InvalidInput, see `retriever.codebook.train_codebook`.
    """
    product = product_parts(kind)
    if product is None:
        return None
    require_form(kind, "none", sample.shape[1])
    parts, rotate = product
    if parts == sample.shape[1] and not rotate:
        return byte_levels(sample)
    return train_codebook(sample, parts, rotate=rotate, rounds=ROUNDS)


def byte_levels(sample: NDArray[np.float32]) -> Codebook:
    """Return a codebook with a byte for each dimension: 256 even levels from its least to its largest number.

    k-means would place them little better, and takes minutes. Fewer than 256 vectors do not tell the range, nor do any
    in a dimension where they are the same: there the levels reach at least from -r to r, r being `SPREAD` times the
    length of the longest vector over the root of the width, so that documents that come later still differ.
    Raises InvalidInput without vectors.
    """
    if not len(sample):
        raise InvalidInput("levels cannot be found without vectors; the index has none yet.")
    low, high = sample.min(axis=0), sample.max(axis=0)
    # Vectors of nothing but zeros tell no length; most encoders' is 1.
    length = float(np.linalg.norm(sample, axis=1).max()) or 1.0
    # No number of a vector is larger than its length.
    reach = np.float32(length * min(1.0, SPREAD / sample.shape[1] ** 0.5))
    unknown = (low == high) | (len(sample) < CENTROIDS)
    low = np.where(unknown, np.minimum(low, -reach), low)
    high = np.where(unknown, np.maximum(high, reach), high)
    levels = np.linspace(low, high, CENTROIDS, axis=1, dtype=np.float32)
    return Codebook(np.eye(sample.shape[1], dtype=np.float32), np.ascontiguousarray(levels[:, :, None]))


def own_kind(encoder: Any) -> str | None:
    """Return the kind that keeps documents as the model itself compresses them, None when it does not."""
    codes = getattr(encoder, "codes", None)
    return f"pq{codes.parts}" if isinstance(codes, Codebook) else "binary" if codes == "sign" else None


def own_form(encoder: Any) -> Form:
    """Return the form that keeps documents as a model compresses them, and nothing else. Raises InvalidInput."""
    kind = own_kind(encoder)
    if kind is None:
        raise InvalidInput(f"{encoder.name} does not compress documents; it ends in no head of `retriever.heads`.")
    codes = encoder.codes
    return Form(encoder.width, kind, "none", own_codebook(codes) if isinstance(codes, Codebook) else None)


def own_codebook(codebook: Codebook) -> Codebook:
    """Return the codebook of a model that compresses documents itself, for the vectors that it gives.

    These are rotated already, so that codes and scores are the model's own to the bit.
    """
    return Codebook(np.eye(codebook.width, dtype=np.float32), codebook.centroids)
