"""Word pieces of real tokenizers."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from retriever.analysis import analyser
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.models import resolve


@pytest.fixture(scope="module", params=["all-MiniLM-L6-v2", "multilingual-e5-small"])
def folder(request):
    try:
        return resolve(request.param, offline=True)
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def minilm():
    try:
        resolve("all-MiniLM-L6-v2", offline=True)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return analyser("wordpiece:all-MiniLM-L6-v2")


def test_terms_by_hand(minilm):
    assert minilm.terms("Tokenization of Überraschungen!") == [
        "token", "##ization", "of", "uber", "##ras", "##chu", "##ngen", "!",
    ]  # fmt: skip


def test_special_tokens_are_left_out(minilm):
    assert minilm.terms("[CLS] dog [MASK] \u30fd\U0001fae8 [SEP]") == ["dog"]


def test_long_texts_are_not_truncated(minilm):
    assert minilm.terms("dog " * 5000) == ["dog"] * 5000


def test_places(minilm):
    text = "Überraschungen, 東京"
    assert [(token.term, text[token.start : token.end]) for token in minilm.tokens(text)] == [
        ("uber", "Über"), ("##ras", "ras"), ("##chu", "chu"), ("##ngen", "ngen"), (",", ","), ("東", "東"), ("京", "京"),
    ]  # fmt: skip


def test_a_folder_with_a_tokenizer_is_enough(folder, tmp_path):
    content = (folder / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(content)
    made = analyser(f"wordpiece:{tmp_path}")
    text = "Die Straße führt nach 東京, 123 [MASK] <mask>"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    expected = tokenizer.encode(text, add_special_tokens=False)
    unwanted = {"[UNK]", "[MASK]", "<unk>", "<mask>"}
    assert made.terms(text) == [token for token in expected.tokens if token not in unwanted]
    assert hashlib.sha256(content).hexdigest() in made.fingerprint()


def test_tokens_agree_with_terms_on_any_text(folder):
    made = analyser(f"wordpiece:{folder}")

    @given(st.text() | st.text(st.sampled_from("abB [MASK]<mask>\u0301éﬁ㍿日한ไ\ud800👩\u200d\n"), max_size=40))
    @example("\ud83d x \udfff")
    @example("ａ ﷺ İ")
    def on_any_text(text):
        tokens = made.tokens(text)
        assert [token.term for token in tokens] == made.terms(text)
        assert all(0 <= token.start <= token.end <= len(text) for token in tokens)
        starts = [token.start for token in tokens]
        assert starts == sorted(starts)

    on_any_text()


@pytest.mark.usefixtures("no_network")
def test_what_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="There is no model 'klingon'"):
        analyser("wordpiece:klingon")
    with pytest.raises(BackendUnavailable, match="retriever models pull owner/name"):
        analyser("wordpiece:owner/name")
    with pytest.raises(InvalidInput, match="is not a model folder"):
        analyser(f"wordpiece:{tmp_path}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match="is not a tokenizer"):
        analyser(f"wordpiece:{tmp_path}")
