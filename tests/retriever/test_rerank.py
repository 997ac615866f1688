"""The cross-encoder on a model of two layers: its scores are the model's own, and odd inputs are defined."""

import threading

import numpy as np
import pytest
import torch

from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.models import resolve
from retriever.protocols import Reranker
from retriever.rerank import CrossEncoderReranker
from retriever.types import Document

QUERY = "how do I read a file line by line"
TEXTS = [
    "Open the file and iterate over it.",
    "Sparse matrices store only what is not zero.",
    "for line in open(path): print(line)",
    "x",
    "",
    "A much longer text about files, lines, buffers and the reading of them. " * 3,
]


def documents(texts):
    return [Document(str(i), text) for i, text in enumerate(texts)]


def save_model(folder, *, labels=1, bias=0.0):
    """Save an untrained cross-encoder of width 32 that reads 48 tokens, with MiniLM's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=48, num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    torch.nn.init.constant_(model.classifier.bias, bias)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2"))
    tokenizer.model_max_length = 48
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "cross")


@pytest.fixture(scope="module")
def reranker(folder):
    return CrossEncoderReranker(folder, device="cpu")


@pytest.fixture(scope="module")
def logit(folder):
    """Return a function that gives the raw output for one pair, by transformers alone."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder).eval()

    def score(query, text):
        with torch.inference_mode():
            # In lists, as a lone empty text would count as no text.
            encoded = tokenizer([query], [text], truncation=True, max_length=48, return_tensors="pt")
            return model(**encoded).logits.item()

    return score


def test_scores_are_the_raw_outputs_of_the_model(reranker, logit):
    assert isinstance(reranker, Reranker)
    scores, truncated = reranker.score(QUERY, documents(TEXTS))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [logit(QUERY, text) for text in TEXTS], atol=1e-4)
    assert truncated == 1
    # A sigmoid would keep them between 0 and 1.
    assert scores.min() < 0 or scores.max() > 1


def test_the_title_is_read_before_the_text(reranker, logit):
    found, _ = reranker.score(QUERY, [Document("a", "the text", "The title"), Document("b", "the text")])
    np.testing.assert_allclose(found, [logit(QUERY, "The title the text"), logit(QUERY, "the text")], atol=1e-4)


def test_a_score_does_not_depend_on_the_company_it_is_in(reranker):
    scores, _ = reranker.score(QUERY, documents(TEXTS))
    order = [3, 0, 5, 2, 4, 1]
    shuffled, _ = reranker.score(QUERY, [documents(TEXTS)[i] for i in order])
    assert shuffled.tolist() == scores[order].tolist()
    alone = [reranker.score(QUERY, [document])[0][0] for document in documents(TEXTS)]
    np.testing.assert_allclose(scores, alone, atol=1e-4)


def test_equal_documents_tie(reranker):
    scores, truncated = reranker.score(QUERY, documents([TEXTS[5], TEXTS[0], TEXTS[5], TEXTS[0], TEXTS[5]]))
    assert scores[0] == scores[2] == scores[4] != scores[1] == scores[3]
    assert truncated == 3


@pytest.mark.parametrize("count", [0, 1])
def test_few_documents(reranker, count):
    scores, truncated = reranker.score("", documents([""] * count))
    assert scores.shape == (count,)
    assert np.isfinite(scores).all()
    assert truncated == 0


def test_five_thousand_documents(reranker):
    texts = [f"entry {number} of {number % 7} files" for number in range(5000)]
    scores, truncated = reranker.score(QUERY, documents(texts))
    assert scores.shape == (5000,)
    assert len(set(scores.tolist())) > 4000
    assert truncated == 0
    few, _ = reranker.score(QUERY, documents([texts[4321], texts[17]]))
    np.testing.assert_allclose(few, scores[[4321, 17]], atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 50, 100_000])
def test_the_size_of_batches_changes_nothing(folder, reranker, tokens):
    expected, _ = reranker.score(QUERY, documents(TEXTS))
    other = CrossEncoderReranker(folder, device="cpu", max_batch_tokens=tokens)
    np.testing.assert_allclose(other.score(QUERY, documents(TEXTS))[0], expected, atol=1e-4)


