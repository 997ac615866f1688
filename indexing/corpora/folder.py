"""A folder of text, Markdown and HTML files; the id of a document is its path within the folder."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

from indexing.corpora.corpus import Raw

SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm"}
MAX_FILE_BYTES = 64 << 20

HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*\S)")
FENCE = re.compile(r" {0,3}(```|~~~)")
# A tag or comment that the end of a page breaks off: a browser shows nothing of it.
UNFINISHED = re.compile(r"<(?:[a-zA-Z!?]|/.)", re.DOTALL)
# "<!-->" is a whole comment (HTML standard, 13.2.5.43); Python's parser of 3.11 looks for another end.
EMPTY_COMMENT = re.compile(r"<!---?>")
COMMENT_END = re.compile(r"--!?>")
# No character has a number of so many digits, and Python refuses to read one of 4,300.
ENDLESS_NUMBER = re.compile(r"&#[0-9]{1000,};?")


def files_of(folder: Path) -> list[Path]:
    """Return the files to read in order of their paths.

    Hidden ones are left out, and so is what lies outside the folder: links to folders are not followed, and
    links to files only when they stay within.
    """
    root = folder.resolve()
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and (not path.is_symlink() or path.resolve().is_relative_to(root))
    )


def read_folder(folder: Path) -> Iterator[Raw]:
    """Yield one document a file. Title: the first heading, <title>, or the name of the file."""
    for path in files_of(folder):
        relative = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
        name = f"{folder}/{relative}"
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                yield Raw(name, 1, None, f"larger than {MAX_FILE_BYTES >> 20} MiB")
                continue
            content = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Raw(name, 1, None, f"not UTF-8 at byte {error.start + 1}; convert the file, from Latin-1 maybe")
            continue
        except OSError as error:
            yield Raw(name, 1, None, f"cannot be read: {error.strerror}")
            continue
        title, text = _parse(path, content)
        yield Raw(name, 1, {"id": id_of(path.relative_to(folder)), "title": title, "text": text, "path": relative})


def id_of(relative: Path) -> str:
    """Return a path as an id: what cannot stand in one, such as a space, is percent-encoded as in a URL."""
    return "".join(
        quote(os.fsencode(character), safe="")
        if character == "%" or character.isspace() or not character.isprintable()
        else character
        for character in relative.as_posix()
    )


def _parse(path: Path, content: str) -> tuple[str, str]:
    suffix = path.suffix.lower()
    title, text = "", content.strip()
    if suffix in (".html", ".htm"):
        title, text = visible_text(content)
    elif suffix in (".md", ".markdown"):
        title, text = _without_heading(content)
    return title or os.fsencode(path.stem).decode("utf-8", "backslashreplace"), text


def _without_heading(markdown: str) -> tuple[str, str]:
    """Return the first heading outside code, and the text without it."""
    lines = markdown.split("\n")
    in_code = False
    for number, line in enumerate(lines):
        if FENCE.match(line):
            in_code = not in_code
        elif not in_code and (found := HEADING.fullmatch(line.rstrip())):
            heading = found.group(1)
            # "## Title ##" is closed, "# C#" is not.
            opened = heading.rstrip("#")
            heading = heading if opened and not opened[-1].isspace() else opened.rstrip()
            return heading, "\n".join(lines[:number] + lines[number + 1 :]).strip()
    return "", markdown.strip()


class _Visible(HTMLParser):
    """Collects what a browser would show."""

    HIDDEN = frozenset({"script", "style", "noscript", "template", "head", "svg"})
    BLOCKS = frozenset(
        {"p", "div", "br", "li", "ul", "ol", "tr", "table", "section", "article", "header", "footer", "nav",
         "aside", "main", "pre", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "hr", "dt", "dd"}
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self.heading: list[str] = []
        self._hidden: list[str] = []
        # How often a tag stands in _hidden, which may be as long as the page.
        self._open: Counter[str] = Counter()
        self._in_title = False
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" or (tag in self.BLOCKS and self._hidden == ["head"]):
            # A head may end without being closed.
            self._hidden.clear()
            self._open.clear()
        if tag == "title":
            # A drawing can have titles too.
            self._in_title = not self.title and not self._open["svg"]
        elif tag in self.HIDDEN:
            self._hidden.append(tag)
            self._open[tag] += 1
        elif tag == "h1" and not self.heading:
            self._in_heading = True
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "h1":
            self._in_heading = False
        elif self._open[tag]:
            closed = ""
            while closed != tag:
                closed = self._hidden.pop()
                self._open[closed] -= 1
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        # The parser's own raises AssertionError for sections that it does not know; a browser passes over them all.
        return self.parse_bogus_comment(i, report)

    def parse_comment(self, i: int, report: bool = True) -> int:
        found = EMPTY_COMMENT.match(self.rawdata, i) or COMMENT_END.search(self.rawdata, i + 4)
        return found.end() if found else -1

    def finish(self) -> None:
        """Take what follows the last whole tag; unlike `close`, which is quadratic in it, in linear time."""
        if not UNFINISHED.match(self.rawdata):
            self.handle_data(unescape(self.rawdata))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._hidden:
            self.parts.append(data)
            if self._in_heading:
                self.heading.append(data)


def visible_text(html: str) -> tuple[str, str]:
    """Return title and visible text of a page; scripts, styles and mark-up are left out."""
    parser = _Visible()
    parser.feed(ENDLESS_NUMBER.sub("\ufffd", html))
    parser.finish()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    title = " ".join("".join(parser.title or parser.heading).split())
    return title, "\n".join(line for line in lines if line)
