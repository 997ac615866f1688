"""The inverted part of a segment, compact and memory-mapped: writer and reader.

    inverted.terms.*, inverted.terms.groups.*  the vocabulary, see `retriever.index.vocabulary`
    inverted.FIELD.npy                         each field of `kernels.impact.ImpactPostings`
    inverted.lengths.npy                       (N,) number of terms of each document
    inverted.exceptions.npy                    (E,) int64 term << 32 | document, and
    inverted.exception_values.npy              (E,) uint32 frequencies that the codes leave open
    inverted.reference.npy                     (3,) float64 k1, b and mean length that the codes were made with
    inverted.positions.npy                     uint8 the positions of all postings, if the index keeps them, and
    inverted.position_marks.npy                int64 where those of every 64th code begin: `kernels.positions`

A search field with the number n has the same files, named inverted.fieldn.* instead.

Statistics (document frequency, mean length) are taken over live documents of all segments at search time,
so adds and deletes give the same scores as a new index.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.bm25 import Frequencies, encode, meanings
from kernels.impact import lay_out, posting_counts, unfold, whole_blocks
from kernels.positions import (
    Positions,
    first_fault,
    lay_out_positions,
    list_order,
    require_sound_positions,
    term_starts,
)
from retriever.errors import IndexCorrupt
from retriever.index.plain import PLAIN, PlainPositions, PlainPostings, in_field, scratch
from retriever.index.posting_files import load_array, load_postings, save_array, save_postings

PART = "inverted"

# The codes tell frequencies apart only where they count; with a small k1 they hardly count at all.
LEAST_K1 = 0.3

# Of terms whose living documents were counted; some 30 MB at most.
KEPT_FREQUENCIES = 1 << 18


def encode_length(length: int) -> int:
    """Return the byte that stands for a document length (Lucene's SmallFloat.intToByte4).

    Lengths up to 39 are exact, longer ones keep their four leading bits.
    """
    if length < 24:
        return length
    length -= 24
    bits = length.bit_length()
    if bits < 4:
        return 24 + length
    shift = bits - 4
    return 24 + ((length >> shift & 0x07) | (shift + 1) << 3)


def decode_length(byte: int) -> int:
    """Return the length that a byte stands for (Lucene's SmallFloat.byte4ToInt)."""
    if byte < 24:
        return byte
    bits = (byte - 24) & 0x07
    shift = ((byte - 24) >> 3) - 1
    return 24 + (bits if shift == -1 else (bits | 0x08) << shift)


LENGTHS = np.array([decode_length(byte) for byte in range(256)], np.int64)


def encode_lengths(lengths: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return (N,) length bytes: the last byte whose decoded length is not above the real one."""
    return (np.searchsorted(LENGTHS, lengths, side="right") - 1).astype(np.uint8)


def length_norms(k1: float, b: float, mean_length: float) -> NDArray[np.float64]:
    """Return (256,) k1 * (1 - b + b * length / mean_length)."""
    return np.asarray(k1 * (1 - b + b * LENGTHS / mean_length), np.float64)


def write_inverted(plain: PlainPostings, folder: Path, k1: float, b: float, *, field: int | None = None) -> list[str]:
    """Write the inverted part of a segment and return the names of the files.

    k1, b  what queries will most likely ask for; they make the codes sharp there, other values stay exact
    field  number of the search field, None for the contents
    """
    part = in_field(PART, field)
    filled = int(np.count_nonzero(plain.lengths))
    mean = float(plain.lengths.sum(dtype=np.int64)) / filled if filled else 1.0
    reference = np.array([max(k1, LEAST_K1), b, mean])
    norms = length_norms(*reference)
    length_bytes = encode_lengths(plain.lengths)
    codes = encode(plain.documents, plain.values, length_bytes, norms)
    keys, values = _exceptions(plain, codes, length_bytes, norms)
    postings = lay_out(plain.offsets, plain.documents, codes, len(plain.lengths))
    names = save_postings(folder, part, list(plain.terms), postings)
    largest = int(plain.lengths.max()) if len(plain.lengths) else 0
    arrays = {
        "reference": reference,
        "lengths": plain.lengths.astype(np.min_scalar_type(largest)),
        "exceptions": keys,
        "exception_values": values,
    }
    if plain.positions is not None:
        data, starts = plain.positions
        out = scratch(folder, len(data))
        positions = lay_out_positions(postings.kinds, postings.codes, data, starts, plain.positions.sizes(), out)
        arrays |= {"positions": positions.data, "position_marks": positions.marks}
    for name, content in arrays.items():
        names.append(save_array(folder, part, name, content))
    return names


def _exceptions(
    plain: PlainPostings, codes: NDArray[np.uint8], length_bytes: NDArray[np.uint8], norms: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Return keys and frequencies of the postings that their codes do not tell, in order of the keys."""
    smallest, _ = meanings(norms)
    different = []
    for start in range(0, len(codes), 1 << 22):
        part = slice(start, start + (1 << 22))
        meant = smallest[length_bytes[plain.documents[part]], codes[part]]
        different.append(np.flatnonzero(meant != plain.values[part]) + start)
    places = np.concatenate([np.zeros(0, np.int64), *different])
    terms = np.searchsorted(plain.offsets, places, side="right") - 1
    keys = terms << 32 | plain.documents[places]
    return keys.astype(np.int64), plain.values[places].astype(np.uint32)


class InvertedReader:
    """The postings of one segment, memory-mapped."""

    def __init__(
        self,
        folder: Path,
        live: NDArray[np.bool_] | None = None,
        *,
        field: int | None = None,
        positions: bool = False,
    ) -> None:
        """Open.

        live       (N,) marks the documents that are not tombstoned, None when all live
        field      as written
        positions  whether they were written
        """
        part = in_field(PART, field)
        self.terms, self.postings = load_postings(folder, part)
        self.lengths = load_array(folder, part, "lengths")
        self.documents = self.postings.size
        self.live = live
        if len(self.lengths) != self.documents:
            raise ValueError(f"the inverted part of {folder} does not fit together")
        if live is not None and len(live) != self.documents:
            raise ValueError(f"{len(live)} tombstone bits for {self.documents} documents")
        self.positions: Positions | None = None
        if positions:
            self.positions = Positions(*(load_array(folder, part, name) for name in ("positions", "position_marks")))
            require_sound_positions(self.positions, len(self.postings.codes))
        self.reference = load_array(folder, part, "reference")
        self.norms = length_norms(*(float(value) for value in self.reference))
        length_bytes = encode_lengths(self.lengths)
        self.occurring = np.bincount(length_bytes, minlength=256) > 0
        # Documents without terms have no postings.
        self.occurring[0] = False
        smallest, several = meanings(self.norms)
        self.frequencies = Frequencies(
            whole_blocks(length_bytes),
            smallest,
            several,
            load_array(folder, part, "exceptions"),
            load_array(folder, part, "exception_values"),
        )
        lengths = self.lengths if live is None else self.lengths[live]
        # Lucene counts only documents that have the field, that is, at least one term.
        self.live_with_terms = int(np.count_nonzero(lengths))
        self.total_length = int(lengths.sum(dtype=np.int64))
        # Not functools' cache of a method: it would hold this reader, and its files, until Python looks for cycles.
        self._live_frequency: dict[int, int] = {}

    def live_frequency(self, term: int) -> int:
        """Return how many live documents hold a term. With tombstones the first time reads its postings."""
        found = self._live_frequency.get(term)
        if found is None:
            found = self._count_live(term)
            if len(self._live_frequency) >= KEPT_FREQUENCIES:
                self._live_frequency.clear()
            self._live_frequency[term] = found
        return found

    def _count_live(self, term: int) -> int:
        documents = self.documents_of(term)
        return len(documents) if self.live is None else int(np.count_nonzero(self.live[documents]))

    def documents_of(self, term: int) -> NDArray[np.int32]:
        """Return the documents that hold a term, ascending, deleted ones included."""
        return unfold(self.postings, term, term + 1)[1]

    def problems(self) -> Iterator[str]:
        """Read all postings and say what is wrong with them."""
        offsets, documents, _ = unfold(self.postings)
        if len(documents) and not 0 <= int(documents.min()) <= int(documents.max()) < self.documents:
            yield "postings name documents that do not exist"
        rising = np.diff(documents) > 0
        rising[offsets[1:-1] - 1] = True
        if not rising.all():
            yield "postings are not in ascending order"
        if self.positions is not None and self._faulty_positions():
            yield "positions do not belong to the postings beside them"

    def _faulty_positions(self) -> bool:
        """Say whether a posting has not as many positions as its frequency, or some beyond its document's end."""
        assert self.positions is not None
        try:
            plain = self.plain()
        except ValueError:
            return True
        order = list_order(self.postings.kinds)
        counts = np.diff(plain.offsets)[order]
        # Where each posting stands in the plain order, given in the order of the codes.
        shifts = np.repeat(plain.offsets[:-1][order] - (np.cumsum(counts) - counts), counts)
        places = np.arange(len(plain.documents)) + shifts
        documents, frequencies = plain.documents[places], plain.values[places]
        return first_fault(self.postings.codes, self.positions, documents, frequencies, plain.lengths) >= 0

    def plain(self) -> PlainPostings:
        """Return the postings as they were before they were laid out."""
        offsets, documents, codes = unfold(self.postings)
        frequencies = np.empty(len(documents), np.uint32)
        for start in range(0, len(documents), 1 << 22):
            part = slice(start, start + (1 << 22))
            length_bytes = self.frequencies.length_bytes[documents[part]]
            frequencies[part] = self.frequencies.smallest[length_bytes, codes[part]]
        if len(self.frequencies.exceptions):
            terms = self.frequencies.exceptions >> 32
            for term in np.unique(terms).tolist():
                keys = self.frequencies.exceptions[terms == term]
                found = np.searchsorted(documents[offsets[term] : offsets[term + 1]], keys & 0xFFFFFFFF)
                frequencies[offsets[term] + found] = self.frequencies.exception_values[terms == term]
        lengths = self.lengths.astype(np.int32)
        return PlainPostings(list(self.terms.raw()), offsets, documents, frequencies, lengths, self._plain_positions())

    def _plain_positions(self) -> PlainPositions | None:
        if self.positions is None:
            return None
        data = self.positions.data
        return PlainPositions(data, term_starts(data, posting_counts(self.postings), list_order(self.postings.kinds)))


def read_plain(folder: Path, field: int | None = None, *, positions: bool = False) -> PlainPostings:
    """Return the plain postings of a shard or of a segment, those of a search field by its number.

    positions  whether they were written, and are to be read

    Raises IndexCorrupt for a segment whose files do not fit together.
    """
    plain = in_field(PLAIN, field)
    if (folder / f"{plain}.offsets.npy").is_file():
        return PlainPostings.read(folder, plain, positions=positions)
    try:
        return InvertedReader(folder, field=field, positions=positions).plain()
    except ValueError as error:
        raise IndexCorrupt(f"{folder} cannot be read: {error}; restore it or rebuild the index.") from error
