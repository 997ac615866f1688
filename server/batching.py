"""Dynamic batching by tokens: texts of concurrent requests share the forward passes of one model.

A request becomes a `Ticket` with one item a text. A thread of the model takes the ticket that was served longest ago,
fills a batch around it with items of like length from all tickets, and computes it. A batch waits for company only
while the queue is short, and `wait_ms` at most; under load the next batch gathers while this one is computed.

On a CPU several threads compute batches side by side, each on its own few cores: threads that share one product wait
for the slowest of them at every layer, which costs most when the machine has something else to do as well.

What else is in a batch changes the last bits of a result, since matrix products are summed in another order. On a CPU
in float32 the vectors of all-MiniLM-L6-v2 stay within TOLERANCE of those computed alone, in every component.
"""

import contextlib
import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from retriever.errors import (
    DeadlineExceeded,
    ModelFault,
    ModelOverloaded,
    ModelUnavailable,
    OutOfMemory,
    RetrievalError,
)
from server.devices import is_sticky, reason_of
from server.metrics import BatchMetrics

log = logging.getLogger("server.batching")

Payload = TypeVar("Payload")
Result = TypeVar("Result")

TOLERANCE = 1e-5

# Items that are looked at when a batch is put together.
WINDOW = 1024

# Padding is computed like text: at least so much of a batch is text, unless it is small anyway.
LEAST_TEXT = 0.75
SMALL_TOKENS = 256

# Characters that all tickets of a model hold together, so that waiting requests have bounded memory.
QUEUED_CHARACTERS = 64 * 1024 * 1024

MAX_RETRY_SECONDS = 60

# How often a look is taken at what waits, since the threads that compute may hang.
WATCH_SECONDS = 0.5

# What a batch in progress is waited for at the end.
CLOSING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How much waits and how much goes at once.

    batch_tokens   padded tokens of one batch; a longer text goes alone
    wait_ms        longest time that a batch waits for company
    queue          tickets that may wait; beyond it the answer is 429
    queue_seconds  longest time until the first item of a ticket is computed; beyond it the answer is 429
    batch_seconds  longest time that a batch is waited for; beyond it the answer is 504
    """

    batch_tokens: int
    wait_ms: float
    queue: int
    queue_seconds: float
    batch_seconds: float


@dataclass(eq=False)
class Ticket(Generic[Result]):
    """One request's items in a batcher; `future` holds their results in the order given."""

    group: str
    tokens: Sequence[int]
    characters: int
    arrived: float
    batcher: "Batcher[Any, Result]" = field(repr=False)
    future: "Future[list[Result]]" = field(default_factory=Future, repr=False)
    started: bool = False
    settled: bool = False
    pending: dict[int, Any] = field(default_factory=dict, repr=False)
    results: dict[int, Result] = field(default_factory=dict, repr=False)

    def cancel(self) -> None:
        """Give up: items that are not being computed will not be."""
        self.batcher.drop(self)

    def wait(self) -> list[Result]:
        """Return the results once they are there. Raises what went wrong, which the policy's times bound."""
        try:
            return self.future.result()
        except BaseException:
            self.cancel()
            raise


@dataclass(frozen=True, slots=True)
class _Item:
    ticket: Ticket[Any]
    position: int
    tokens: int
    payload: Any


Compute = Callable[[str, list[Payload]], Sequence[Result]]
"""Gets a group and the payloads of a batch and returns one result each."""


