"""*pydocs*: the functions and classes of the Python that is running, with their docstrings.

Query: the first sentence of a docstring. Document: the code and the rest of the docstring. The sources are
parsed, never imported or run. Nothing has to be downloaded, so this is the collection of the quick start, of
known-item evaluation and of adaptation.

    pydocs          the standard library and everything in site-packages
    pydocs:stdlib   the standard library alone
"""

import ast
import hashlib
import re
import sysconfig
import textwrap
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexing.corpora.corpus import Raw
from retriever.errors import InvalidInput

# Tests hold copies and nonsense on purpose; the others are not meant to be read by a person.
LEFT_OUT = frozenset(
    {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "_vendor"}
)  # fmt: skip
MAX_SOURCE_BYTES = 2_000_000
MAX_TEXT = 6_000
LEAST_TEXT = 40
LEAST_WORDS = 4
MOST_CHARACTERS = 300

SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n\s*\n|:\s*\n")
TOKEN = re.compile(r"\w+|[^\w\s]")
BOILERPLATE = re.compile(r"^(see |deprecated|alias |todo|internal|private|do not use|none)\b", re.IGNORECASE)

SIGNATURE = 32
BANDS = 8
NEAR = 0.8


@dataclass(frozen=True, slots=True)
class Entry:
    """One pair: where it stands, its query, and the document."""

    id: str
    query: str
    text: str
    module: str
    kind: str
    lines: int

    @property
    def split(self) -> str:
        """Return train, dev or test, 80 : 10 : 10, by a hash of the id."""
        place = int.from_bytes(hashlib.blake2b(self.id.encode(), digest_size=4).digest()) % 10
        return {8: "dev", 9: "test"}.get(place, "train")


def roots_of(source: str) -> list[Path]:
    """Return the folders that a source names. Raises InvalidInput for an unknown one."""
    name, _, scope = source.partition(":")
    if name != "pydocs":
        raise InvalidInput(f"unknown collection {source!r}; use pydocs or pydocs:stdlib.")
    paths = sysconfig.get_paths()
    if scope == "stdlib":
        return [Path(paths["stdlib"])]
    if scope:
        raise InvalidInput(f"unknown collection {source!r}; use pydocs or pydocs:stdlib.")
    return list(dict.fromkeys(Path(paths[name]) for name in ("stdlib", "purelib", "platlib")))


def read_pydocs(source: str, note: Callable[[Entry], object] | None = None) -> Iterator[Raw]:
    """Yield the documents of *pydocs*; `note` is told each pair, since a document does not hold its query."""
    for number, entry in enumerate(entries(source), 1):
        if note is not None:
            note(entry)
        fields = {"id": entry.id, "title": entry.id, "text": entry.text}
        metadata = {"module": entry.module, "kind": entry.kind, "lines": entry.lines}
        yield Raw(source, number, {**fields, "metadata": metadata})


def entries(source: str) -> Iterator[Entry]:
    """Yield all pairs in a fixed order, near-duplicates removed: of several the first stays.

    Parsing takes most of the time: seconds for the standard library, minutes for a large installation.
    """
    known_ids: set[str] = set()
    known_queries: set[str] = set()
    seen = _NearDuplicates()
    for root in roots_of(source):
        for path in _sources(root):
            for entry in _entries_of(root, path):
                plain_query = " ".join(TOKEN.findall(entry.query.lower()))
                if entry.id in known_ids or plain_query in known_queries or seen.has(entry.text):
                    continue
                known_ids.add(entry.id)
                known_queries.add(plain_query)
                yield entry


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        if not LEFT_OUT.intersection(folders) and not path.name.startswith("test_"):
            yield path


def _entries_of(root: Path, path: Path) -> Iterator[Entry]:
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    if not all(part.isidentifier() for part in parts):
        # It cannot be imported, so its path is no name.
        return
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            return
        code = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            # Other people's invalid escapes are not our user's concern.
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        # Templates and sources of other Python versions lie in every installation.
        return
    lines = code.split("\n")
    yield from _walk(tree, parts, lines, parts[0] if parts else path.stem, in_class=False)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _walk(node: ast.AST, names: list[str], lines: list[str], module: str, *, in_class: bool) -> Iterator[Entry]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition):
            if isinstance(child, ast.If | ast.Try | ast.With):
                yield from _walk(child, names, lines, module, in_class=in_class)
            continue
        inner = [*names, child.name]
        is_class = isinstance(child, ast.ClassDef)
        kind = "class" if is_class else "method" if in_class else "function"
        entry = _entry(child, ".".join(inner), lines, module, kind)
        if entry is not None:
            yield entry
        if is_class:
            yield from _walk(child, inner, lines, module, in_class=True)


def _entry(node: Definition, id_: str, lines: list[str], module: str, kind: str) -> Entry | None:
    docstring = ast.get_docstring(node)
    if not docstring:
        return None
    query, rest = _split_docstring(docstring)
    if query is None:
        return None
    first = node.body[0]
    assert isinstance(first, ast.Expr)
    code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno or 0 : node.end_lineno]
    text = textwrap.dedent("\n".join(code)).strip()
    text = f"{rest}\n\n{text}"[:MAX_TEXT].strip() if rest else text[:MAX_TEXT]
    if len(text) < LEAST_TEXT or not _is_whole(text):
        return None
    # The answer must not simply be found by its own words in the same order.
    if query.lower().rstrip(".") in " ".join(text.lower().split()):
        return None
    return Entry(id_, query, text, module, kind, (node.end_lineno or node.lineno) - node.lineno + 1)


def _split_docstring(docstring: str) -> tuple[str | None, str]:
    """Return the first sentence, None when it says too little to be looked for, and the rest."""
    found = SENTENCE_END.search(docstring)
    end = found.start() if found else len(docstring)
    query = " ".join(docstring[:end].split())
    words = re.findall(r"[A-Za-z]{2,}", query)
    usable = len(words) >= LEAST_WORDS and len(query) <= MOST_CHARACTERS and not BOILERPLATE.match(query)
    return (query if usable and query.isprintable() else None), docstring[end:].strip()


def _is_whole(text: str) -> bool:
    """Return whether a text can be stored; a docstring may spell half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class _NearDuplicates:
    """Remembers texts by MinHash signatures over runs of five tokens (Broder 1997)."""

    def __init__(self) -> None:
        generator = np.random.default_rng(20_261_121)
        self._factors = generator.integers(1, 1 << 31, SIGNATURE, dtype=np.uint64) | np.uint64(1)
        self._offsets = generator.integers(0, 1 << 31, SIGNATURE, dtype=np.uint64)
        self._bands: dict[bytes, list[NDArray[np.uint32]]] = {}

    def has(self, text: str) -> bool:
        """Return whether a text alike in about NEAR of its runs was seen; remember this one if not."""
        tokens = TOKEN.findall(text.lower())
        runs = {zlib.crc32(" ".join(tokens[i : i + 5]).encode()) for i in range(max(1, len(tokens) - 4))}
        hashed = np.fromiter(runs, np.uint64, len(runs))[:, None] * self._factors + self._offsets
        signature = (hashed >> np.uint64(16)).astype(np.uint32).min(axis=0)
        keys = [bytes([band]) + signature[band::BANDS].tobytes() for band in range(BANDS)]
        for key in keys:
            for other in self._bands.get(key, ()):
                if np.mean(other == signature) >= NEAR:
                    return True
        for key in keys:
            self._bands.setdefault(key, []).append(signature)
        return False
