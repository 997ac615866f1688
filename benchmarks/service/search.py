"""BM25 search over HTTP: what the service adds to the library, too many requests, how soon a write is found, a soak.

    python -m benchmarks.service.search [--documents 100000] [--soak-seconds 600]
        [--parts overhead,overload,freshness,soak]

Passages of *pydocs* are searched with the first lines of its documentation; hits come with their documents.

- overhead: each query in turns through the library in this process and through one connection to `retriever serve`,
  the median of the rounds for each query.
- overload: requests of 64 queries each, first as fast as a few clients get answers (the capacity), then ten times as
  many a second whether or not answers come, each on a connection of its own. Any status but 200, 429 and 503 and any
  broken connection is a failure.
- freshness: documents are put one by one, each with a word of its own that is searched for until it is found; from the
  answer to the put (the promise) and from its beginning. Pauses of chance lie between them.
- soak: clients that search without a pause and one that overwrites the same few documents, while the memory that the
  process has to itself (RssAnon) is read; the growth is a line fitted to it after the first fifth.

Adds lines to benchmarks/results/service.csv.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index import write_corpus
from benchmarks.service.serving import HOST, free_port, serve, serving
from benchmarks.table import RESULTS, add_rows
from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.corpora.pydocs import entries
from indexing.plan import BuildSettings
from retriever.index.sealed import open_index

SEARCH = "/v1/search"
BATCH = 64
Measures = dict[str, float]


def real_queries(count: int) -> list[str]:
    return list(dict.fromkeys(entry.query for entry in itertools.islice(entries("pydocs:stdlib"), 2 * count)))[:count]


def overhead(index: Path, port: int, queries: list[str], rounds: int) -> Measures:
    """Return milliseconds of the library and of the service, and what lies between."""
    library = open_index(index)
    connection = http.client.HTTPConnection(HOST, port)
    seconds = np.empty((2, rounds, len(queries)))
    for round_ in range(-1, rounds):  # The first one warms both up.
        for number, query in enumerate(queries):
            body = json.dumps({"query": query, "k": 10, "pipeline": "bm25"})
            started = time.perf_counter()
            answer = library.search(query, 10, pipeline="bm25")
            between = time.perf_counter()
            connection.request("POST", SEARCH, body, {"Content-Type": "application/json"})
            content = connection.getresponse().read()
            ended = time.perf_counter()
            if round_ < 0:
                found = [hit["id"] for hit in json.loads(content)["results"][0]["hits"]]
                if found != [hit.id for hit in answer.hits]:
                    raise RuntimeError(f"the service and the library differ for {query!r}")
            else:
                seconds[:, round_, number] = between - started, ended - between
    alone, served = np.median(seconds, axis=1) * 1e3
    return {
        "library p50 ms": float(np.median(alone)),
        "service p50 ms": float(np.median(served)),
        "overhead p50 ms": float(np.median(served - alone)),
        "overhead p99 ms": float(np.percentile(served - alone, 99)),
    }


async def exchange(port: int, body: bytes) -> int:
    """Post a search on a connection of its own; return the status of the answer."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=2**24)
    try:
        head = (
            f"POST {SEARCH} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status = int((await reader.readline()).split()[1])
        await reader.read()
        return status
    finally:
        writer.close()


async def closed_loop(port: int, bodies: list[bytes], clients: int, seconds: float) -> tuple[Counter[str], list[float]]:
    """Let clients each wait for its answer before it asks again; return the statuses and the seconds of each answer."""
    statuses: Counter[str] = Counter()
    taken: list[float] = []
    supply = itertools.cycle(bodies)
    end = time.perf_counter() + seconds

    async def work() -> None:
        while (started := time.perf_counter()) < end:
            statuses[await status_of(port, next(supply))] += 1
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*(work() for _ in range(clients)))
    return statuses, taken


