"""The English analyser by hand: tokens, possessives, case, stop words, stems; and its two paths against each other."""

import time

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
        st.sampled_from("ab1_.:,;'- \t\n\u00e9\u65e5\u3042\u30ab\u0e44\u0301\u200d\U0001f600A\u05d0\"\u202f\ufe0f"),
        max_size=40,
    )
)
def test_the_fast_path_gives_the_tokens_of_the_general_one(text):
    assert words(text) == [text[start:end] for start, end in spans(text)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        # Unicode 12.1: a chess piece is a pictograph, letters of Unicode 14 are none, this space joins.
        ("\u265e \u2c2f \u0870", ["\u265e"]),
        ("a\u202fb 1\u202f000", ["a\u202fb", "1\u202f000"]),
        ("\u0600 a\u0600b \u19da", ["a\u0600b", "\u19da"]),
        ("1\ufe102 a\ufe10b 1\u20e32 #\u20e3", ["1\ufe102", "a", "b", "1\u20e32", "#\u20e3"]),
        ("\U0001f3fd a\U0001f3fdb", ["\U0001f3fd", "a\U0001f3fdb"]),
        # a letter that is a pictograph as well: whichever is longer
        ("\u2139x \u2139\u200d\U0001f600x", ["\u2139x", "\u2139\u200d\U0001f600", "x"]),
        # Hebrew quotes, and where Lucene's grammar does not take them
        ('\u05e6\u05d4"\u05dc', ['\u05e6\u05d4"\u05dc']),
        ("\u05d0.\u05d0\"\u05d0 \u05d0'", ["\u05d0.\u05d0", "\u05d0", "\u05d0'"]),
    ],
)
def test_what_lucene_takes_for_a_word(text, tokens):
    assert words(text) == tokens


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("y" * 600 + " z", [255, 255, 90, 1]),
        ("\U00010400" * 300, [127, 127, 46]),
        ("y" * 254 + "\U00010400", [254, 1]),
        ("a." * 200, [255, 143]),
        ("ab." * 100, [254, 44]),
        ("_" * 300 + "a", [255]),
        ("_" * 300, []),
        # The rest of a word may be one with what comes after it.
        ("\u05d0." * 127 + '\u05d0\u05d0"\u05d0 a', [255, 3, 1]),
    ],
)
def test_long_tokens_are_cut_at_255(text, lengths):
    assert [len(word) for word in words(text)] == lengths


@pytest.mark.parametrize(
    "part", ["_", "\u200d", "_\u0301", "y", "\u00e9", "\u05d0'", "\u00e9_", "a.", "\U0001f600\u200d"]
)
def test_time_is_linear_in_the_length(part):
    started = time.process_time()
    words("\u00e9" + part * 100_000)
    assert time.process_time() - started < 5


def test_tokens_say_where_they_stand():
    text = "Parsing the dogs' dates"
    found = ENGLISH.tokens(text)
    assert [(token.term, text[token.start : token.end]) for token in found] == [
        ("pars", "Parsing"), ("dog", "dogs"), ("date", "dates"),
    ]  # fmt: skip


def test_an_unknown_analyser():
    with pytest.raises(InvalidInput, match="unknown analyser 'klingon'; use one of lucene-english, multilingual"):
        analyser("klingon")
