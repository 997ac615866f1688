"""The English analyser by hand: tokens, possessives, case, stop words, stems; and its two paths against each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retriever.analysis import analyser
from retriever.analysis.porter import stem
from retriever.analysis.standard_tokenizer import spans, words
from retriever.errors import InvalidInput

ENGLISH = analyser("lucene-english")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The quick brown foxes jumped over the lazy dogs", "quick brown fox jump over lazi dog"),
        ("O'Neill's C++ and .NET", "o'neil c net"),
        ("1,000.5 wi-fi a_b http://a.b.com/x", "1,000.5 wi fi a_b http a.b.com x"),
        ("one\u2019s the dog\uff07s", "on dog"),
        ("\u65e5\u672c\u8a9e \u30c6\u30ad\u30b9\u30c8", "\u65e5 \u672c \u8a9e \u30c6\u30ad\u30b9\u30c8"),
        ("\u0130stanbul \u03a3\u0391\u03a3", "istanbul \u03c3\u03b1\u03c3"),
        ("the of and ___ ... !", ""),
    ],
)
def test_terms_by_hand(text, terms):
    assert ENGLISH.terms(text) == terms.split()


# The last three are where Lucene differs from Snowball's "porter".
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"), ("ponies", "poni"), ("cats", "cat"), ("agreed", "agre"), ("hopping", "hop"),
        ("filing", "file"), ("happy", "happi"), ("relational", "relat"), ("adjustable", "adjust"),
        ("probate", "probat"), ("controll", "control"), ("possibly", "possibl"), ("archaeology", "archaeolog"), ("is", "is"),
    ],
)  # fmt: skip
def test_stems_by_hand(word, expected):
    assert stem(word) == expected


@given(
    st.text(
        st.sampled_from("ab1_.:,;'- \t\n\u00e9\u65e5\u3042\u30ab\u0e44\u0301\u200d\U0001f600A\u05d0\""), max_size=40
    )
)
def test_the_fast_path_gives_the_tokens_of_the_general_one(text):
    assert words(text) == [text[start:end] for start, end in spans(text)]


def test_long_tokens_are_cut_at_255():
    assert [len(word) for word in words("y" * 600 + " z")] == [255, 255, 90, 1]


def test_tokens_say_where_they_stand():
    text = "Parsing the dogs' dates"
    found = ENGLISH.tokens(text)
    assert [(token.term, text[token.start : token.end]) for token in found] == [
        ("pars", "Parsing"), ("dog", "dogs"), ("date", "dates"),
    ]  # fmt: skip


def test_an_unknown_analyser():
    with pytest.raises(InvalidInput, match="unknown analyser 'klingon'; use one of lucene-english, multilingual"):
        analyser("klingon")
