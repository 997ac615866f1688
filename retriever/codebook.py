"""Product quantisation: a rotation, and for each part of the rotated vector 256 centroids that stand for it.

Sources: product quantisation (Jegou et al., 2011), OPQ (Ge et al., 2013), trained by FAISS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from retriever.index.faiss_module import load_faiss

CENTROIDS = 256
# Vectors that are assigned together.
BLOCK = 16_384


@dataclass(frozen=True, eq=False)
class Codebook:
    """A rotation and the centroids of M parts.

    rotation   float32 (H, H), orthonormal; a vector v becomes `v @ rotation.T`
    centroids  float32 (M, 256, H / M), in the rotated space

    A code takes M bytes; its score against a query is the sum over parts of (rotated query part) . centroid.
    """

    rotation: NDArray[np.float32]
    centroids: NDArray[np.float32]

    def __post_init__(self) -> None:
        shapes = self.rotation.shape, self.centroids.shape
        width = self.rotation.shape[0]
        if (
            self.rotation.shape != (width, width)
            or self.centroids.ndim != 3
            or self.centroids.shape[1] != CENTROIDS
            or self.centroids.shape[0] * self.centroids.shape[2] != width
        ):
            raise InvalidInput(f"a codebook has shapes (H, H) and (M, {CENTROIDS}, H / M), got {shapes}.")
        if not (np.isfinite(self.rotation).all() and np.isfinite(self.centroids).all()):
            raise InvalidInput("the codebook holds a number that is NaN or infinite.")

    @property
    def width(self) -> int:
        return len(self.rotation)

    @property
    def parts(self) -> int:
        """M, the bytes of a code."""
        return len(self.centroids)

    def rotated(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (N, H) vectors in the space of the centroids."""
        turned: NDArray[np.float32] = np.ascontiguousarray(vectors, np.float32) @ self.rotation.T
        return turned

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return codes (N, M) of vectors (N, H): the nearest centroid of each part."""
        return self.encode_rotated(self.rotated(vectors))

    def encode_rotated(self, turned: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return codes (N, M) of vectors that are rotated already; equal distances go to the lower number."""
        codes = np.empty((len(turned), self.parts), np.uint8)
        size = self.centroids.shape[2]
        lengths = (self.centroids**2).sum(axis=2)
        for start in range(0, len(turned), BLOCK):
            rows = slice(start, start + BLOCK)
            for part in range(self.parts):
                values = turned[rows, part * size : (part + 1) * size]
                # |v - c|^2 without |v|^2, which is the same for all c.
                distances = lengths[part] - 2 * (values @ self.centroids[part].T)
                codes[rows, part] = distances.argmin(axis=1)
        return codes

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, H), what codes (N, M) stand for, in the rotated space."""
        found: NDArray[np.float32] = self.centroids[np.arange(self.parts), codes].reshape(len(codes), self.width)
        return found

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write as safetensors, with metadata in its header."""
        from safetensors.numpy import save_file

        tensors = {"rotation": self.rotation, "centroids": self.centroids}
        save_file(tensors, path, metadata=dict(metadata) if metadata else None)

    @classmethod
    def load(cls, path: Path) -> "Codebook":
        """Read what `save` wrote. Raises InvalidInput for another file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
            return cls(tensors["rotation"], tensors["centroids"])
        except (OSError, SafetensorError, KeyError) as error:
            raise InvalidInput(f"{path} is no codebook: {error}") from error


def train_codebook(
    vectors: NDArray[np.float32], parts: int, *, rotate: bool = True, seed: int = 0, rounds: int = 25
) -> Codebook:
    """Return a codebook fitted to vectors (N, H) by FAISS: OPQ, or PQ without rotation.

    parts   M, must divide H
    rounds  of k-means, and of OPQ's alternation

    OPQ takes rounds * (H^3 + N * H * 256) operations: minutes for 100,000 vectors of width 768 on one core.
    Raises InvalidInput when `parts` does not divide the width, for fewer vectors than centroids or, with a rotation,
    than dimensions, and for vectors that are NaN, infinite or all the same.
    """
    faiss = load_faiss()
    require_trainable(len(vectors), vectors.shape[1], parts, rotate=rotate)
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise InvalidInput(f"vector {row} holds a number that is NaN or infinite; a codebook cannot be fitted to it.")
    if (vectors == vectors[0]).all():
        raise InvalidInput(f"all {len(vectors)} vectors are the same; a codebook would tell nothing apart.")
    data = np.ascontiguousarray(vectors, np.float32)
    width = data.shape[1]
    rotation = np.eye(width, dtype=np.float32)
    if rotate:
        opq = faiss.OPQMatrix(width, parts)
        opq.niter = rounds
        opq.verbose = False
        inner = faiss.ProductQuantizer(width, parts, 8)
        inner.cp.min_points_per_centroid = 1
        opq.pq = inner
        opq.train(data)
        rotation = faiss.vector_to_array(opq.A).reshape(width, width).copy()
        data = np.ascontiguousarray(data @ rotation.T)
    quantiser = faiss.ProductQuantizer(width, parts, 8)
    quantiser.cp.niter = rounds
    quantiser.cp.seed = seed + 1
    # Fewer than FAISS' 39 vectors a centroid fit less well, and are said so where it matters.
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(data)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(parts, CENTROIDS, width // parts).copy()
    return Codebook(rotation, centroids)


def require_trainable(vectors: int, width: int, parts: int, *, rotate: bool = True) -> None:
    """Raise InvalidInput unless a codebook can be fitted to so many vectors of this width, see `train_codebook`."""
    require_parts(width, parts)
    if vectors < CENTROIDS:
        raise InvalidInput(
            f"{CENTROIDS} centroids cannot be found from {vectors} vectors; give {CENTROIDS} or more (ten "
            "thousand do well), or use sign codes, which need no training."
        )
    if rotate and vectors < width:
        # FAISS would write beyond its memory.
        raise InvalidInput(
            f"{vectors} vectors are too few to learn a rotation of {width} dimensions; give at least "
            f"as many vectors as dimensions, or use pq{parts}, which has none."
        )


def require_parts(width: int, parts: int) -> None:
    """Raise InvalidInput unless vectors of this width can be cut into so many equal parts."""
    if parts < 1 or width % parts:
        allowed = [number for number in range(1, width + 1) if width % number == 0]
        raise InvalidInput(f"{parts} parts do not divide the width {width}; use one of {allowed}.")
