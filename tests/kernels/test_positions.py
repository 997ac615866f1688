"""Positions as bytes, and phrases counted from them, against their definitions."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.impact import lay_out
from kernels.impact.postings import DENSE_KIND, SPARSE_KIND, TINY
from kernels.positions import (
    Positions,
    copy_kept_bytes,
    count_kept_bytes,
    encode_positions,
    first_fault,
    lay_out_positions,
    list_order,
    phrase_frequencies,
    require_sound_positions,
    term_starts,
)
from kernels.positions.layout import STRIDE
from kernels.positions.reference import decode_reference, phrase_reference


def encoded(postings):
    flat = np.array([position for posting in postings for position in posting], np.int64)
    return encode_positions(flat, np.array([len(posting) for posting in postings], np.int64))


def test_bytes_by_hand():
    # 3 alone: (3 - 0) * 2. Then 0 and 5: 0 * 2 + 1, (5 - 0 - 1) * 2. Then 64: 128 is 0 with a top bit, and 1.
    assert encoded([[3], [0, 5], [64]]).tolist() == [6, 1, 8, 128, 1]


numbers = st.one_of(st.integers(0, 200), st.integers(0, 2**31 - 1))
postings_lists = st.lists(st.sets(numbers, min_size=1, max_size=9).map(sorted), max_size=40)


@given(postings_lists)
@example([[63], [64], [8191], [8192], [2**31 - 1], [0, 2**31 - 1]])
@settings(max_examples=200)
def test_what_is_encoded_is_decoded(postings):
    assert decode_reference(bytes(encoded(postings))) == postings


def test_what_cannot_be_encoded():
    with pytest.raises(ValueError, match="3 positions for 2 postings"):
        encode_positions(np.array([1, 2, 3]), np.array([1, 1]))
    with pytest.raises(ValueError, match="do not fit together"):
        encode_positions(np.array([1]), np.array([0, 1]))


class Collection:
    """Random documents, and all that a segment keeps of them."""

    def __init__(self, generator, size, likely):
        lengths = generator.integers(0, 30, size)
        self.texts = [generator.choice(len(likely), length, p=likely).tolist() for length in lengths]
        self.lengths = lengths
        occurring = sorted({term for text in self.texts for term in text})
        self.terms = occurring
        self.places = [
            {
                document: [at for at, other in enumerate(text) if other == term]
                for document, text in enumerate(self.texts)
                if term in text
            }
            for term in occurring
        ]
        counts = [len(found) for found in self.places]
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        self.documents = np.array([d for found in self.places for d in found], np.int32)
        self.frequencies = np.array([len(at) for found in self.places for at in found.values()], np.int64)
        self.plain = encoded([at for found in self.places for at in found.values()])
        self.starts = term_starts(self.plain, np.array(counts))
        codes = generator.integers(1, 256, len(self.documents)).astype(np.uint8)
        self.postings = lay_out(self.offsets, self.documents, codes, size)
        sizes = np.diff(self.starts, append=len(self.plain))
        out = np.empty_like(self.plain)
        kinds = self.postings.kinds
        self.positions = lay_out_positions(kinds, self.postings.codes, self.plain, self.starts, sizes, out)

        # For each term {document: where its code is}, by walking through the codes.
        filled = iter(np.flatnonzero(self.postings.codes).tolist())
        order = list_order(kinds).tolist()
        self.entries = {occurring[t]: {document: next(filled) for document in self.places[t]} for t in order}


@pytest.fixture(scope="module")
def collection():
    likely = 1 / np.arange(1, 60.0) ** 2
    return Collection(np.random.default_rng(0), 4100, likely / likely.sum())


def test_lists_of_every_kind_are_laid_out(collection):
    kinds = collection.postings.kinds
    assert {SPARSE_KIND, DENSE_KIND} <= set(kinds.tolist())
    assert (kinds <= TINY).any()
    order = list_order(kinds).tolist()
    wanted = [at for term in order for at in collection.places[term].values()]
    assert decode_reference(bytes(collection.positions.data)) == wanted
    require_sound_positions(collection.positions, len(collection.postings.codes))
    ends = np.cumsum([0, *(len(encoded([posting])) for posting in wanted)])
    before = np.cumsum(collection.postings.codes > 0) - (collection.postings.codes > 0)
    assert collection.positions.marks.tolist() == [*ends[before[::STRIDE]], ends[-1]]


@given(
    st.lists(st.integers(0, 59), min_size=2, max_size=5),
    st.integers(0, 6),
    st.sampled_from([1, 3, 50]),
    st.integers(0, 2**32),
)
@example([0, 0], 0, 1, 0)
@example([0, 1, 0], 4, 1, 0)
@settings(max_examples=60, deadline=None)
def test_phrases_of_random_documents(collection, words, slop, step, seed):
    entries = collection.entries
    words = [collection.terms[word % len(collection.terms)] for word in words]
    held = [d for d, text in enumerate(collection.texts) if set(words) <= set(text)]
    held = held[seed % step :: step]
    at = np.array([[entries[word][document] for document in held] for word in words], np.int64)
    same = np.array([words.index(word) for word in words])
    codes, positions = collection.postings.codes, collection.positions
    found = phrase_frequencies(codes, positions, at.reshape(len(words), len(held)), same, slop)
    wanted = []
    for document in held:
        places = {word: [i for i, term in enumerate(collection.texts[document]) if term == word] for word in words}
        wanted.append(phrase_reference(words, places, slop))
    assert found.tolist() == pytest.approx(wanted)


def test_documents_in_any_order(collection):
    entries = collection.entries
    first, second = list(entries[0]), list(entries[1])
    both = [document for document in first if document in set(second)]
    np.random.default_rng(0).shuffle(both)
    at = np.array([[entries[term][document] for document in both] for term in (0, 1)])
    found = phrase_frequencies(collection.postings.codes, collection.positions, at, np.array([0, 1]), 0)
    counts = Counter()
    for document in both:
        text = collection.texts[document]
        counts[document] = sum(text[i : i + 2] == [0, 1] for i in range(len(text)))
    assert found.tolist() == [counts[document] for document in both]


def test_merging_copies_what_is_kept(collection):
    keep = np.random.default_rng(1).random(len(collection.texts)) < 0.5
    renumbered = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
    places = np.arange(len(collection.terms))[::-1].copy()
    source = (collection.offsets, collection.documents, renumbered, collection.plain, collection.starts, places)
    sizes = np.zeros(len(places), np.int64)
    count_kept_bytes(*source, sizes)
    out = np.empty(sizes.sum(), np.uint8)
    copy_kept_bytes(*source, np.cumsum(sizes) - sizes, out)
    wanted = [at for found in reversed(collection.places) for d, at in found.items() if keep[d]]
    assert decode_reference(bytes(out)) == wanted


def test_positions_that_are_not_those_of_the_postings_have_no_starts():
    data, counts = encoded([[0, 3], [200], [1]]), np.array([2, 1])
    assert term_starts(data, counts).tolist() == [0, 4]
    joined, split = data.copy(), data.copy()
    joined[1] |= 1
    split[0] &= 254
    unended = np.append(data[:-1], data[-1] | 128).astype(np.uint8)
    for damaged in (joined, split, unended, data[:-1], np.append(data, data[:1]), data[:0]):
        with pytest.raises(ValueError, match="bytes of positions are not those of 3 postings"):
            term_starts(damaged, counts)


def in_order_of_codes(collection):
    order = list_order(collection.postings.kinds)
    places = np.concatenate([np.arange(collection.offsets[t], collection.offsets[t + 1]) for t in order])
    return collection.documents[places], collection.frequencies[places]


def test_faults_are_found(collection):
    codes, positions = collection.postings.codes, collection.positions
    documents, frequencies = in_order_of_codes(collection)
    assert first_fault(codes, positions, documents, frequencies, collection.lengths) == -1
    for posting in (0, 777, len(documents) - 1):
        other = frequencies.copy()
        other[posting] += 1
        assert first_fault(codes, positions, documents, other, collection.lengths) == posting
        shorter = collection.lengths.copy()
        shorter[documents[posting]] = 0
        assert 0 <= first_fault(codes, positions, documents, frequencies, shorter) <= posting
    marks = positions.marks.copy()
    marks[3] += 1
    assert first_fault(codes, positions._replace(marks=marks), documents, frequencies, collection.lengths) >= 0


@pytest.mark.parametrize(
    ("data", "marks", "message"),
    [
        ([2], [0], "1 marks of positions for 3 codes"),
        ([2], [1, 1], "not in order"),
        ([2], [0, 2], "not in order"),
        ([2, 130], [0, 2], "end within a posting"),
        ([2, 3], [0, 2], "end within a posting"),
        ([131, 2], [0, 2], "end within a posting"),
    ],
)
def test_positions_that_do_not_fit_together(data, marks, message):
    positions = Positions(np.array(data, np.uint8), np.array(marks, np.int64))
    with pytest.raises(ValueError, match=message):
        require_sound_positions(positions, 3)


def test_without_the_compiler():
    script = (
        "import numpy as np\n"
        "from kernels.positions import Positions, encode_positions, phrase_frequencies\n"
        "data = encode_positions(np.array([0, 4, 1, 5]), np.array([2, 2]))\n"
        "positions = Positions(data, np.array([0, len(data)]))\n"
        "for slop in (0, 3):\n"
        "    entries = np.array([[0], [1]])\n"
        "    print(phrase_frequencies(np.ones(2, np.uint8), positions, entries, np.arange(2), slop).tolist())\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[2.0]", "[2.0]"]
