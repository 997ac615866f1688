"""What all corpora share: checking documents, counting faults, settling duplicate ids."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

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

    bad_lines  the first SHOWN_BAD_LINES of the `bad_lines_total`
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
    """A stream of checked documents; iterate as often as you like, each time from the start."""

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
        max_bad_lines: int = 0,
        duplicates: Duplicates = "fail",
    ) -> None:
        """Wrap a reader of raw records.

        duplicates  an id that occurs again: "fail"; "skip" keeps the first; "overwrite" keeps the last, at
                    its place, which takes a pass over all ids beforehand
        """
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
        self._fields = (
            (id_field,) if id_field else ID_FIELDS,
            (title_field,) if title_field else TITLE_FIELDS,
            (text_field,) if text_field else TEXT_FIELDS,
        )
        self._max_bad_lines = max_bad_lines
        self._duplicates = duplicates

    def describe(self) -> dict[str, Any]:
        """Return what the corpus is and how it is read, ready for JSON; two equal ones give equal documents."""
        chosen = [names[0] if len(names) == 1 else None for names in self._fields]
        return {**self._description, "name": self.name, "fields": chosen, "duplicates": self._duplicates}

    def size_hint(self) -> int | None:
        """Return the number of documents where it is cheap to know."""
        return self._size_hint()

    def __iter__(self) -> Iterator[Document]:
        self.report = Report()
        last = self._last_places() if self._duplicates == "overwrite" else None
        # Sixteen bytes an id, however long the ids are.
        seen: set[bytes] = set()
        for place, raw in enumerate(self._read()):
            document = self._checked(raw)
            if document is None:
                continue
            key = _key(document.id)
            if last is not None:
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

    def _last_places(self) -> dict[bytes, int]:
        places = {}
        for place, raw in enumerate(self._read()):
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
            raise InvalidInput(
                f"{self.report.bad_lines_total} faulty lines, {self._max_bad_lines} allowed: {shown}. "
                "Correct them, or leave some out with --max-bad-lines."
            )
        return None

    def _convert(self, raw: Raw) -> tuple[Document | None, str]:
        """Return a document, or None and the reason."""
        if raw.fields is None:
            return None, raw.reason
        try:
            return self._document(raw.fields), ""
        except ValueError as error:
            return None, str(error)

    def _document(self, fields: Mapping[str, Any]) -> Document:
        ids, titles, texts = self._fields
        used = set()

        def pick(names: tuple[str, ...]) -> Any:
            for name in names:
                if fields.get(name) is not None:
                    used.add(name)
                    return fields[name]
            return None

        id_, title, text = pick(ids), pick(titles), pick(texts)
        if text is None:
            raise ValueError(f"no text: there is none of the fields {', '.join(texts)}")
        metadata = fields.get("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValueError(f"'metadata' must be an object, got {type(metadata).__name__}")
        used.add("metadata")
        extra = {name: value for name, value in fields.items() if name not in used and value is not None}
        return Document(
            id=_checked_id(id_, ids),
            text=_checked_text(text, "text"),
            title=_checked_text(title, "title") if title is not None else "",
            metadata={**extra, **(metadata or {})},
        )


def _key(id_: str) -> bytes:
    return hashlib.blake2b(id_.encode(), digest_size=16).digest()


def _checked_id(id_: Any, names: tuple[str, ...]) -> str:
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if isinstance(id_, float) and math.isfinite(id_) and id_.is_integer():
        id_ = str(int(id_))
    if id_ is None:
        raise ValueError(f"no id: there is none of the fields {', '.join(names)}")
    if not isinstance(id_, str):
        raise ValueError(f"the id must be text or a whole number, got {id_!r}")
    if not id_.strip():
        raise ValueError("the id is empty")
    # A run file separates by white space, and a terminal or log should show the id as it is.
    if any(character.isspace() or not character.isprintable() for character in id_):
        raise ValueError(f"the id {id_[:80]!r} contains white space or control characters")
    if len(id_.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise ValueError(f"the id {id_[:40]!r}... is longer than {MAX_ID_BYTES} bytes")
    return _checked_text(id_, "id")


def _checked_text(text: Any, what: str) -> str:
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        raise ValueError(f"the {what} must be text, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"the {what} contains half of a surrogate pair") from None
    return text