def test_what_is_cut_is_counted(reranker):
    # Special tokens take 3 of the 48: a query of 1 leaves 44 for a document.
    scores, truncated = reranker.score("a", documents(["b " * 44, "b " * 45, "b " * 46, "b " * 1_000_000]))
    assert truncated == 3
    assert scores[1] == scores[2] == scores[3]
    assert reranker.score("a " * 60, documents(["b", "c"]))[1] == 2


def test_scores_that_are_not_finite_are_a_fault_of_the_model(tmp_path):
    broken = CrossEncoderReranker(save_model(tmp_path / "broken", bias=float("nan")), device="cpu")
    with pytest.raises(ModelFault, match="not finite"):
        broken.score(QUERY, documents(["a", "b"]))


def limit_batches(reranker, most):
    """Make a forward pass of more than `most` pairs run out of memory."""

    def refuse(_, inputs):
        if len(inputs[0]["input_ids"]) > most:
            raise torch.OutOfMemoryError("out of memory")

    reranker._model.register_forward_pre_hook(refuse)


def test_a_batch_too_large_for_memory_is_halved_once(folder, reranker):
    expected, _ = reranker.score(QUERY, documents(TEXTS))
    short = CrossEncoderReranker(folder, device="cpu")
    limit_batches(short, 3)
    np.testing.assert_allclose(short.score(QUERY, documents(TEXTS))[0], expected, atol=1e-4)
    limit_batches(short, 2)
    with pytest.raises(BackendUnavailable, match="give max_batch_tokens below 4096"):
        short.score(QUERY, documents(TEXTS))


def test_bfloat16_scores_are_close_and_fine_enough_to_rank_by(folder, reranker):
    texts = [f"{text} {number}" for text in TEXTS for number in range(20)]
    expected, _ = reranker.score(QUERY, documents(texts))
    half = CrossEncoderReranker(folder, device="cpu", precision="bfloat16")
    found, _ = half.score(QUERY, documents(texts))
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    # A bfloat16 head would leave 8 bits, about 40 different scores.
    assert len(set(found.tolist())) > 90
    assert all(parameter.dtype == torch.float32 for parameter in half._model.model.classifier.parameters())


def test_threads_wait_for_each_other(reranker):
    # Lengths differ, so that the tokenizer's state would be changed under another thread.
    queries = [f"{QUERY} {'again ' * number}" for number in range(8)]
    expected = [reranker.score(query, documents(TEXTS))[0].tolist() for query in queries]
    found = [None] * 8

    def run(number):
        for _ in range(5):
            found[number] = reranker.score(queries[number], documents(TEXTS))[0].tolist()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # How many threads torch takes, and with it the order of sums, differs between threads.
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_model_with_two_outputs_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="gives 2 scores for a pair"):
        CrossEncoderReranker(save_model(tmp_path / "two", labels=2), device="cpu")


def test_a_bi_encoder_is_refused_instead_of_getting_a_random_head():
    with pytest.raises(InvalidInput, match="is not a cross-encoder"):
        CrossEncoderReranker("all-MiniLM-L6-v2", device="cpu", offline=True)


def test_an_unknown_model(tmp_path):
    with pytest.raises(InvalidInput, match="no-such-reranker"):
        CrossEncoderReranker("no-such-reranker", offline=True)
    with pytest.raises(InvalidInput, match="not a model folder"):
        CrossEncoderReranker(tmp_path)


@pytest.mark.parametrize(
    "device",
    ["warp", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"))],
)
def test_a_device_that_is_not_there(folder, device):
    with pytest.raises(BackendUnavailable, match=f"cannot be loaded on {device}"):
        CrossEncoderReranker(folder, device=device)


def test_settings_are_checked(folder):
    with pytest.raises(InvalidInput, match="float32 or bfloat16, got 'int8'"):
        CrossEncoderReranker(folder, precision="int8")
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        CrossEncoderReranker(folder, max_batch_tokens=0)