async def open_loop(port: int, bodies: list[bytes], rate: float, seconds: float) -> tuple[Counter[str], float]:
    """Send so many requests a second whatever comes back; return the statuses and the rate that was reached."""
    statuses: Counter[str] = Counter()
    supply = itertools.cycle(bodies)
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        statuses[await status_of(port, next(supply))] += 1

    started = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        running.add(task := asyncio.create_task(one()))
        task.add_done_callback(running.discard)
    reached = round(rate * seconds) / (time.perf_counter() - started)
    await asyncio.gather(*running)
    return statuses, reached


async def status_of(port: int, body: bytes) -> str:
    try:
        return str(await asyncio.wait_for(exchange(port, body), 120))
    except (OSError, TimeoutError, IndexError, asyncio.IncompleteReadError) as error:
        return type(error).__name__


def overload(port: int, queries: list[str], seconds: float) -> Measures:
    bodies = [
        json.dumps({"queries": queries[start : start + BATCH], "k": 100, "pipeline": "bm25"}).encode()
        for start in range(0, len(queries) - BATCH + 1, BATCH)
    ]
    served, _ = asyncio.run(closed_loop(port, bodies, 4, seconds))
    capacity = served["200"] / seconds
    statuses, reached = asyncio.run(open_loop(port, bodies, 10 * capacity, seconds))
    failed = sum(count for status, count in statuses.items() if status not in ("200", "429", "503"))
    after, taken = asyncio.run(closed_loop(port, bodies, 1, seconds / 4))
    print(f"  statuses at {reached:.0f} requests a second: {dict(statuses)}", flush=True)
    return {
        "capacity requests/s": capacity,
        "offered requests/s": reached,
        "answered 200": statuses["200"],
        "refused 429": statuses["429"],
        "refused 503": statuses["503"],
        "failed": failed,
        "failed afterwards": sum(after.values()) - after["200"],
        "one client afterwards p50 ms": statistics.median(taken) * 1e3,
    }


def freshness(port: int, queries: list[str], puts: int) -> Measures:
    """Return milliseconds until a document that was put is found by a search. Raises RuntimeError after a minute."""
    pauses = np.random.default_rng(1).uniform(0.0, 0.5, puts)
    taken = np.empty((2, puts))
    with closing(http.client.HTTPConnection(HOST, port)) as connection:
        for number, pause in enumerate(pauses):
            time.sleep(pause)
            id_, word = f"fresh-{number}", f"zqfresh{number}"
            document = {"text": f"{queries[number % len(queries)]} {word}"}
            began = time.perf_counter()
            exchange_json(connection, "PUT", f"/v1/indexes/index/documents/{id_}", document)
            promised = time.perf_counter()
            while not is_found(connection, word, id_):
                if time.perf_counter() > promised + 60:
                    raise RuntimeError(f"{id_} was put and is not found after a minute")
            taken[:, number] = time.perf_counter() - np.array([promised, began])
    after, whole = taken * 1e3
    return {
        "puts": puts,
        "found after the answer p50 ms": float(np.median(after)),
        "found after the answer p99 ms": float(np.percentile(after, 99)),
        "found after the answer longest ms": float(after.max()),
        "put and found p50 ms": float(np.median(whole)),
        "put and found p99 ms": float(np.percentile(whole, 99)),
        "found later than a second": int((after > 1e3).sum()),
    }


def is_found(connection: http.client.HTTPConnection, word: str, id_: str) -> bool:
    answer = exchange_json(connection, "POST", SEARCH, {"query": word, "k": 1, "pipeline": "bm25"})
    return [hit["id"] for hit in answer["results"][0]["hits"]] == [id_]


