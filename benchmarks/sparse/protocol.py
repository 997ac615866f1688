"""How the benchmark speaks with an engine: JSON objects, one a line, with a driver in a process of its own.

A driver module holds a `Driver` and ends with `serve(...)`. It is run by the interpreter that has its engine, from
the root of the repository (`python -m benchmarks.sparse.tantivy`), so that no driver imports another's engine.
"""

import json
import os
import resource
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

K1, B = 0.9, 0.4
BUILD_THREADS = 2


class Driver(ABC):
    """One engine. `build` and `open` come first; a query is then named by its place in the query file."""

    @abstractmethod
    def version(self) -> str:
        """Return the version of the engine."""

    @abstractmethod
    def build(self, corpus: Path, index: Path) -> float:
        """Build from the corpus and return the seconds that the engine itself is to answer for."""

    def disk(self, index: Path) -> int:
        """Return the bytes that searching needs on disk."""
        files = index.rglob("*") if index.is_dir() else [index]
        return sum(file.stat().st_size for file in files if file.is_file())

    @abstractmethod
    def open(self, index: Path, queries: Path) -> None:
        """Open what `build` made and read the queries; neither is timed."""

    @abstractmethod
    def search(self, query: int, k: int) -> Any:
        """Answer one query with one thread; what comes back is the engine's own form of a result."""

    @abstractmethod
    def hits(self, query: int, k: int) -> list[tuple[str, float]]:
        """Return ids and scores of one query, best first; not timed."""

    @abstractmethod
    def count(self) -> int:
        """Return how many queries were read."""

    def batch(self, k: int, threads: int) -> None:
        """Answer all queries with so many threads: Python's own, unless the engine has a way of its own."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda query: self.search(query, k), range(self.count())))


def serve(driver: Driver) -> None:
    """Answer requests from standard input until it ends; libraries that print go to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = _answer(driver, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(driver: Driver, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "build":
            index = Path(request["index"])
            seconds = driver.build(Path(request["corpus"]), index)
            return {"seconds": seconds, "version": driver.version(), "mb": driver.disk(index) / 1e6}
        case "open":
            driver.open(Path(request["index"]), Path(request["queries"]))
            return {"queries": driver.count(), "version": driver.version()}
        case "pass":
            return {"seconds": time_each(driver.search, driver.count(), request["k"])}
        case "batch":
            start = time.perf_counter()
            driver.batch(request["k"], request["threads"])
            return {"seconds": time.perf_counter() - start}
        case "hits":
            return {"hits": [driver.hits(query, request["k"]) for query in range(driver.count())]}
        case "memory":
            return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        case other:
            raise ValueError(f"unknown request {other!r}")


def time_each(search: Callable[[int, int], object], count: int, k: int) -> list[float]:
    """Return the seconds that each query took."""
    seconds = []
    for query in range(count):
        start = time.perf_counter()
        search(query, k)
        seconds.append(time.perf_counter() - start)
    return seconds


def read_corpus(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text (title and text joined by a space) from plain JSONL."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            title = record.get("title")
            yield record["_id"], f"{title} {record['text']}" if title else record["text"]


def read_queries(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]
