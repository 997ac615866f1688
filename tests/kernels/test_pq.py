"""The scan of product codes against its definition."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.pq import (
    ProductCodes,
    best_codes,
    best_codes_reference,
    code_scores,
    code_scores_reference,
    laid_out,
    rows_at,
    rows_of,
    tables,
)


def random_codes(generator, documents, parts, bases=None):
    """Return codes; with `bases`, of so many different documents, so that ties abound."""
    rows = generator.integers(0, 256, (bases or documents, parts), dtype=np.uint8)
    return laid_out(rows[generator.integers(0, bases, documents)] if bases else rows)


def same(found, wanted):
    assert len(found) == len(wanted)
    for (scores, ordinals), (wanted_scores, wanted_ordinals) in zip(found, wanted, strict=True):
        assert scores.tolist() == wanted_scores.tolist()
        assert ordinals.tolist() == wanted_ordinals.tolist()


@pytest.mark.parametrize("documents", [1, 63, 64, 65, 300])
def test_layout_takes_a_byte_a_part_and_comes_back(documents):
    rows = np.random.default_rng(0).integers(0, 256, (documents, 5), dtype=np.uint8)
    codes = laid_out(rows)
    assert codes.bytes.nbytes == documents * 5
    assert np.array_equal(rows_of(codes), rows)
    chosen = np.random.default_rng(1).integers(0, documents, 40)
    assert np.array_equal(rows_at(codes, chosen), rows[chosen])


@pytest.mark.parametrize(("documents", "parts"), [(1, 1), (64, 4), (65, 3), (700, 48)])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_the_best_are_exact_with_ties_in_order(documents, parts, k):
    generator = np.random.default_rng(documents + parts + k)
    codes = random_codes(generator, documents, parts, bases=40)
    asked = generator.standard_normal((11, parts, 256)).astype(np.float32)
    same(best_codes(codes, asked, k), best_codes_reference(codes, asked, k))
    for share in (0.0, 0.05, 0.7):
        allowed = generator.random(documents) < share
        same(best_codes(codes, asked, k, allowed), best_codes_reference(codes, asked, k, allowed))


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_any_size_agrees_with_the_definition(documents, parts, k, seed):
    generator = np.random.default_rng(seed)
    codes = random_codes(generator, documents, parts, bases=int(generator.integers(1, 60)))
    # Whole numbers tie across different codes too.
    asked = generator.integers(-3, 4, (2, parts, 256)).astype(np.float32)
    allowed = generator.random(documents) < generator.random() if seed % 2 else None
    same(best_codes(codes, asked, k, allowed), best_codes_reference(codes, asked, k, allowed))


def test_ever_better_documents_are_thinned_out_on_the_way():
    rows = np.arange(2560, dtype=np.int64)
    codes = laid_out(np.stack([rows // 256, rows % 256], axis=1).astype(np.uint8))
    table = np.zeros((1, 2, 256), np.float32)
    table[0, 0], table[0, 1] = np.arange(256) * 256, np.arange(256)
    ((scores, ordinals),) = best_codes(codes, table, 3)
    assert scores.tolist() == [2559, 2558, 2557]
    assert ordinals.tolist() == [2559, 2558, 2557]


def test_scores_are_the_scan_s_to_the_bit():
    generator = np.random.default_rng(3)
    codes = random_codes(generator, 333, 24)
    table = generator.standard_normal((24, 256)).astype(np.float32)
    rows = generator.integers(0, 333, 90)
    found = code_scores(codes, table, rows)
    assert np.array_equal(found, code_scores_reference(codes, table, rows))
    ((scores, ordinals),) = best_codes(codes, table[None], 333)
    assert np.array_equal(scores, code_scores(codes, table, ordinals))


def test_tables_search_as_faiss_does():
    generator = np.random.default_rng(4)
    vectors = generator.standard_normal((2000, 32)).astype(np.float32)
    index = faiss.IndexPQ(32, 8, 8, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    centroids = faiss.vector_to_array(index.pq.centroids).reshape(8, 256, 4)
    codes = laid_out(faiss.vector_to_array(index.codes).reshape(2000, 8))
    queries = generator.standard_normal((5, 32)).astype(np.float32)
    scores, ordinals = index.search(queries, 10)
    for row, (found, who) in enumerate(best_codes(codes, tables(queries, centroids), 10)):
        np.testing.assert_allclose(found, scores[row], rtol=1e-5)
        assert who.tolist() == ordinals[row].tolist()


def test_sizes_that_do_not_fit_are_named():
    codes = random_codes(np.random.default_rng(0), 3, 4)
    with pytest.raises(ValueError, match=r"\(Q, 4, 256\)"):
        best_codes(codes, np.zeros((1, 5, 256), np.float32), 1)
    with pytest.raises(ValueError, match="allowed"):
        best_codes(codes, np.zeros((1, 4, 256), np.float32), 1, np.ones(2, np.bool_))
    with pytest.raises(ValueError, match="3 codes of 4 parts take 12 bytes"):
        ProductCodes(np.zeros(5, np.uint8), 3, 4)
