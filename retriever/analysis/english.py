"""Lucene's English analyser as Anserini configures it by default.

StandardTokenizer, possessive 's removed, lower case, 33 stop words, Porter stemmer.
"""

from collections.abc import Sequence

from retriever.analysis.analyser import Token
from retriever.analysis.porter import stem
from retriever.analysis.standard_tokenizer import spans, words
from retriever.analysis.term_cache import TermCache

# fmt: off
STOP_WORDS = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this",
    "to", "was", "will", "with",
])
# fmt: on
APOSTROPHES = "'\u2019\uff07"


class EnglishAnalyser:
    """Gives the terms that Lucene gives; see tests/agreement for the comparison with Lucene itself."""

    name = "lucene-english"

    def __init__(self) -> None:
        self._cache = TermCache(self._make)

    def fingerprint(self) -> str:
        return "lucene-english 2 (standard tokenizer, possessive, lower case, 33 stop words, porter)"

    def terms(self, text: str) -> list[str]:
        return self._cache.terms(words(text))

    def word_terms(self, words: Sequence[str]) -> list[str]:
        return self._cache.each(words)

    def tokens(self, text: str) -> list[Token]:
        found = ((self._cache.term(text[start:end]), start, end) for start, end in spans(text))
        return [Token(term, start, end) for term, start, end in found if term]

    def _make(self, token: str) -> str:
        # Most words have been seen in lower case.
        lowered = lower(token)
        return normalise(token) if lowered == token else self._cache.term(lowered)


def normalise(token: str) -> str:
    """Return the term of one token, or "" for a stop word."""
    if len(token) >= 2 and token[-1] in "sS" and token[-2] in APOSTROPHES:
        token = token[:-2]
    token = lower(token)
    return "" if token in STOP_WORDS else stem(token)


def lower(token: str) -> str:
    """Lower each code point by itself, as Java's Character.toLowerCase does.

    str.lower would write a final sigma and give some letters a combining mark.
    """
    if token.isascii():
        return token.lower()
    return "".join(character.lower()[:1] for character in token)
