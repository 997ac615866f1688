"""What all corpora share: checking documents, counting faults, settling duplicate ids."""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from indexing.corpora.metadata import plain
from retriever.errors import InvalidInput
from retriever.types import Document

Duplicates = Literal["fail", "skip", "overwrite"]

MAX_ID_BYTES = 512
SHOWN_BAD_LINES = 20


class BadLine(NamedTuple):
    """A line, row or file that could not be used, and why."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass
class Report:
    """What was met while a corpus was read; complete when the iteration has ended.

    documents   how many were given out
    empty       how many of them have neither text nor title
    duplicates  records left out because their id stands elsewhere too
    bad_lines   the first SHOWN_BAD_LINES of the `bad_lines_total`
    """

    documents: int = 0
    empty: int = 0
    duplicates: int = 0
    bad_lines_total: int = 0
    bad_lines: list[BadLine] = field(default_factory=list)


class Raw(NamedTuple):
    """One record as a reader found it: where, and its fields, or the reason why there are none."""

    path: str
    line: int
    fields: Mapping[str, Any] | None
    reason: str = ""


ID_FIELDS = ("_id", "id", "docid", "doc_id", "document_id", "pid")
TITLE_FIELDS = ("title", "headline")
TEXT_FIELDS = ("text", "contents", "document_text", "body", "passage", "content")


class Corpus:
    """A stream of checked documents in a fixed order; iterate as often as you like, each time from the start.

    Memory grows by one hash of sixteen bytes a document, which is how duplicate ids are found.
    """

    def __init__(
        self,
        name: str,
        description: Mapping[str, Any],
        read: Callable[[], Iterator[Raw]],
        *,
        size_hint: Callable[[], int | None] = lambda: None,
        rereadable: bool = True,
        id_field: str | None = None,
        title_field: str | None = None,
        text_field: str | None = None,
        metadata_fields: Sequence[str] | None = None,
        max_bad_lines: int = 0,
        duplicates: Duplicates = "fail",
    ) -> None:
        """Wrap a reader of raw records.

        rereadable       whether `read` can be called more than once
        metadata_fields  what to keep of the fields that are neither id, title nor text, and of "metadata";
                         None keeps all
        duplicates       an id that occurs again: "fail"; "skip" keeps the first; "overwrite" keeps the last,
                         at its place, which takes a pass over all records beforehand

        Iterating raises InvalidInput for an id that occurs again under "fail", for more than `max_bad_lines`
        faulty records, and for a corpus without a document.
        """
        if max_bad_lines < 0:
            raise InvalidInput(f"max_bad_lines must be 0 or more, got {max_bad_lines}.")
        if duplicates not in ("fail", "skip", "overwrite"):
            raise InvalidInput(f"duplicates must be fail, skip or overwrite, got {duplicates!r}.")
        if duplicates == "overwrite" and not rereadable:
            raise InvalidInput(
                "duplicates=overwrite reads the corpus twice, which standard input does not allow; "
                "use skip, or save the input to a file first."
            )
        self.name = name
        self.report = Report()
        self._description = dict(description)
        self._read = read
        self._size_hint = size_hint
        self._fields: Names = (
            (id_field,) if id_field else ID_FIELDS,
            (title_field,) if title_field else TITLE_FIELDS,
            (text_field,) if text_field else TEXT_FIELDS,
        )
        self._metadata_fields = None if metadata_fields is None else frozenset(metadata_fields)
        self._max_bad_lines = max_bad_lines
        self._duplicates = duplicates
        self._rereadable = rereadable
        self._was_read = False

    def describe(self) -> dict[str, Any]:
        """Return what the corpus is and how it is read, ready for JSON; two equal ones give equal documents."""
        chosen = [names[0] if len(names) == 1 else None for names in self._fields]
        description = {**self._description, "name": self.name, "fields": chosen, "duplicates": self._duplicates}
        if self._metadata_fields is not None:
            description["metadata_fields"] = sorted(self._metadata_fields)
        return description

    def size_hint(self) -> int | None:
        """Return the number of documents where it is cheap to know."""
        return self._size_hint()

    def __iter__(self) -> Iterator[Document]:
        if self._was_read and not self._rereadable:
            raise InvalidInput(f"{self.name} can be read once only; save it to a file to read it again.")
        self._was_read = True
        self.report = Report()
        last = self._last_places() if self._duplicates == "overwrite" else None
        seen: set[bytes] = set()
        for place, raw in enumerate(self._records()):
            document = self._checked(raw)
            if document is None:
                continue
            key = _key(document.id)
            if last is not None:
                if key not in last:
                    raise InvalidInput(f"{raw.path}:{raw.line}: the corpus changes while it is read; try again.")
                if last[key] != place:
                    self.report.duplicates += 1
                    continue
            elif key in seen:
                if self._duplicates == "fail":
                    raise InvalidInput(
                        f"{raw.path}:{raw.line}: the id {document.id!r} occurs a second time; remove it, or use "
                        "--duplicates skip (the first wins) or --duplicates overwrite (the last wins)."
                    )
                self.report.duplicates += 1
                continue
            else:
                seen.add(key)
            self.report.documents += 1
            self.report.empty += not document.content.strip()
            yield document
        if not self.report.documents:
            faulty = f", {self.report.bad_lines_total} faulty lines left out" if self.report.bad_lines_total else ""
            raise InvalidInput(f"the corpus {self.name} holds no documents{faulty}; give one that has some.")

    def _records(self) -> Iterator[Raw]:
        try:
            yield from self._read()
        except OSError as error:
            raise InvalidInput(f"the corpus {self.name} cannot be read: {error}.") from error

    def _last_places(self) -> dict[bytes, int]:
        places = {}
        for place, raw in enumerate(self._records()):
            document, _ = self._convert(raw)
            if document is not None:
                places[_key(document.id)] = place
        return places

    def _checked(self, raw: Raw) -> Document | None:
        document, reason = self._convert(raw)
        if document is not None:
            return document
        bad = BadLine(raw.path, raw.line, reason)
        self.report.bad_lines_total += 1
        if len(self.report.bad_lines) < SHOWN_BAD_LINES:
            self.report.bad_lines.append(bad)
        if self.report.bad_lines_total > self._max_bad_lines:
            shown = "; ".join(str(line) for line in self.report.bad_lines[:5])
            if self._max_bad_lines == 0:
                raise InvalidInput(f"{shown}. Correct it, or leave faulty lines out with --max-bad-lines N.")
            raise InvalidInput(
                f"{self.report.bad_lines_total} faulty lines, {self._max_bad_lines} allowed, the first: {shown}. "
                "Correct them, or allow more with --max-bad-lines N."
            )
        return None

    def _convert(self, raw: Raw) -> tuple[Document | None, str]:
        """Return a document, or None and the reason."""
        if raw.fields is None:
            return None, raw.reason
        try:
            return document_from(raw.fields, self._fields, self._metadata_fields), ""
        except ValueError as error:
            return None, str(error)


Names = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Fields that may hold the id, the title and the text."""


