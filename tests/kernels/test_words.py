"""Compiled words against their definition, the tokenizer of all text."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.words import merge_sorted, numbered_words
from retriever.analysis.standard_tokenizer import words

PIECES = ["a", "Z", "q", "0", "9", "_", "__", ":", ".", ",", ";", "'", " ", "\n", "-", "$", "\x00", "\x7f", "xyz" * 30]
LONGEST = 255


def per_text(texts):
    """Return the words of each text as the compiled code has them, None where it leaves a text to others."""
    found = numbered_words(texts)
    assert found.words == list(dict.fromkeys(found.words))
    occurrences = [found.words[number] for number in found.numbers]
    ends = np.cumsum(np.maximum(found.counts, 0))
    assert len(occurrences) == (ends[-1] if len(texts) else 0)
    return [
        None if count < 0 else occurrences[end - count : end] for count, end in zip(found.counts, ends, strict=True)
    ]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), max_size=7))
@example(["a.b", "1.b", "a.1", "a_.b", "a:b:c", "1,2;3.4'5", "a,b", "it's", "._.", "a.", ".a", "a..b"])
@example(["", " ", "", "a"])
@example(["ab", "c"])
def test_equals_the_tokenizer(texts):
    for text, found in zip(texts, per_text(texts), strict=True):
        if found is None:
            assert max(map(len, text.split())) > LONGEST
        else:
            assert found == words(text)


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_equals_the_tokenizer_on_any_ascii(text):
    assert per_text([text]) == [words(text)]


def test_a_text_with_a_word_that_is_too_long_is_left_out_alone():
    assert per_text(["one two", "a" * 255, "b " + "c" * 256 + " d", "_" * 300, "two"]) == [
        ["one", "two"], ["a" * 255], None, None, ["two"],
    ]  # fmt: skip


def test_words_are_numbered_as_they_occur():
    found = numbered_words(["b a b", "", "c a"])
    assert found.words == ["b", "a", "c"]
    assert found.numbers.tolist() == [0, 1, 0, 2, 1]
    assert found.counts.tolist() == [3, 0, 2]


def test_many_different_words():
    texts = [" ".join(f"w{number}" for number in range(start, 20_000, 3)) for start in range(3)]
    found = numbered_words(texts)
    assert found.words == " ".join(texts).split()
    assert found.numbers.tolist() == list(range(20_000))


STRINGS = st.text(st.sampled_from("ab\x00é"), max_size=12).map(str.encode)


@given(st.lists(st.sets(STRINGS, max_size=9).map(sorted), max_size=9))
@example([])
@example([[], []])
@example([[b""], [b"", b"\x00"], [b"aaaaaaaa", b"aaaaaaaa\x00", b"aaaaaaaab"], [b"aaaaaaaa"]])
def test_merged_strings_equal_their_definition(tables):
    found = merge_sorted(tables)
    assert found.strings == sorted(set().union(*tables))
    for table, places in zip(tables, found.places, strict=True):
        assert [found.strings[place] for place in places] == table
