"""Words with a Snowball stemmer: the usual choice for text in one European language.

Unicode word boundaries (`standard_tokenizer`), NFC, lower case, a straight apostrophe for a curly one, then the
stemmer of PyStemmer. Turkish lowers I to ı and İ to i. Accents stay, since the stemmers go by them. There are no stop
words: BM25 gives frequent words little weight by itself. The version of Snowball belongs to the fingerprint, because
its stemmers change.
"""

import importlib
import threading
import unicodedata
from collections.abc import Sequence
from typing import Any

from retriever.analysis.analyser import Token
from retriever.analysis.standard_tokenizer import spans, words
from retriever.analysis.term_cache import TermCache
from retriever.errors import BackendUnavailable, InvalidInput

APOSTROPHES = str.maketrans("\u2018\u2019\uff07", "'''")
TURKISH = str.maketrans({"I": "ı", "İ": "i"})


class Stemmer:
    """A Snowball stemmer that threads may share."""

    def __init__(self, language: str) -> None:
        """Raises InvalidInput naming the languages, BackendUnavailable without PyStemmer."""
        self._package = _load()
        known = self._package.algorithms()
        if language not in known:
            raise InvalidInput(f"unknown language {language[:200]!r} of snowball; use one of {', '.join(known)}.")
        self.language = language
        self._capitals = TURKISH if language == "turkish" else {}
        # PyStemmer's objects must not be used by two threads at once.
        self._local = threading.local()

    def fingerprint(self) -> str:
        return f"snowball {self._package.version()} {self.language}"

    def lower(self, token: str) -> str:
        """Return the token as the stemmer wants it: composed, in lower case, with straight apostrophes."""
        return unicodedata.normalize("NFC", token).translate(APOSTROPHES).translate(self._capitals).lower()

    def stem(self, word: str) -> str:
        """Return the stem of a word in lower case."""
        stemmer = getattr(self._local, "stemmer", None)
        if stemmer is None:
            # Its own cache is off: the analysers keep terms themselves.
            stemmer = self._local.stemmer = self._package.Stemmer(self.language, 0)
        try:
            return str(stemmer.stemWord(word))
        except UnicodeEncodeError:  # half a surrogate pair, which is no word of any language
            return word


class SnowballAnalyser:
    """Words, lower case, stems."""

    def __init__(self, language: str) -> None:
        """Raises InvalidInput naming the languages, BackendUnavailable without PyStemmer."""
        self._stemmer = Stemmer(language)
        self.name = f"snowball:{language}"
        self._cache = TermCache(lambda token: self._stemmer.stem(self._stemmer.lower(token)))

    def fingerprint(self) -> str:
        return f"snowball 2 (standard tokenizer, NFC, lower case, no stop words, {self._stemmer.fingerprint()})"

    def terms(self, text: str) -> list[str]:
        return self._cache.terms(words(text))

    def word_terms(self, words: Sequence[str]) -> list[str]:
        return self._cache.each(words)

    def tokens(self, text: str) -> list[Token]:
        found = ((self._cache.term(text[start:end]), start, end) for start, end in spans(text))
        return [Token(term, start, end) for term, start, end in found if term]


def _load() -> Any:
    try:
        return importlib.import_module("Stemmer")
    except ImportError as error:
        raise BackendUnavailable("the stemmers of snowball need a package: pip install PyStemmer") from error
