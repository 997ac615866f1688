"""The learned sparse part of a segment and of an index: weights of terms that an encoder gives.

impacts.terms.*      the encoder's terms that occur, see `retriever.index.vocabulary`
impacts.FIELD.npy    each field of `kernels.impact.ImpactPostings`; a code is the weight in steps, rounded
impacts.lengths.npy  (N,) number of terms of each document
impacts.values.npy   (C,) float32 weight of each code, unless the codes themselves are the weights
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels.impact import ImpactPostings, Segments, impact_search, lay_out, locate, unfold
from kernels.impact.postings import BLOCK
from retriever.index.plain import PlainPostings
from retriever.index.posting_files import load_array, load_postings, save_array, save_postings
from retriever.index.selection import best_by_segment

PART = "impacts"
LEVELS = 255

# Beyond that many terms 16-bit accumulators tell too little.
MOST_TERMS = 4096

Precision = Literal["uint8", "float32"]


def write_impacts(plain: PlainPostings, folder: Path, step: float, precision: Precision) -> list[str]:
    """Write the learned sparse part of a segment and return the names of the files.

    plain      its values are the weights, above 0
    step       what one level of a code stands for
    precision  "uint8" rounds weights to whole steps, the last level for all above; "float32" keeps them exact
    """
    levels = plain.values / step
    # With exact values beside it a code is an upper bound; alone it is the nearest level.
    levels = np.ceil(levels) if precision == "float32" else np.round(levels)
    codes = np.clip(levels, 1, LEVELS).astype(np.uint8)
    postings = lay_out(plain.offsets, plain.documents, codes, len(plain.lengths))
    names = save_postings(folder, PART, list(plain.terms), postings)
    largest = int(plain.lengths.max()) if len(plain.lengths) else 0
    names.append(save_array(folder, PART, "lengths", plain.lengths.astype(np.min_scalar_type(largest))))
    if precision == "float32":
        # In the order of the codes.
        values = np.zeros(len(postings.codes), np.float32)
        values[_places(postings, plain.offsets, plain.documents.astype(np.int32))] = plain.values
        names.append(save_array(folder, PART, "values", values))
    return names


def _places(postings: ImpactPostings, offsets: NDArray[np.int64], documents: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return (P,) where the code of each plain posting is among all codes."""
    segments = Segments([postings])
    table, field, slots = segments.table[:, None], np.zeros(1, np.int64), np.zeros(BLOCK, np.uint16)
    places = np.empty((1, len(documents)), np.int64)
    inside = np.zeros(len(documents), np.int32)
    for term in range(len(offsets) - 1):
        part = slice(offsets[term], offsets[term + 1])
        locate(table, field, np.array([[term]]), inside[part], documents[part], places[:, part], slots)
    found: NDArray[np.int64] = places[0]
    return found


class ImpactReader:
    """The learned sparse postings of one segment, memory-mapped."""

    def __init__(self, folder: Path, step: float, live: NDArray[np.bool_] | None = None) -> None:
        """Open; `live` (N,) marks the documents that are not tombstoned, None when all live."""
        self.terms, self.postings = load_postings(folder, PART)
        self.lengths = load_array(folder, PART, "lengths")
        self.documents = self.postings.size
        self.step = step
        self.live = live
        self.values: NDArray[np.float32] | None = None
        if (folder / f"{PART}.values.npy").is_file():
            self.values = load_array(folder, PART, "values")
        if len(self.lengths) != self.documents or (
            self.values is not None and len(self.values) != len(self.postings.codes)
        ):
            raise ValueError(f"the learned sparse part of {folder} does not fit together")

    def problems(self) -> Iterator[str]:
        """Read all postings and say what is wrong with them."""
        _, documents, _ = unfold(self.postings)
        if len(documents) and not 0 <= int(documents.min()) <= int(documents.max()) < self.documents:
            yield "impacts name documents that do not exist"
        if self.values is not None and not np.isfinite(self.values).all():
            yield "impacts are not all finite"

    def plain(self) -> PlainPostings:
        """Return the postings as they were before they were laid out, to the precision that is stored."""
        offsets, documents, codes = unfold(self.postings)
        values = (codes * np.float32(self.step)).astype(np.float32)
        if self.values is not None:
            values = self.values[_places(self.postings, offsets, documents)]
        return PlainPostings(list(self.terms.raw()), offsets, documents, values, self.lengths.astype(np.int32))


