"""Terms of any language: words where words are marked, bigrams where they are not.

The text is put into NFKC, one grapheme cluster at a time, and cut into three kinds of runs:

1. Han, Hiragana, Katakana and Hangul, bopomofo too, become overlapping bigrams of characters, across these scripts
   but not across anything between; a character that stands alone is a term. So does Lucene's CJKBigramFilter, except
   that Hangul or Katakana joined to Latin letters or digits ("LG전자") is cut from them here.
2. Scripts of South East Asia that write no spaces (Thai, Lao, Khmer, Burmese and others, line break class SA) become
   overlapping bigrams of grapheme clusters; a cluster that stands alone is a term.
3. The rest is cut at Unicode word boundaries, as `standard_tokenizer` has them: emoji are terms, words longer than 255
   characters are cut.

Terms are folded as `folding.fold` says: case, accents, vowel points, native digits. There are no stop words and there
is no stemming. The place of a term is that of the grapheme clusters it came from, so bigrams overlap, and terms of one
compatibility character ("㌀") share a place.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import add

import regex

from retriever.analysis.analyser import Token
from retriever.analysis.folding import fold
from retriever.analysis.standard_tokenizer import spans, words
from retriever.analysis.term_cache import TermCache

EXTEND = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]*"
CJK = rf"[\p{{Script=Han}}\p{{Script=Hiragana}}\p{{WB=Katakana}}\p{{Script=Hangul}}\p{{Script=Bopomofo}}]{EXTEND}"
COMPLEX = rf"\p{{LB=SA}}{EXTEND}"
# Punctuation and symbols among them ("〇" and "々" are letters) are no part of a run.
RUN = regex.compile(rf"(?P<cjk>(?:(?![\p{{P}}\p{{S}}]){CJK})+)|(?P<complex>(?:(?![\p{{P}}\p{{S}}]){COMPLEX})+)")
CJK_UNIT = regex.compile(CJK)
CLUSTER = regex.compile(r"\X")
# Full-width punctuation stands in every Chinese sentence; its NFKC is one character wherever it stands.
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0xA0: 0x20}


class MultilingualAnalyser:
    """The analyser for text in other languages than English, or in several."""

    name = "multilingual"

    def __init__(self) -> None:
        # Of tokens and units of bigrams, as they are in NFKC.
        self._cache = TermCache(fold)

    def fingerprint(self) -> str:
        return "multilingual 2 (NFKC, bigrams of CJK characters and of South East Asian clusters, UAX 29, folded)"

    def terms(self, text: str) -> list[str]:
        if not text.isascii():
            text = _normal(text)
            if RUN.search(text):
                return self._run_terms(text)
        return self._cache.terms(words(text))

    def word_terms(self, words: Sequence[str]) -> list[str]:
        return self._cache.each(words)

    def tokens(self, text: str) -> list[Token]:
        normal, starts, ends = _aligned(text)
        return [Token(term, starts[start], ends[end - 1]) for term, start, end in self._found(normal)]

    def _run_terms(self, text: str) -> list[str]:
        """Return the terms of `_found`, about twice as fast."""
        terms: list[str] = []
        done = 0
        for run in RUN.finditer(text):
            if run.start() > done:
                terms += self._cache.terms(words(text[done : run.start()]))
            units = [term for unit in _units(run).findall(run.group()) if (term := self._cache.term(unit))]
            terms += map(add, units, units[1:]) if len(units) > 1 else units
            done = run.end()
        return terms + self._cache.terms(words(text[done:]))

    def _found(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield the terms of a text in NFKC with their places in it."""
        done = 0
        for run in RUN.finditer(text):
            yield from self._words(text[done : run.start()], done)
            yield from self._bigrams(_units(run), run.group(), run.start())
            done = run.end()
        yield from self._words(text[done:], done)

    def _words(self, text: str, at: int) -> Iterator[tuple[str, int, int]]:
        for start, end in spans(text):
            if term := self._cache.term(text[start:end]):
                yield term, at + start, at + end

    def _bigrams(self, pattern: regex.Pattern[str], run: str, at: int) -> Iterator[tuple[str, int, int]]:
        units = [
            (self._cache.term(found.group()), at + found.start(), at + found.end()) for found in pattern.finditer(run)
        ]
        units = [unit for unit in units if unit[0]]
        if len(units) == 1:
            yield units[0]
        for (first, start, _), (second, _, end) in pairwise(units):
            yield first + second, start, end


def _units(run: regex.Match[str]) -> regex.Pattern[str]:
    """Return what finds the characters or clusters that a run is made of."""
    return CJK_UNIT if run.lastgroup == "cjk" else CLUSTER


def _normal(text: str) -> str:
    """Return the text in NFKC, each grapheme cluster by itself; white space may change."""
    if unicodedata.is_normalized("NFKC", text):
        return text
    text = text.translate(FULL_WIDTH)
    if unicodedata.is_normalized("NFKC", text):
        return text
    return " ".join(
        piece if unicodedata.is_normalized("NFKC", piece) else "".join(map(_nfkc, CLUSTER.findall(piece)))
        for piece in text.split()
    )


def _aligned(text: str) -> tuple[str, list[int] | range, list[int] | range]:
    """Return the text in NFKC and, for each character of it, where its cluster starts and ends in the text."""
    text = text.translate(FULL_WIDTH)
    if unicodedata.is_normalized("NFKC", text):
        return text, range(len(text)), range(1, len(text) + 1)
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for found in CLUSTER.finditer(text):
        cluster = found.group()
        if unicodedata.is_normalized("NFKC", cluster):
            pieces.append(cluster)
            starts.extend(range(found.start(), found.end()))
            ends.extend(range(found.start() + 1, found.end() + 1))
        else:
            pieces.append(_nfkc(cluster))
            starts.extend([found.start()] * len(pieces[-1]))
            ends.extend([found.end()] * len(pieces[-1]))
    return "".join(pieces), starts, ends


def _nfkc(cluster: str) -> str:
    return unicodedata.normalize("NFKC", cluster)
