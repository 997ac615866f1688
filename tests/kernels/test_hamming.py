"""The Hamming scan and scores of signs against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.hamming import (
    SignCodes,
    nearest_codes,
    nearest_codes_reference,
    packed,
    rows_at,
    rows_of,
    sign_scores,
    sign_scores_reference,
    signs,
    unpacked,
)


def random_vectors(generator, rows, width, bases=None):
    """Return (rows, width); with `bases`, each is one of so many vectors with a few signs turned, so that ties abound."""
    vectors = generator.standard_normal((bases or rows, width)).astype(np.float32)
    if bases:
        vectors = vectors[generator.integers(0, bases, rows)] * np.where(generator.random((rows, width)) < 0.03, -1, 1)
    return vectors.astype(np.float32)


def same(found, wanted):
    assert len(found) == len(wanted)
    for (distances, ordinals), (wanted_distances, wanted_ordinals) in zip(found, wanted, strict=True):
        assert distances.tolist() == wanted_distances.tolist()
        assert ordinals.tolist() == wanted_ordinals.tolist()


@pytest.mark.parametrize("documents", [1, 63, 64, 65, 300])
def test_some_codes_are_read_without_the_others(documents):
    generator = np.random.default_rng(documents)
    vectors = random_vectors(generator, documents, 96)
    chosen = generator.integers(0, documents, 40)
    codes = packed(vectors)
    assert np.array_equal(rows_at(codes, chosen), signs(vectors)[chosen])
    assert rows_at(codes, chosen[:0]).shape == (0, 2)


def test_a_width_that_is_no_multiple_of_64_takes_whole_words():
    vectors = random_vectors(np.random.default_rng(0), 70, 96)
    codes = packed(vectors)
    # 16 bytes a document, not 12.
    assert codes.words.nbytes == 70 * 16
    assert np.array_equal(unpacked(codes), np.where(vectors >= 0, 1, -1))
    # The bits beyond the width are 0, and no distance counts them.
    assert not (rows_of(codes)[:, 1] >> np.uint64(32)).any()


def test_signs_take_a_bit_each_and_zero_counts_as_positive():
    codes = packed(np.array([[1.0, -2.0, 0.0, -0.0]], np.float32))
    assert codes.words.tolist() == [0b1101]
    assert unpacked(codes).tolist() == [[1, -1, 1, 1]]
    assert packed(np.ones((100, 384), np.float32)).words.nbytes == 100 * 384 // 8


@pytest.mark.parametrize(
    ("documents", "width"), [(1, 1), (5, 64), (63, 65), (64, 128), (65, 7), (200, 384), (1000, 100)]
)
@pytest.mark.parametrize("k", [1, 10, 2000])
def test_the_nearest_are_exact_with_ties_in_order(documents, width, k):
    generator = np.random.default_rng(documents * width + k)
    codes = packed(random_vectors(generator, documents, width, bases=7))
    queries = random_vectors(generator, 3, width, bases=2)
    same(nearest_codes(codes, queries, k), nearest_codes_reference(codes, queries, k))
    for share in (0.0, 0.02, 0.6):
        allowed = generator.random(documents) < share
        found = nearest_codes(codes, queries, k, allowed)
        same(found, nearest_codes_reference(codes, queries, k, allowed))


def test_more_queries_than_share_a_pass():
    generator = np.random.default_rng(5)
    codes, queries = packed(random_vectors(generator, 300, 96)), random_vectors(generator, 130, 96)
    same(nearest_codes(codes, queries, 7), nearest_codes_reference(codes, queries, 7))


def test_ever_nearer_documents_are_thinned_out_on_the_way():
    # The worst order for a scan: every document is nearer than all before it.
    width = 1024
    vectors = -np.ones((width, width), np.float32)
    for row in range(width):
        vectors[row, : row + 1] = 1
    codes, query = packed(vectors), np.ones((1, width), np.float32)
    same(nearest_codes(codes, query, 3), nearest_codes_reference(codes, query, 3))
    ((distances, ordinals),) = nearest_codes(codes, query, 3)
    assert distances.tolist() == [0, 1, 2]
    assert ordinals.tolist() == [1023, 1022, 1021]


@given(st.integers(1, 300), st.integers(1, 130), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_size_agrees_with_the_definition(documents, width, k, seed):
    generator = np.random.default_rng(seed)
    codes = packed(random_vectors(generator, documents, width, bases=int(generator.integers(1, 9))))
    queries = random_vectors(generator, 2, width)
    allowed = generator.random(documents) < generator.random() if seed % 2 else None
    same(nearest_codes(codes, queries, k, allowed), nearest_codes_reference(codes, queries, k, allowed))


@pytest.mark.parametrize(("documents", "width"), [(1, 3), (70, 64), (129, 200)])
def test_scores_are_inner_products_with_signs(documents, width):
    generator = np.random.default_rng(width)
    codes, query = packed(random_vectors(generator, documents, width)), generator.standard_normal(width)
    rows = generator.integers(0, documents, 50)
    found = sign_scores(codes, query.astype(np.float32), rows)
    np.testing.assert_allclose(found, sign_scores_reference(codes, query.astype(np.float32), rows), rtol=1e-6)


def test_sizes_that_do_not_fit_are_named():
    codes = packed(np.ones((3, 10), np.float32))
    with pytest.raises(ValueError, match=r"\(Q, 10\), got \(1, 9\)"):
        nearest_codes(codes, np.ones((1, 9), np.float32), 1)
    with pytest.raises(ValueError, match="allowed"):
        nearest_codes(codes, np.ones((1, 10), np.float32), 1, np.ones(2, np.bool_))
    with pytest.raises(ValueError, match="3 codes of 10 bits take 3 words"):
        SignCodes(np.zeros(2, np.uint64), 3, 10)
