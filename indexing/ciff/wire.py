"""The messages of a CIFF file, written by hand in the wire format of Protocol Buffers 3.

    Header        1 version  2 num_postings_lists  3 num_docs  4 total_postings_lists  5 total_docs
                  6 total_terms_in_collection  7 average_doclength (double)  8 description (string)
    PostingsList  1 term (string)  2 df  3 cf  4 postings (repeated Posting)
    Posting       1 docid, the distance to the docid before; in a list's first posting the docid itself  2 tf
    DocRecord     1 docid  2 collection_docid (string)  3 doclength

A file is one Header, `num_postings_lists` PostingsLists and `num_docs` DocRecords, each after its length as a
varint. Numbers without a type above are varints: int32, but for df, cf and total_terms_in_collection, which are
int64. A field that is 0 or empty is not written. Source: github.com/osirrc/ciff, arXiv 2003.08276.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# The reader of corpora knows about damaged and absurdly compressed files.
from indexing.corpora.lines import _blocks
from retriever.errors import InvalidInput

VERSION = 1
LARGEST = 2**31 - 1
"""Of an int32, and of the length of a message."""

MAX_SMALL_MESSAGE = 1 << 20
"""Bytes of a Header, a DocRecord, or a field of a PostingsList, whose postings are fields of their own."""

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


class Header(NamedTuple):
    """The fields of a Header, in order."""

    version: int
    num_postings_lists: int
    num_docs: int
    total_postings_lists: int
    total_docs: int
    total_terms_in_collection: int
    average_doclength: float
    description: str


class DocRecord(NamedTuple):
    """The fields of a DocRecord, in order."""

    docid: int
    collection_docid: str
    doclength: int


class ListHead(NamedTuple):
    """A PostingsList without its postings."""

    term: bytes
    df: int
    cf: int


# ---------------------------------------------------------------- writing


def varint(value: int) -> bytes:
    """Return a number of 0 or more in groups of 7 bits, the lowest first."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*fields: int | float | str | bytes) -> bytes:
    """Return a message whose fields are numbered from 1, without its length."""
    out = bytearray()
    for number, value in enumerate(fields, 1):
        if not value:
            continue
        if isinstance(value, int):
            out += varint(number << 3 | VARINT) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | EIGHT_BYTES) + struct.pack("<d", value)
        else:
            content = value.encode("utf-8") if isinstance(value, str) else value
            out += varint(number << 3 | BYTES) + varint(len(content)) + content
    return bytes(out)


def delimited(content: bytes) -> bytes:
    return varint(len(content)) + content


def postings_list(term: bytes, documents: NDArray[np.int32], frequencies: NDArray[np.uint32]) -> bytes:
    """Return a delimited PostingsList; documents ascend, and there is at least one."""
    head = message(term, len(documents), int(frequencies.sum(dtype=np.int64)))
    out = np.empty(14 * len(documents), np.uint8)
    size = _write_postings(documents, frequencies, out)
    if len(head) + size > LARGEST:
        raise InvalidInput(
            f"the {len(documents)} postings of {str(term, 'utf-8')[:80]!r} are too many for one message."
        )
    return b"".join([varint(len(head) + size), head, out[:size].tobytes()])


# retriever/index/vocabulary.py has the same two loops; imported from there, the code that numba keeps of this file
# would not change with them (see kernels/compiling.py).
@njit(nogil=True, cache=True)
def _put(out, at, value):
    while value >= 128:
        out[at] = (value & 127) | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@njit(nogil=True, cache=True)
def _write_postings(documents, frequencies, out):
    at = 0
    before = np.int64(0)
    for i in range(len(documents)):
        gap = np.int64(documents[i]) - before
        before = np.int64(documents[i])
        out[at] = 4 << 3 | 2
        start = at + 2
        end = start
        if gap:
            out[end] = 1 << 3
            end = _put(out, end + 1, gap)
        out[end] = 2 << 3
        end = _put(out, end + 1, np.int64(frequencies[i]))
        # Twelve bytes at most, so that their number takes one byte.
        out[at + 1] = end - start
        at = end
    return at


# ---------------------------------------------------------------- reading

