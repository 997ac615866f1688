"""Which analyser finds more by BM25? Pairs of analysers on test collections, with paired tests.

    python -m benchmarks.analysers --data FOLDER [--only NAME ...]

FOLDER, by default what RETRIEVER_TEST_DATA names, holds the collections in BEIR layout. Every index is built anew with
k1 = 0.9 and b = 0.4 and removed at the end. Writes benchmarks/results/analysers.csv and prints the tables of
docs/analysers.md; with --only nothing is written.
"""

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.evaluation.collections import open_collection
from retriever.evaluation.records import EvaluationSettings, environment, evaluate_index
from retriever.evaluation.significance import Comparison, compare, holm
from retriever.index.sealed import open_index

RESULTS = Path(__file__).parent / "results" / "analysers.csv"
MEASURE = "nDCG@10"
SNOWBALL = {
    "de": "german", "es": "spanish", "ro": "romanian", "ru": "russian", "tr": "turkish", "ar": "arabic", "el": "greek",
    "hi": "hindi",
}  # fmt: skip


class Pair(NamedTuple):
    """Two analysers on one collection."""

    collection: str
    split: str
    first: str
    second: str


# p-values are corrected within each table.
TABLES = {
    "no spaces, or accents": [
        Pair(f"xquad/{name}", "test", "lucene-english", "multilingual") for name in ("zh", "th", "ar", "hi", "el")
    ],
    "a stemmer": [
        Pair(f"xquad/{language}", "test", "multilingual", f"snowball:{name}") for language, name in SNOWBALL.items()
    ],
    "other": [
        Pair("cosqa", "dev", "lucene-english", "code"),
        Pair("codetrans-java-cs", "dev", "lucene-english", "code"),
        Pair("jaquad", "dev", "lucene-english", "multilingual"),
        Pair("scifact", "train", "lucene-english", "multilingual"),
    ],
}  # fmt: skip


class Measured:
    """Values of each query, by collection and analyser; what two tables share is measured once."""

    def __init__(self, data: Path, work: Path) -> None:
        self._data = data
        self._work = work
        self._values: dict[tuple[str, str, str], dict[str, float]] = {}

    def values(self, collection: str, split: str, name: str) -> dict[str, float]:
        key = collection, split, name
        if key not in self._values:
            self._values[key] = self._measure(*key)
        return self._values[key]

    def _measure(self, collection: str, split: str, name: str) -> dict[str, float]:
        folder = str(self._data / collection)
        path = self._work / str(len(self._values))
        build_index(open_corpus(folder), path, BuildSettings(parts=("bm25",), analyser=name, k1=0.9, b=0.4))
        with open_index(path) as index:
            settings = EvaluationSettings(measures=(MEASURE,))
            _, record = evaluate_index(index, open_collection(folder, split), "bm25", settings)
        print(f"{collection} {split} {name}: {record.means[MEASURE]:.4f}", file=sys.stderr, flush=True)
        return record.per_query[MEASURE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = os.environ.get("RETRIEVER_TEST_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--only", nargs="+", default=[], help="collections, as xquad/th")
    arguments = parser.parse_args()
    rows: list[tuple[str, Pair, Comparison, float]] = []
    with tempfile.TemporaryDirectory() as work:
        measured = Measured(arguments.data, Path(work))
        for title, pairs in TABLES.items():
            chosen = [pair for pair in pairs if not arguments.only or pair.collection in arguments.only]
            found = [
                compare(*(measured.values(pair.collection, pair.split, name) for name in (pair.first, pair.second)))
                for pair in chosen
            ]
            rows += [(title, *row) for row in zip(chosen, found, holm([one.p for one in found]), strict=True)]
    print_tables(rows)
    if not arguments.only:
        write(rows)


def print_tables(rows: Sequence[tuple[str, Pair, Comparison, float]]) -> None:
    """Print Markdown."""
    for title in dict.fromkeys(row[0] for row in rows):
        print(f"\n| {title} | first | second | difference | wins/losses | p |\n|---|---|---|---|---|---|")
        for _, pair, one, p in (row for row in rows if row[0] == title):
            print(
                f"| {pair.collection} {pair.split} | `{pair.first}` {_short(one.baseline)} "
                f"| `{pair.second}` {_short(one.system)} "
                f"| {one.difference:+.4f} | {one.wins}/{one.losses} | {p:.2g} |"
            )


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def write(rows: Sequence[tuple[str, Pair, Comparison, float]]) -> None:
    """Write the CSV with the machine that gave the numbers."""
    machine = environment()
    versions = " ".join(f"{name}={machine['packages'][name]}" for name in ("retriever-engine", "numpy", "ir-measures"))
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([
            "date", "table", "collection", "split", "queries", "first", "second", f"first {MEASURE}",
            f"second {MEASURE}", "difference", "low", "high", "wins", "losses", "p", "p_holm", "versions",
        ])  # fmt: skip
        date = datetime.now(UTC).isoformat(timespec="seconds")
        for title, pair, one, p in rows:
            queries = one.wins + one.losses + one.ties
            numbers = [f"{value:.4f}" for value in (one.baseline, one.system, one.difference, *one.interval)]
            writer.writerow([
                date, title, pair.collection, pair.split, queries, pair.first, pair.second, *numbers, one.wins,
                one.losses, f"{one.p:.3g}", f"{p:.3g}", versions,
            ])  # fmt: skip


if __name__ == "__main__":
    main()
