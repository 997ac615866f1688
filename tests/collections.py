"""A small real collection for tests: docstrings of a few well-known modules."""

import itertools
import json
from pathlib import Path

from indexing.corpora.pydocs import Entry, entries

MODULES = {
    "calendar", "collections", "configparser", "contextlib", "csv", "difflib", "fractions", "ipaddress", "json",
    "optparse", "shutil", "statistics", "zipfile",
}  # fmt: skip


def small_pydocs(documents: int) -> list[Entry]:
    """Return the first pairs of MODULES in the order of *pydocs*."""
    chosen = (entry for entry in entries("pydocs:stdlib") if entry.module in MODULES and len(entry.text) < 1500)
    return list(itertools.islice(chosen, documents))


def write_small_pydocs(folder: Path, documents: int) -> None:
    """Write a BEIR folder; every query is in the test split, since nothing is trained on it."""
    found = small_pydocs(documents)
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "queries.jsonl").open("w") as queries:
        for entry in found:
            metadata = {"module": entry.module, "kind": entry.kind, "lines": entry.lines}
            record = {"_id": entry.id, "title": entry.id, "text": entry.text, "metadata": metadata}
            corpus.write(json.dumps(record) + "\n")
            queries.write(json.dumps({"_id": f"q:{entry.id}", "text": entry.query}) + "\n")
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"q:{entry.id}\t{entry.id}\t1" for entry in found)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
