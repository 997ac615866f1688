"""Terms of many texts at once equal those of each by itself, and so do the postings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexing.analysing import write_postings
from retriever.analysis import analyser
from retriever.analysis.code import CodeAnalyser
from retriever.analysis.term_numbers import CHARACTERS, TEXTS, WordAnalyser, numbered_terms, portions
from retriever.index.plain import PlainPostings, PlainWriter

NAMES = ("lucene-english", "multilingual", "snowball:german")
PIECES = ["the ", "The cats", " dog's", "DOG'S ", "3.14", " U.S.A. ", "the", "\u00e9t\u00e9 ", "\u4e2d\u6587", "\u202f",
          "x" * 260, " ", "_", "\u2019s "]  # fmt: skip


def per_text(found):
    ends = found.lengths.cumsum().tolist()
    terms = [found.terms[number] for number in found.numbers]
    assert len(terms) == (ends[-1] if ends else 0)
    return [terms[end - length : end] for end, length in zip(ends, found.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), max_size=6))
def test_equals_one_text_after_another(name, texts):
    found = analyser(name)
    assert isinstance(found, WordAnalyser)
    assert per_text(numbered_terms(found, texts)) == [found.terms(text) for text in texts]


def test_analysers_of_other_kinds_are_no_word_analysers():
    assert not isinstance(CodeAnalyser(), WordAnalyser)
    assert not isinstance(analyser("whitespace"), WordAnalyser)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("name", ["lucene-english", "code"])
def test_postings_equal_those_of_single_documents(name, positions, tmp_path):
    texts = ["", "The cats sat; the cat's mat", "Caf\u00e9 cats", "the of", "y" * 300, "cats cats sat", "cats"] * 3
    found = analyser(name)
    one = PlainWriter(positions=positions)
    for text in texts:
        one.add(found.terms(text))
    write_postings(found, texts, tmp_path, positions=positions)
    expected, got = one.postings(), PlainPostings.read(tmp_path, positions=positions)
    assert list(got.terms) == list(expected.terms)
    for array in ("offsets", "documents", "values", "lengths"):
        assert getattr(got, array).tolist() == getattr(expected, array).tolist()
    if positions:
        assert got.positions.data.tolist() == expected.positions.data.tolist()
        assert got.positions.starts.tolist() == expected.positions.starts.tolist()


def test_portions_are_bounded_and_whole():
    texts = [str(number) for number in range(2 * TEXTS + 5)]
    found = list(portions(texts))
    assert [len(portion) for portion in found] == [TEXTS, TEXTS, 5]
    assert [text for portion in found for text in portion] == texts
    assert [len(portion) for portion in portions(["a" * CHARACTERS, "b", "c"])] == [1, 2]
