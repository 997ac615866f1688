"""Batches in random order, the same after an interruption."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler


class ShuffledBatchSampler(DefaultBatchSampler):
    """Every example once an epoch, in an order that depends on seed and epoch alone.

    The trainer's own default draws from a generator whose state an interruption loses, so that a resumed epoch
    would see some examples twice and others never.
    """

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool, seed: int = 0, **_: Any) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last)
        self.count = len(dataset)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, self.count, self.batch_size):
            batch = order[start : start + self.batch_size].tolist()
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
