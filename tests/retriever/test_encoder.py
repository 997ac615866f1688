"""The bi-encoder: counting tokens, however many texts there are."""

import numpy as np
import pytest

from retriever import encoder as encoder_module
from retriever.encoder import _portions
from retriever.types import Document

TEXTS = [
    "", " ", "one", "A sentence of seven words, and more.", "naïve café", "検索エンジン", "\ud7ff\U0001f600", "\x00\t\n",
    "x" * 3_000, "word " * 700, "a" * 99, "[SEP] [MASK]", "def f(x): return x",
]  # fmt: skip


def whole(encoder, texts):
    """Count without portions: the definition."""
    with encoder._lock:
        encoded = encoder.model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


@pytest.mark.parametrize(("most_texts", "most_characters"), [(1, 10**9), (2, 100), (5, 3_000), (10**9, 1), (13, 5_000)])
def test_counts_do_not_depend_on_the_portions(encoder, monkeypatch, most_texts, most_characters):
    expected = whole(encoder, TEXTS)
    assert max(expected) > encoder.max_tokens
    monkeypatch.setattr(encoder_module, "COUNTED_TEXTS", most_texts)
    monkeypatch.setattr(encoder_module, "COUNTED_CHARACTERS", most_characters)
    assert encoder.count_tokens(TEXTS) == expected
    assert encoder.count_tokens(tuple(TEXTS[::-1])) == expected[::-1]
    assert encoder.count_tokens([]) == []


def test_more_texts_than_one_portion_holds(encoder):
    texts = [f"{TEXTS[i % 8]} {i}" for i in range(2_500)]
    assert encoder.count_tokens(texts) == whole(encoder, texts)


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        (["x"] * 5_000, [1_024] * 4 + [904]),
        (["x" * 1_000] * 5_000, [1_000] * 5),
        (["x" * 600_000] * 3, [1] * 3),
        (["x", "x" * 32_000_000, "x", "x"], [1, 1, 2]),
        (["x" * 1_000_000, "", "x"], [2, 1]),
        ([""], [1]),
        ([], []),
    ],
)
def test_a_tokeniser_gets_a_bounded_amount_at_once(texts, sizes):
    portions = list(_portions(texts))
    assert [text for portion in portions for text in portion] == texts
    assert [len(portion) for portion in portions] == sizes


def test_counting_a_shard_gives_the_tokeniser_a_part_of_it_at_a_time(encoder, monkeypatch):
    """Two million characters in forty texts: a thousand texts alone would not bound it."""
    given = []
    tokenizer = type(encoder.model.tokenizer)
    call = tokenizer.__call__

    def watch(self, batch, *arguments, **options):
        given.append(sum(map(len, batch)))
        return call(self, batch, *arguments, **options)

    monkeypatch.setattr(tokenizer, "__call__", watch)
    counts = encoder.count_tokens(["word " * 10_000] * 40)
    assert counts == [10_002] * 40
    assert given == [1_000_000, 1_000_000]


def test_vectors_do_not_depend_on_the_portions(encoder, monkeypatch):
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS)]
    expected = encoder.encode_documents(documents)
    monkeypatch.setattr(encoder_module, "COUNTED_TEXTS", 3)
    np.testing.assert_array_equal(encoder.encode_documents(documents), expected)
