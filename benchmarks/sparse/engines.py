"""The engines by name, and the process in which each of them runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from benchmarks.sparse import peers


class Engine(NamedTuple):
    """module   of the driver
    task     what it searches: "bm25" (text) or "impacts" (learned weights)
    own      runs in the project's environment, not in that of the peers
    options  of the driver; the index does not depend on them
    """

    module: str
    task: str
    own: bool = False
    options: tuple[str, ...] = ()


# In the order in which they take turns.
ENGINES = {
    "pisa": Engine("pisa", "bm25"),
    "lucene": Engine("lucene", "bm25"),
    "tantivy": Engine("tantivy", "bm25"),
    "bm25s": Engine("bm25s", "bm25"),
    "ours": Engine("ours", "bm25", own=True),
    "pisa-impacts": Engine("pisa_impacts", "impacts"),
    "lucene-impacts": Engine("lucene_impacts", "impacts"),
    "bmp": Engine("bmp", "impacts"),
    "seismic": Engine("seismic", "impacts", options=("0.99",)),
    "seismic-95": Engine("seismic", "impacts", options=("0.95",)),
    "seismic-90": Engine("seismic", "impacts", options=("0.90",)),
    "ours-impacts": Engine("ours_impacts", "impacts", own=True),
}
OURS = {"bm25": "ours", "impacts": "ours-impacts"}


class EngineFault(Exception):
    """An engine could not do what it was asked; the message is its own."""


class Process:
    """A driver that is running; closed at the end of the `with` block."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        engine = ENGINES[name]
        python = sys.executable if engine.own else str(peers.interpreter())
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.sparse.{engine.module}", *engine.options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=os.environ if engine.own else peers.variables(),
        )  # fmt: skip

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for the answer. Raises EngineFault."""
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            stdin.write(json.dumps({"do": do, **request}, default=str) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineFault(f"{self.name}: the process ended; see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFault(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> float:
        """End the process and return the peak memory of it and its children in MB."""
        if self._process.returncode is not None:
            return 0.0
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._log.close()
        return usage.ru_maxrss / 1024


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
