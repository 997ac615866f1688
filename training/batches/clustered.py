"""Batches of small clusters that grow and follow the model: NGAME (arXiv:2207.04452)."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler

from retriever.errors import InvalidInput
from retriever.storage import write_atomically
from training.batches.examples import Examples
from training.clusters import Labels, balanced_clusters
from training.schedules import cluster_size


class ClusterBatchSampler(DefaultBatchSampler):
    """Every query once an epoch: clusters in random order, their members side by side, cut into batches.

    vectors  returns the present (Q, H) embeddings of all queries; called when an epoch begins that needs new
             clusters, with the number of that epoch. On several processes all must return the same.
    size     cluster size of an epoch; 1 is plain shuffling and compares nothing
    refresh  epochs after which the queries are clustered again; a changed size does so too
    folder   keeps each clustering as clusters-EPOCH.npy, so that a training resumed within its epochs finds it;
             without it `vectors` must give again what it gave for that epoch
    queries  int[N], the query row of each example; None where example i is query i. One example of each query,
             drawn anew each epoch, is used.

    `seconds` tells how long clustering took so far.
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
        vectors: Callable[[int], NDArray[np.float32]],
        size: Callable[[int], int] = cluster_size,
        refresh: int = 5,
        folder: Path | None = None,
        queries: NDArray[np.integer] | None = None,
    ) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last, seed=seed)
        if refresh < 1:
            raise InvalidInput(f"refresh must be 1 epoch or more, got {refresh}.")
        self.examples = Examples.of(dataset, queries)
        self.batches = self.examples.batches(batch_size, drop_last)
        self.vectors = vectors
        self.size = size
        self.refresh = refresh
        self.folder = folder
        self.seconds = 0.0
        self._latest: tuple[int, Labels] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.examples.queries)
        if self.size(self.epoch) > 1:
            labels = self.labels(self.epoch)[order]
            order = order[np.argsort(generator.permutation(labels.max() + 1)[labels], kind="stable")]
        for number in range(self.batches):
            start = number * self.batch_size
            yield self.examples.draw(order[start : start + self.batch_size], generator)

    def clustered_in(self, epoch: int) -> int:
        """Return the epoch, at most `epoch`, at whose beginning its clusters are made."""
        made = 0
        for later in range(1, epoch + 1):
            if self.size(later) != self.size(later - 1) or later - made >= self.refresh:
                made = later
        return made

    def labels(self, epoch: int) -> Labels:
        """Return the cluster of each query in an epoch, int32[Q]."""
        made = self.clustered_in(epoch)
        if self._latest is None or self._latest[0] != made:
            self._latest = made, self._stored(made)
        return self._latest[1]

    def _stored(self, epoch: int) -> Labels:
        file = self.folder and self.folder / f"clusters-{epoch:06d}.npy"
        if not file:
            return self._cluster(epoch)
        if not file.is_file():
            content = io.BytesIO()
            np.save(content, self._cluster(epoch), allow_pickle=False)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content.getvalue())
        labels: Labels = np.load(file, allow_pickle=False)
        if labels.dtype != np.int32 or labels.ndim != 1 or len(labels) != len(self.examples.offsets) - 1:
            raise InvalidInput(
                f"{file} holds {labels.dtype} {labels.shape}, not the clusters of {len(self.examples.offsets) - 1} "
                "queries; it is of another training, remove it."
            )
        return labels

    def _cluster(self, epoch: int) -> Labels:
        vectors = self.vectors(epoch)
        wanted = len(self.examples.offsets) - 1
        if len(vectors) != wanted:
            raise InvalidInput(f"there are vectors of {len(vectors)} queries, {wanted} are needed.")
        began = time.perf_counter()
        # Another order of the random numbers than that of the epoch's shuffling.
        seed = int(np.random.SeedSequence([self.seed, epoch, 1]).generate_state(1)[0])
        labels = balanced_clusters(vectors, self.size(epoch), seed)
        self.seconds += time.perf_counter() - began
        return labels
