"""BM25 over coded postings against its definition, and what codes tell of frequencies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.bm25 import (
    Frequencies,
    bm25_reference,
    bm25_search,
    bounds,
    encode,
    frequency_table,
    meanings,
    score_all,
)
from kernels.impact import Segments, lay_out, whole_blocks

EVERY_BYTE = np.ones(256, np.bool_)


def norms_of(k1, b, mean):
    """n of each length byte; the bytes stand for their own number here."""
    return k1 * (1 - b + b * np.arange(256) / mean)


class Collection:
    """Random postings of one segment, as the kernel takes them and as the definition does."""

    def __init__(self, generator, size, terms, built):
        self.size = size
        self.plain = []
        for _ in range(terms):
            documents = np.flatnonzero(generator.random(size) < generator.random() ** 2).astype(np.int32)
            documents = documents if len(documents) else np.array([0], np.int32)
            frequencies = generator.geometric(0.5, len(documents)).astype(np.uint32)
            frequencies[generator.random(len(documents)) < 0.02] = 1000
            self.plain.append((documents, frequencies))
        self.length_bytes = generator.integers(1, 60, size).astype(np.uint8)
        offsets = np.cumsum([0, *(len(documents) for documents, _ in self.plain)])
        documents = np.concatenate([documents for documents, _ in self.plain])
        frequencies = np.concatenate([frequencies for _, frequencies in self.plain])
        codes = encode(documents, frequencies, self.length_bytes, built)
        smallest, several = meanings(built)
        different = smallest[self.length_bytes[documents], codes] != frequencies
        terms_of = np.repeat(np.arange(terms), np.diff(offsets))
        keys = (terms_of << 32 | documents)[different]
        self.postings = lay_out(offsets, documents, codes, size)
        self.frequencies = Frequencies(whole_blocks(self.length_bytes), smallest, several, keys, frequencies[different])


def search(parts, terms, weights, norms, built, k, live=None):
    segments = Segments([part.postings for part in parts], live)
    uppers, lowers = bounds(built, norms, EVERY_BYTE)
    with np.errstate(divide="ignore"):
        inverse = (1 / norms).astype(np.float32)
    return inverse, bm25_search(
        segments.table[:, None],
        frequency_table([part.frequencies for part in parts])[:, None],
        np.zeros(len(weights), np.int64),
        terms,
        weights,
        inverse[None],
        np.tile(uppers, (len(parts), 1, 1)),
        np.tile(lowers, (len(parts), 1, 1)),
        k,
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_definition_bit_for_bit(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    built = norms_of(0.9, 0.4, 20)
    # Codes made for one k1, b and mean length serve any other.
    asked = data.draw(st.sampled_from([built, norms_of(0.9, 0.4, 31.5), norms_of(1.2, 0.75, 20), norms_of(0, 0, 1)]))
    sizes = data.draw(st.lists(st.sampled_from([1, 30, 800]), min_size=1, max_size=3))
    terms, k = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([1, 10, 500]))
    parts = [Collection(generator, size, terms, built) for size in sizes]
    live = [generator.random(size) < 0.8 if generator.random() < 0.5 else None for size in sizes]
    weights = (generator.random(terms) + 0.1).astype(np.float32)
    inverse, (segments, documents, scores) = search(
        parts, np.tile(np.arange(terms), (len(parts), 1)), weights, asked, built, k, live
    )
    expected = [bm25_reference([(part.plain, weights, part.length_bytes, inverse)]) for part in parts]
    for mask, part in zip(live, expected, strict=True):
        if mask is not None:
            part[~mask] = 0
    assert scores.tolist() == [expected[s][d] for s, d in zip(segments, documents, strict=True)]
    every = np.concatenate(expected)
    wanted = np.sort(every[every > 0])[::-1][:k]
    assert np.sort(scores)[::-1][: len(wanted)].tolist() == wanted.tolist()


def search_in_fields(parts, fields, terms, weights, norms, built, k, live=None, allowed=None):
    """parts: for each segment one collection for each field; norms and built likewise for each field."""
    count = len(norms)
    segments = [Segments([row[f].postings for row in parts], live if f == 0 else None) for f in range(count)]
    pairs = [bounds(built[f], norms[f], EVERY_BYTE) for f in range(count)]
    uppers, lowers = (np.tile(np.array([pair[i] for pair in pairs]), (len(parts), 1, 1)) for i in (0, 1))
    inverse = np.array([(1 / n).astype(np.float32) for n in norms])
    first, _masks = segments[0].restricted(allowed)
    tables = np.stack([first, *(other.table for other in segments[1:])], axis=1)
    frequencies = np.stack([frequency_table([row[f].frequencies for row in parts]) for f in range(count)], axis=1)
    found = bm25_search(tables, frequencies, fields, terms, weights, inverse, uppers, lowers, k)
    everything = [score_all(tables, frequencies, s, fields, terms[s], weights, inverse) for s in range(len(parts))]
    return inverse, found, everything


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fields_equal_the_definition_bit_for_bit(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    means = data.draw(st.lists(st.sampled_from([3, 20, 45]), min_size=1, max_size=3))
    built = [norms_of(0.9, 0.4, mean) for mean in means]
    asked = data.draw(st.sampled_from([built, [norms_of(0.9, 0.4, mean * 1.3) for mean in means]]))
    sizes = data.draw(st.lists(st.sampled_from([1, 30, 800]), min_size=1, max_size=3))
    terms, k = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 10, 500]))
    parts = [[Collection(generator, size, terms, b) for b in built] for size in sizes]
    live = [generator.random(size) < 0.8 if generator.random() < 0.5 else None for size in sizes]
    share = data.draw(st.sampled_from([None, 0.5, 0.01]))
    allowed = None if share is None else [generator.random(size) < share for size in sizes]
    fields = np.repeat(np.arange(len(means)), terms)
    weights = ((generator.random(len(fields)) + 0.1) * np.array([5.0, 1.0, 0.01])[fields]).astype(np.float32)
    numbers = np.tile(np.arange(terms), (len(parts), len(means)))
    inverse, (segments, documents, scores), everything = search_in_fields(
        parts, fields, numbers, weights, asked, built, k, live, allowed
    )
    expected = [
        bm25_reference(
            [(part.plain, weights[fields == f], part.length_bytes, inverse[f]) for f, part in enumerate(row)]
        )
        for row in parts
    ]
    assert [part.tolist() for part in everything] == [part.tolist() for part in expected]
    for s, part in enumerate(expected):
        for mask in (live[s], None if allowed is None else allowed[s]):
            if mask is not None:
                part[~mask] = 0
    assert scores.tolist() == [expected[s][d] for s, d in zip(segments, documents, strict=True)]
    every = np.concatenate(expected)
    wanted = np.sort(every[every > 0])[::-1][:k]
    assert np.sort(scores)[::-1][: len(wanted)].tolist() == wanted.tolist()


def test_fields_over_several_blocks():
    """The same terms in two fields of 150,000 documents, dense and sparse lists, under a threshold from the start."""
    generator = np.random.default_rng(9)
    built = [norms_of(0.9, 0.4, 5), norms_of(0.9, 0.4, 40)]
    parts = [[Collection(generator, 150_000, 4, b) for b in built]]
    fields = np.repeat([1, 0], 4)
    weights = (generator.random(8) + 0.1).astype(np.float32)
    _, (_, documents, scores), everything = search_in_fields(
        parts, fields, np.tile(np.arange(4), 2)[None], weights, built, built, 100
    )
    assert len(documents) < 20_000
    assert scores.tolist() == everything[0][documents].tolist()
    assert np.sort(scores)[::-1][:100].tolist() == np.sort(everything[0])[::-1][:100].tolist()


def test_scoring_every_document_equals_the_definition():
    generator = np.random.default_rng(5)
    built = norms_of(0.9, 0.4, 20)
    part = Collection(generator, 70_000, 6, built)
    weights = generator.random(6).astype(np.float32)
    inverse = (1 / built).astype(np.float32)
    table = Segments([part.postings]).table[:, None]
    frequencies = frequency_table([part.frequencies])[:, None]
    scores = score_all(table, frequencies, 0, np.zeros(6, np.int64), np.arange(6), weights, inverse[None])
    # Spot checks: the definition is slow.
    rows = generator.choice(70_000, 300, replace=False)
    plain = [
        (
            np.arange(300)[np.isin(rows, documents)],
            frequencies[np.searchsorted(documents, rows[np.isin(rows, documents)])],
        )
        for documents, frequencies in part.plain
    ]
    expected = bm25_reference([(plain, weights, part.length_bytes[rows], inverse)])
    assert scores[rows].tolist() == expected.tolist()


def test_a_query_of_ten_thousand_terms():
    generator = np.random.default_rng(6)
    built = norms_of(0.9, 0.4, 20)
    part = Collection(generator, 50, 10_000, built)
    live = [np.arange(50) != 7]
    weights = generator.random(10_000).astype(np.float32)
    inverse, (_, documents, scores) = search([part], np.arange(10_000)[None], weights, built, built, 5, live)
    expected = bm25_reference([(part.plain, weights, part.length_bytes, inverse)])
    assert 7 not in documents
    assert scores.tolist() == expected[documents].tolist()
    assert len(documents) == 49


@pytest.mark.parametrize(("k1", "b", "mean"), [(0.9, 0.4, 55.5), (1.2, 0.75, 3), (0.3, 1, 400), (50, 0.5, 10)])
def test_codes_and_exceptions_tell_every_frequency(k1, b, mean):
    norms = norms_of(k1, b, mean)
    norms[0] = k1
    smallest, several = meanings(norms)
    frequencies = np.array([*range(1, 300), 10**4, 10**6, 2**31 - 2], np.uint32)
    for byte in (1, 10, 100, 255):
        documents = np.zeros(len(frequencies), np.int32)
        codes = encode(documents, frequencies, np.array([byte], np.uint8), norms)
        meant = smallest[byte, codes]
        assert (meant <= frequencies).all()
        # Where a code has one meaning it is the right one.
        assert (meant == frequencies)[~several[byte, codes]].all()
        assert (np.diff(codes.astype(int)) >= 0).all()


@pytest.mark.parametrize("asked", [(0.9, 0.4, 20), (0.9, 0.4, 90), (2.0, 0.9, 7), (0.0, 0.0, 1)])
def test_bounds_hold_the_true_value(asked):
    built, now = norms_of(0.9, 0.4, 20), norms_of(*asked)
    occurring = np.zeros(256, np.bool_)
    occurring[1:80] = True
    uppers, lowers = bounds(built, now, occurring)
    for byte in range(1, 80):
        frequencies = np.arange(1, 400, dtype=np.uint32)
        codes = encode(np.zeros(399, np.int32), frequencies, np.array([byte], np.uint8), built)
        true = frequencies / (frequencies + now[byte])
        assert (true <= uppers[codes]).all()
        assert (true >= lowers[codes]).all()


def test_refuses_k_below_one():
    part = Collection(np.random.default_rng(0), 5, 1, norms_of(1, 0, 1))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        search([part], np.array([[0]]), np.ones(1, np.float32), norms_of(1, 0, 1), norms_of(1, 0, 1), 0)
