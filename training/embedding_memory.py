"""Embeddings collected while a model is trained, so that clustering needs no pass of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback

VECTORS, SEEN = "embeddings.npy", "embeddings-seen.npy"


class EmbeddingMemory:
    """The latest embedding of each query, as stale as its last turn in a batch.

    queries  Q
    width    H
    encode   gives the (n, H) embeddings of query rows that had no turn yet, by the model as it is

    Memory: Q * H float32.
    """

    def __init__(self, queries: int, width: int, encode: Callable[[NDArray[np.int64]], NDArray[np.float32]]) -> None:
        self.collected = np.zeros((queries, width), np.float32)
        self.seen = np.zeros(queries, np.bool_)
        self.encode = encode
        self.encoded = 0

    def add(self, rows: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        """Remember the embeddings (n, H) of query rows."""
        self.collected[rows] = embeddings
        self.seen[rows] = True

    def vectors(self, epoch: int) -> NDArray[np.float32]:
        """Return (Q, H): what was collected, with the queries that had no turn encoded now and counted in `encoded`."""
        missing = np.flatnonzero(~self.seen)
        if len(missing):
            self.add(missing, self.encode(missing))
            self.encoded += len(missing)
        return self.collected

    def save(self, folder: Path) -> None:
        np.save(folder / VECTORS, self.collected, allow_pickle=False)
        np.save(folder / SEEN, self.seen, allow_pickle=False)

    def load(self, folder: Path) -> None:
        """Take what `save` left, if it did."""
        if (folder / SEEN).is_file():
            self.collected[:] = np.load(folder / VECTORS, allow_pickle=False)
            self.seen[:] = np.load(folder / SEEN, allow_pickle=False)


class Memory(Protocol):
    """What a training remembers between its batches."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None:
        """Take what `save` left, if it did."""
        ...


class MemoryInCheckpoints(TrainerCallback):
    """Keeps a memory beside each checkpoint, so that a resumed training sees in it what the interrupted one would."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.memory.save(_checkpoint(args, state))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.memory.load(_checkpoint(args, state))


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
