"""Analysers by name; the one that made an index belongs to its fingerprint."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol

from retriever.errors import InvalidInput


class Token(NamedTuple):
    """A term and the half-open range of characters that it was made from."""

    term: str
    start: int
    end: int


class Analyser(Protocol):
    """Turns text into terms; the same for documents and queries. Safe for concurrent use."""

    name: str
    """What `analyser` makes it from again, on any machine."""

    def fingerprint(self) -> str:
        """Return the name and version of the rules; other rules make another index."""
        ...

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in order."""
        ...

    def tokens(self, text: str) -> list[Token]:
        """Return the same terms with their places, for highlighting; slower than `terms`.

        Places ascend by start; they may overlap, and terms made from the same characters share a place.
        """
        ...


ANALYSERS = (
    "lucene-english",
    "multilingual",
    "whitespace",
    "code",
    "snowball:LANGUAGE",
    "wordpiece:MODEL",
    "FILE.yaml",
)


def analyser(name: str) -> Analyser:
    """Return an analyser by name or, when it ends in .yaml or .yml, as a file describes it; see docs/analysers.md.

    What an index keeps is the `name` of the result, which needs no file. Raises InvalidInput naming what there is,
    BackendUnavailable when a package or model is missing.
    """
    if name.endswith((".yaml", ".yml")):
        from retriever.analysis.custom import read_custom

        return _named(read_custom(name))
    return _named(name)


@cache
def _named(name: str) -> Analyser:
    from retriever.analysis.code import CodeAnalyser
    from retriever.analysis.custom import CustomAnalyser
    from retriever.analysis.english import EnglishAnalyser
    from retriever.analysis.multilingual import MultilingualAnalyser
    from retriever.analysis.snowball import SnowballAnalyser
    from retriever.analysis.whitespace import WhitespaceAnalyser
    from retriever.analysis.wordpiece import WordPieceAnalyser

    plain: dict[str, Callable[[], Analyser]] = {
        "lucene-english": EnglishAnalyser,
        "multilingual": MultilingualAnalyser,
        "whitespace": WhitespaceAnalyser,
        "code": CodeAnalyser,
    }
    with_argument: dict[str, Callable[[str], Analyser]] = {
        "snowball": SnowballAnalyser,
        "wordpiece": WordPieceAnalyser,
        "custom": CustomAnalyser.parse,
    }
    if name in plain:
        return plain[name]()
    kind, _, argument = name.partition(":")
    if kind in with_argument and argument:
        return with_argument[kind](argument)
    raise InvalidInput(f"unknown analyser {name[:200]!r}; use one of {', '.join(ANALYSERS)}.")
