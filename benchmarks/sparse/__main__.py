"""Time, memory, disk and agreement of this engine and its peers on one corpus.

    python -m benchmarks.sparse --corpus CORPUS.jsonl[.zst] --queries QUERIES.jsonl [--documents N] [--engines ...]

The peers are installed under .cache/benchmarks-sparse/ by the first run; indexes are kept there, so that a later run
only queries (`--rebuild` builds them again). All have k1=0.9, b=0.4 where they can, English stemming and Lucene's 33
stop words. Engines take turns in rounds, so that what else the machine does hits all alike; a query's time is the
median of its rounds. The impacts of `python -m benchmarks.sparse.impacts` are searched as well once they are there.
Adds a line an engine to --output.
"""

import argparse
import csv
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sparse import agreement, impacts, indexes, matrix, peers
from benchmarks.sparse.engines import ENGINES, OURS, EngineFault, Process
from retriever.evaluation.records import environment

ROUNDS = 3
DEPTHS = (10, 1000)
THREADS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--documents", type=int, help="only the first so many")
    parser.add_argument("--impacts", type=int, default=impacts.DOCUMENTS, help="how many documents have impacts")
    parser.add_argument("--engines", default=",".join(ENGINES), help="of " + ", ".join(ENGINES))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/sparse.csv"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rebuild", action="store_true")
    arguments = parser.parse_args()
    chosen = arguments.engines.split(",")
    if unknown := set(chosen) - set(ENGINES):
        parser.error(f"unknown engines {sorted(unknown)}; use some of {', '.join(ENGINES)}")
    peers.install()
    for task in OURS:
        names = [name for name in ENGINES if name in chosen and ENGINES[name].task == task]
        corpus, queries = indexes.plain_corpus(arguments.corpus, arguments.documents), arguments.queries
        if task == "impacts":
            corpus = queries = impacts.encoded(corpus, arguments.impacts)
            if names and not corpus.is_file():
                print(f"no impacts at {corpus}: {', '.join(names)} left out; see benchmarks.sparse.impacts")
                continue
        if names:
            rows = measure(names, corpus, queries, arguments.rounds, arguments.rebuild)
            report(rows, arguments.output)


def measure(names: list[str], corpus: Path, queries: Path, rounds: int, rebuild: bool) -> list[dict[str, Any]]:
    """Build where needed, then time; return a row for each engine that could do it."""
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        running: dict[str, Process] = {}
        for name in names:
            try:
                index, built = indexes.build(name, corpus, rebuild=rebuild)
                process = stack.enter_context(Process(name, indexes.log(name)))
                opened = process.ask("open", index=index, queries=queries)
            except EngineFault as fault:
                print(f"left out: {fault}", flush=True)
                continue
            print(f"{name}: built in {built['seconds']:.1f} s, {built['mb']:.0f} MB", flush=True)
            running[name] = process
            rows[name] = {
                "task": ENGINES[name].task,
                "engine": name,
                "version": opened["version"],
                **_building(built, corpus),
            }
        hits = {name: process.ask("hits", k=DEPTHS[0])["hits"] for name, process in running.items()}
        times = _take_turns(running, rounds)
        for name, process in running.items():
            rows[name] |= {"search_peak_mb": process.ask("memory")["peak_mb"], **times[name]}
    task = ENGINES[names[0]].task
    for name, row in rows.items():
        row |= _ratios(row, rows.get(OURS[task]))
        if task == "impacts":
            row |= agreement.against_definition(hits[name], queries, DEPTHS[0])
        else:
            row |= agreement.compare(hits[name], hits.get(OURS[task]))
    if "lucene" in hits and "ours" in hits:
        agreement.print_differences(hits["lucene"], hits["ours"])
    return list(rows.values())


def _building(built: dict[str, Any], corpus: Path) -> dict[str, Any]:
    impacts_file = corpus.suffix == ".npz"
    documents = matrix.read(corpus)[0].count if impacts_file else sum(1 for _ in indexes.lines(corpus))
    return {
        "documents": documents, "build_seconds": built["seconds"],
        "documents_per_second": documents / built["seconds"], "index_mb": built["mb"],
        "build_peak_mb": built["peak_mb"],
    }  # fmt: skip


def _take_turns(running: dict[str, Process], rounds: int) -> dict[str, dict[str, float]]:
    """Return for each engine the figures of each depth; each round gives every engine one pass."""
    figures: dict[str, dict[str, float]] = {name: {} for name in running}
    for k in DEPTHS:
        passes: dict[str, list[list[float]]] = {name: [] for name in running}
        batches: dict[tuple[str, int], list[float]] = {(name, threads): [] for name in running for threads in THREADS}
        # The first two passes are for caches and Java's compiler.
        for turn in range(-2, rounds):
            for name, process in running.items():
                seconds = process.ask("pass", k=k)["seconds"]
                if turn >= 0:
                    passes[name].append(seconds)
        for _ in range(rounds):
            for name, process in running.items():
                for threads in THREADS:
                    batches[name, threads].append(process.ask("batch", k=k, threads=threads)["seconds"])
        for name in running:
            figures[name] |= _latency(np.array(passes[name]), k)
            for threads in THREADS:
                seconds = float(np.median(batches[name, threads]))
                figures[name][f"k{k}_qps_{threads}"] = len(passes[name][0]) / seconds
            print(f"k={k} {name}: {figures[name][f'k{k}_mean_ms']:.3f} ms", flush=True)
    return figures


def _latency(seconds: NDArray[np.float64], k: int) -> dict[str, float]:
    """Take (rounds, queries) seconds to milliseconds over queries."""
    milliseconds = np.median(seconds, axis=0) * 1000
    return {
        f"k{k}_mean_ms": float(milliseconds.mean()),
        f"k{k}_p50_ms": float(np.percentile(milliseconds, 50)),
        f"k{k}_p99_ms": float(np.percentile(milliseconds, 99)),
    }


def _ratios(row: dict[str, Any], ours: dict[str, Any] | None) -> dict[str, float | None]:
    """Return how many times as long as ours the engine takes, and how many times as slow it is in batches."""
    ratios: dict[str, float | None] = {}
    for k in DEPTHS:
        mean, rate = f"k{k}_mean_ms", f"k{k}_qps_2"
        ratios[f"k{k}_time_to_ours"] = row[mean] / ours[mean] if ours else None
        ratios[f"k{k}_qps_ours_to"] = ours[rate] / row[rate] if ours else None
    return ratios


def report(rows: list[dict[str, Any]], output: Path) -> None:
    """Print a table and add the rows to a CSV with the machine."""
    machine = environment()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    full = [{"date": date, "cpu": machine["cpu"], "cores": machine["cores"], **row} for row in rows]
    full = [{name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()} for row in full]
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = not output.is_file()
    with output.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(full[0]), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(full)
    for name in list(full[0])[4:]:
        print(f"{name:22}" + "".join(f"{'' if row[name] is None else row[name]!s:>16}" for row in full))


if __name__ == "__main__":
    main()
