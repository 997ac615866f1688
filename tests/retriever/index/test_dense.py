"""The dense part: exact search and every kind of FAISS index, filters, ties, and hostile files."""

import numpy as np
import pytest
import torch

from retriever.errors import IndexCorrupt, InvalidInput
from retriever.index.dense import (
    ABSENT,
    FAISS_FILE,
    VECTORS,
    DenseReader,
    exact_search,
    factory_string,
    pack_signs,
    read_faiss,
    train_index,
    write_faiss,
)
from retriever.index.faiss_module import load_faiss
from retriever.storage import sha256_of


def unit(rows, width, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def open_dense(folder, vectors, factory=None, *, live=None, absent=(), oversample=4):
    folder.mkdir(exist_ok=True)
    np.save(folder / VECTORS, vectors)
    np.save(folder / ABSENT, np.array(absent, np.int32))
    digest = None
    if factory:
        write_faiss(train_index(vectors, factory), folder / FAISS_FILE)
        digest = sha256_of(folder / FAISS_FILE)
    return DenseReader(folder, faiss_sha256=digest, oversample=oversample, live=live)


def expected(vectors, query, k, id_rank, allowed=None):
    scores = vectors @ query
    order = np.lexsort((id_rank, -scores))
    return [i for i in order if allowed is None or allowed[i]][:k]


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("k", [1, 10, 500])
@pytest.mark.parametrize("filtered", [False, True])
def test_flat_equals_sorting_all_inner_products(tmp_path, rows, k, filtered):
    vectors, queries = unit(rows, 24), unit(5, 24, seed=1)
    id_rank = np.random.default_rng(2).permutation(rows).astype(np.int32)
    allowed = np.random.default_rng(3).random(rows) < 0.4 if filtered else None
    found, exact = open_dense(tmp_path / "d", vectors).search(queries, k, id_rank, allowed)
    assert exact
    for (scores, ordinals), query in zip(found, queries, strict=True):
        assert ordinals.tolist() == expected(vectors, query, k, id_rank, allowed)
        np.testing.assert_allclose(scores, vectors[ordinals] @ query, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 400])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_scan_on_a_device_equals_the_one_by_faiss(tmp_path, k, filtered):
    vectors, queries = unit(300, 24), unit(5, 24, seed=1)
    id_rank = np.random.default_rng(2).permutation(300).astype(np.int32)
    allowed = np.random.default_rng(3).random(300) < 0.4 if filtered else None
    by_faiss, _ = open_dense(tmp_path / "d", vectors).search(queries, k, id_rank, allowed)
    dense = open_dense(tmp_path / "d", vectors)
    # As `load` leaves it for a GPU; the same code runs wherever the tensors are.
    dense._on_device = torch.from_numpy(vectors)
    on_device, exact = dense.search(queries, k, id_rank, allowed)
    assert exact
    for (scores, ordinals), (expected_scores, expected_ordinals) in zip(on_device, by_faiss, strict=True):
        assert ordinals.tolist() == expected_ordinals.tolist()
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)


def test_ties_at_the_cut_stand_in_order_of_id(tmp_path):
    vectors = np.repeat(unit(3, 8), 100, axis=0)
    id_rank = np.arange(300, dtype=np.int32)[::-1].copy()
    ((_, ordinals),), _ = open_dense(tmp_path / "d", vectors).search(vectors[:1], 5, id_rank, None)
    assert ordinals.tolist() == [99, 98, 97, 96, 95]


def test_deleted_and_absent_documents_never_appear(tmp_path):
    vectors = unit(20, 8)
    live = np.ones(20, bool)
    live[3] = False
    dense = open_dense(tmp_path / "d", vectors, live=live, absent=[5])
    ((_, ordinals),), _ = dense.search(vectors[3:4], 20, np.arange(20, dtype=np.int32), None)
    assert set(ordinals.tolist()) == set(range(20)) - {3, 5}


@pytest.mark.parametrize("kind", ["hnsw", "ivf,pq", "BFlat", "SQ8", "OPQ4,IVF8,PQ4x4"])
def test_every_kind_finds_most_neighbours_with_exact_scores(tmp_path, kind):
    # Clustered, as real embeddings are; noise alone has no neighbourhoods to find.
    centres = unit(50, 32)
    vectors = centres[np.arange(2000) % 50] + 0.3 * unit(2000, 32, seed=4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:20] + 0.05 * unit(20, 32, seed=5)
    id_rank = np.arange(2000, dtype=np.int32)
    factory = factory_string(kind, 2000, 32)
    dense = open_dense(tmp_path / "d", vectors, factory, oversample=20)
    found, exact = dense.search(queries, 10, id_rank, None)
    assert not exact
    overlap = []
    for (scores, ordinals), query in zip(found, queries, strict=True):
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, vectors[ordinals] @ query, rtol=1e-4, atol=1e-6)
        overlap.append(len(set(ordinals.tolist()) & set(expected(vectors, query, 10, id_rank))) / 10)
    assert np.mean(overlap) > 0.8