# What the compiled parser stopped at.
_DONE, _MORE, _TERM, _CUT, _BAD_VARINT, _BAD_TAG, _BAD_TYPE, _BAD_LENGTH, _NEGATIVE_GAP, _NO_GAP = range(10)
_BEYOND, _NO_FREQUENCY, _LARGE_FREQUENCY, _TOO_MANY = range(10, 14)
_FAULTS = {
    _CUT: "a field reaches beyond the end of the message",
    _BAD_VARINT: "a number is longer than 64 bits",
    _BAD_TAG: "there is no such field number",
    _BAD_TYPE: "a field has another type than in {kind}; maybe the header counts wrongly",
    _BAD_LENGTH: "a field has an impossible length",
    _NEGATIVE_GAP: "a gap between docids is negative",
    _NO_GAP: "a docid stands twice",
    _BEYOND: "a docid is beyond the {documents} documents of the header",
    _NO_FREQUENCY: "a term frequency is not above 0",
    _LARGE_FREQUENCY: "a term frequency is above 2**31 - 1",
    _TOO_MANY: "there are more postings than documents",
}

# Columns of the parser's state.
_DOCUMENT, _COUNT, _TOTAL, _DF, _CF, _TERM_START, _TERM_END = range(7)


@njit(nogil=True, cache=True)
def _number(data, at, end):
    """Return (value as int64, where it ends, status)."""
    value = np.int64(0)
    for i in range(10):
        if at >= end:
            return value, at, _CUT
        byte = np.int64(data[at])
        if i == 9 and byte > 1:
            return value, at, _BAD_VARINT
        value |= (byte & 127) << (7 * i)
        at += 1
        if byte < 128:
            return value, at, _DONE
    return value, at, _BAD_VARINT


@njit(nogil=True, cache=True)
def _field(data, at, end):
    """Return (field number, wire type, value or length, where the value or content begins, status)."""
    tag, after, status = _number(data, at, end)
    if status != _DONE:
        return 0, 0, tag, at, status
    number, wire = tag >> 3, tag & 7
    if number < 1 or tag >= 1 << 32:
        return number, wire, tag, at, _BAD_TAG
    if wire == 0 or wire == 2:
        value, after, status = _number(data, after, end)
        if status != _DONE:
            return number, wire, value, at, status
        if wire == 2 and (value < 0 or value >= 1 << 31):
            return number, wire, value, at, _BAD_LENGTH
        return number, wire, value, after, _DONE
    if wire == 1:
        return number, wire, np.int64(8), after, _DONE
    if wire == 5:
        return number, wire, np.int64(4), after, _DONE
    return number, wire, tag, at, _BAD_TYPE


@njit(nogil=True, cache=True)
def _read_posting(data, at, end):
    """Return (gap, frequency, where it is faulty, status)."""
    gap = np.int64(0)
    frequency = np.int64(0)
    while at < end:
        start = at
        number, wire, value, at, status = _field(data, at, end)
        if status != _DONE:
            return gap, frequency, start, status
        if number <= 2 and wire != 0:
            return gap, frequency, start, _BAD_TYPE
        if number == 1:
            gap = value
        elif number == 2:
            frequency = value
        if wire != 0:
            if value > end - at:
                return gap, frequency, start, _CUT
            at += value
    return gap, frequency, at, _DONE


