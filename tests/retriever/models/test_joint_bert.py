"""The cross-encoder that begins as a bi-encoder: its start is the bi-encoder's cosine, padding changes nothing."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer

from retriever.models import resolve
from retriever.models.joint_bert import from_bi_encoder
from retriever.rerank import CrossEncoderReranker
from retriever.types import Document

QUERY = "how to open a socket"
TEXTS = [
    "A socket is opened with socket.create_connection.",
    "Bread is baked.",
    "Open a file for reading, line by line.",
]


@pytest.fixture(scope="module")
def base():
    return resolve("splade-tiny", offline=True)


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(str(base))


def logits(model, tokenizer, texts):
    inputs = tokenizer([QUERY] * len(texts), texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(**inputs).logits.reshape(-1).numpy()


@pytest.mark.parametrize("joint_layers", [0, 1, 2])
def test_it_begins_as_the_bi_encoder(base, tokenizer, joint_layers):
    transformer = Transformer(str(base))
    encoder = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])
    query, documents = encoder.encode([QUERY]), encoder.encode(TEXTS)
    cosines = (encoder.similarity(query, documents)).numpy().ravel()
    found = logits(from_bi_encoder(str(base), joint_layers), tokenizer, TEXTS)
    np.testing.assert_allclose(found, 20 * cosines, atol=2e-4)


def test_padding_and_the_batch_change_nothing(base, tokenizer):
    model = from_bi_encoder(str(base), joint_layers=1)
    torch.nn.init.normal_(model.classifier.weight)
    together = logits(model, tokenizer, TEXTS)
    alone = np.concatenate([logits(model, tokenizer, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_the_reranker_opens_its_folder(base, tokenizer, tmp_path):
    model = from_bi_encoder(str(base), joint_layers=1)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    reranker = CrossEncoderReranker(tmp_path, device="cpu")
    scores, cut = reranker.score(QUERY, [Document(str(i), text) for i, text in enumerate(TEXTS)])
    assert cut == 0
    np.testing.assert_allclose(scores, logits(model, tokenizer, TEXTS), atol=1e-4)
    half = CrossEncoderReranker(tmp_path, device="cpu", precision="bfloat16")
    rough, _ = half.score(QUERY, [Document(str(i), text) for i, text in enumerate(TEXTS)])
    np.testing.assert_allclose(rough, scores, atol=0.5)


def test_gradients_reach_the_upper_layers_and_an_empty_document_is_finite(base, tokenizer):
    model = from_bi_encoder(str(base), joint_layers=1)
    inputs = tokenizer([QUERY, QUERY], ["", TEXTS[0]], padding=True, return_tensors="pt")
    found = model(**inputs).logits
    assert torch.isfinite(found).all()
    torch.nn.init.normal_(model.classifier.weight)
    model.freeze_bi_encoder()
    model(**inputs).logits.sum().backward()
    assert model.joint[0].attention.self.query.weight.grad.abs().sum() > 0
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad is None
    with pytest.raises(ValueError, match="token_type_ids"):
        model(input_ids=inputs["input_ids"])
