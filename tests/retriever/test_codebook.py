"""Codebooks against their definition and against FAISS."""

import faiss
import numpy as np
import pytest

from retriever.codebook import Codebook, train_codebook
from retriever.errors import InvalidInput


def vectors(rows=1500, width=24, seed=0):
    generator = np.random.default_rng(seed)
    # Correlated dimensions, which a rotation can make use of.
    mixed = generator.standard_normal((rows, 6)) @ generator.standard_normal((6, width))
    return (mixed + 0.1 * generator.standard_normal((rows, width))).astype(np.float32)


@pytest.mark.parametrize("parts", [1, 4, 24])
def test_codes_are_the_nearest_centroids_and_decode_to_them(parts):
    found = vectors()
    book = train_codebook(found, parts, rounds=4)
    np.testing.assert_allclose(book.rotation @ book.rotation.T, np.eye(24), atol=1e-4)
    codes = book.encode(found)
    assert (codes.shape, codes.dtype) == ((1500, parts), np.uint8)
    turned = found @ book.rotation.T
    cut = turned.reshape(1500, parts, -1)
    distances = ((cut[:, :, None] - book.centroids[None]) ** 2).sum(axis=3)
    chosen = np.take_along_axis(distances, codes[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    np.testing.assert_allclose(chosen, distances.min(axis=2), atol=1e-4)
    decoded = book.decode(codes)
    assert np.array_equal(decoded[7].reshape(parts, -1)[0], book.centroids[0, codes[7, 0]])
    # What codes stand for encodes to the same codes.
    assert np.array_equal(book.encode_rotated(decoded), codes)


def test_a_rotation_loses_less_and_more_parts_lose_less():
    found = vectors()

    def loss(parts, rotate):
        book = train_codebook(found, parts, rotate=rotate, rounds=8)
        return float(((book.decode(book.encode(found)) - book.rotated(found)) ** 2).mean())

    assert loss(4, True) < loss(4, False)
    assert loss(8, True) < loss(4, True) < loss(2, True)


def test_codes_agree_with_faiss():
    found = vectors()
    book = train_codebook(found, 6, rotate=False, rounds=4)
    quantiser = faiss.ProductQuantizer(24, 6, 8)
    faiss.copy_array_to_vector(book.centroids.ravel(), quantiser.centroids)
    assert np.array_equal(quantiser.compute_codes(found), book.encode(found))


def test_a_codebook_comes_back_from_its_file(tmp_path):
    book = train_codebook(vectors(), 3, rounds=2)
    book.save(tmp_path / "book.safetensors")
    again = Codebook.load(tmp_path / "book.safetensors")
    assert np.array_equal(again.rotation, book.rotation)
    assert np.array_equal(again.centroids, book.centroids)
    (tmp_path / "none.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidInput, match="no codebook"):
        Codebook.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("data", "parts", "message"),
    [
        (vectors(), 5, r"5 parts do not divide the width 24; use one of \[1, 2, 3, 4, 6, 8, 12, 24\]"),
        (vectors(200), 4, "256 centroids cannot be found from 200 vectors"),
        (np.ones((300, 8), np.float32), 2, "all 300 vectors are the same"),
        (np.where(np.arange(24) == 3, np.nan, vectors(300)), 4, "vector 0 holds a number that is NaN"),
    ],
)
def test_what_cannot_be_quantised_is_refused(data, parts, message):
    with pytest.raises(InvalidInput, match=message):
        train_codebook(data, parts)


def test_a_rotation_needs_as_many_vectors_as_dimensions():
    vectors = np.random.default_rng(0).standard_normal((300, 384)).astype(np.float32)
    with pytest.raises(InvalidInput, match="300 vectors are too few to learn a rotation of 384 dimensions"):
        train_codebook(vectors, 4)
    assert train_codebook(vectors, 4, rotate=False, rounds=1).parts == 4