@njit(nogil=True, cache=True)
def _read_list(data, at, end, last, size, state, documents, frequencies):
    """Read fields of a PostingsList until its term, an incomplete field or the end of the block.

    last                    whether the message ends at `end`
    size                    number of documents of the header
    documents, frequencies  receive the postings; there is room for (end - at) / 4 + 1
    Returns (where it stopped, how many postings, status).
    """
    written = 0
    incomplete = _CUT if last else _MORE
    while at < end:
        start = at
        number, wire, value, at, status = _field(data, at, end)
        if status == _CUT:
            return start, written, incomplete
        if status != _DONE:
            return start, written, status
        if ((number == 1 or number == 4) and wire != 2) or ((number == 2 or number == 3) and wire != 0):
            return start, written, _BAD_TYPE
        if wire != 0 and value > end - at:
            return start, written, incomplete
        if number == 1:
            state[_TERM_START] = at
            state[_TERM_END] = at + value
            return at + value, written, _TERM
        if number == 2:
            state[_DF] = value
        elif number == 3:
            state[_CF] = value
        elif number == 4:
            gap, frequency, place, status = _read_posting(data, at, at + value)
            if status != _DONE:
                return place, written, status
            if gap < 0:
                return start, written, _NEGATIVE_GAP
            if gap == 0 and state[_COUNT] > 0:
                return start, written, _NO_GAP
            if gap >= size - state[_DOCUMENT]:
                return start, written, _BEYOND
            if frequency <= 0:
                return start, written, _NO_FREQUENCY
            if frequency >= 1 << 31:
                return start, written, _LARGE_FREQUENCY
            if written == len(documents):
                return start, written, _TOO_MANY
            state[_DOCUMENT] += gap
            state[_COUNT] += 1
            state[_TOTAL] += frequency
            documents[written] = state[_DOCUMENT]
            frequencies[written] = frequency
            written += 1
        if wire != 0:
            at += value
    return at, written, _DONE


