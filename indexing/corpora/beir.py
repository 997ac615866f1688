"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/*.tsv; reading the corpus, writing all three."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from indexing.corpora.corpus import Raw
from indexing.corpora.jsonl import read_jsonl
from indexing.corpora.pydocs import Entry
from retriever.errors import InvalidInput
from retriever.storage import disk_errors, sync, write_atomically
from retriever.types import Document

NAMES = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst")


def corpus_file(folder: Path) -> Path | None:
    """Return the corpus file of a BEIR folder, or None when the folder is none."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_beir(folder: Path) -> Iterator[Raw]:
    """Yield the documents of a BEIR folder."""
    path = corpus_file(folder)
    if path is None:
        raise InvalidInput(f"{folder} is no BEIR folder: it has none of {', '.join(NAMES)}.")
    yield from read_jsonl(path)


def write_beir(source: str, target: Path, **options: Any) -> dict[str, Any]:
    """Write any corpus as a BEIR folder and return the counts; takes the options of `open_corpus`.

    *pydocs* comes with queries and judgments. Those of another source are not copied, and a folder that holds
    some is refused, since they would stand beside documents that they do not judge.

    Raises InvalidInput and StorageFull; corpus.jsonl is then as it was before.
    """
    from indexing.corpora.opening import open_corpus, open_pydocs

    options = {name: value for name, value in options.items() if value is not None}
    corpus = open_corpus(source, **options)
    pairs: dict[str, Entry] = {}
    judged = corpus.describe()["format"] == "pydocs"
    if judged:
        options.pop("format", None)
        corpus = open_pydocs(source, lambda pair: pairs.setdefault(pair.id, pair), **options)
    if target.exists() and not target.is_dir():
        raise InvalidInput(f"{target} is a file; name a folder.")
    if not judged and ((target / "queries.jsonl").exists() or (target / "qrels").exists()):
        raise InvalidInput(f"{target} holds queries or judgments of another corpus; choose another folder.")
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        _write_corpus(corpus, target / "corpus.jsonl")
        report: dict[str, Any] = {"folder": str(target), "documents": corpus.report.documents}
        if judged:
            report |= _write_judgments(target, pairs.values())
    for name in ("empty", "duplicates", "bad_lines_total"):
        if count := getattr(corpus.report, name):
            report[name] = count
    return report


def _write_corpus(corpus: Iterable[Document], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for document in corpus:
                record: dict[str, Any] = {"_id": document.id, "title": document.title, "text": document.text}
                record["metadata"] = dict(document.metadata)
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_judgments(target: Path, pairs: Iterable[Entry]) -> dict[str, int]:
    """Write queries.jsonl and qrels."""
    queries = []
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for pair in pairs:
        queries.append(json.dumps({"_id": f"q:{pair.id}", "text": pair.query}, ensure_ascii=False))
        qrels[pair.split].append(f"q:{pair.id}\t{pair.id}\t1")
    write_atomically(target / "queries.jsonl", ("\n".join(queries) + "\n").encode())
    (target / "qrels").mkdir(exist_ok=True)
    for split, lines in qrels.items():
        content = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        write_atomically(target / "qrels" / f"{split}.tsv", content.encode())
    return {"queries": len(queries)} | {split: len(lines) for split, lines in qrels.items()}
