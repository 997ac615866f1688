"""Vectors kept as codes, as float16, or not at all: scores, exactness, filters, ties, merging, faulty files."""

import numpy as np
import pytest

from indexing.segments import write_dense
from kernels import hamming
from retriever.codebook import Codebook, train_codebook
from retriever.errors import IndexCorrupt, IndexMismatch, InvalidInput
from retriever.index.codes import CODES, read_codes
from retriever.index.dense import ABSENT, VECTORS, DenseReader
from retriever.index.form import Form, product_parts, read_codebook, require_form, write_codebook
from tests.retriever.index.test_dense import expected, unit

WIDTH = 32
RANK = np.random.default_rng(2).permutation(3000).astype(np.int32)


@pytest.fixture(scope="module")
def vectors():
    # Of low rank with noise, as embeddings are.
    made = unit(3000, 8) @ unit(8, WIDTH, seed=3) + 0.02 * unit(3000, WIDTH, seed=4)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors):
    return (vectors[:12] + 0.1 * unit(12, WIDTH, seed=5)).astype(np.float32)


@pytest.fixture(scope="module")
def codebook(vectors):
    return train_codebook(vectors, 8, rounds=5)


def source(folder, vectors, absent=()):
    folder.mkdir(exist_ok=True)
    np.save(folder / VECTORS, vectors)
    np.save(folder / ABSENT, np.array(absent, np.int32))
    return folder


def opened(folder, form, live=None, oversample=4):
    codes = read_codes(folder / CODES, form.width, form.codebook) if form.has_codes else None
    return DenseReader(folder, faiss_sha256=None, oversample=oversample, live=live, codes=codes)


def sealed(folder, vectors, form, **options):
    folder.mkdir(exist_ok=True)
    source(folder / "shard", vectors)
    target = folder / "segment"
    target.mkdir()
    write_dense([folder / "shard"], [None], len(vectors), target, form)
    return opened(target, form, **options)


def form(kind, stored, codebook):
    return Form(WIDTH, kind, stored, codebook if "pq" in kind else None)


def represented(vectors, kind, stored, codebook):
    """Return what the numbers of an answer are about, computed apart from the index."""
    if stored != "none":
        return vectors.astype(stored).astype(np.float32)
    if kind == "binary":
        return np.where(vectors >= 0, np.float32(1), np.float32(-1))
    return codebook.decode(codebook.encode(vectors)) @ codebook.rotation


FORMS = [("flat", "float16"), ("binary", "float32"), ("binary", "float16"), ("binary", "none"), ("opq8", "float32"),
         ("opq8", "float16"), ("opq8", "none")]  # fmt: skip


@pytest.mark.parametrize(("kind", "stored"), FORMS)
@pytest.mark.parametrize("share", [None, 0.3])
def test_exact_search_looks_at_all_that_is_stored(tmp_path, vectors, queries, codebook, kind, stored, share):
    reader = sealed(tmp_path / "d", vectors, form(kind, stored, codebook))
    allowed = None if share is None else np.random.default_rng(6).random(3000) < share
    found, exact = reader.search(queries, 10, RANK, allowed, exact=True)
    assert exact
    kept = represented(vectors, kind, stored, codebook)
    for (scores, ordinals), query in zip(found, queries, strict=True):
        # Sums in another order differ in the last bits, which may exchange neighbours.
        np.testing.assert_allclose(scores, (kept @ query)[expected(kept, query, 10, RANK, allowed)], atol=1e-5)
        np.testing.assert_allclose(scores, kept[ordinals] @ query, atol=1e-5)
        assert allowed is None or allowed[ordinals].all()


@pytest.mark.parametrize(("kind", "stored"), FORMS)
def test_search_by_codes_finds_most_of_the_best(tmp_path, vectors, queries, codebook, kind, stored):
    reader = sealed(tmp_path / "d", vectors, form(kind, stored, codebook))
    # 500 of 3000 documents are scored again.
    found, exact = reader.search(queries, 10, RANK, None)
    best, _ = reader.search(queries, 10, RANK, None, exact=True)
    assert exact == reader.is_exact == (kind == "flat" or (kind, stored) == ("opq8", "none"))
    overlap = [len(set(a.tolist()) & set(b.tolist())) / 10 for (_, a), (_, b) in zip(found, best, strict=True)]
    assert np.mean(overlap) > 0.9
    kept = represented(vectors, kind, stored, codebook)
    for (scores, ordinals), query in zip(found, queries, strict=True):
        np.testing.assert_allclose(scores, kept[ordinals] @ query, atol=1e-5)