class Reader:
    """Reads the messages of a CIFF file (.gz and .zst are unpacked) one after another.

    Memory is bounded whatever lengths and counts the file claims: a small message is held whole, a PostingsList
    passes through in blocks. Every method raises InvalidInput that names message and byte, both of the unpacked
    file: messages are counted from 1, the header, and bytes from 0.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        """Of the message being read."""
        self._blocks = _blocks(path)
        self._data = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        """Bytes that were read."""
        return self._before + self._at

    def fault(self, reason: str, position: int | None = None) -> InvalidInput:
        """Return the error for the message being read; `position` is where it is by default."""
        place = self.position if position is None else position
        return InvalidInput(f"{self.path}: message {self.number} is faulty at byte {place}: {reason}.")

    def _refill(self) -> bool:
        """Append some bytes to those at hand; return False at the end of the file."""
        try:
            block = next(self._blocks, b"")
            while not block:
                # A block may be empty before the end.
                block = next(self._blocks)
        except StopIteration:
            return False
        except InvalidInput as error:
            raise InvalidInput(f"{self.path}: message {self.number} at byte {self.position}: {error}") from error
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be read: {error}.") from error
        self._before += self._at
        self._data = self._data[self._at :] + block
        self._at = 0
        return True

    def _need(self, size: int) -> bool:
        while len(self._data) - self._at < size:
            if not self._refill():
                return False
        return True

    def _begin(self, what: str) -> int:
        """Start the next message and return its length."""
        self.number += 1
        size = 0
        for i in range(5):
            if not self._need(1):
                if i == 0:
                    raise self.fault(f"the file ends where {what} is expected")
                raise self.fault("the file ends within the length of a message")
            byte = self._data[self._at]
            self._at += 1
            size |= (byte & 127) << 7 * i
            if byte < 128:
                if size > LARGEST:
                    break
                return size
        raise self.fault("the length of a message is no number up to 2**31 - 1")

    def _small(self, what: str, kinds: dict[int, int]) -> tuple[dict[int, int | float | bytes], int]:
        """Return the fields of the next message by number, and where its content begins."""
        size = self._begin(what)
        start = self.position
        if size > MAX_SMALL_MESSAGE:
            raise self.fault(f"{what} of {size} bytes is longer than {MAX_SMALL_MESSAGE}")
        if not self._need(size):
            raise self.fault(f"the file ends within {what} of {size} bytes")
        data = self._data[self._at : self._at + size]
        self._at += size
        found: dict[int, int | float | bytes] = {}
        at = 0
        while at < size:
            field = at
            number, wire, value, at, status = _field(np.frombuffer(data, np.uint8), at, size)
            if status == _DONE and kinds.get(number, wire) != wire:
                status = _BAD_TYPE
            if status == _DONE and wire != VARINT and value > size - at:
                status = _CUT
            if status != _DONE:
                raise self.fault(_FAULTS[status].format(kind=what), start + field)
            if wire == VARINT:
                found[number] = value
                continue
            content = data[at : at + value]
            found[number] = struct.unpack("<d", content)[0] if wire == EIGHT_BYTES else content
            at += value
        return {number: value for number, value in found.items() if number in kinds}, start

    def _whole(self, value: object, what: str, start: int, most: int = LARGEST) -> int:
        assert isinstance(value, int)
        if not 0 <= value <= most:
            raise self.fault(f"{what} is {value}, not between 0 and {most}", start)
        return value

    def _text(self, value: object, what: str, start: int) -> str:
        assert isinstance(value, bytes)
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(f"{what} is not UTF-8", start) from None

    def header(self) -> Header:
        """Read the first message."""
        kinds = dict.fromkeys(range(1, 7), VARINT) | {7: EIGHT_BYTES, 8: BYTES}
        found, start = self._small("a Header", kinds)
        numbers = [
            self._whole(found.get(number, 0), name, start, LARGEST if number < 6 else 2**63 - 1)
            for number, name in enumerate(Header._fields[:6], 1)
        ]
        if numbers[0] != VERSION:
            raise self.fault(f"the version is {numbers[0]}, known is {VERSION}; is it a CIFF file?", start)
        average = found.get(7, 0.0)
        assert isinstance(average, float)
        version, lists, documents, all_lists, all_documents, total = numbers
        description = self._text(found.get(8, b""), "the description", start)
        return Header(version, lists, documents, all_lists, all_documents, total, average, description)

    def document(self) -> DocRecord:
        """Read a DocRecord."""
        found, start = self._small("a DocRecord", {1: VARINT, 2: BYTES, 3: VARINT})
        return DocRecord(
            self._whole(found.get(1, 0), "docid", start),
            self._text(found.get(2, b""), "collection_docid", start),
            self._whole(found.get(3, 0), "doclength", start),
        )

    def postings(self, size: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint32]] | ListHead]:
        """Read a PostingsList about `size` documents: yield its postings in parts and at last its head."""
        what = "a PostingsList"
        left = self._begin(what)
        start = self.position
        state = np.zeros(7, np.int64)
        term = b""
        while left:
            at_hand = len(self._data) - self._at
            part = min(left, at_hand, MAX_SMALL_MESSAGE + 16)
            room = part // 4 + 1
            documents, frequencies = np.empty(room, np.int32), np.empty(room, np.uint32)
            data = np.frombuffer(self._data, np.uint8)
            end, written, status = _read_list(
                data, self._at, self._at + part, part == left, size, state, documents, frequencies
            )
            if status in _FAULTS:
                raise self.fault(_FAULTS[status].format(kind=what, documents=size), self._before + end)
            if status == _TERM:
                term = self._data[state[_TERM_START] : state[_TERM_END]]
            left -= end - self._at
            stuck = end == self._at
            self._at = end
            if written:
                yield documents[:written], frequencies[:written]
            if status == _MORE and stuck and part > MAX_SMALL_MESSAGE:
                raise self.fault(f"a field is longer than {MAX_SMALL_MESSAGE} bytes")
            used_up = self._at == len(self._data) or (status == _MORE and part == at_hand)
            if left and used_up and not self._refill():
                raise self.fault(f"the file ends within {what}, {left} bytes before its end")
        yield self._checked(term, state, start)

    def _checked(self, term: bytes, state: NDArray[np.int64], start: int) -> ListHead:
        count, total, df, cf = (int(state[column]) for column in (_COUNT, _TOTAL, _DF, _CF))
        if not term:
            raise self.fault("a PostingsList has no term", start)
        self._text(term, "the term", start)
        shown = repr(term[:80].decode("utf-8", "replace"))
        if df != count:
            raise self.fault(f"the df of the term {shown} is {df}, but there are {count} postings", start)
        if not count:
            raise self.fault(f"the term {shown} has no postings", start)
        if cf != total:
            raise self.fault(f"the cf of the term {shown} is {cf}, but its frequencies come to {total}", start)
        return ListHead(term, df, cf)

    def finish(self) -> None:
        """Require the end of the file."""
        if self._need(1):
            self.number += 1
            raise self.fault("there is more than the header counts")
