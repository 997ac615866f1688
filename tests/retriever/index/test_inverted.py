"""The inverted part: Lucene's length bytes and formula by hand, and merging."""

import math

import numpy as np
import pytest

from retriever.index.inverted import (
    InvertedReader,
    InvertedWriter,
    decode_length,
    encode_length,
    encode_lengths,
    inverse_length_norms,
    merge_inverted,
    weigh_terms,
)

TEXTS = ["red wine", "red red roses", "white wine and red wine", "", "blue"]


def write(folder, texts):
    folder.mkdir()
    writer = InvertedWriter()
    for text in texts:
        writer.add(text.split())
    writer.write(folder)
    return InvertedReader(folder)


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
    reader = write(tmp_path / "a", TEXTS)
    weights, spans, documents, mean = weigh_terms([reader], {"wine": 1})
    # The empty document has no field for Lucene: 4 documents, 2 with "wine", 11 terms in all.
    assert (documents, mean) == (4, 11 / 4)
    assert weights[0] == pytest.approx(math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)))
    inverse = inverse_length_norms(0.9, 0.4, mean)
    rank = np.arange(5, dtype=np.int32)
    scores, found = reader.search(spans[0], weights, inverse, rank, 10, None)
    by_hand = {}
    for document, (frequency, length) in {0: (1, 2), 2: (2, 5)}.items():
        norm = 0.9 * (1 - 0.4 + 0.4 * length / mean)
        by_hand[document] = float(weights[0]) * frequency / (frequency + norm)
    expected = sorted(by_hand, key=by_hand.__getitem__, reverse=True)
    assert found.tolist() == expected
    np.testing.assert_allclose(scores, [by_hand[d] for d in expected], rtol=1e-6)


def test_a_term_twice_in_the_query_counts_twice(tmp_path):
    reader = write(tmp_path / "a", TEXTS)
    once, _, _, _ = weigh_terms([reader], {"wine": 1})
    twice, _, _, _ = weigh_terms([reader], {"wine": 2})
    assert twice[0] == 2 * once[0]


def test_unknown_terms_have_no_weight(tmp_path):
    reader = write(tmp_path / "a", TEXTS)
    weights, spans, _, _ = weigh_terms([reader], {"zebra": 1})
    assert len(weights) == 0
    assert spans == [[]]


def test_merging_parts_equals_writing_at_once(tmp_path):
    whole = write(tmp_path / "whole", TEXTS)
    first, second = write(tmp_path / "first", TEXTS[:2]), write(tmp_path / "second", TEXTS[2:])
    (tmp_path / "merged").mkdir()
    names = merge_inverted([first, second], [None, None], tmp_path / "merged")
    for name in names:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert list(whole.terms) == sorted({word for text in TEXTS for word in text.split()})


def test_merging_forgets_what_is_not_kept(tmp_path):
    reader = write(tmp_path / "a", TEXTS)
    keep = np.array([True, False, True, True, False])
    (tmp_path / "merged").mkdir()
    names = merge_inverted([reader], [keep], tmp_path / "merged")
    write(tmp_path / "b", [text for text, kept in zip(TEXTS, keep, strict=True) if kept])
    for name in names:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert "blue" not in list(InvertedReader(tmp_path / "merged").terms)


def test_deleted_documents_do_not_count_in_statistics(tmp_path):
    write(tmp_path / "a", TEXTS)
    live = np.array([True, True, False, True, True])
    deleted = InvertedReader(tmp_path / "a", live)
    rebuilt = write(tmp_path / "b", [text for text, lives in zip(TEXTS, live, strict=True) if lives])
    for term in ("red", "wine", "and"):
        a = weigh_terms([deleted], {term: 1})
        b = weigh_terms([rebuilt], {term: 1})
        assert a[0].tolist() == b[0].tolist()
        assert a[2:] == b[2:]


def test_a_term_repeated_a_million_times(tmp_path):
    reader = write(tmp_path / "a", ["spam " * 1_000_000, "spam"])
    assert reader.frequencies.dtype == np.uint32
    weights, spans, _, mean = weigh_terms([reader], {"spam": 1})
    rank = np.arange(2, dtype=np.int32)
    scores, _ = reader.search(spans[0], weights, inverse_length_norms(0.9, 0.4, mean), rank, 2, None)
    assert np.isfinite(scores).all()


def test_an_empty_part(tmp_path):
    reader = write(tmp_path / "a", [])
    assert (reader.documents, len(reader.terms)) == (0, 0)
    assert weigh_terms([reader], {"x": 1})[2] == 0