@pytest.mark.parametrize(("kind", "stored"), FORMS)
def test_one_query_and_a_batch_give_the_same(tmp_path, vectors, queries, codebook, kind, stored):
    reader = sealed(tmp_path / "d", vectors, form(kind, stored, codebook))
    together, _ = reader.search(queries, 7, RANK, None)
    for query, (_, ordinals) in zip(queries, together, strict=True):
        ((_, alone),), _ = reader.search(query[None], 7, RANK, None)
        assert alone.tolist() == ordinals.tolist()


def test_sign_codes_alone_by_hand(tmp_path):
    vectors = np.array([[3, -2], [0, 5], [-1, -1]], np.float32)
    reader = sealed(tmp_path / "d", vectors, Form(2, "binary", "none"))
    ((scores, ordinals),), exact = reader.search(np.array([[2, 1]], np.float32), 3, np.arange(3, dtype=np.int32), None)
    # Codes (+ -), (+ +), (- -): the query scores them 2 - 1, 2 + 1, - 2 - 1. Three documents are all looked at.
    assert exact
    assert ordinals.tolist() == [1, 0, 2]
    assert scores.tolist() == [3, 1, -3]
    np.testing.assert_array_equal(reader.stored(np.array([2, 0])), [[-1, -1], [1, -1]])


@pytest.mark.parametrize("width", [64, 384])
def test_sign_codes_take_a_bit_a_dimension(tmp_path, width):
    sealed(tmp_path / "d", unit(100, width), Form(width, "binary", "none"))
    folder = tmp_path / "d" / "segment"
    assert len(np.load(folder / CODES).tobytes()) == 100 * width // 8
    assert not (folder / VECTORS).exists()


def test_ties_of_codes_stand_in_order_of_id(tmp_path, codebook):
    vectors = np.repeat(unit(3, WIDTH), 400, axis=0)
    rank = np.arange(1200, dtype=np.int32)[::-1].copy()
    for number, kind in enumerate(["binary", "opq8"]):
        reader = sealed(tmp_path / str(number), vectors, form(kind, "none", codebook))
        ((_, ordinals),), _ = reader.search(vectors[:1], 5, rank, None, exact=True)
        assert ordinals.tolist() == [399, 398, 397, 396, 395]


@pytest.mark.parametrize("kind", ["binary", "opq8"])
def test_deleted_and_absent_documents_never_appear(tmp_path, vectors, queries, codebook, kind):
    shape = form(kind, "none", codebook)
    live = np.ones(3000, bool)
    live[::2] = False
    source(tmp_path / "shard", vectors, absent=[1, 3])
    (tmp_path / "segment").mkdir()
    write_dense([tmp_path / "shard"], [None], 3000, tmp_path / "segment", shape)
    reader = opened(tmp_path / "segment", shape, live=live)
    found, _ = reader.search(queries, 800, RANK, None)
    for _, ordinals in found:
        assert len(ordinals) == 800
        assert not {1, 3} & set(ordinals.tolist())
        assert live[ordinals].all()


