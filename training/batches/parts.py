"""Batches of one collection each."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler

from retriever.errors import InvalidInput


class PartBatchSampler(DefaultBatchSampler):
    """Every example of every part once an epoch, in batches of one part, which follow each other in random order.

    parts  int[N], the part of each example; those below 0 are left out

    What does not fill a batch of its part is left out, others in each epoch.
    """

    def __init__(
        self, dataset: Any, batch_size: int, drop_last: bool, seed: int = 0, *, parts: NDArray[np.integer], **_: Any
    ) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=True, seed=seed)
        if len(parts) != len(dataset):
            raise InvalidInput(f"the data set has {len(dataset)} examples, but {len(parts)} are said to be of a part.")
        self.members = [np.flatnonzero(parts == part) for part in range(int(parts.max(initial=-1)) + 1)]
        self.count = sum(len(rows) // batch_size for rows in self.members)
        if not self.count:
            raise InvalidInput(f"no collection has a batch of {batch_size} queries; lower batch_size={batch_size}.")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        batches: list[list[int]] = []
        for rows in self.members:
            whole = len(rows) // self.batch_size * self.batch_size
            batches += generator.permutation(rows)[:whole].reshape(-1, self.batch_size).tolist()
        for place in generator.permutation(len(batches)):
            yield batches[place]
