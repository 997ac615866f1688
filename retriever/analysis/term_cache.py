"""Terms of tokens seen before: text repeats its words, and a stemmer is slow."""

from collections.abc import Callable, Sequence
from typing import cast

SIZE = 1_000_000


class TermCache:
    """What `make` gives for each token; an empty term means that the token has none. Safe between threads."""

    def __init__(self, make: Callable[[str], str]) -> None:
        self._make = make
        # A race only computes an entry twice.
        self._terms: dict[str, str] = {}

    def term(self, token: str) -> str:
        """Return the term of one token, or ""."""
        term = self._terms.get(token)
        if term is None:
            if len(self._terms) >= SIZE:
                self._terms = {}
            term = self._terms[token] = self._make(token)
        return term

    def terms(self, tokens: Sequence[str]) -> list[str]:
        """Return the terms of tokens in order, without those that have none."""
        return list(filter(None, self.each(tokens)))

    def each(self, tokens: Sequence[str]) -> list[str]:
        """Return the term of each token, or ""."""
        terms = list(map(self._terms.get, tokens))
        if None not in terms:
            return cast(list[str], terms)
        # Each new token once, and without the cache in between: it may be emptied on the way.
        made = {token: self.term(token) for token, term in zip(tokens, terms, strict=True) if term is None}
        return [made[token] if term is None else term for token, term in zip(tokens, terms, strict=True)]
