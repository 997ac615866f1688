"""Counting the values of a field over a set of documents."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Column(NamedTuple):
    """One field of one segment.

    values    (V,) the different values
    codes     (P,) int32 place of each pair's value among them
    ordinals  (P,) int64 document of each pair; one with a list of values stands in several
    """

    values: list[str | float]
    codes: NDArray[np.int32]
    ordinals: NDArray[np.int64]


def column_of(pairs: Sequence[tuple[str | float, int]]) -> Column:
    """Return the column of (value, ordinal) pairs."""
    places: dict[str | float, int] = {}
    codes = np.fromiter((places.setdefault(value, len(places)) for value, _ in pairs), np.int32, len(pairs))
    ordinals = np.fromiter((ordinal for _, ordinal in pairs), np.int64, len(pairs))
    return Column(list(places), codes, ordinals)


def count_values(columns: Iterable[tuple[Column, NDArray[np.bool_]]], limit: int) -> list[tuple[str | float, int]]:
    """Return the `limit` most frequent values of a field over all segments, ties in order of value.

    columns  for each segment its column and (N,) the documents that count
    """
    totals: dict[str | float, int] = {}
    for column, counted in columns:
        counts = np.bincount(column.codes[counted[column.ordinals]], minlength=len(column.values))
        for place in np.flatnonzero(counts).tolist():
            value = column.values[place]
            totals[value] = totals.get(value, 0) + int(counts[place])
    # A field is all text or all numbers.
    return sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
