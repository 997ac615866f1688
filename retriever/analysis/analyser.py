"""Analysers by name; the one that made an index belongs to its fingerprint."""

from functools import cache
from typing import NamedTuple, Protocol

from retriever.errors import InvalidInput


class Token(NamedTuple):
    """A term and the half-open range of characters that it was made from."""

    term: str
    start: int
    end: int


class Analyser(Protocol):
    """Turns text into terms; the same for documents and queries."""

    name: str

    def fingerprint(self) -> str:
        """Return the name and version of the rules; other rules make another index."""
        ...

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in order."""
        ...

    def tokens(self, text: str) -> list[Token]:
        """Return the terms with their places, for highlighting; slower than `terms`."""
        ...


ANALYSERS = ("lucene-english", "whitespace")


@cache
def analyser(name: str) -> Analyser:
    """Return an analyser by name. Raises InvalidInput naming the known ones."""
    from retriever.analysis.english import EnglishAnalyser
    from retriever.analysis.whitespace import WhitespaceAnalyser

    if name == "lucene-english":
        return EnglishAnalyser()
    if name == "whitespace":
        return WhitespaceAnalyser()
    raise InvalidInput(f"unknown analyser {name!r}; use one of {', '.join(ANALYSERS)}.")
