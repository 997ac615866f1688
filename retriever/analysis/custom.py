"""An analyser put together in a YAML file.

    tokenizer: standard        # standard, whitespace, code, or regex(PATTERN), whose matches are the tokens
    lowercase: true
    ascii_folding: false       # é to e, ø to o, æ to ae; letters without an ASCII form stay
    stop_words: none           # none, english (Lucene's 33), a list, or a file with one word a line
    stemmer: none              # none, porter (Lucene's), or snowball:LANGUAGE; needs lowercase
    min_length: 1              # tokens outside these lengths are dropped; max_length: null is no limit
    max_length: null

Each token goes through the steps in this order, with lengths between folding and stop words; these are the defaults.
The name of the analyser is "custom:" and its canonical JSON, stop words included, so an index needs no file.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import regex
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from retriever.analysis import code, english, porter, standard_tokenizer, whitespace
from retriever.analysis.analyser import Token
from retriever.analysis.folding import ascii_fold
from retriever.analysis.snowball import Stemmer
from retriever.analysis.term_cache import TermCache
from retriever.errors import InvalidInput

# A pattern may backtrack without end, and an index may come from someone else.
REGEX_SECONDS = 30.0
REGEX = re.compile(r"regex\((.*)\)", re.DOTALL)
TOKENIZERS = "standard, whitespace, code, regex(PATTERN)"
STOP_WORDS = "none, english, a list of words, the path of a file"
STEMMERS = "none, porter, snowball:LANGUAGE"


class CustomSettings(BaseModel):
    """What a custom analyser does; two files of the same meaning give equal settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: str = "standard"
    lowercase: StrictBool = True
    ascii_folding: StrictBool = False
    stop_words: str | tuple[str, ...] = "none"
    stemmer: str = "none"
    min_length: StrictInt = Field(1, ge=1)
    max_length: StrictInt | None = Field(None, ge=1)

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _known_tokenizer(cls, value: Any) -> Any:
        if isinstance(value, str) and (found := REGEX.fullmatch(value)):
            try:
                regex.compile(found[1])
            except regex.error as error:
                raise ValueError(f"the pattern does not compile: {error}") from error
        elif value not in ("standard", "whitespace", "code"):
            raise ValueError(f"use one of {TOKENIZERS}")
        return value

    @field_validator("stop_words", mode="before")
    @classmethod
    def _read_stop_words(cls, value: Any, info: ValidationInfo) -> Any:
        folder: Path | None = (info.context or {}).get("folder")
        if isinstance(value, str) and value not in ("none", "english"):
            value = _read_words(value, folder)
        if isinstance(value, list | tuple):
            if wrong := [word for word in value if not isinstance(word, str)]:
                raise ValueError(f"{wrong[0]!r} is not a text; put the word into quotation marks")
            return tuple(sorted(set(value))) or "none"
        if not isinstance(value, str):
            raise ValueError(f"use one of {STOP_WORDS}")
        return value

    @field_validator("stemmer", mode="before")
    @classmethod
    def _known_stemmer(cls, value: Any) -> Any:
        if value not in ("none", "porter") and not (isinstance(value, str) and value.startswith("snowball:")):
            raise ValueError(f"use one of {STEMMERS}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stemmer != "none" and not self.lowercase:
            raise ValueError(f"the stemmer {self.stemmer!r} knows small letters only; set lowercase: true")
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is below min_length {self.min_length}")
        return self

    def canonical(self) -> str:
        """Return the settings as JSON, the same for the same settings."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


class CustomAnalyser:
    """Does what its settings say."""

    def __init__(self, settings: CustomSettings) -> None:
        """Raises InvalidInput for a language that Snowball lacks, BackendUnavailable without PyStemmer."""
        self.settings = settings
        self.name = f"custom:{settings.canonical()}"
        self._words, self._places = _tokenizer(settings.tokenizer)
        self._snowball: Stemmer | None = None
        self._lower: Callable[[str], str] = english.lower
        self._stem: Callable[[str], str] = str
        if settings.stemmer == "porter":
            self._stem = porter.stem
        elif settings.stemmer != "none":
            self._snowball = Stemmer(settings.stemmer.removeprefix("snowball:"))
            self._lower, self._stem = self._snowball.lower, self._snowball.stem
        words = settings.stop_words
        chosen = english.STOP_WORDS if words == "english" else words if isinstance(words, tuple) else ()
        self._stop_words = frozenset(map(self._normalise, chosen))
        self._cache = TermCache(self._make)

    @classmethod
    def parse(cls, content: str) -> "CustomAnalyser":
        """Return the analyser of the JSON in a name. Raises InvalidInput."""
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(
                f"the analyser custom:{content[:80]} is not JSON: {error}. Give the path of a .yaml file instead."
            ) from error
        return cls(_settings(found, "the custom analyser", None))

    def fingerprint(self) -> str:
        stemmer = f", {self._snowball.fingerprint()}" if self._snowball else ""
        return f"custom 2 ({self.settings.canonical()}{stemmer})"

    def terms(self, text: str) -> list[str]:
        return self._cache.terms(self._words(text))

    def tokens(self, text: str) -> list[Token]:
        found = ((self._cache.term(text[start:end]), start, end) for start, end in self._places(text))
        return [Token(term, start, end) for term, start, end in found if term]

    def _make(self, token: str) -> str:
        word = self._normalise(token)
        longest = self.settings.max_length
        if len(word) < self.settings.min_length or (longest is not None and len(word) > longest):
            return ""
        return "" if word in self._stop_words else self._stem(word)

    def _normalise(self, token: str) -> str:
        word = self._lower(token) if self.settings.lowercase else token
        return ascii_fold(word) if self.settings.ascii_folding else word


def read_custom(path: str) -> str:
    """Return the name of the analyser that a file describes. Raises InvalidInput naming value and allowed values."""
    file = Path(path).expanduser()
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"the analyser {path} cannot be read: {error}") from error
    return f"custom:{_settings(content, path, file.parent).canonical()}"


def _settings(content: Any, source: str, folder: Path | None) -> CustomSettings:
    if not isinstance(content, dict):
        known = ", ".join(CustomSettings.model_fields)
        raise InvalidInput(f"{source} is not a mapping of settings; it may hold {known}.")
    try:
        return CustomSettings.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        raise InvalidInput(f"{source}: {'; '.join(map(_explain, error.errors()))}.") from error


def _explain(error: Any) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown setting {key!r}; use one of {', '.join(CustomSettings.model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "bool_type":
        message = "use one of true, false"
    return f"{key}: got {str(error['input'])[:200]!r}; {message}" if key else message


def _read_words(name: str, folder: Path | None) -> list[str]:
    """Return the words of a file: one a line, without blank lines and what follows a #."""
    if folder is None:
        raise ValueError("a name holds the words themselves; use one of none, english, a list of words")
    try:
        lines = (folder / Path(name).expanduser()).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"use one of {STOP_WORDS} ({error})") from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]


