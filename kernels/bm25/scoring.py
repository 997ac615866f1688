"""BM25 at full precision: of candidates, and of all documents, over several segments."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled
from kernels.impact.postings import BLOCK, BLOCK_BITS, block_count
from kernels.impact.search import DENSE_FORM, SPARSE_FORM, TINY_FORM, find_term, locate, search_impacts
from kernels.impact.segments import (
    ALLOWED,
    CODES,
    DENSE_COUNTS,
    DENSE_DISTANCES,
    DENSE_STARTS,
    DOCUMENTS,
    FIRST_DENSE_CODE,
    FIRST_SPARSE_CODE,
    SPARSE_COUNTS,
    SPARSE_DOCUMENTS,
    SPARSE_STARTS,
    TINY_DOCUMENTS,
    int64_array,
    uint8_array,
    uint16_array,
    uint32_array,
)

LENGTH_BYTES = 0
SMALLEST = 1
SEVERAL = 2
EXCEPTIONS = 3
EXCEPTION_VALUES = 4
EXCEPTION_COUNT = 5
COLUMNS = 6

# Beyond that many terms 16-bit accumulators tell too little.
MOST_TERMS = 512


class Frequencies(NamedTuple):
    """What one segment needs beside its postings to turn codes into frequencies.

    length_bytes      (N,) uint8, filled up to whole blocks
    smallest          (256, 256) int64, see `kernels.bm25.codes.meanings`
    several           (256, 256) bool
    exceptions        (E,) int64, ascending: term << 32 | document
    exception_values  (E,) uint32 frequencies
    """

    length_bytes: NDArray[np.uint8]
    smallest: NDArray[np.int64]
    several: NDArray[np.bool_]
    exceptions: NDArray[np.int64]
    exception_values: NDArray[np.uint32]


def frequency_table(parts: Sequence[Frequencies]) -> NDArray[np.int64]:
    """Return (S, COLUMNS) addresses of contiguous arrays, which must stay alive."""
    table = np.zeros((len(parts), COLUMNS), np.int64)
    for row, part in zip(table, parts, strict=True):
        row[:EXCEPTION_COUNT] = [array.ctypes.data for array in part]
        row[EXCEPTION_COUNT] = len(part.exceptions)
    return table


@compiled
def _frequency(row, term, document, code, byte):
    """Return a posting's frequency by a row of the table of frequencies and the byte of the document's length."""
    place = np.int64(byte) << 8 | np.int64(code)
    if uint8_array(row[SEVERAL], 65536)[place]:
        count = row[EXCEPTION_COUNT]
        exceptions = int64_array(row[EXCEPTIONS], count)
        key = term << 32 | document
        low = np.int64(0)
        high = count
        while low < high:
            middle = (low + high) >> 1
            if exceptions[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < count and exceptions[low] == key:
            return np.int64(uint32_array(row[EXCEPTION_VALUES], count)[low])
    return int64_array(row[SMALLEST], 65536)[place]


@compiled
def _part(weight, frequency, inverse):
    saturation = np.float32(1) + np.float32(frequency) * inverse
    return np.float32(weight - weight / saturation)


@compiled
def _score(impacts, table, fields, terms, weights, inverse, segments, documents, positions, scores):
    for i in range(len(documents)):
        s = segments[i]
        document = np.int64(documents[i])
        score = 0.0
        for t in range(len(weights)):
            position = positions[t, i]
            if position >= 0:
                f = fields[t]
                code = uint8_array(impacts[s, f, CODES], 1 << 40)[position]
                byte = uint8_array(table[s, f, LENGTH_BYTES], 1 << 40)[document]
                frequency = _frequency(table[s, f], terms[s, t], document, code, byte)
                score += _part(weights[t], frequency, inverse[f, byte])
        scores[i] = np.float32(score)


@compiled
def _add_term(lists, frequencies, term, weight, inverse, scores):
    """Add a term's part of every document; `lists` and `frequencies` are its rows of both tables."""
    form, row, size = find_term(lists, term)
    codes = uint8_array(lists[CODES], 1 << 40)
    lengths = uint8_array(frequencies[LENGTH_BYTES], 1 << 40)
    blocks = max(1, (lists[DOCUMENTS] + BLOCK - 1) // BLOCK)
    if form == TINY_FORM:
        tiny = uint32_array(lists[TINY_DOCUMENTS], 1 << 38)
        for i in range(row, row + size):
            document = np.int64(tiny[i])
            byte = lengths[document]
            scores[document] += _part(weight, _frequency(frequencies, term, document, codes[i], byte), inverse[byte])
    elif form == SPARSE_FORM:
        entry = int64_array(lists[SPARSE_STARTS], 1 << 36)[row]
        counts = uint16_array(lists[SPARSE_COUNTS], 1 << 38)
        places = uint16_array(lists[SPARSE_DOCUMENTS], 1 << 38)
        for block in range(blocks):
            for _ in range(counts[row * blocks + block]):
                document = (block << BLOCK_BITS) + np.int64(places[entry])
                byte = lengths[document]
                frequency = _frequency(frequencies, term, document, codes[lists[FIRST_SPARSE_CODE] + entry], byte)
                scores[document] += _part(weight, frequency, inverse[byte])
                entry += 1
    elif form == DENSE_FORM:
        entry = int64_array(lists[DENSE_STARTS], 1 << 36)[row]
        entries = uint32_array(lists[DENSE_COUNTS], 1 << 38)
        distances = uint8_array(lists[DENSE_DISTANCES], 1 << 40)
        for block in range(blocks):
            place = np.uint16(0)
            for _ in range(entries[row * blocks + block]):
                place = np.uint16(place + distances[entry])
                document = (block << BLOCK_BITS) + np.int64(place)
                code = codes[lists[FIRST_DENSE_CODE] + entry]
                if code:
                    byte = lengths[document]
                    frequency = _frequency(frequencies, term, document, code, byte)
                    scores[document] += _part(weight, frequency, inverse[byte])
                entry += 1


@compiled
def _score_all(impacts, table, fields, terms, weights, inverse, scores):
    for t in range(len(terms)):
        f = fields[t]
        _add_term(impacts[f], table[f], terms[t], weights[t], inverse[f], scores)


def score_all(
    impacts: NDArray[np.int64],
    table: NDArray[np.int64],
    segment: int,
    fields: NDArray[np.int64],
    terms: NDArray[np.int64],
    weights: NDArray[np.float32],
    inverse: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return (N,) BM25 of every document of a segment, 0 where no term occurs. Reads every posting.

    impacts, table  (S, F, ...) of `Segments.table` and `frequency_table` for each field
    fields          (T,) the field of each term
    terms, weights  (T,) the query's terms in this segment (-1: absent) and their weights
    inverse         (F, 256) inverse length normalisation of each length byte
    """
    size = int(impacts[segment, 0, DOCUMENTS])
    scores = np.zeros(block_count(size) * BLOCK, np.float64)
    _score_all(impacts[segment], table[segment], fields, terms, weights, inverse, scores)
    return scores[:size].astype(np.float32)


def bm25_search(
    impacts: NDArray[np.int64],
    table: NDArray[np.int64],
    fields: NDArray[np.int64],
    terms: NDArray[np.int64],
    weights: NDArray[np.float32],
    inverse: NDArray[np.float32],
    uppers: NDArray[np.float64],
    lowers: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return (segments, documents, scores) that hold all of the top k, with Lucene's scores, in any order.

    A score is the sum over all terms of all fields, each with the length that the document has in its field.

    impacts         (S, F, ...) of `Segments.restricted` for each field; the first field's rows hold the masks
    table           (S, F, ...) of `frequency_table`
    fields          (T,) the field of each query term
    terms           (S, T) each query term's number in each segment, in its field; -1 where it is absent
    weights         (T,) inverse document frequency times the term's weight in the query, above 0
    inverse         (F, 256) inverse length normalisation of each length byte
    uppers, lowers  (S, F, 256), see `kernels.bm25.codes.bounds`
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(weights) > MOST_TERMS:
        return _every_match(impacts, table, fields, terms, weights, inverse)
    if len(impacts) == 0 or len(weights) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
    found: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] = _search(
        impacts, table, fields, terms, weights, inverse, uppers, lowers, k
    )
    return found


@compiled
def _search(impacts, table, fields, terms, weights, inverse, uppers, lowers, k):
    accumulators = np.zeros(BLOCK, np.uint16)
    segments, documents = search_impacts(
        impacts, fields, terms, weights.astype(np.float64), uppers, lowers, k, accumulators
    )
    positions = np.empty((len(weights), len(documents)), np.int64)
    locate(impacts, fields, terms, segments, documents, positions, accumulators)
    scores = np.empty(len(documents), np.float32)
    _score(impacts, table, fields, terms, weights, inverse, segments, documents, positions, scores)
    return segments, documents, scores


def _every_match(
    impacts: NDArray[np.int64],
    table: NDArray[np.int64],
    fields: NDArray[np.int64],
    terms: NDArray[np.int64],
    weights: NDArray[np.float32],
    inverse: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    found = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    for segment in range(len(impacts)):
        scores = score_all(impacts, table, segment, fields, terms[segment], weights, inverse)
        matching = scores > 0
        if impacts[segment, 0, ALLOWED]:
            matching &= _mask(impacts[segment, 0, ALLOWED], len(scores))
        documents = np.flatnonzero(matching).astype(np.int32)
        found[0].append(np.full(len(documents), segment, np.int32))
        found[1].append(documents)
        found[2].append(scores[documents])
    return np.concatenate(found[0]), np.concatenate(found[1]), np.concatenate(found[2])


@compiled
def _mask(address, size):
    return uint8_array(address, size) != 0
