"""The inverted part: Lucene's length bytes and formula by hand, and merging."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.index.bm25 import Bm25, inverse_document_frequencies
from retriever.index.inverted import (
    InvertedReader,
    decode_length,
    encode_length,
    encode_lengths,
    read_plain,
    write_inverted,
)
from retriever.index.plain import PlainPostings, PlainWriter, merge_plain

TEXTS = ["red wine", "red red roses", "white wine and red wine", "", "blue"]


def plain_of(texts):
    writer = PlainWriter()
    for text in texts:
        writer.add(text.split())
    return writer.postings()


def write(folder, texts):
    folder.mkdir()
    write_inverted(plain_of(texts), folder, 0.9, 0.4)
    return InvertedReader(folder)


def bm25(*readers, k1=0.9, b=0.4):
    return Bm25(readers, [np.arange(reader.documents, dtype=np.int32) for reader in readers], k1, b)


def assert_same(a, b):
    assert list(a.terms) == list(b.terms)
    for x, y in zip(a[1:5], b[1:5], strict=True):
        assert x.tolist() == y.tolist()


def test_length_bytes_are_lucenes():
    # Values of SmallFloat.intToByte4: exact to 39, then in steps of 2, 4, 8 ...
    assert [encode_length(n) for n in (0, 1, 23, 24, 39, 40, 41, 42)] == [0, 1, 23, 24, 39, 40, 40, 41]
    assert [decode_length(byte) for byte in (0, 23, 24, 39, 40, 41)] == [0, 23, 24, 39, 40, 42]
    lengths = np.arange(5000, dtype=np.int32)
    assert encode_lengths(lengths).tolist() == [encode_length(n) for n in range(5000)]


def test_decoding_never_gives_more_than_was_encoded():
    for length in [*range(2000), 10**6, 2**31 - 1]:
        assert decode_length(encode_length(length)) <= length


def test_score_of_one_term_by_hand(tmp_path):
    index = bm25(write(tmp_path / "a", TEXTS))
    # The empty document has no field for Lucene: 4 documents, 2 with "wine", 11 terms in all.
    assert (index.documents, index.mean_length) == (4, 11 / 4)
    assert index.document_frequencies(index.find(["wine", "roses", "zebra"])).tolist() == [2, 1, 0]
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    assert inverse_document_frequencies(4, np.array([2]))[0] == pytest.approx(idf)
    by_hand = {}
    for document, (frequency, length) in {0: (1, 2), 2: (2, 5)}.items():
        norm = 0.9 * (1 - 0.4 + 0.4 * length / (11 / 4))
        by_hand[document] = idf * frequency / (frequency + norm)
    expected = sorted(by_hand, key=by_hand.__getitem__, reverse=True)
    ((scores, found),) = index.search({"wine": 1}, 10)
    assert found.tolist() == expected
    np.testing.assert_allclose(scores, [by_hand[d] for d in expected], rtol=1e-6)


def test_other_k1_and_b_at_query_time(tmp_path):
    built = bm25(write(tmp_path / "a", TEXTS))
    other = bm25(write(tmp_path / "b", TEXTS), k1=1.5, b=0.9)
    ((scores, found),) = built.search({"wine": 1, "red": 2}, 10, k1=1.5, b=0.9)
    ((expected, order),) = other.search({"wine": 1, "red": 2}, 10)
    assert (scores.tolist(), found.tolist()) == (expected.tolist(), order.tolist())


def test_a_term_twice_in_the_query_counts_twice(tmp_path):
    index = bm25(write(tmp_path / "a", TEXTS))
    ((once, _),) = index.search({"wine": 1}, 10)
    ((twice, _),) = index.search({"wine": 2}, 10)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


def test_unknown_terms_find_nothing_and_change_nothing(tmp_path):
    index = bm25(write(tmp_path / "a", TEXTS))
    assert index.search({"zebra": 1}, 10) is None
    ((with_, _),) = index.search({"zebra": 1, "wine": 1}, 10)
    ((without, _),) = index.search({"wine": 1}, 10)
    assert with_.tolist() == without.tolist()


def test_equal_scores_stand_in_order_of_id(tmp_path):
    reader = write(tmp_path / "a", ["x"] * 50)
    index = Bm25([reader], [np.arange(50, dtype=np.int32)[::-1].copy()], 0.9, 0.4)
    ((scores, found),) = index.search({"x": 1}, 5)
    assert found.tolist() == [49, 48, 47, 46, 45]
    assert len(set(scores.tolist())) == 1


def test_merging_parts_equals_writing_at_once():
    merged = merge_plain([plain_of(TEXTS[:2]), plain_of(TEXTS[2:])], [None, None])
    assert_same(merged, plain_of(TEXTS))
    assert list(merged.terms) == sorted({word.encode() for text in TEXTS for word in text.split()})


def test_merging_forgets_what_is_not_kept():
    keep = np.array([True, False, True, True, False])
    merged = merge_plain([plain_of(TEXTS)], [keep])
    assert_same(merged, plain_of([text for text, kept in zip(TEXTS, keep, strict=True) if kept]))
    assert b"blue" not in merged.terms


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), documents=st.integers(0, 400), vocabulary=st.sampled_from([1, 5, 3000]))
def test_what_is_written_can_be_had_back(tmp_path_factory, seed, documents, vocabulary):
    generator = np.random.default_rng(seed)
    texts = [
        " ".join(f"w{int(term)}" for term in generator.zipf(1.3, generator.integers(0, 60)) % vocabulary)
        for _ in range(documents)
    ]
    if texts:
        texts[0] = "w0 " * 5000
    plain = plain_of(texts)
    folder = tmp_path_factory.mktemp("part")
    write_inverted(plain, folder, 0.9, 0.4)
    reader = InvertedReader(folder)
    assert list(reader.problems()) == []
    assert_same(reader.plain(), plain)
    assert_same(read_plain(folder), plain)
    plain.write(folder)
    assert_same(read_plain(folder), plain)
    assert_same(PlainPostings.read(folder), plain)


def test_deleted_documents_do_not_count_in_statistics(tmp_path):
    write(tmp_path / "a", TEXTS)
    live = np.array([True, True, False, True, True])
    deleted = bm25(InvertedReader(tmp_path / "a", live))
    rebuilt = bm25(write(tmp_path / "b", [text for text, lives in zip(TEXTS, live, strict=True) if lives]))
    for term in ("red", "wine", "and"):
        a, b = deleted.search({term: 1}, 10), rebuilt.search({term: 1}, 10)
        assert (a is None) == (b is None)
        if a and b:
            assert a[0][0].tolist() == b[0][0].tolist()
    assert deleted.mean_length == rebuilt.mean_length


def test_several_parts_score_as_one(tmp_path):
    whole = bm25(write(tmp_path / "whole", TEXTS))
    parts = bm25(write(tmp_path / "first", TEXTS[:2]), write(tmp_path / "second", TEXTS[2:]))
    for query in ({"red": 1}, {"wine": 1, "blue": 3}, {"and": 1, "roses": 1, "red": 1}):
        ((expected, order),) = whole.search(query, 10)
        (a, first), (b, second) = parts.search(query, 10)
        both = dict(zip([*first.tolist(), *(second + 2).tolist()], [*a.tolist(), *b.tolist()], strict=True))
        assert both == dict(zip(order.tolist(), expected.tolist(), strict=True))


def test_a_term_repeated_a_million_times(tmp_path):
    reader = write(tmp_path / "a", ["spam " * 1_000_000, "spam"])
    assert reader.plain().values.tolist() == [1_000_000, 1]
    ((scores, _),) = bm25(reader).search({"spam": 1}, 2)
    assert np.isfinite(scores).all()


def test_an_empty_part(tmp_path):
    reader = write(tmp_path / "a", [])
    assert (reader.documents, len(reader.terms)) == (0, 0)
    index = bm25(reader)
    assert index.documents == 0
    assert index.search({"x": 1}, 3) is None