class Impacts:
    """Searches the learned sparse parts of all segments."""

    def __init__(self, readers: Sequence[ImpactReader], id_ranks: Sequence[NDArray[np.int32]], step: float) -> None:
        """id_ranks: for each segment (N,) the place of each document's id, which orders equal scores."""
        self.readers = list(readers)
        self.step = step
        self._id_ranks = list(id_ranks)
        self._segments = Segments([reader.postings for reader in readers], [reader.live for reader in readers])
        self._values = np.array(
            [0 if reader.values is None else reader.values.ctypes.data for reader in readers], np.int64
        )
        pairs = [self._bounds(reader) for reader in readers]
        self._uppers = np.array([upper for upper, _ in pairs]).reshape(-1, 1, 256)
        self._lowers = np.array([lower for _, lower in pairs]).reshape(-1, 1, 256)

    def _bounds(self, reader: ImpactReader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (256,) the most and the least weight of each code."""
        upper = np.arange(256) * self.step
        if reader.values is None:
            return upper.astype(np.float64), upper.astype(np.float64)
        lower = np.maximum(0.0, upper - self.step)
        # The last level holds all that is above, the first may be of any weight below it.
        upper[LEVELS] = max(upper[LEVELS], float(reader.values.max(initial=0.0)))
        return np.asarray(upper * (1 + 1e-6), np.float64), np.asarray(lower * (1 - 1e-6), np.float64)

    def find(self, terms: Sequence[str]) -> NDArray[np.int64]:
        """Return (S, T) numbers of terms in each segment, -1 where absent."""
        encoded = [term.encode("utf-8") for term in terms]
        found = [reader.terms.find_all(encoded) for reader in self.readers]
        return np.array(found, np.int64).reshape(len(self.readers), len(terms))

    def search(
        self, weights: Mapping[str, float], k: int, allowed: Sequence[NDArray[np.bool_]] | None = None
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        """Return for each segment (scores, ordinals), best first, that hold the best k of all.

        weights  of the query's terms, above 0
        allowed  for each segment (N,) the documents that may be found, or None for all
        """
        found = self.find(list(weights))
        occurring = (found >= 0).any(axis=0)
        wanted = np.fromiter(weights.values(), np.float64, len(weights))[occurring]
        found = found[:, occurring].copy()
        if len(wanted) > MOST_TERMS:
            return self._score_all(found, wanted, k, allowed)
        table, _masks = self._segments.restricted(allowed)
        segments, documents, scores = impact_search(
            table[:, None], self._values, self.step, found, wanted, self._uppers, self._lowers, k
        )
        return best_by_segment(segments, documents, scores, self._id_ranks, k)

    def _score_all(
        self,
        found: NDArray[np.int64],
        weights: NDArray[np.float64],
        k: int,
        allowed: Sequence[NDArray[np.bool_]] | None,
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        segments, documents, scores = [], [], []
        for number, reader in enumerate(self.readers):
            plain = reader.plain()
            every = np.zeros(reader.documents, np.float64)
            for term, weight in zip(found[number].tolist(), weights, strict=True):
                if term >= 0:
                    part = slice(plain.offsets[term], plain.offsets[term + 1])
                    every[plain.documents[part]] += weight * plain.values[part]
            for mask in (reader.live, None if allowed is None else allowed[number]):
                if mask is not None:
                    every[~mask] = 0
            matching = np.flatnonzero(every > 0).astype(np.int32)
            segments.append(np.full(len(matching), number, np.int32))
            documents.append(matching)
            scores.append(every[matching].astype(np.float32))
        return best_by_segment(
            np.concatenate(segments), np.concatenate(documents), np.concatenate(scores), self._id_ranks, k
        )


def count_clipped(weights: Sequence[Mapping[str, float]], step: float) -> int:
    """Return how many weights are above the last level."""
    return sum(weight > LEVELS * step for terms in weights for weight in terms.values())
