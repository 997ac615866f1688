"""Batches of one topic: the in-batch negatives of TAS-B (arXiv:2104.06967)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler

from retriever.errors import InvalidInput
from training.batches.examples import Examples


class TopicBatchSampler(DefaultBatchSampler):
    """Every batch holds queries of one cluster, which is drawn uniformly, whatever its size.

    labels              int[Q], the cluster of each query, see `training.clusters.topic_clusters`
    batches             an epoch; None for as many as hold all queries once
    clusters_per_batch  share a batch evenly
    queries             int[N], the query row of each example; None where example i is query i

    A query stands at most once in a batch, with one of its examples. Where clusters are too small, further ones
    fill up. With fewer queries than a batch each batch holds all of them. Within an epoch queries may repeat and
    others be left out, as in the paper.
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
        labels: NDArray[np.integer],
        batches: int | None = None,
        clusters_per_batch: int = 1,
        queries: NDArray[np.integer] | None = None,
    ) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last, seed=seed)
        if not 1 <= clusters_per_batch <= batch_size:
            raise InvalidInput(f"clusters_per_batch must be 1 to {batch_size}, got {clusters_per_batch}.")
        if batches is not None and batches < 1:
            raise InvalidInput(f"batches an epoch must be 1 or more, got {batches}.")
        self.examples = Examples.of(dataset, queries, count=len(labels))
        whole = self.examples.batches(batch_size, drop_last)
        self.batches = whole if batches is None else batches
        self.share = -(-batch_size // clusters_per_batch)
        present = self.examples.queries
        order = present[np.argsort(labels[present], kind="stable")]
        # Only clusters with members: an empty one is never drawn.
        self.clusters = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        for _ in range(self.batches):
            yield self.examples.draw(self._queries(generator), generator)

    def _queries(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return the queries of one batch."""
        chosen: list[NDArray[np.int64]] = []
        spare: list[NDArray[np.int64]] = []
        missing = self.batch_size
        drawn: set[int] = set()
        while missing and len(drawn) < len(self.clusters):
            cluster = int(generator.integers(len(self.clusters)))
            if cluster in drawn:
                continue
            drawn.add(cluster)
            members = generator.permutation(self.clusters[cluster])
            taken = min(self.share, missing)
            chosen.append(members[:taken])
            spare.append(members[taken:])
            missing -= len(chosen[-1])
        # Fewer clusters than share the batch: they give more than their share.
        return np.concatenate([*chosen, np.concatenate(spare)[:missing]])
