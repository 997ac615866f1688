"""The multilingual analyser on sentences of many languages, and its folding."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retriever.analysis import analyser
from retriever.analysis.folding import ascii_fold, fold
from retriever.analysis.multilingual import _aligned, _normal

MULTILINGUAL = analyser("multilingual")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Die Straße führt nach ŁÓDŹ.", "die strasse fuhrt nach lodz"),
        ("L’été à Zürich, søndag", "l'ete a zurich sondag"),
        ("Η Αθήνα είναι πρωτεύουσα ΤΗΣ ΕΛΛΆΔΑΣ", "η αθηνα ειναι πρωτευουσα τησ ελλαδασ"),
        ("Ёлка и йод, украи́нский їжак", "елка и йод украинский їжак"),
        ("اللُّغَةُ العَرَبِيَّةُ في إســـلام ٢٠٢٤", "اللغه العربيه في اسلام 2024"),
        ("שָׁלוֹם עולם", "שלום עולם"),
        ("हिन्दी में क़लम और माँ १९४७", "हिन्दी में कलम और मां 1947"),
        ("می‌خواهم", "میخواهم"),
        ("北京大学", "北京 京大 大学"),
        ("我在2024年去iPhone店", "我在 2024 年去 iphone 店"),
        ("日本語のテキスト、東京", "日本 本語 語の のテ テキ キス スト 東京"),
        ("ﾃﾞｰﾀ ＡＢＣ１２３", "デー ータ abc123"),
        ("LG전자는 서울에", "lg 전자 자는 서울 울에"),
        ("인 天", "인 天"),
        ("ภาษาไทย ก", "ภา าษ ษา าไ ไท ทย ก"),
        ("ភាសា abc", "ភាសា abc"),
        ("\U0002070e\U00020731x", "\U0002070e\U00020731 x"),
        ("👩‍👧 ok ❤️", "👩👧 ok ❤"),
        ("— … ! ـ", ""),
    ],
)
def test_terms_by_hand(text, terms):
    assert MULTILINGUAL.terms(text) == terms.split()
    assert [token.term for token in MULTILINGUAL.tokens(text)] == terms.split()


@pytest.mark.parametrize(
    "pair",
    [
        ("Café", "Cafe\u0301"), ("Ελλάδα", "ΕΛΛΑΔΑ"), ("がっこう", "か\u3099っこう"), ("데이터", unicodedata.normalize("NFD", "데이터")),
        ("クラス", "ｸﾗｽ"), ("Istanbul", "İSTANBUL"), ("東京", "東\U000e0100京"), ("ऩ", "न"), ("3", "३"), ("oﬃce", "office"),
    ],
)  # fmt: skip
def test_two_spellings_are_one_term(pair):
    first, second = map(MULTILINGUAL.terms, pair)
    assert first == second != []


@pytest.mark.parametrize("pair", [("が", "か"), ("й", "и"), ("कि", "क"), ("ไม้", "ไม"), ("ї", "і")])
def test_marks_that_make_other_words_stay(pair):
    assert fold(pair[0]) != fold(pair[1])


def test_places_are_those_in_the_text_as_it_was_written():
    text = "Cafe\u0301 ﾃﾞｰﾀ ㌀ 北京市"
    assert [(token.term, text[token.start : token.end]) for token in MULTILINGUAL.tokens(text)] == [
        ("cafe", "Cafe\u0301"), ("デー", "ﾃﾞｰ"), ("ータ", "ｰﾀ"),
        ("アパ", "㌀"), ("パー", "㌀"), ("ート", "㌀"), ("北京", "北京"), ("京市", "京市"),
    ]  # fmt: skip


def test_long_tokens_are_cut_at_255():
    assert [len(term) for term in MULTILINGUAL.terms("é" * 600)] == [255, 255, 90]


@given(st.text())
def test_folding_twice_is_folding_once(token):
    assert fold(fold(token)) == fold(token)


@given(
    st.text(
        st.sampled_from(
            "aéＡ！\u3000\u0301\u0308 \u00a8\u00a0ﾃﾞ\u3131\u314f\u1100\u1161\u0e33\u0e19㌀\ufe70ﬁ日\u0600\u200d"
        ),
        max_size=20,
    )
)
def test_both_ways_to_nfkc_agree(text):
    assert "".join(_normal(text).split()) == "".join(_aligned(text)[0].split())


def test_ascii_folding():
    assert ascii_fold("Ærøskøbing – Łódź, naïve ﬁancé; Αθήνα 東京") == "AEroskobing - Lodz, naive fiance; Αθήνα 東京"
