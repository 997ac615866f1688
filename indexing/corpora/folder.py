"""A folder of text, Markdown and HTML files; the id of a document is its path within the folder."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

from indexing.corpora.corpus import Raw

SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm"}
MAX_FILE_BYTES = 64 << 20

HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)


def files_of(folder: Path) -> list[Path]:
    """Return the files to read in order of their paths; nothing outside the folder is followed."""
    root = folder.resolve()
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.resolve().is_relative_to(root)
    ]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def read_folder(folder: Path) -> Iterator[Raw]:
    """Yield one document a file. Title: the first heading, <title>, or the name of the file."""
    for path in files_of(folder):
        relative = path.relative_to(folder).as_posix()
        if path.stat().st_size > MAX_FILE_BYTES:
            yield Raw(str(path), 1, None, f"larger than {MAX_FILE_BYTES >> 20} MiB")
            continue
        try:
            content = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Raw(str(path), 1, None, f"not UTF-8 at byte {error.start + 1}")
            continue
        title, text = _parse(path, content)
        # Spaces cannot stand in an id, since run files separate by them.
        id_ = quote(relative, safe="/._-~+@=,()[]!#&")
        yield Raw(str(path), 1, {"id": id_, "title": title or path.stem, "text": text, "path": relative})


def _parse(path: Path, content: str) -> tuple[str, str]:
    if path.suffix.lower() in (".html", ".htm"):
        return visible_text(content)
    if path.suffix.lower() in (".md", ".markdown"):
        heading = HEADING.search(content)
        if heading:
            return heading.group(1), (content[: heading.start()] + content[heading.end() :]).strip()
    return "", content.strip()


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
        self._in_title = False
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        elif tag in self.HIDDEN:
            self._hidden.append(tag)
        elif tag == "body":
            # A head that was never closed ends here.
            self._hidden.clear()
        elif tag == "h1" and not self.heading:
            self._in_heading = True
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "h1":
            self._in_heading = False
        elif tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
        if tag in self.BLOCKS:
            self.parts.append("\n")

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
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    title = " ".join("".join(parser.title or parser.heading).split())
    return title, "\n".join(line for line in lines if line)
