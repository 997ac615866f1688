"""Time and peak memory of building a BM25 index, as a whole process.

    python -m benchmarks.index [--documents 500000] [--corpus FILE.jsonl] [--repeat 1]

Without a corpus, passages of 60 words are cut from *pydocs*, overlapping as far as needed to reach the number.
Appends a line to benchmarks/results/index.csv.
"""

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from indexing.corpora.pydocs import entries
from retriever.evaluation.records import environment

RESULTS = Path(__file__).parent / "results" / "index.csv"
WORDS = 60
COLUMNS = [
    "date", "corpus", "documents", "seconds", "documents_per_second", "peak_mb", "index_mb", "cpu", "cores", "versions",
]  # fmt: skip


def passages(count: int) -> Iterator[str]:
    """Yield `count` passages of WORDS words from real documentation and code."""
    words = list(itertools.chain.from_iterable(entry.text.split() for entry in entries("pydocs")))
    step = max(1, (len(words) - WORDS) // count)
    for number in range(count):
        start = number * step % (len(words) - WORDS)
        yield " ".join(words[start : start + WORDS])


def write_corpus(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number, text in enumerate(passages(count)):
            file.write(json.dumps({"_id": str(number), "text": text}) + "\n")


def build(corpus: Path, index: Path) -> tuple[dict[str, float], float]:
    """Build in a process of its own; return its report and its peak memory in MB."""
    command = [sys.executable, "-m", "retriever.cli", "index", "build", str(corpus), str(index), "--parts", "bm25"]
    process = subprocess.Popen([*command, "--json", "-q"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build failed with status {status}")
    return json.loads(output), usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=500_000)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    machine = environment()
    versions = " ".join(f"{name}={v}" for name, v in machine["packages"].items())
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus
        if corpus is None:
            corpus = Path(folder) / "corpus.jsonl"
            write_corpus(corpus, arguments.documents)
        for number in range(arguments.repeat):
            index = Path(folder) / f"index-{number}"
            report, peak = build(corpus, index)
            size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file()) / 1e6
            row = [
                datetime.now(UTC).isoformat(timespec="seconds"),
                "pydocs passages" if arguments.corpus is None else corpus.name,
                report["documents"], report["seconds"], round(report["documents"] / report["seconds"]), round(peak),
                round(size), machine["cpu"], machine["cores"], versions,
            ]  # fmt: skip
            fresh = not RESULTS.exists()
            with RESULTS.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if fresh:
                    writer.writerow(COLUMNS)
                writer.writerow(row)
            print(dict(zip(COLUMNS, row, strict=True)))


if __name__ == "__main__":
    main()
