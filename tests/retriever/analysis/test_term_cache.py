"""What is kept between texts never changes what they give."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from retriever.analysis import term_cache
from retriever.analysis.term_cache import TermCache


def make(token):
    return "" if token == "the" else token.lower()


@given(st.lists(st.lists(st.sampled_from(["The", "the", "A", "b", "B", "cc", "D"]), max_size=20), max_size=6))
def test_equals_making_each_anew_whatever_the_limit(texts):
    for limit in (1, 2, 1000):
        cache = TermCache(make)
        original, term_cache.SIZE = term_cache.SIZE, limit
        try:
            for tokens in texts:
                assert cache.terms(tokens) == [term for term in map(make, tokens) if term]
                assert [cache.term(token) for token in tokens] == list(map(make, tokens))
                assert len(cache._terms) <= limit
        finally:
            term_cache.SIZE = original


def test_each_token_is_made_once():
    made = []
    cache = TermCache(lambda token: made.append(token) or token)
    for _ in range(3):
        assert cache.terms(["a", "b", "a", "a"]) == ["a", "b", "a", "a"]
    assert made == ["a", "b"]


def test_threads():
    cache = TermCache(make)
    texts = [[f"W{i % 97}", "the", f"x{i}"] for i in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(cache.terms, texts))
    assert found == [[term for term in map(make, tokens) if term] for tokens in texts]
