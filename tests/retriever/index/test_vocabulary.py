"""The folded vocabulary: finding, listing, prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.index.vocabulary import GROUP, Vocabulary


def write(folder, terms):
    Vocabulary.write(folder, "terms", [term.encode() for term in terms])
    return Vocabulary(folder, "terms", len(terms))


@settings(max_examples=150, deadline=None)
@given(
    terms=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), unique=True, max_size=300),
    others=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=30),
)
def test_finds_all_terms_and_no_others(tmp_path_factory, terms, others):
    terms.sort(key=str.encode)
    vocabulary = write(tmp_path_factory.mktemp("v"), terms)
    assert list(vocabulary) == terms
    assert [vocabulary.find(term) for term in terms] == list(range(len(terms)))
    known = {term: number for number, term in enumerate(terms)}
    asked = [*others, *(term[:-1] for term in terms), *(term + "a" for term in terms)]
    found = vocabulary.find_all([term.encode() for term in asked])
    assert found.tolist() == [known.get(term, -1) for term in asked]


def test_terms_that_share_much_across_groups(tmp_path):
    terms = sorted(["a" * n for n in range(1, 300)] + [f"run{n:04d}" for n in range(1000)])
    vocabulary = write(tmp_path, terms)
    assert len(terms) > 10 * GROUP
    assert [vocabulary.find(term) for term in terms] == list(range(len(terms)))
    assert vocabulary.find("a" * 300) == vocabulary.find("run") == vocabulary.find("zzz") == vocabulary.find("") == -1
    assert vocabulary[5:8] == terms[5:8]
    assert np.load(tmp_path / "terms.npy").nbytes < 0.5 * sum(map(len, terms))


def test_a_term_of_a_thousand_bytes(tmp_path):
    terms = ["x" * 300, "x" * 300 + "y" * 700]
    vocabulary = write(tmp_path, terms)
    assert list(vocabulary) == terms
    assert vocabulary.find(terms[1]) == 1


def test_prefixes_in_order_up_to_a_limit(tmp_path):
    terms = sorted(f"{word}{n}" for word in ("alpha", "beta", "betamax", "zulu") for n in range(100))
    vocabulary = write(tmp_path, terms)
    for prefix in ("a", "beta", "betamax5", "zulu99", "", "c", "zz"):
        expected = [(number, term) for number, term in enumerate(terms) if term.startswith(prefix)]
        assert vocabulary.starting_with(prefix, 1000) == expected
        assert vocabulary.starting_with(prefix, 7) == expected[:7]


def test_an_empty_vocabulary(tmp_path):
    vocabulary = write(tmp_path, [])
    assert (len(vocabulary), list(vocabulary), vocabulary.find("x")) == (0, [], -1)
    assert vocabulary.starting_with("", 5) == []
    with pytest.raises(IndexError):
        vocabulary[0]
