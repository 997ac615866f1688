"""Lucene's English analyser as Anserini configures it by default.

StandardTokenizer, possessive 's removed, lower case, 33 stop words, Porter stemmer.
"""

from retriever.analysis.analyser import Token
from retriever.analysis.porter import stem
from retriever.analysis.standard_tokenizer import spans, words

# fmt: off
STOP_WORDS = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this",
    "to", "was", "will", "with",
])
# fmt: on
APOSTROPHES = "'\u2019\uff07"
CACHE_SIZE = 1_000_000


class EnglishAnalyser:
    """Gives the terms that Lucene gives; see tests/agreement for the comparison with Lucene itself."""

    name = "lucene-english"

    def __init__(self) -> None:
        # Token as written -> term, "" for a stop word. A race only computes an entry twice.
        self._terms: dict[str, str] = {}

    def fingerprint(self) -> str:
        return "lucene-english 2 (standard tokenizer, possessive, lower case, 33 stop words, porter)"

    def terms(self, text: str) -> list[str]:
        tokens = words(text)
        known = self._terms
        terms = list(map(known.get, tokens))
        if None in terms:
            new = {token for token, term in zip(tokens, terms, strict=True) if term is None}
            made = {token: self._term(token) for token in new}
            terms = [made[token] if term is None else term for token, term in zip(tokens, terms, strict=True)]
        return list(filter(None, terms))

    def tokens(self, text: str) -> list[Token]:
        found = ((self._term(text[start:end]), start, end) for start, end in spans(text))
        return [Token(term, start, end) for term, start, end in found if term]

    def _term(self, token: str) -> str:
        term = self._terms.get(token)
        if term is None:
            if len(self._terms) >= CACHE_SIZE:
                self._terms = {}
            # Most words have been seen in lower case.
            term = self._terms.get(lower(token))
            if term is None:
                term = normalise(token)
            self._terms[token] = term
        return term


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