def _tokenizer(name: str) -> tuple[Callable[[str], list[str]], Callable[[str], Iterator[tuple[int, int]]]]:
    """Return what finds the tokens of a text, and what finds their places."""
    if name == "standard":
        return standard_tokenizer.words, standard_tokenizer.spans
    if name == "code":
        return _code_words, _code_places
    if name == "whitespace":
        return str.split, lambda text: (found.span() for found in whitespace.WORD.finditer(text))
    return _regex_tokenizer(regex.compile(name.removeprefix("regex(").removesuffix(")")))


def _code_words(text: str) -> list[str]:
    return [text[start:end] for start, end in _code_places(text)]


def _code_places(text: str) -> Iterator[tuple[int, int]]:
    for identifier in code.IDENTIFIER.finditer(text):
        for _, start, end in code.split(identifier.group()):
            yield identifier.start() + start, identifier.start() + end


def _regex_tokenizer(
    pattern: regex.Pattern[str],
) -> tuple[Callable[[str], list[str]], Callable[[str], Iterator[tuple[int, int]]]]:
    def places(text: str) -> Iterator[tuple[int, int]]:
        try:
            for found in pattern.finditer(text, timeout=REGEX_SECONDS):
                if found.end() > found.start():
                    yield found.span()
        except TimeoutError as error:
            raise InvalidInput(
                f"the analyser's pattern {pattern.pattern!r} took more than {REGEX_SECONDS:.0f} s on one text."
            ) from error

    return lambda text: [text[start:end] for start, end in places(text)], places
