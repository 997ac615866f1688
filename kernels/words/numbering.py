"""Words of ASCII texts by compiled code: found, and numbered in the order in which they first occur.

The words are those of Unicode's word boundaries (UAX #29) as Lucene's StandardTokenizer has them, which come down to
letters, digits and underscores, joined by one of `: . '` between letters and one of `, ; . '` between digits; a word
without a letter or digit is none. `retriever.analysis.standard_tokenizer.words` is the definition.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiling import compiled

LONGEST = 255
LETTER, DIGIT, UNDERSCORE = 1, 2, 4
# Which kinds of characters on both sides a mark joins.
JOINED = {":": LETTER, ",": DIGIT, ";": DIGIT, ".": LETTER | DIGIT, "'": LETTER | DIGIT}


class NumberedWords(NamedTuple):
    """words    the different words, in the order of their first occurrence
    numbers  int32 (W,) of each occurrence, text by text
    counts   int64 (N,) occurrences in each text; -1 where one is longer than 255, and nothing was taken of that text
    """

    words: list[str]
    numbers: NDArray[np.int32]
    counts: NDArray[np.int64]


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    kinds, joined = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for code in range(128):
        character = chr(code)
        if character.isalnum():
            kinds[code] = LETTER if character.isalpha() else DIGIT
    kinds[ord("_")] = UNDERSCORE
    for mark, around in JOINED.items():
        joined[ord(mark)] = around
    return kinds, joined


KINDS, MARKS = _tables()


def numbered_words(texts: Sequence[str]) -> NumberedWords:
    """Return the words of ASCII texts of less than 2**31 characters together; 5 bytes of memory a character."""
    whole = "".join(texts)
    content = np.frombuffer(whole.encode("ascii"), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    # Between words of one text there is a character, between texts there is none.
    most = (len(content) + len(texts) + 1) // 2
    starts, lengths = np.empty(most, np.int32), np.empty(most, np.uint8)
    counts = np.empty(len(texts), np.int64)
    found = _split(content, ends, KINDS, MARKS, starts, lengths, counts)
    starts, lengths = starts[:found], lengths[:found]
    numbers, firsts = np.empty(found, np.int32), np.empty(found, np.int32)
    table = np.zeros(1 << max(4, int(2 * found).bit_length()), np.int32)
    # A corpus cannot be made to collide on purpose, and nothing depends on the seed but time.
    seed = np.uint64(int.from_bytes(os.urandom(8), "little"))
    different = _number(content, starts, lengths, seed, table, numbers, firsts)
    firsts = firsts[:different]
    places = zip(starts[firsts].tolist(), lengths[firsts].tolist(), strict=True)
    return NumberedWords([whole[start : start + length] for start, length in places], numbers, counts)


@compiled
def _split(content, ends, kinds, marks, starts, lengths, counts):
    """Write where the words of each text begin and how long they are; return how many there are."""
    words = 0
    at = np.int64(0)
    for text in range(len(ends)):
        end = ends[text]
        before = words
        counts[text] = 0
        while at < end:
            if kinds[content[at]] == 0:
                at += 1
                continue
            start = at
            seen = np.uint8(0)
            while True:
                while at < end and kinds[content[at]] != 0:
                    seen |= kinds[content[at]]
                    at += 1
                if at + 1 >= end or marks[content[at]] & kinds[content[at - 1]] & kinds[content[at + 1]] == 0:
                    break
                at += 1
            if at - start > LONGEST:
                counts[text] = -1
                break
            if seen & (LETTER | DIGIT):
                starts[words] = start
                lengths[words] = at - start
                words += 1
        if counts[text] < 0:
            words = before
        else:
            counts[text] = words - before
        at = end
    return words


@compiled
def _number(content, starts, lengths, seed, table, numbers, firsts):
    """Number the words by a table of twice as many places, all 0; return how many are different."""
    mask = np.uint64(len(table) - 1)
    different = 0
    for word in range(len(starts)):
        start, length = np.int64(starts[word]), np.int64(lengths[word])
        # FNV-1a, 64 bits.
        value = np.uint64(0xCBF29CE484222325) ^ seed
        for at in range(start, start + length):
            value = (value ^ np.uint64(content[at])) * np.uint64(0x100000001B3)
        slot = (value ^ (value >> np.uint64(32))) & mask
        while True:
            entry = table[slot]
            if entry == 0:
                table[slot] = different + 1
                firsts[different] = word
                numbers[word] = different
                different += 1
                break
            if _same(content, start, length, starts[firsts[entry - 1]], lengths[firsts[entry - 1]]):
                numbers[word] = entry - 1
                break
            slot = (slot + np.uint64(1)) & mask
    return different


@compiled
def _same(content, start, length, other, other_length):
    if length != other_length:
        return False
    place = 0
    while place < length and content[start + place] == content[other + place]:
        place += 1
    return place == length