def exchange_json(connection: http.client.HTTPConnection, method: str, path: str, content: Any) -> Any:
    """Return what a request is answered with. Raises RuntimeError for any status but 200."""
    connection.request(method, path, json.dumps(content), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{method} {path}: {response.status} {body[:300]!r}")
    return json.loads(body)


def own_memory(process: int) -> float:
    """Return RssAnon in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


async def soak_load(
    port: int, process: int, queries: list[str], clients: int, seconds: float, pause: float = 1.0
) -> dict[str, Any]:
    """Search and write for so long, with a pause after each write; return statuses, and memory by time."""
    bodies = [json.dumps({"query": query, "k": 10, "pipeline": "bm25"}).encode() for query in queries]
    memory: list[tuple[float, float]] = []
    writes: Counter[str] = Counter()
    started = time.perf_counter()

    def write(number: int) -> str:
        body = json.dumps({"text": f"{queries[number % len(queries)]} written {number}"})
        path = f"/v1/indexes/index/documents/soak-{number % 200}"
        try:
            with closing(http.client.HTTPConnection(HOST, port, timeout=60)) as connection:
                connection.request("PUT", path, body, {"Content-Type": "application/json"})
                return str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__

    async def watch() -> None:
        for number in itertools.count():
            if (now := time.perf_counter() - started) > seconds:
                return
            memory.append((now, own_memory(process)))
            writes[await asyncio.to_thread(write, number)] += 1
            await asyncio.sleep(pause)

    (statuses, _), _ = await asyncio.gather(closed_loop(port, bodies, clients, seconds), watch())
    return {"statuses": statuses, "writes": writes, "memory": memory}


def soak(port: int, process: int, queries: list[str], seconds: float, pause: float) -> Measures:
    found = asyncio.run(soak_load(port, process, queries, 8, seconds, pause))
    statuses, memory = found["statuses"], np.array(found["memory"])
    settled = memory[memory[:, 0] >= seconds / 5]
    slope = float(np.polyfit(settled[:, 0] / 60, settled[:, 1], 1)[0])
    print(f"  searches {dict(statuses)}, writes {dict(found['writes'])}", flush=True)
    return {
        "seconds": seconds,
        "seconds between writes": pause,
        "searches": sum(statuses.values()),
        "failed searches": sum(statuses.values()) - statuses["200"] - statuses["429"] - statuses["503"],
        "writes": sum(found["writes"].values()),
        "failed writes": sum(found["writes"].values()) - found["writes"]["200"],
        "memory after a fifth MB": float(settled[0, 1]),
        "memory at the end MB": float(settled[-1, 1]),
        "most memory MB": float(memory[:, 1].max()),
        "growth MB/minute": slope,
    }


def write_rows(part: str, documents: int, measures: Measures) -> None:
    for name, value in measures.items():
        print(f"  {name}: {value:.4g}", flush=True)
    rows = [
        {"part": part, "documents": documents, "measure": name, "value": f"{value:.5g}"}
        for name, value in measures.items()
    ]
    add_rows(RESULTS / "service.csv", rows, ("retriever-engine", "numba", "numpy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overload-seconds", type=float, default=20)
    parser.add_argument("--puts", type=int, default=400, help="documents whose way into searches is measured")
    parser.add_argument("--soak-seconds", type=float, default=600)
    parser.add_argument("--write-pause", type=float, default=1, help="seconds between two writes of the soak")
    parser.add_argument("--parts", default="overhead,overload,freshness,soak")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    queries = real_queries(arguments.queries)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_corpus(work / "corpus.jsonl", arguments.documents)
        build_index(open_corpus(str(work / "corpus.jsonl")), work / "index", BuildSettings(parts=("bm25",)))
        port = free_port()
        process = serve(work / "index", port, work / "log", "--writable")
        with serving(process, f"http://{HOST}:{port}/readyz", work / "log"):
            for part in parts:
                print(part, flush=True)
                if part == "overhead":
                    measures = overhead(work / "index", port, queries, arguments.rounds)
                elif part == "overload":
                    measures = overload(port, queries, arguments.overload_seconds)
                elif part == "freshness":
                    measures = freshness(port, queries, arguments.puts)
                elif part == "soak":
                    measures = soak(port, process.pid, queries, arguments.soak_seconds, arguments.write_pause)
                else:
                    raise SystemExit(f"unknown part {part!r}; known are overhead, overload, freshness, soak")
                write_rows(part, arguments.documents, measures)


if __name__ == "__main__":
    main()