def test_a_narrow_filter_is_answered_exactly_by_an_inexact_index(tmp_path):
    vectors = unit(3000, 16)
    allowed = np.zeros(3000, bool)
    allowed[::100] = True
    dense = open_dense(tmp_path / "d", vectors, "HNSW8")
    ((_, ordinals),), exact = dense.search(vectors[:1], 10, np.arange(3000, dtype=np.int32), allowed)
    assert exact
    assert ordinals.tolist() == expected(vectors, vectors[0], 10, np.arange(3000), allowed)


def test_a_filter_that_leaves_nothing(tmp_path):
    vectors = unit(30, 16)
    found, exact = open_dense(tmp_path / "d", vectors).search(
        vectors[:2], 3, np.arange(30, dtype=np.int32), np.zeros(30, bool)
    )
    assert exact
    assert [len(ordinals) for _, ordinals in found] == [0, 0]


def test_more_hits_than_documents(tmp_path):
    vectors = unit(3000, 16)
    dense = open_dense(tmp_path / "d", vectors, "HNSW8")
    ((_, ordinals),), exact = dense.search(vectors[:1], 9999, np.arange(3000, dtype=np.int32), None)
    assert exact
    assert sorted(ordinals.tolist()) == list(range(3000))


def test_too_few_documents_to_train_fall_back_to_exact():
    assert factory_string("ivf,pq", 500, 384) is None
    assert factory_string("flat", 10**6, 384) is None
    assert factory_string("ivf,pq", 100_000, 384) == "IVF1024,PQ96"
    assert factory_string("IVF4,Flat", 10, 384) == "IVF4,Flat"


def test_identical_vectors_train_without_hanging():
    vectors = np.repeat(unit(1, 16), 500, axis=0)
    assert train_index(vectors, "IVF8,PQ4x4").ntotal == 500


@pytest.mark.parametrize("factory", ["HNWS32", "IVF99999,PQ8", "PQ7"])
def test_a_factory_string_that_does_not_work(factory):
    with pytest.raises(InvalidInput, match=r"FAISS (could not train|cannot make)"):
        train_index(unit(100, 16), factory)


def test_binary_needs_whole_bytes():
    with pytest.raises(InvalidInput, match="8 divides, got 12"):
        pack_signs(unit(3, 12))


def test_exact_search_by_hand():
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    scores, ordinals = exact_search(vectors, np.array([[1, 0]], np.float32), 2)
    assert ordinals.tolist() == [[0, 2]]
    np.testing.assert_allclose(scores, [[1, 0.6]], rtol=1e-6)


def test_a_flipped_byte_is_refused_before_faiss_reads_it(tmp_path):
    path = tmp_path / FAISS_FILE
    write_faiss(train_index(unit(200, 16), "HNSW8"), path)
    digest = sha256_of(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match="was altered"):
        read_faiss(path, digest)


@pytest.mark.parametrize("keep", [10, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_faiss(tmp_path, keep):
    path = tmp_path / FAISS_FILE
    write_faiss(train_index(unit(200, 16), "IVF4,Flat"), path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(IndexCorrupt, match="FAISS refuses"):
        read_faiss(path, sha256_of(path))


def test_a_file_that_asks_for_far_too_much_memory_is_refused(tmp_path):
    path = tmp_path / FAISS_FILE
    index = train_index(unit(300, 16), "PQ4")
    write_faiss(index, path)
    content = bytearray(path.read_bytes())
    # Whatever eight-byte count stands at these places, make it a trillion.
    for place in range(0, min(len(content) - 8, 200), 4):
        hostile = bytearray(content)
        hostile[place : place + 8] = (10**12).to_bytes(8, "little")
        path.write_bytes(hostile)
        try:
            read_faiss(path, sha256_of(path))
        except IndexCorrupt:
            continue
        # FAISS may ignore a field; then the size of what it holds has not grown.
    assert load_faiss().get_deserialization_vector_byte_limit() <= len(content)
