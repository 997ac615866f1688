"""Test collections: queries and judgments from BEIR folders, ir_datasets, or TREC files."""

import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retriever.errors import BackendUnavailable, InvalidInput

Qrels = dict[str, dict[str, int]]
"""Grade of each judged document, by query; grades above 0 are relevant."""

GRADE = re.compile(r"[+-]?[0-9]{1,9}")
# What the last column of a BEIR file is called.
HEADERS = ("score", "grade", "relevance", "label", "rel")


@dataclass(frozen=True)
class Collection:
    """Queries and judgments of one split.

    sha256  digest of each file that was read, by its name
    """

    name: str
    split: str
    queries: dict[str, str]
    qrels: Qrels
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> dict[str, str]:
        """The queries that have judgments and a text, in order of id."""
        return {id_: self.queries[id_] for id_ in sorted(self.qrels) if id_ in self.queries}


def open_collection(
    source: str, split: str = "test", *, name: str | None = None, queries: Path | None = None
) -> Collection:
    """Read a collection.

    source   a BEIR folder (queries.jsonl, qrels/SPLIT.tsv, each also .gz or .zst), "irds:NAME", or a file of
             judgments as BEIR or TREC has them
    queries  file of queries, queries.jsonl or `id<TAB>text` lines, instead of the folder's; a file of judgments
             without it is enough to measure a run
    Raises InvalidInput naming file and line, and the splits that there are.
    """
    scheme, _, rest = source.partition(":")
    if scheme in ("irds", "ir_datasets"):
        return _from_irds(rest)
    path = Path(source)
    if path.is_file():
        qrels_path: Path | None = path
        label, split = _stem(path), "all"
    else:
        queries = queries or _existing(path / "queries.jsonl")
        if queries is None:
            raise InvalidInput(f"{path} is no BEIR folder: it has no queries.jsonl. Or give irds:NAME or judgments.")
        qrels_path = _existing(path / "qrels" / f"{split}.tsv")
        label = path.resolve().name
    if qrels_path is None:
        splits = sorted({found.name.split(".")[0] for found in (path / "qrels").glob("*.tsv*")})
        raise InvalidInput(f"{path} has no split {split!r}; it has: {', '.join(splits) or 'none'}.")
    content = _read(qrels_path)
    # Of what stands in the file, so that compressing it changes nothing.
    digests = {_uncompressed(qrels_path): hashlib.sha256(content).hexdigest()}
    qrels = read_qrels(content, qrels_path)
    texts: dict[str, str] = {}
    if queries is not None:
        content = _read(queries)
        digests[_uncompressed(queries)] = hashlib.sha256(content).hexdigest()
        texts = read_queries(content, queries)
    return Collection(name or label, split, texts, qrels, digests)


def _uncompressed(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".zst")


def _stem(path: Path) -> str:
    return Path(_uncompressed(path)).stem


def _existing(path: Path) -> Path | None:
    return next((p for p in (path, Path(f"{path}.gz"), Path(f"{path}.zst")) if p.is_file()), None)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    try:
        if path.suffix == ".gz":
            return gzip.decompress(content)
        if path.suffix == ".zst":
            return _decompress_zstandard(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} is damaged ({error}); fetch it again.") from error
    return content


def _decompress_zstandard(content: bytes) -> bytes:
    """Decompress all frames. Raises EOFError when the last one is cut short, OSError for other damage."""
    import zstandard

    parts = []
    try:
        while content:
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(content))
            if not frame.eof:
                raise EOFError("the file ends too early")
            content = frame.unused_data
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from error
    return b"".join(parts)


def _lines(content: bytes, path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error}); convert it.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_queries(content: bytes, path: Path) -> dict[str, str]:
    """Read queries.jsonl, `_id` and `text` a line, or lines of id, tab and text when the name has no "jsonl".

    Raises InvalidInput naming the line.
    """
    queries: dict[str, str] = {}
    jsonl = ".jsonl" in path.suffixes
    for number, line in _lines(content, path):
        try:
            if jsonl:
                record = json.loads(line)
                id_, text = str(record["_id"]), record["text"]
            else:
                id_, text = line.split("\t", 1)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path}:{number}: a query needs _id and text ({error!r}).") from error
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"{path}:{number}: query {id_!r} has no text.")
        if id_ in queries:
            raise InvalidInput(f"{path}:{number}: query id {id_!r} occurs a second time.")
        queries[id_] = text
    return queries


def read_qrels(content: bytes, path: Path) -> Qrels:
    """Read judgments: BEIR's three columns with a header, or TREC's four.

    A pair that is judged twice with different grades, or a grade that is no whole number, raises InvalidInput.
    """
    qrels: Qrels = {}
    for number, line in _lines(content, path):
        cells = next(csv.reader([line], delimiter="\t")) if "\t" in line else line.split()
        if number == 1 and cells[-1].strip().lower() in HEADERS:
            continue
        if len(cells) not in (3, 4) or not all(cells) or not GRADE.fullmatch(cells[-1].strip()):
            raise InvalidInput(
                f"{path}:{number}: a judgment is query, document, grade, or TREC's four columns; got {line[:80]!r}."
            )
        query, document, grade = cells[0], cells[-2], int(cells[-1])
        known = qrels.setdefault(query, {}).setdefault(document, grade)
        if known != grade:
            raise InvalidInput(f"{path}:{number}: {query!r}, {document!r} is judged both {known} and {grade}.")
    if not qrels:
        raise InvalidInput(f"{path} holds no judgments.")
    return qrels


def read_texts(path: Path) -> list[str]:
    """Read plain texts, for tasks that any real text serves: those of a BEIR folder's corpus, of a JSONL file (`text`
    of each line), or one of each text file, or of a folder's text and Markdown files. JSONL may end in .gz or .zst.

    Raises InvalidInput naming file and line.
    """
    if path.is_dir():
        corpus = _existing(path / "corpus.jsonl")
        files = [corpus] if corpus else sorted(file for kind in ("*.txt", "*.md") for file in path.rglob(kind))
    else:
        files = [path]
    texts: list[str] = []
    for file in files:
        content = _read(file)
        if ".jsonl" not in file.suffixes:
            texts.append(content.decode("utf-8", errors="replace"))
            continue
        for number, line in _lines(content, file):
            try:
                texts.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(f"{file}:{number}: a document needs a text ({error!r}).") from error
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InvalidInput(f"{path} holds no texts; give a .jsonl or .txt file, or a folder of .txt and .md files.")
    return texts


def _from_irds(name: str) -> Collection:
    import ir_datasets

    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise InvalidInput(f"ir_datasets knows no collection {name!r}.") from None
    if not (dataset.has_queries() and dataset.has_qrels()):
        raise InvalidInput(f"the ir_datasets collection {name!r} has no queries with judgments; try {name}/test.")
    try:
        queries = {query.query_id: _query_text(query) for query in dataset.queries_iter()}
        qrels: Qrels = {}
        for judgment in dataset.qrels_iter():
            qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = judgment.relevance
    except Exception as error:
        # The library raises whatever its downloads raise.
        raise BackendUnavailable(f"ir_datasets could not provide {name!r}: {error}") from error
    digests = {
        part: hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        for part, content in (("queries", queries), ("qrels", qrels))
    }
    return Collection(name.replace("/", "-"), "all", queries, qrels, digests)


def _query_text(query: Any) -> str:
    return str(query.default_text() if hasattr(query, "default_text") else query.text)