@pytest.mark.parametrize(("kind", "stored"), FORMS)
def test_merging_copies_codes(tmp_path, vectors, codebook, kind, stored):
    shape = form(kind, stored, codebook)
    kept = np.random.default_rng(7).random(1000) < 0.5
    for name, part in {"a": vectors[:1000], "b": vectors[1000:1101]}.items():
        sealed(tmp_path / name, part, shape)
    other = Form(WIDTH, kind, stored, Codebook(codebook.rotation, codebook.centroids + 1)) if "pq" in kind else shape
    merged, again = tmp_path / "merged", tmp_path / "again"
    for target, by in ((merged, shape), (again, other)):
        target.mkdir()
        folders = [tmp_path / "a" / "segment", tmp_path / "b" / "segment"]
        write_dense(folders, [kept, None], int(kept.sum()) + 101, target, by)
    whole = sealed(tmp_path / "whole", np.concatenate([vectors[:1000][kept], vectors[1000:1101]]), shape)
    ordinals = np.arange(int(kept.sum()) + 101)
    np.testing.assert_array_equal(opened(merged, shape).stored(ordinals), whole.stored(ordinals))
    if shape.has_codes:
        # A codebook that would give other codes changes nothing: nothing is decoded and encoded.
        assert (merged / CODES).read_bytes() == (again / CODES).read_bytes()
        assert (merged / CODES).read_bytes() == (tmp_path / "whole" / "segment" / CODES).read_bytes()


def test_codes_of_a_model_are_kept_without_loss(tmp_path, vectors, codebook):
    # What a model with a head gives for documents: signs, or centroids in the rotated space.
    signs = np.where(vectors >= 0, np.float32(1), np.float32(-1))
    reader = sealed(tmp_path / "s", signs, Form(WIDTH, "binary", "none"))
    np.testing.assert_array_equal(reader.stored(np.arange(3000)), signs)
    decoded = codebook.decode(codebook.encode(vectors))
    own = Codebook(np.eye(WIDTH, dtype=np.float32), codebook.centroids)
    reader = sealed(tmp_path / "p", decoded, Form(WIDTH, "pq8", "none", own))
    np.testing.assert_array_equal(reader.stored(np.arange(3000)), decoded)


def test_numbers_beyond_float16_are_refused(tmp_path):
    large = unit(10, 8)
    large[3, 2] = 7e4
    with pytest.raises(InvalidInput, match="float16 goes to 65504; store float32"):
        sealed(tmp_path / "d", large, Form(8, "flat", "float16"))


def test_kinds():
    assert product_parts("opq48") == (48, True)
    assert product_parts("pq8") == (8, False)
    assert [product_parts(kind) for kind in ("PQ8", "pq", "pq0", "IVF4,PQ8", "binary")] == [None] * 5
    with pytest.raises(InvalidInput, match="5 parts do not divide the width 32"):
        require_form("opq5", "float32", 32)
    with pytest.raises(InvalidInput, match="'hnsw' without stored vectors would hold nothing"):
        require_form("hnsw", "none", 32)
    with pytest.raises(InvalidInput, match="float32, float16, none, got 'int8'"):
        require_form("flat", "int8", 32)


def test_a_codebook_of_another_encoder_is_refused(tmp_path, codebook):
    path = tmp_path / "codebook.safetensors"
    write_codebook(path, codebook, {"weights": "one", "prompts": "{}"})
    assert read_codebook(path, {"weights": "one", "prompts": "{}"}).parts == 8
    with pytest.raises(IndexMismatch, match="codebook of another encoder. weights: the index has 'two'"):
        read_codebook(path, {"weights": "two", "prompts": "{}"})


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, None])
def test_a_file_that_is_no_codebook(tmp_path, codebook, content):
    path = tmp_path / "codebook.safetensors"
    # One that does not say whose it is may be anybody's.
    codebook.save(path) if content is None else path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match="is not the codebook of an index"):
        read_codebook(path, {"weights": "one"})


@pytest.mark.parametrize("content", [np.zeros(7, np.uint8), np.zeros((3, 8), np.uint8), np.zeros(8, np.int64)])
def test_faulty_codes_are_refused(tmp_path, codebook, content):
    np.save(tmp_path / CODES, content)
    with pytest.raises(IndexCorrupt, match="no codes of vectors of width 32 in 8 parts"):
        read_codes(tmp_path / CODES, WIDTH, codebook)


def test_sign_codes_are_those_of_the_kernel(tmp_path, vectors):
    sealed(tmp_path / "d", vectors, Form(WIDTH, "binary", "none"))
    content = np.load(tmp_path / "d" / "segment" / CODES)
    np.testing.assert_array_equal(content, hamming.packed(vectors).words)
