"""Analysing the shards of a build, in this process or in others, and digesting records beside the sealing."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from retriever.analysis import Analyser, analyser
from retriever.analysis.term_numbers import WordAnalyser, numbered_terms, portions
from retriever.fields import field_text
from retriever.index.plain import PLAIN, PlainPostings, PlainWriter, in_field
from retriever.index.records import Records
from retriever.storage import sync_all
from retriever.types import Document

ITEMS_BETWEEN_LOOKS = 64

Item = TypeVar("Item")

Texts = Mapping[str, Sequence[str]]
"""The text of every document of a shard, for each inverted part by what it is called there."""


def texts_of(documents: Sequence[Document], search_fields: Sequence[str]) -> dict[str, list[str]]:
    """Return what is analysed of documents: their contents, and each search field."""
    texts = {PLAIN: [document.content for document in documents]}
    for field, name in enumerate(search_fields):
        texts[in_field(PLAIN, field)] = [field_text(document, name) for document in documents]
    return texts


def write_postings(
    found: Analyser, texts: Iterable[str], folder: Path, part: str = PLAIN, *, positions: bool = False
) -> None:
    """Analyse texts and write their plain postings, with positions if asked, durably."""
    sync_all([folder / name for name in postings_of(found, texts, positions=positions).write(folder, part)])


def postings_of(found: Analyser, texts: Iterable[str], *, positions: bool = False) -> PlainPostings:
    """Analyse texts and return their plain postings."""
    writer = PlainWriter(positions=positions)
    if isinstance(found, WordAnalyser):
        for portion in portions(texts):
            writer.add_numbered(*numbered_terms(found, portion))
    else:
        for text in texts:
            writer.add(found.terms(text))
    return writer.postings()


class Analysing:
    """Writes postings of shards; with several processes while the caller reads on, and digests records while it seals.

    Other processes start with the second shard, since a small corpus is done before they are up.
    """

    def __init__(self, found: Analyser, processes: int, *, positions: bool = False) -> None:
        self._analyser = found
        self._processes = processes
        self._positions = positions
        self._pool: ProcessPoolExecutor | None = None
        self._stopping: Event | None = None
        self._shards = 0

    def __enter__(self) -> "Analysing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stopping is not None and error is not None:
            # What is under way would be done again in any case.
            self._stopping.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def most_pending(self) -> int:
        """How many shards may wait: enough that no process is idle, few enough to bound the memory."""
        return self._processes + 1

    def submit(self, texts: Texts, folder: Path) -> "Future[None] | None":
        """Write the postings of a shard; None when that is done already."""
        self._shards += 1
        if self._processes == 1 or self._shards == 1:
            for part, of_part in texts.items():
                write_postings(self._analyser, of_part, folder, part, positions=self._positions)
            return None
        if self._pool is None:
            # Neither torch nor the threads of a caller survive a fork.
            context = multiprocessing.get_context("spawn")
            self._stopping = stopping = context.Event()
            self._pool = ProcessPoolExecutor(self._processes, context, _prepare_worker, (stopping,))
        with _interruption_delayed():
            return self._pool.submit(_write_in_worker, self._analyser.name, texts, folder, self._positions)

    def digest(self, folder: Path, generation: int, segment: int) -> "Future[str] | None":
        """Begin to digest the records of a segment in another process; None when none was started."""
        if self._pool is None:
            return None
        with _interruption_delayed():
            return self._pool.submit(_digest_in_worker, folder, generation, segment)


@contextlib.contextmanager
def _interruption_delayed() -> Iterator[None]:
    """Leave SIGINT pending. Processes started meanwhile never get it: Ctrl-C reaches them too, the parent answers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_stopping: Event | None = None


def _prepare_worker(stopping: Event) -> None:
    global _stopping
    _stopping = stopping
    # All wait for the process that reads, so it goes first where there are fewer cores than processes.
    os.nice(5)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent was killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write_in_worker(name: str, texts: Texts, folder: Path, positions: bool) -> None:
    for part, of_part in texts.items():
        write_postings(_known(name), _unless_stopped(of_part), folder, part, positions=positions)


def _digest_in_worker(folder: Path, generation: int, segment: int) -> str:
    with contextlib.closing(Records(folder, generation)) as records:
        return records.digest(segment, _unless_stopped)


def _unless_stopped(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items. Raises CancelledError soon after the parent has given up."""
    assert _stopping is not None
    for number, item in enumerate(items):
        if number % ITEMS_BETWEEN_LOOKS == 0 and _stopping.is_set():
            raise CancelledError
        yield item


_ANALYSERS: dict[str, Analyser] = {}


def _known(name: str) -> Analyser:
    """Return the analyser of that name with what it has learnt from the shards before."""
    if name not in _ANALYSERS:
        _ANALYSERS[name] = analyser(name)
    return _ANALYSERS[name]
