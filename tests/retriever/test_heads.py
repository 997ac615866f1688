"""Heads that compress documents: what they give, what training can reach, and that they are saved with the model."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from retriever.codebook import train_codebook
from retriever.encoder import load_encoder
from retriever.heads import open_model
from retriever.heads.product import ProductHead
from retriever.heads.sign import SignHead
from retriever.types import Document
from training.encoders import open_base
from training.settings import EncoderSettings

TEXTS = ["a file is opened", "sockets and ports", "sort a list of numbers", "read lines of text"]


def base():
    return open_base(EncoderSettings(base="splade-tiny", similarity="dot"), offline=True)


def documents():
    return [Document(str(place), text) for place, text in enumerate(TEXTS)]


def test_signs_of_documents_and_queries_as_they_are(tmp_path):
    model = base()
    plain = model.encode_document(TEXTS), model.encode_query(TEXTS)
    model.append(SignHead(model.get_embedding_dimension()))
    model.save(str(tmp_path / "model"))
    encoder = load_encoder(tmp_path / "model")
    assert encoder.codes == "sign"
    assert np.array_equal(encoder.encode_documents(documents()), np.where(plain[0] >= 0, 1, -1))
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), plain[1], atol=1e-5)


@pytest.mark.parametrize("slope", ["tanh", "straight-through"])
def test_gradients_pass_the_step(slope):
    head = SignHead(3, slope).train()
    embeddings = torch.tensor([[0.5, -0.2, 0.0]], requires_grad=True)
    codes = head({"sentence_embedding": embeddings}, task="document")["sentence_embedding"]
    codes.sum().backward()
    if slope == "tanh":
        assert torch.allclose(codes, torch.tanh(embeddings))
        assert torch.allclose(embeddings.grad, 1 - torch.tanh(embeddings) ** 2)
        head.beta = 1000.0
        assert torch.allclose(head.codes(embeddings), torch.tensor([[1.0, -1.0, 0.0]]))
    else:
        assert codes.tolist() == [[1, -1, 1]]
        assert embeddings.grad.tolist() == [[1, 1, 1]]
    assert head.eval().codes(embeddings).tolist() == [[1, -1, 1]]


def test_products_of_documents_and_rotated_queries(tmp_path):
    generator = np.random.default_rng(0)
    model = base()
    width = model.get_embedding_dimension()
    plain = model.encode_document(TEXTS), model.encode_query(TEXTS)
    sample = np.concatenate([plain[0], plain[0].repeat(80, 0) + 0.05 * generator.standard_normal((320, width))])
    book = train_codebook(sample.astype(np.float32), 16, rounds=3)
    model.append(ProductHead.of(book))
    model.save(str(tmp_path / "model"))
    encoder = load_encoder(tmp_path / "model")
    assert np.array_equal(encoder.codes.centroids, book.centroids)
    np.testing.assert_allclose(encoder.encode_documents(documents()), book.decode(book.encode(plain[0])), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), book.rotated(plain[1]), atol=1e-4)


def test_trained_centroids_leave_the_codes_as_they_were():
    generator = torch.Generator().manual_seed(0)
    book = train_codebook(torch.randn(400, 8, generator=generator).numpy(), 2, rounds=3)
    head = ProductHead.of(book)
    embeddings = torch.randn(20, 8, generator=generator)
    codes = head.assign(head.rotated(embeddings))
    assert codes.tolist() == book.encode(embeddings.numpy()).tolist()
    head({"sentence_embedding": embeddings}, task="document")["sentence_embedding"].sum().backward()
    used = torch.zeros_like(head.centroids)
    for row in codes:
        used[torch.arange(2), row] += 1
    assert torch.equal(head.centroids.grad, used)
    with torch.no_grad():
        head.centroids += torch.randn(head.centroids.shape, generator=generator)
    assert torch.equal(head.assign(head.rotated(embeddings)), codes)


def test_the_library_alone_opens_a_head_where_it_may_import_it(tmp_path):
    model = base()
    model.append(SignHead(model.get_embedding_dimension()))
    model.save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="retriever.heads.sign.SignHead.*not part of Sentence Transformers"):
        SentenceTransformer(str(tmp_path / "model"))
    # The folder was written a few lines above, by this project's classes.
    trusted = SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True)
    ours = open_model(tmp_path / "model")
    assert np.array_equal(trusted.encode_document(TEXTS), ours.encode_document(TEXTS))
    assert set(np.unique(ours.encode_document(TEXTS))) == {-1.0, 1.0}


def test_only_classes_of_this_project_are_loaded(tmp_path):
    model = base()
    model.append(SignHead(model.get_embedding_dimension()))
    model.save(str(tmp_path / "model"))
    path = tmp_path / "model" / "modules.json"
    modules = json.loads(path.read_text())
    modules[-1]["type"] = "os.path.Evil"
    path.write_text(json.dumps(modules))
    with pytest.raises(Exception, match="trust_remote_code"):
        load_encoder(tmp_path / "model")
