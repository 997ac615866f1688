"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/*.tsv; reading the corpus, writing all three."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from indexing.corpora.corpus import Raw
from indexing.corpora.jsonl import read_jsonl
from retriever.errors import InvalidInput
from retriever.storage import write_atomically

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
    """Write any corpus as a BEIR folder; pydocs comes with queries and judgments. Returns the counts."""
    from indexing.corpora.opening import open_corpus

    corpus = open_corpus(source, **{name: value for name, value in options.items() if value is not None})
    target.mkdir(parents=True, exist_ok=True)
    temporary = target / ".corpus.jsonl.part"
    with temporary.open("w", encoding="utf-8") as file:
        for document in corpus:
            record: dict[str, Any] = {"_id": document.id, "title": document.title, "text": document.text}
            record["metadata"] = dict(document.metadata)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    temporary.replace(target / "corpus.jsonl")
    report: dict[str, Any] = {"folder": str(target), "documents": corpus.report.documents}
    if source.partition(":")[0] == "pydocs":
        from indexing.corpora.pydocs import pairs_of

        report |= _write_judgments(target, pairs_of(source))
    return report


def _write_judgments(target: Path, pairs: Iterator[tuple[str, str, str]]) -> dict[str, int]:
    """Write queries.jsonl and qrels from (document id, split, query) triples."""
    queries = []
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for id_, split, query in pairs:
        queries.append(json.dumps({"_id": f"q:{id_}", "text": query}, ensure_ascii=False))
        qrels[split].append(f"q:{id_}\t{id_}\t1")
    write_atomically(target / "queries.jsonl", ("\n".join(queries) + "\n").encode())
    (target / "qrels").mkdir(exist_ok=True)
    for split, lines in qrels.items():
        content = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        write_atomically(target / "qrels" / f"{split}.tsv", content.encode())
    return {"queries": len(queries)} | {split: len(lines) for split, lines in qrels.items()}
