"""No promised change is lost, and no search fails, however often the service is killed.

A folder with two indexes is served. In each round writers put, delete and send many documents, each on ids of its
own; searchers ask by index and by an alias that is swapped between the indexes all the while; then the process gets
SIGKILL at a moment of chance and is started again. Every id must then hold what was promised last, or what was under
way when the process died. Counted as failed: every answer but 200 before the kill, 429 aside, which is a refusal.
With a dense part every document must also be found by its own text once the restarted service has encoded it.

    python -m benchmarks.service.durability --rounds 20
    python -m benchmarks.service.durability --rounds 20 --parts bm25,dense --documents 1000
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.table import RESULTS, add_rows
from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings

# fmt: off
WORDS = [
    "amber", "basalt", "cedar", "delta", "ember", "fjord", "garnet", "harbour", "indigo", "jasper", "kelp", "lagoon",
    "meadow", "nectar", "onyx", "prairie",
]
# fmt: on
OWN_IDS = 60
# Between a document's vector and that of a query of the same words, in a batch with others.
OWN_COSINE = 0.999
READY_SECONDS = 300.0
ENCODED_SECONDS = 180.0


@dataclass
class Count:
    """What happened over all rounds."""

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    not_searchable: int = 0
    without_vector: int = 0
    refused: int = 0
    failed_writes: int = 0
    searches: int = 0
    failed_searches: int = 0
    swaps: int = 0
    failed_swaps: int = 0
    restart_seconds: list[float] = field(default_factory=list)
    encoding_seconds: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def note(self, example: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(example)


@dataclass
class State:
    """What an id may hold: the value promised last, None for nothing, and what was sent after it without an answer."""

    promised: str | None = None
    under_way: list[str | None] = field(default_factory=list)

    @property
    def allowed(self) -> set[str | None]:
        return {self.promised, *self.under_way}


class Service:
    """One life of the served process."""

    def __init__(self, root: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "retriever.cli", "serve", str(root), "--port", port, "--writable"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--offline", "--device", "cpu", "--default-index", "docs"], stderr=output
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the service did not become ready: {log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Round:
    """Load on one life of the service, until it is killed."""

    def __init__(self, service: Service, states: dict[str, State], count: Count, seed: int) -> None:
        self.service = service
        self.states = states
        self.count = count
        self.seed = seed
        self.killed = threading.Event()
        self.lock = threading.Lock()

    def run(self, writers: int, searchers: int, seconds: float) -> None:
        targets = [(self._write, number) for number in range(writers)]
        targets += [(self._search, number) for number in range(searchers)] + [(self._swap, 0)]
        threads = [threading.Thread(target=target, args=(number,)) for target, number in targets]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        # From here on no answer, or a broken one, is what is to be expected.
        self.killed.set()
        self.service.kill()
        for thread in threads:
            thread.join()

    def _write(self, writer: int) -> None:
        chance = random.Random(f"{self.seed} {writer}")
        with httpx.Client(base_url=self.service.url, timeout=30) as client:
            step = 0
            while not self.killed.is_set():
                step += 1
                changes = self._changes(chance, writer, step)
                for id_, value in changes.items():
                    self.states[id_].under_way.append(value)
                try:
                    response = self._send(client, changes)
                except httpx.TransportError as error:
                    self._failed("failed_writes", f"write: {error!r}")
                    return
                with self.lock:
                    if response.status_code == 429:
                        self.count.refused += 1
                        continue
                    if response.status_code not in (200, 404):
                        self.count.failed_writes += 1
                        self.count.note(f"write: {response.status_code} {response.text[:200]}")
                        continue
                    # 404 says of a deletion that there was nothing: nothing was promised either.
                    if response.status_code == 200:
                        self.count.acknowledged += len(changes)
                for id_, value in changes.items():
                    self.states[id_] = State(value)

    def _changes(self, chance: random.Random, writer: int, step: int) -> dict[str, str | None]:
        size = 20 if chance.random() < 0.2 else 1
        found: dict[str, str | None] = {}
        for _ in range(size):
            id_ = f"w{writer}-{chance.randrange(OWN_IDS)}"
            if chance.random() < 0.25:
                found[id_] = None
            else:
                # A word of its own, by which this very version can be searched for.
                found[id_] = f"v{self.seed}x{writer}x{step} {' '.join(chance.choices(WORDS, k=12))}"
        return found

    def _send(self, client: httpx.Client, changes: dict[str, str | None]) -> httpx.Response:
        if len(changes) > 1:
            lines = [
                json.dumps({"delete": id_} if value is None else {"id": id_, "text": value})
                for id_, value in changes.items()
            ]
            return client.post(
                "/v1/indexes/docs/documents",
                content="\n".join(lines).encode(),
                headers={"Content-Type": "application/x-ndjson"},
            )
        ((id_, value),) = changes.items()
        path = f"/v1/indexes/docs/documents/{id_}"
        return client.delete(path) if value is None else client.put(path, json={"text": value})

    def _search(self, searcher: int) -> None:
        chance = random.Random(f"{self.seed} search {searcher}")
        with httpx.Client(base_url=self.service.url, timeout=30) as client:
            while not self.killed.is_set():
                path = chance.choice(["/v1/indexes/live/search", "/v1/indexes/docs/search", "/v1/search"])
                body = {"query": " ".join(chance.choices(WORDS, k=3)), "k": 5}
                self._count_answer(client, "POST", path, body, "searches", "failed_searches")

    def _swap(self, _: int) -> None:
        with httpx.Client(base_url=self.service.url, timeout=30) as client:
            step = 0
            while not self.killed.wait(0.05):
                step += 1
                body = {"index": ("docs", "other")[step % 2]}
                self._count_answer(client, "PUT", "/v1/aliases/live", body, "swaps", "failed_swaps")

    def _count_answer(
        self, client: httpx.Client, method: str, path: str, body: dict[str, Any], done: str, failed: str
    ) -> None:
        try:
            response = client.request(method, path, json=body)
        except httpx.TransportError as error:
            self._failed(failed, f"{path}: {error!r}")
            return
        with self.lock:
            if response.status_code == 429:
                self.count.refused += 1
                return
            setattr(self.count, done, getattr(self.count, done) + 1)
            if response.status_code != 200 or (done == "searches" and response.json()["results"][0]["degraded"]):
                setattr(self.count, failed, getattr(self.count, failed) + 1)
                self.count.note(f"{path}: {response.status_code} {response.text[:200]}")

    def _failed(self, name: str, example: str) -> None:
        # The process is killed after the event is set, so that a broken connection before it is a failure.
        if not self.killed.is_set():
            with self.lock:
                setattr(self.count, name, getattr(self.count, name) + 1)
                self.count.note(example)


def check(service: Service, states: dict[str, State], count: Count, parts: Sequence[str] = ("bm25",)) -> None:
    """Compare every id with what was promised, and search for every version that is there, by each of the parts."""
    with httpx.Client(base_url=service.url, timeout=60) as client:
        for id_, state in states.items():
            response = client.get(f"/v1/indexes/docs/documents/{id_}")
            found = response.json()["text"] if response.status_code == 200 else None
            if response.status_code not in (200, 404) or found not in state.allowed:
                count.lost += 1
                count.note(f"lost {id_}: {found!r} is none of {state.allowed}")
            states[id_] = State(found)
        there = [(id_, state.promised) for id_, state in states.items() if state.promised is not None]
        for start in range(0, len(there), 64):
            part = there[start : start + 64]
            queries = [value.partition(" ")[0] for _, value in part]
            body = {"queries": queries, "k": 100, "pipeline": "bm25", "include_documents": False}
            response = client.post("/v1/indexes/docs/search", json=body)
            for (id_, _), result in zip(part, response.json()["results"], strict=True):
                if id_ not in {hit["id"] for hit in result["hits"]}:
                    count.not_searchable += 1
                    count.note(f"{id_} is not searchable")
        if "dense" in parts:
            check_vectors(client, there, count)


def check_vectors(client: httpx.Client, there: list[tuple[str, str]], count: Count) -> None:
    """Wait until the service has encoded all that was recovered, then find each document by its own text."""
    started = time.monotonic()
    while (waiting := client.get("/v1/indexes/docs").json()["pending_encoding"]) > 0:
        if time.monotonic() - started > ENCODED_SECONDS:
            count.note(f"{waiting} documents were not encoded in {ENCODED_SECONDS:.0f} seconds")
            break
        time.sleep(0.1)
    count.encoding_seconds.append(time.monotonic() - started)
    for start in range(0, len(there), 32):
        part = there[start : start + 32]
        body = {"queries": [value for _, value in part], "k": 1, "pipeline": {"first": ["dense"]}}
        response = client.post("/v1/indexes/docs/search", json=body)
        for (id_, _), result in zip(part, response.json()["results"], strict=True):
            hits = result["hits"]
            if not hits or hits[0]["id"] != id_ or hits[0]["score"] < OWN_COSINE:
                count.without_vector += 1
                count.note(f"{id_} is not found by its own vector: {hits[:1]}")


def prepare(root: Path, documents: int, parts: tuple[Any, ...]) -> None:
    """Build the two indexes, of words of chance, and the alias."""
    chance = random.Random(0)
    corpus = root / "corpus.jsonl"
    with corpus.open("w") as file:
        for number in range(documents):
            file.write(json.dumps({"id": f"d{number}", "text": " ".join(chance.choices(WORDS, k=20))}) + "\n")
    build_index(open_corpus(str(corpus)), root / "docs", BuildSettings(parts=parts))
    shutil.copytree(root / "docs", root / "other")
    corpus.unlink()
    (root / "aliases.json").write_text(json.dumps({"live": "docs"}))


def measure(
    root: Path,
    rounds: int,
    writers: int,
    searchers: int,
    seconds: float,
    seed: int = 0,
    parts: Sequence[str] = ("bm25",),
) -> Iterator[Count]:
    """Run the rounds over a prepared root folder; give the count after each, and after the last check."""
    count = Count()
    states = {f"w{writer}-{number}": State() for writer in range(writers) for number in range(OWN_IDS)}
    chance = random.Random(seed)
    for number in range(rounds + 1):
        started = time.monotonic()
        service = Service(root, root.parent / "service.log")
        count.restart_seconds.append(time.monotonic() - started)
        try:
            check(service, states, count, parts)
            if number < rounds:
                Round(service, states, count, number).run(writers, searchers, chance.uniform(0.3, 1) * seconds)
                count.rounds += 1
        finally:
            service.kill()
        yield count


def unsound(index: Path) -> list[str]:
    """Return what `retriever index verify` finds wrong."""
    command = [sys.executable, "-m", "retriever.cli", "index", "verify", str(index), "--no-canaries", "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--searchers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="longest life in a round")
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--parts", default="bm25", help="bm25, or bm25,dense")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "indexes"
        root.mkdir()
        parts = tuple(arguments.parts.split(","))
        prepare(root, arguments.documents, parts)
        for count in measure(
            root, arguments.rounds, arguments.writers, arguments.searchers, arguments.seconds, arguments.seed, parts
        ):
            print(
                f"round {count.rounds}: {count.acknowledged} acknowledged, {count.lost} lost, "
                f"{count.not_searchable} not searchable, {count.without_vector} without vector, "
                f"{count.searches} searches, {count.failed_searches} failed, "
                f"{count.failed_writes} failed writes, {count.swaps} swaps, {count.failed_swaps} failed",
                flush=True,
            )
        problems = [problem for name in ("docs", "other") for problem in unsound(root / name)]
    for line in [*count.examples, *problems]:
        print(line)
    row = {
        "rounds": count.rounds, "parts": arguments.parts,
        "writers": arguments.writers, "searchers": arguments.searchers, "acknowledged": count.acknowledged,
        "lost": count.lost, "not_searchable": count.not_searchable, "failed_writes": count.failed_writes,
        "refused": count.refused, "searches": count.searches, "failed_searches": count.failed_searches,
        "swaps": count.swaps, "failed_swaps": count.failed_swaps, "unsound_files": len(problems),
        "restart_seconds": round(statistics.median(count.restart_seconds), 2),
        "documents": arguments.documents, "without_vector": count.without_vector,
        "encoding_seconds": round(statistics.median(count.encoding_seconds), 2) if count.encoding_seconds else "",
    }  # fmt: skip
    add_rows(RESULTS / "durability.csv", [row], ("retriever-engine", "numba", "numpy"))
    faults = count.lost + count.not_searchable + count.without_vector + count.failed_searches + count.failed_writes
    if problems or faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
