"""Embeddings collected while a model is trained, so that clustering needs no pass of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback

from retriever.errors import InvalidInput

PREFIX = "memory-"
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
    """Keeps a memory beside each checkpoint, so that a resumed training sees in it what the interrupted one would.

    It is written before its checkpoint, and stays until the next but one: whichever checkpoint an interruption leaves
    has its memory.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_save:
            return
        folder = _place(args, state)
        folder.mkdir(parents=True, exist_ok=True)
        self.memory.save(folder)
        steps = {int(path.name.removeprefix(PREFIX)): path for path in folder.parent.glob(f"{PREFIX}*")}
        kept = sorted(step for step in steps if step <= state.global_step)[-2:]
        for step in steps.keys() - kept:
            shutil.rmtree(steps[step])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.global_step:
            return
        folder = _place(args, state)
        if not folder.is_dir():
            raise InvalidInput(
                f"the checkpoint of step {state.global_step} has no memory of earlier batches in {folder}, so that "
                "training would not go on as it began; begin anew by --restart."
            )
        self.memory.load(folder)


def _place(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX}{state.global_step}"