class Batcher(Generic[Payload, Result]):
    """Computes items of many tickets together, in threads of its own; safe for concurrent use.

    computes  one for each thread; what one raises fails only the tickets that cannot be computed without it. Items of
              different groups never share a batch.
    threads   of torch in each of these threads; None leaves them as they are
    """

    def __init__(
        self,
        name: str,
        computes: Sequence[Compute[Payload, Result]],
        policy: Policy,
        metrics: BatchMetrics,
        threads: int | None = None,
    ) -> None:
        self.name = name
        self.broken: str | None = None
        """Why the device cannot be used any more, once that is so."""
        self._policy = policy
        self._metrics = metrics
        self._tickets: OrderedDict[int, Ticket[Result]] = OrderedDict()
        self._changed = threading.Condition()
        self._queued_tokens = 0
        self._queued_characters = 0
        self._tokens_per_second = 0.0
        self._closed = False
        self._idle = 0
        self._computing: dict[int, tuple[float, list[_Item]]] = {}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(compute, threads), name=f"batches of {name}", daemon=True)
            for compute in computes
        ]
        self._watcher = threading.Thread(target=self._watch, name=f"patience of {name}", daemon=True)
        for thread in (*self._threads, self._watcher):
            thread.start()

    def submit(
        self,
        group: str,
        payloads: Sequence[Payload],
        tokens: Sequence[int],
        *,
        characters: int = 0,
    ) -> Ticket[Result]:
        """Queue the items of a request and return its ticket.

        tokens      of each payload as the model reads it, so at most the model's length
        characters  what the payloads hold in memory

        Raises ModelOverloaded when too much is waiting, ModelUnavailable when the model cannot be used.
        """
        now = time.monotonic()
        ticket: Ticket[Result] = Ticket(group, tokens, characters, now, self)
        # Longest first, so that a large request is computed in batches of like length.
        order = sorted(range(len(payloads)), key=lambda i: (-tokens[i], i))
        ticket.pending = {i: payloads[i] for i in order}
        if not payloads:
            ticket.future.set_result([])
            return ticket
        with self._changed:
            self._require_room(characters)
            self._tickets[id(ticket)] = ticket
            self._count(sum(tokens), characters)
            self._changed.notify()
        return ticket

    def drop(self, ticket: Ticket[Result]) -> None:
        """Take a ticket out of the queue; does nothing to one that is done."""
        with self._changed:
            if self._settle(ticket):
                self._metrics.abandoned.inc()
                ticket.future.cancel()

    def close(self) -> None:
        """Refuse what waits and what comes, and end the threads after the batches in progress."""
        with self._changed:
            self._closed = True
            for ticket in list(self._tickets.values()):
                self._fail(ticket, self._stopping())
            self._changed.notify_all()
        self._ended.set()
        for thread in self._threads:
            thread.join(0 if self.hanging(self._policy.batch_seconds) else CLOSING_SECONDS)

    def hanging(self, seconds: float) -> int:
        """Return how many threads have been at one batch for longer than that."""
        now = time.monotonic()
        with self._changed:
            return sum(now - began > seconds for began, _ in self._computing.values())

    def _require_room(self, characters: int) -> None:
        if self._closed:
            raise self._stopping()
        if self.broken is not None:
            raise self._lost()
        if self.hanging(self._policy.batch_seconds) == len(self._threads):
            seconds = self._policy.batch_seconds
            raise ModelUnavailable(f"{self.name} has not come back with a batch for {seconds:g} seconds.", 30)
        full = len(self._tickets) >= self._policy.queue
        if full or (self._tickets and self._queued_characters + characters > QUEUED_CHARACTERS):
            raise self._overloaded(f"{len(self._tickets)} requests are waiting for {self.name}; try again later.")

    def _lost(self) -> ModelUnavailable:
        return ModelUnavailable(f"the device of {self.name} failed: {self.broken}", 30)

    def _stopping(self) -> ModelUnavailable:
        return ModelUnavailable("the service is stopping.", 5)

    def _overloaded(self, message: str) -> ModelOverloaded:
        self._metrics.rejected.inc()
        rate = self._tokens_per_second * len(self._threads)
        seconds = self._queued_tokens / rate if rate else 1
        retry = min(MAX_RETRY_SECONDS, max(1, math.ceil(seconds)))
        return ModelOverloaded(message, retry)

    def _run(self, compute: Compute[Payload, Result], threads: int | None) -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        while (batch := self._next()) is not None:
            try:
                self._work(batch, compute)
            except BaseException as error:
                # A fault of this file must not leave requests waiting for ever.
                log.exception("a batch of %s failed", self.name)
                self._fail_all({item.ticket for item in batch}, error)

    def _next(self) -> list[_Item] | None:
        """Return the next batch, waiting for it; None when closed."""
        with self._changed:
            self._computing.pop(threading.get_ident(), None)
            while True:
                if self._closed:
                    return None
                now = time.monotonic()
                self._expire(now)
                if not self._tickets:
                    self._wait(None)
                    continue
                first = next(iter(self._tickets.values()))
                remaining = first.arrived + self._policy.wait_ms / 1e3 - now
                if remaining <= 0 or self._queued_tokens >= self._policy.batch_tokens:
                    batch = self._take(first, now)
                    self._computing[threading.get_ident()] = now, batch
                    if self._tickets:
                        self._changed.notify()
                    return batch
                self._wait(remaining)

    def _wait(self, seconds: float | None) -> None:
        self._idle += 1
        try:
            self._changed.wait(seconds)
        finally:
            self._idle -= 1

    def _watch(self) -> None:
        """Let go what has waited too long, though all threads that compute hang."""
        while not self._ended.wait(min(WATCH_SECONDS, self._policy.queue_seconds, self._policy.batch_seconds)):
            with self._changed:
                self._expire(time.monotonic())

    def _expire(self, now: float) -> None:
        patience = self._policy.batch_seconds
        late = [item.ticket for began, batch in self._computing.values() if now - began > patience for item in batch]
        if self.hanging(patience) == len(self._threads):
            late += self._tickets.values()
        for ticket in late:
            self._fail(ticket, DeadlineExceeded(f"{self.name} did not come back with a batch within {patience:g} s."))
        for ticket in list(self._tickets.values()):
            if not ticket.started and now - ticket.arrived > self._policy.queue_seconds:
                message = f"{self.name} was busy for {self._policy.queue_seconds:g} seconds; try again later."
                self._fail(ticket, self._overloaded(message))

    def _take(self, first: Ticket[Result], now: float) -> list[_Item]:
        """Take a batch around the first ticket's longest item out of the queue."""
        position, payload = next(iter(first.pending.items()))
        anchor = _Item(first, position, first.tokens[position], payload)
        others = itertools.islice(self._items(first.group, anchor), WINDOW)
        # What is there is shared with the threads that have nothing to do.
        share = -(-self._queued_tokens // (self._idle + 1))
        batch = fill(anchor, others, min(self._policy.batch_tokens, max(share, SMALL_TOKENS)))
        for item in batch:
            ticket = item.ticket
            del ticket.pending[item.position]
            if not ticket.started:
                ticket.started = True
                self._metrics.wait_seconds.observe(now - ticket.arrived)
            if not ticket.pending:
                self._tickets.pop(id(ticket))
        if first.pending:
            # The next batch begins with another request, so that a large one does not keep small ones waiting.
            self._tickets.move_to_end(id(first))
        self._count(-sum(item.tokens for item in batch), 0)
        return batch

    def _items(self, group: str, anchor: _Item) -> Iterator[_Item]:
        for ticket in self._tickets.values():
            if ticket.group == group:
                for position, payload in ticket.pending.items():
                    if ticket is not anchor.ticket or position != anchor.position:
                        yield _Item(ticket, position, ticket.tokens[position], payload)

    def _work(self, batch: list[_Item], compute: Compute[Payload, Result]) -> None:
        started = time.perf_counter()
        try:
            results = compute(batch[0].ticket.group, [item.payload for item in batch])
        except Exception as error:
            # Outside this clause: the exception would keep the batch's tensors alive.
            failure: Exception | None = error.with_traceback(None)
        else:
            failure = None
            self._deliver(batch, results)
        if failure is not None:
            self._mend(batch, failure, compute)
        seconds = time.perf_counter() - started
        tokens = sum(item.tokens for item in batch)
        self._metrics.observe(len(batch), tokens, max(item.tokens for item in batch) * len(batch), seconds)
        rate = tokens / seconds
        self._tokens_per_second += (rate - self._tokens_per_second) * (0.1 if self._tokens_per_second else 1)

    def _mend(self, batch: list[_Item], failure: Exception, compute: Compute[Payload, Result]) -> None:
        """Compute a batch that failed in parts: halves where memory was short, else each ticket by itself."""
        if is_out_of_memory(failure):
            self._metrics.out_of_memory.inc()
            _empty_cache()
            middle = (len(batch) + 1) // 2
            parts = [batch[:middle], batch[middle:]] if len(batch) > 1 else []
        else:
            self._note_lost(failure)
            tickets = {id(item.ticket): item.ticket for item in batch}
            several = len(tickets) > 1 and self.broken is None
            parts = [[item for item in batch if item.ticket is t] for t in tickets.values()] if several else []
        if not parts:
            self._fail_all({item.ticket for item in batch}, self._said(failure))
        for part in parts:
            try:
                self._deliver(part, compute(part[0].ticket.group, [item.payload for item in part]))
            except Exception as error:
                self._note_lost(error)
                self._fail_all({item.ticket for item in part}, self._said(error.with_traceback(None)))

    def _note_lost(self, failure: Exception) -> None:
        """Say once that the device is lost, if that is what the failure means, and refuse what waits."""
        if self.broken is not None or not is_sticky(failure):
            return
        log.critical("the device of %s cannot be used any more: %s", self.name, failure)
        with self._changed:
            self.broken = reason_of(failure)
            for ticket in list(self._tickets.values()):
                # One that has begun fails with its batch.
                if not ticket.started:
                    self._fail(ticket, self._lost())

    def _said(self, failure: Exception) -> Exception:
        """Return the error that a client is told."""
        if is_out_of_memory(failure):
            return OutOfMemory(f"{self.name} ran out of device memory with this request; send shorter or fewer texts.")
        if isinstance(failure, RetrievalError):
            return failure
        log.error("%s failed: %s: %s", self.name, type(failure).__name__, failure)
        return ModelFault(f"{self.name} failed with this request ({type(failure).__name__}); the log says more.")

    def _deliver(self, batch: list[_Item], results: Sequence[Result]) -> None:
        assert len(results) == len(batch)
        with self._changed:
            for item, result in zip(batch, results, strict=True):
                ticket = item.ticket
                ticket.results[item.position] = result
                if len(ticket.results) == len(ticket.tokens) and self._settle(ticket):
                    # Its client may have cancelled the future itself.
                    with contextlib.suppress(InvalidStateError):
                        ticket.future.set_result([ticket.results[i] for i in range(len(ticket.tokens))])

    def _fail_all(self, tickets: set[Ticket[Result]], error: BaseException) -> None:
        with self._changed:
            for ticket in tickets:
                self._fail(ticket, error)

    def _fail(self, ticket: Ticket[Result], error: BaseException) -> None:
        if self._settle(ticket):
            with contextlib.suppress(InvalidStateError):
                ticket.future.set_exception(error)

    def _settle(self, ticket: Ticket[Result]) -> bool:
        """Take what is left of a ticket out of the queue; False when that was done before."""
        if ticket.settled:
            return False
        ticket.settled = True
        self._tickets.pop(id(ticket), None)
        self._count(-sum(ticket.tokens[i] for i in ticket.pending), -ticket.characters)
        ticket.pending.clear()
        return True

    def _count(self, tokens: int, characters: int) -> None:
        self._queued_tokens += tokens
        self._queued_characters += characters
        self._metrics.queue_requests.set(len(self._tickets))
        self._metrics.queue_tokens.set(self._queued_tokens)


def fill(anchor: _Item, others: Iterator[_Item], most_tokens: int) -> list[_Item]:
    """Return the anchor and those of like length beside it, as many as a batch may hold.

    A batch costs the longest item's tokens times the items, and at least LEAST_TEXT of that is text unless the whole
    is small.
    """
    ranked = sorted([anchor, *others], key=lambda item: item.tokens)
    low = high = next(i for i, item in enumerate(ranked) if item is anchor)
    text = anchor.tokens
    below, above = low > 0, high < len(ranked) - 1
    while below or above:
        if above and (not below or ranked[high + 1].tokens - anchor.tokens < anchor.tokens - ranked[low - 1].tokens):
            item, longest, step = ranked[high + 1], ranked[high + 1].tokens, 1
        else:
            item, longest, step = ranked[low - 1], ranked[high].tokens, -1
        padded = longest * (high - low + 2)
        fits = padded <= most_tokens and (padded <= SMALL_TOKENS or text + item.tokens >= LEAST_TEXT * padded)
        if fits:
            text += item.tokens
            high, low = (high + 1, low) if step > 0 else (high, low - 1)
        below = low > 0 and (below if fits or step > 0 else False)
        above = high < len(ranked) - 1 and (above if fits or step < 0 else False)
    return ranked[low : high + 1]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device or the machine had too little memory for a batch."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory)


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
