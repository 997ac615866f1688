"""Batches that are neighbourhoods of a graph: BiDR's locality-centric sampling (arXiv:2201.05409)."""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler

from retriever.errors import InvalidInput
from training.batches.examples import Examples
from training.candidates import Candidates


class Walk(NamedTuple):
    """The queries of an epoch, int64[n], in order, and the negatives that each was left by, int32 (n, count).

    A negative of -1 is missing: the query has too few candidates that are not in its batch already.
    """

    queries: NDArray[np.int64]
    negatives: NDArray[np.int32]


class GraphWalkBatchSampler(DefaultBatchSampler):
    """Every query once an epoch, next to queries that share documents with it.

    A walk starts at a random query, draws a negative from its candidates of ranks `near`, and goes on to the
    queries that have this document at ranks `far`: similar enough to confuse, too far to be relevant. It starts
    anew with each batch, after each of its `patches` and where no way leads on.

    candidates  of each query, best first, without its relevant documents; deeper than the end of `near`
    snowball    take the query found first instead of the one found last, which is a random walk
    count       negatives of each query; none stands twice in a batch
    patches     neighbourhoods in a batch
    queries     int[N], the query row of each example; None where example i is query i

    An epoch's walk is made as a whole, in about 20 microseconds a query; `walk` gives its negatives to whoever
    wants to train on them.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: Any = None,
        seed: int = 0,
        *,
        candidates: Candidates,
        near: tuple[int, int] = (0, 200),
        far: tuple[int, int] = (200, 400),
        snowball: bool = False,
        count: int = 1,
        patches: int = 1,
        queries: NDArray[np.integer] | None = None,
    ) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last, seed=seed)
        if not 1 <= patches <= batch_size or count < 1:
            raise InvalidInput(f"patches must be 1 to {batch_size} and count 1 or more, got {patches} and {count}.")
        self.examples = Examples.of(dataset, queries, count=len(candidates))
        self.batches = self.examples.batches(batch_size, drop_last)
        self.snowball = snowball
        self.count = count
        self.patch = -(-batch_size // patches)
        ranks = candidates.ranks
        self.near = candidates.restrict((near[0] <= ranks) & (ranks < near[1]))
        linked = candidates.restrict((far[0] <= ranks) & (ranks < far[1]))
        if len(linked.documents) == 0:
            deepest = int(ranks.max()) + 1 if len(ranks) else 0
            raise InvalidInput(
                f"no query has candidates at ranks {far[0]} to {far[1]}, the deepest list holds {deepest}: "
                "mine deeper, or lower `near` and `far`."
            )
        self.documents = 1 + int(candidates.documents.max())
        self.links = linked.queries[np.argsort(linked.documents, kind="stable")]
        self.link_offsets = np.concatenate([[0], np.bincount(linked.documents, minlength=self.documents).cumsum()])
        self._latest: tuple[int, Walk] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        queries = self.walk(self.epoch).queries
        generator = np.random.default_rng([self.seed, self.epoch, 1])
        for number in range(self.batches):
            start = number * self.batch_size
            yield self.examples.draw(queries[start : start + self.batch_size], generator)

    def walk(self, epoch: int) -> Walk:
        """Return the walk of an epoch; that of the last one asked for is kept."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._walk(np.random.default_rng([self.seed, epoch]))
        return self._latest[1]

    def _walk(self, generator: np.random.Generator) -> Walk:
        starts = iter(generator.permutation(self.examples.queries).tolist())
        unused = np.zeros(len(self.near), np.bool_)
        unused[self.examples.queries] = True
        in_batch = np.full(self.documents, -1, np.int64)  # the batch in which a document was last a negative
        size = len(self.examples.queries)
        queries = np.empty(size, np.int64)
        negatives = np.full((size, self.count), -1, np.int32)
        found: deque[int] = deque()
        for place in range(size):
            batch, within = divmod(place, self.batch_size)
            if within % self.patch == 0:
                found.clear()
            query = self._next(found, unused)
            if query is None:
                query = next(start for start in starts if unused[start])
            queries[place] = query
            unused[query] = False
            candidates, _ = self.near.of(query)
            candidates = candidates[in_batch[candidates] != batch]
            chosen = generator.permutation(candidates)[: self.count]
            negatives[place, : len(chosen)] = chosen
            in_batch[chosen] = batch
            for document in chosen.tolist():
                linked = self.links[self.link_offsets[document] : self.link_offsets[document + 1]]
                found.extend(generator.permutation(linked[unused[linked]]).tolist())
        return Walk(queries, negatives)

    def _next(self, found: deque[int], unused: NDArray[np.bool_]) -> int | None:
        while found:
            query = found.popleft() if self.snowball else found.pop()
            if unused[query]:
                return query
        return None
