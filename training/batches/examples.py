"""Which examples of a data set belong to which query."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of each query, as compressed sparse rows.

    queries  int64, the query rows that have an example, ascending
    offsets  int64[Q + 1]
    rows     int64[N] rows of the data set; None where example i is query i
    """

    queries: Rows
    offsets: Rows
    rows: Rows | None

    @classmethod
    def of(cls, dataset: Any, queries: NDArray[np.integer] | None, count: int | None = None) -> "Examples":
        """Take the query row of each example, or None where example i is query i.

        count  of all queries; None where any number will do
        Raises InvalidInput where the numbers do not fit each other.
        """
        examples = len(dataset)
        if queries is None:
            if count is not None and count != examples:
                raise InvalidInput(
                    f"the data set has {examples} examples, but there are {count} queries; "
                    "say by `queries` which example belongs to which."
                )
            return cls(np.arange(examples), np.arange(examples + 1), None)
        if queries.shape != (examples,):
            raise InvalidInput(f"queries must name the query row of {examples} examples, got shape {queries.shape}.")
        present = np.unique(queries).astype(np.int64)
        last = (int(present[-1]) if len(present) else -1) if count is None else count - 1
        if len(present) and not 0 <= present[0] <= present[-1] <= last:
            raise InvalidInput(f"query rows must lie in 0 to {last}, got {present[0]} to {present[-1]}.")
        offsets = np.zeros(last + 2, np.int64)
        np.cumsum(np.bincount(queries, minlength=last + 1), out=offsets[1:])
        return cls(present, offsets, np.argsort(queries, kind="stable"))

    def draw(self, queries: Rows, generator: np.random.Generator) -> list[int]:
        """Return one example of each query, drawn uniformly."""
        chosen = queries
        if self.rows is not None:
            chosen = self.rows[generator.integers(self.offsets[queries], self.offsets[queries + 1])]
        examples: list[int] = chosen.tolist()
        return examples

    def batches(self, batch_size: int, drop_last: bool) -> int:
        """Return into how many batches all queries are cut. Raises InvalidInput where that is none."""
        count = len(self.queries)
        batches = count // batch_size if drop_last else -(-count // batch_size)
        if batches == 0:
            raise InvalidInput(
                f"{count} queries do not fill one batch of {batch_size}"
                f"{'; lower the batch size or keep incomplete batches' if count else ''}."
            )
        return batches
