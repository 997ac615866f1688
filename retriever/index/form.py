"""The form of the dense part: what is kept of each vector, and by what it is searched.

    flat        nothing but the vectors, which are read whole: exact
    binary      sign codes, a bit a dimension; the nearest by Hamming distance are scored again
    pqM opqM    product codes of M bytes (opq: after a learned rotation); pq with M = width keeps a byte a dimension
    others      an index of FAISS: hnsw, "ivf,pq" or a factory string

Beside its own codes an index may keep the vectors, for rescoring and exact search, or no vectors at all.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels import hamming
from retriever.codebook import Codebook, require_parts
from retriever.encoder import differences
from retriever.errors import IndexCorrupt, IndexMismatch, InvalidInput

KINDS = ("flat", "hnsw", "ivf,pq", "binary", "pqM", "opqM")
Stored = Literal["float32", "float16", "none"]
STORED: tuple[Stored, ...] = ("float32", "float16", "none")

PRODUCT = re.compile(r"(o?)pq([1-9][0-9]{0,4})")
# Under which a codebook's file names the encoder whose vectors it is for.
ENCODER = "encoder"


@dataclass(frozen=True)
class Form:
    """How each segment keeps and searches its vectors.

    width     H, of the vectors
    stored    the type of the vectors, "none" for codes alone
    codebook  of kinds pqM and opqM, one for the whole index
    """

    width: int
    kind: str = "flat"
    stored: Stored = "float32"
    codebook: Codebook | None = None

    @property
    def has_codes(self) -> bool:
        """Whether the kind is searched by codes of our own."""
        return self.kind == "binary" or product_parts(self.kind) is not None

    def untrained(self) -> "Form":
        """Return the form of a segment whose vectors are still to be made: no index of FAISS can learn from them."""
        return self if self.has_codes else replace(self, kind="flat")

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint64] | NDArray[np.uint8]:
        """Return the codes of vectors (N, H), a row a vector: uint64 words of signs, or uint8 product codes."""
        if self.kind == "binary":
            return hamming.signs(vectors)
        assert self.codebook is not None
        return self.codebook.encode(vectors)


def product_parts(kind: str) -> tuple[int, bool] | None:
    """Return the bytes of a product code and whether there is a learned rotation; None for other kinds."""
    match = PRODUCT.fullmatch(kind)
    return (int(match[2]), match[1] == "o") if match else None


def require_form(kind: str, stored: str, width: int) -> None:
    """Raise InvalidInput unless vectors of this width can be kept so."""
    if stored not in STORED:
        raise InvalidInput(f"vectors are stored as {', '.join(STORED)}, got {stored!r}.")
    product = product_parts(kind)
    if product is not None:
        require_parts(width, product[0])
    if stored == "none" and product is None and kind != "binary":
        raise InvalidInput(
            f"{kind!r} without stored vectors would hold nothing to score by; only codes can stand alone: use "
            "binary, pqM or opqM, or store float16."
        )


def write_codebook(path: Path, codebook: Codebook, fingerprint: Mapping[str, str]) -> None:
    """Write a codebook with the fingerprint of the encoder that it is for."""
    codebook.save(path, {ENCODER: json.dumps(dict(fingerprint), sort_keys=True)})


def read_codebook(path: Path, fingerprint: Mapping[str, str]) -> Codebook:
    """Read what `write_codebook` wrote.

    Raises IndexMismatch when it was made for another encoder, IndexCorrupt when it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            written = json.loads((file.metadata() or {})[ENCODER])
        codebook = Codebook.load(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise IndexCorrupt(f"{path} is not the codebook of an index: {error}") from error
    found = differences(dict(fingerprint), written)
    if found:
        raise IndexMismatch(
            f"{path} is the codebook of another encoder. {'; '.join(found)}. Its codes would mean nothing here; "
            "use the codebook of an index with this encoder, or let a new one be trained."
        )
    return codebook
