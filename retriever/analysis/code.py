"""Terms of source code: each identifier whole, and the words it is made of.

An identifier is a run of letters, marks, digits and underscores; operators, quotes and brackets are dropped.
HTTPServer2 gives httpserver2, http, server, 2; max_len gives max_len, max, len; an identifier of one word gives one
term. Words end at underscores, between letters and digits, before a capital that follows a small letter, and before
the last of several capitals that a small letter follows. Lower case; no stop words, no stemming. Identifiers are cut at
255 characters. The whole takes the place of the whole identifier, and its words the places of theirs within it.
"""

import regex

from retriever.analysis.analyser import Token

CACHE_SIZE = 1_000_000
IDENTIFIER = regex.compile(r"[\p{L}\p{M}\p{N}_]{1,255}")
CAPITAL = r"[\p{Lu}\p{Lt}]\p{M}*"
SMALL = r"\p{Ll}\p{M}*"
OTHER = r"[\p{Lo}\p{Lm}]\p{M}*"
WORD = regex.compile(
    rf"(?:{CAPITAL})+(?!{SMALL})|{CAPITAL}(?:{SMALL})+|(?:{SMALL})+|(?:{OTHER})+|\p{{N}}[\p{{N}}\p{{M}}]*|\p{{M}}+"
)


class CodeAnalyser:
    """Splits identifiers as programmers join them."""

    name = "code"

    def __init__(self) -> None:
        # Identifier -> its terms. A race only computes an entry twice.
        self._terms: dict[str, list[str]] = {}

    def fingerprint(self) -> str:
        return "code 1 (identifiers whole and split at case, digits and underscores, lower case)"

    def terms(self, text: str) -> list[str]:
        terms: list[str] = []
        for identifier in IDENTIFIER.findall(text):
            terms += self._terms.get(identifier) or self._split(identifier)
        return terms

    def tokens(self, text: str) -> list[Token]:
        return [
            Token(word.lower(), found.start() + start, found.start() + end)
            for found in IDENTIFIER.finditer(text)
            for word, start, end in split(found.group())
        ]

    def _split(self, identifier: str) -> list[str]:
        if len(self._terms) >= CACHE_SIZE:
            self._terms = {}
        terms = self._terms[identifier] = [word.lower() for word, _, _ in split(identifier)]
        return terms


def split(identifier: str) -> list[Token]:
    """Return the whole identifier and its words as written; one token if that is all, none if it has no word."""
    words = [Token(found.group(), found.start(), found.end()) for found in WORD.finditer(identifier)]
    whole = Token(identifier, 0, len(identifier))
    return words if not words or words == [whole] else [whole, *words]
