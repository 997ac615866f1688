"""Analysing the shards of a build, in this process or in others."""

import ctypes
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import TracebackType

from retriever.analysis import Analyser, analyser
from retriever.index.plain import PlainWriter
from retriever.storage import sync

PR_SET_PDEATHSIG = 1


def write_postings(found: Analyser, texts: Sequence[str], folder: Path) -> None:
    """Analyse texts and write their plain postings, durably."""
    writer = PlainWriter()
    for text in texts:
        writer.add(found.terms(text))
    for name in writer.postings().write(folder):
        sync(folder / name)


class Analysing:
    """Writes postings of shards; with several processes while the caller reads on.

    Other processes start with the second shard, since a small corpus is done before they are up.
    """

    def __init__(self, found: Analyser, processes: int) -> None:
        self._analyser = found
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._shards = 0

    def __enter__(self) -> "Analysing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def most_pending(self) -> int:
        """How many shards may wait: enough that no process is idle, few enough to bound the memory."""
        return self._processes + 1

    def submit(self, texts: Sequence[str], folder: Path) -> "Future[None] | None":
        """Write the postings of a shard; None when that is done already."""
        self._shards += 1
        if self._processes == 1 or self._shards == 1:
            write_postings(self._analyser, texts, folder)
            return None
        if self._pool is None:
            # Neither torch nor the threads of a caller survive a fork.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, context, initializer=_prepare_worker)
        return self._pool.submit(_write_in_worker, self._analyser.name, texts, folder)


def _prepare_worker() -> None:
    # The parent answers Ctrl-C, and when it is killed its workers end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _write_in_worker(name: str, texts: Sequence[str], folder: Path) -> None:
    write_postings(_known(name), texts, folder)


_ANALYSERS: dict[str, Analyser] = {}


def _known(name: str) -> Analyser:
    """Return the analyser of that name with what it has learnt from the shards before."""
    if name not in _ANALYSERS:
        _ANALYSERS[name] = analyser(name)
    return _ANALYSERS[name]
