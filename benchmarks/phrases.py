"""Phrases answered from positions and from stored texts: latency, bytes and build time, answers compared.

    python -m benchmarks.phrases --corpus CORPUS.jsonl[.zst] [--documents 100000]

Builds the same passages with and without positions and asks both for phrases taken from random passages. Where there
are more candidates than texts are read, the answer without positions is not exact: such phrases are counted and left
out of the times of both. Adds lines to benchmarks/results/phrases.csv.
"""

import argparse
import itertools
import json
import random
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.sparse.protocol import read_corpus
from benchmarks.table import RESULTS, add_rows
from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.analysis import Analyser, analyser
from retriever.index.sealed import Index, open_index

KINDS = {"two words": (2, ""), "three words": (3, ""), "two words, slop 3": (2, "~3")}
ROUNDS = 3


def chosen(texts: list[str], words: int, count: int, analyse: Analyser, generator: random.Random) -> list[str]:
    """Return distinct phrases of so many neighbouring words, each of which gives one term."""
    phrases: dict[str, None] = {}
    while len(phrases) < count:
        found = re.findall(r"[A-Za-z]+", generator.choice(texts))
        if len(found) >= words:
            start = generator.randrange(len(found) - words + 1)
            phrase = " ".join(found[start : start + words])
            if len(analyse.terms(phrase)) == words:
                phrases[phrase] = None
    return list(phrases)


def timed(index: Index, queries: list[str], rounds: int) -> tuple[np.ndarray, list[object], np.ndarray]:
    """Return the milliseconds of each query, the best of the rounds, its ranking, and whether that is exact."""
    times = np.empty((rounds, len(queries)))
    rankings: list[object] = []
    exact = np.ones(len(queries), np.bool_)
    for number in range(rounds):
        rankings.clear()
        for i, query in enumerate(queries):
            started = time.perf_counter()
            answer = index.search(query, 10, pipeline="bm25", syntax=True, documents=False)
            times[number, i] = time.perf_counter() - started
            rankings.append(answer.ranking())
            exact[i] = answer.exact
    return times.min(axis=0) * 1e3, rankings, exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100, help="Phrases of each kind.")
    arguments = parser.parse_args()
    generator = random.Random(0)
    analyse = analyser("lucene-english")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        texts = []
        with (work / "corpus.jsonl").open("w") as file:
            for id_, text in itertools.islice(read_corpus(arguments.corpus), arguments.documents):
                file.write(json.dumps({"_id": id_, "text": text}) + "\n")
                texts.append(text)
        queries = {
            kind: [f'"{phrase}"{slop}' for phrase in chosen(texts, words, arguments.queries, analyse, generator)]
            for kind, (words, slop) in KINDS.items()
        }
        opened: dict[bool, Index] = {}
        built: dict[bool, dict[str, object]] = {}
        for positions in (False, True):
            path = work / str(positions)
            settings = BuildSettings(parts=("bm25",), positions=positions)
            started = time.perf_counter()
            build_index(open_corpus(str(work / "corpus.jsonl")), path, settings, processes=2)
            seconds = time.perf_counter() - started
            opened[positions] = index = open_index(path)
            sizes = index.describe()["bytes"]
            occurrences = sum(int(s.inverted.lengths.sum(dtype=np.int64)) for s in index.segments if s.inverted)
            built[positions] = {
                "positions": positions,
                "documents": len(index),
                "build_s": round(seconds, 1),
                "inverted_bytes": sizes["inverted"],
                "positions_bytes": sizes["positions"],
                "bytes_per_position": round(sizes["positions"] / occurrences, 3) if positions else "",
            }
            print(built[positions], flush=True)
        for kind, asked in queries.items():
            for index in opened.values():
                timed(index, asked[:3], 1)
            found = {positions: timed(index, asked, ROUNDS) for positions, index in opened.items()}
            exact = found[False][2]
            assert found[True][2].all(), "positions always give exact answers"
            for i in np.flatnonzero(exact).tolist():
                assert found[True][1][i] == found[False][1][i], asked[i]
            for positions, (times, _, _) in found.items():
                kept = times[exact]
                p50, p99 = np.percentile(kept, [50, 99])
                row = built[positions] | {
                    "phrases": kind, "queries": len(kept), "cut": int((~exact).sum()),
                    "mean_ms": round(float(kept.mean()), 3), "p50_ms": round(float(p50), 3),
                    "p99_ms": round(float(p99), 3),
                }  # fmt: skip
                rows.append(row)
                print({name: row[name] for name in ("phrases", "positions", "queries", "mean_ms", "p50_ms", "p99_ms")})
        for index in opened.values():
            index.close()
    add_rows(RESULTS / "phrases.csv", rows, ("retriever-engine", "numba", "numpy"))


if __name__ == "__main__":
    main()