def document_from(
    fields: Mapping[str, Any],
    names: Names = (ID_FIELDS, TITLE_FIELDS, TEXT_FIELDS),
    metadata_fields: Collection[str] | None = None,
) -> Document:
    """Return the document that a record holds; fields of other names are metadata, as are those of "metadata".

    metadata_fields  what to keep of the metadata, None for all
    Raises ValueError with the reason, as the end of a sentence.
    """
    ids, titles, texts = names
    id_, title, text = _first(ids, fields), _first(titles, fields), _first(texts, fields)
    if id_ is None:
        raise ValueError(_missing("id", ids, fields))
    if text is None:
        raise ValueError(_missing("text", texts, fields))
    used = (id_, title, text, "metadata")
    others = {name: value for name, value in fields.items() if name not in used}
    return Document(
        id=_checked_id(fields[id_]),
        text=_checked_text(fields[text], "text"),
        title=_checked_text(fields[title], "title") if title is not None else "",
        metadata=_metadata(others, fields.get("metadata"), metadata_fields),
    )


def _first(names: Sequence[str], fields: Mapping[str, Any]) -> str | None:
    """Return the first of the names that has a value."""
    for name in names:
        if fields.get(name) is not None:
            return name
    return None


def _metadata(others: dict[str, Any], given: Any, kept: Collection[str] | None) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"'metadata' must be an object, got {type(given).__name__}")
    metadata = {}
    for name, value in ({**others, **given} if given else others).items():
        if kept is not None and name not in kept:
            continue
        try:
            value = plain(value)
            name = plain(name)
        except ValueError as error:
            raise ValueError(f"the field {name[:80]!r} cannot be stored: {error}") from None
        if value is not None:
            metadata[name] = value
    return metadata


def _missing(what: str, names: Sequence[str], fields: Mapping[str, Any]) -> str:
    there = ", ".join(repr(name[:40]) for name in list(fields)[:8]) or "nothing"
    return f"no {what}: none of {', '.join(names)} has a value, there is {there}"


# Of these characters everything below holds.
_PLAIN_ID = re.compile(rf"[!-~]{{1,{MAX_ID_BYTES}}}").fullmatch


def _key(id_: str) -> bytes:
    return hashlib.blake2b(id_.encode(), digest_size=16).digest()


def _checked_id(id_: Any) -> str:
    if isinstance(id_, str) and _PLAIN_ID(id_):
        return id_
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    # What a table makes of whole numbers in a column with gaps; beyond 2**53 neighbours would fall together.
    if isinstance(id_, float) and id_.is_integer() and abs(id_) < 2**53:
        id_ = str(int(id_))
    if not isinstance(id_, str):
        raise ValueError(f"the id must be text or a whole number, got {type(id_).__name__} {repr(id_)[:80]}")
    if not id_.strip():
        raise ValueError("the id is empty")
    if len(id_.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise ValueError(f"the id {id_[:40]!r}... is longer than {MAX_ID_BYTES} bytes")
    _checked_text(id_, "id")
    # A run file separates by white space, and a terminal or log should show the id as it is.
    if not id_.isprintable() or " " in id_:
        raise ValueError(f"the id {id_[:80]!r} contains white space or control characters")
    return id_


def _checked_text(text: Any, what: str) -> str:
    found: str = text if isinstance(text, str) else _as_text(text, what)
    if not found.isascii():
        try:
            found.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"the {what} contains half of a surrogate pair") from None
    return found


def _as_text(number: Any, what: str) -> str:
    # A whole number may be beyond any float; whether it is finite is not the question then.
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if not is_whole and not (isinstance(number, float) and math.isfinite(number)):
        raise ValueError(f"the {what} must be text, got {type(number).__name__}")
    return str(number)
