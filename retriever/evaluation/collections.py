"""Test collections: queries and judgments from BEIR folders, ir_datasets, or TREC files."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retriever.errors import BackendUnavailable, InvalidInput

Qrels = dict[str, dict[str, int]]
"""Grade of each judged document, by query; grades above 0 are relevant."""


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


def open_collection(source: str, split: str = "test", *, name: str | None = None) -> Collection:
    """Read a collection.

    source  a BEIR folder (queries.jsonl, qrels/SPLIT.tsv, each also .gz or .zst) or "irds:NAME"
    Raises InvalidInput naming file and line, and the splits that there are.
    """
    scheme, _, rest = source.partition(":")
    if scheme in ("irds", "ir_datasets"):
        return _from_irds(rest)
    folder = Path(source)
    queries_path = _existing(folder / "queries.jsonl")
    if not folder.is_dir() or queries_path is None:
        raise InvalidInput(f"{folder} is no BEIR folder: it has no queries.jsonl. Or give irds:NAME.")
    qrels_path = _existing(folder / "qrels" / f"{split}.tsv")
    if qrels_path is None:
        splits = sorted({path.name.split(".")[0] for path in (folder / "qrels").glob("*.tsv*")})
        raise InvalidInput(f"{folder} has no split {split!r}; it has: {', '.join(splits) or 'none'}.")
    texts, digests = {}, {}
    for path in (queries_path, qrels_path):
        content = _read(path)
        digests[path.name] = hashlib.sha256(content).hexdigest()
        texts[path] = content
    return Collection(
        name or folder.resolve().name,
        split,
        read_queries(texts[queries_path], queries_path),
        read_qrels(texts[qrels_path], qrels_path),
        digests,
    )


def _existing(path: Path) -> Path | None:
    return next((p for p in (path, Path(f"{path}.gz"), Path(f"{path}.zst")) if p.is_file()), None)


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            return gzip.decompress(content)
        if path.suffix == ".zst":
            import zstandard

            return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path} is damaged ({error}); fetch it again.") from error
    return content


def _lines(content: bytes, path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 ({error}); convert it.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_queries(content: bytes, path: Path) -> dict[str, str]:
    """Read queries.jsonl: `_id` and `text` a line. Raises InvalidInput naming the line."""
    queries = {}
    for number, line in _lines(content, path):
        try:
            record = json.loads(line)
            id_, text = str(record["_id"]), record["text"]
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
        if number == 1 and not _is_grade(cells[-1]):
            continue
        if len(cells) not in (3, 4) or not _is_grade(cells[-1]):
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


def _is_grade(text: str) -> bool:
    return text.strip().lstrip("-").isdigit()


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
    return Collection(name.replace("/", "-"), "all", queries, qrels)


def _query_text(query: Any) -> str:
    return str(query.default_text() if hasattr(query, "default_text") else query.text)
