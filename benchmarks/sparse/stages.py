"""Where the time of a BM25 search goes: each layer timed on the same queries, in turns.

    python -m benchmarks.sparse.stages INDEX QUERIES.jsonl [--rounds 5]

terms      the query's text to terms
documents  numbers and exact scores of the best documents, from terms: look-ups and compiled code
ids        from text to the ids of the hits, as Python objects
answer     `index.search` with its fields, without texts

Each line holds what its layer does and all that the ones before it do; what it adds is in the last column. Prints
milliseconds: the mean over queries of each query's median over the rounds.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.changing import Timed
from benchmarks.sparse.protocol import read_queries
from retriever.index.sealed import Index, open_index

DEPTHS = (10, 1000)


def layers(index: Index, queries: list[str], k: int) -> dict[str, Callable[[int], object]]:
    """Return what is timed, by name; each takes the number of a query."""
    timed = Timed(index, queries)
    analyser = index.analyser
    assert analyser is not None
    return {
        "terms": lambda query: Counter(analyser.terms(queries[query])),
        "documents": lambda query: timed.bm25.search(Counter(analyser.terms(queries[query])), k),
        "ids": lambda query: index.search_bm25(queries[query], k, None),
        "answer": lambda query: index.search(queries[query], k, pipeline="bm25", documents=False),
    }


def measure(run: dict[str, Callable[[int], object]], queries: int, rounds: int) -> dict[str, float]:
    """Return the milliseconds of each layer."""
    seconds = {name: np.empty((rounds, queries)) for name in run}
    # The first round is for caches and compilers.
    for number in range(-1, rounds):
        for name, layer in run.items():
            for query in range(queries):
                started = time.perf_counter()
                layer(query)
                seconds[name][number, query] = time.perf_counter() - started
    return {name: float(np.median(found, axis=0).mean() * 1e3) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    queries = read_queries(arguments.queries)
    with open_index(arguments.index, offline=True) as index:
        index.warm()
        for k in DEPTHS:
            found = measure(layers(index, queries, k), len(queries), arguments.rounds)
            before = 0.0
            for name, milliseconds in found.items():
                print(f"k={k:<5} {name:10} {milliseconds:7.3f} ms  {milliseconds - before:+7.3f}", flush=True)
                before = milliseconds


if __name__ == "__main__":
    main()
