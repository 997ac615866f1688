"""Copying the positions of what is kept from several parts into one, without decoding them."""

from kernels.compiling import compiled
from kernels.positions.coding import skip


@compiled
def count_kept_bytes(offsets, documents, renumbered, data, starts, places, sizes):
    """Add to `sizes` what each term's positions take in bytes.

    offsets, documents  the plain postings of a part
    renumbered          (N,) new number of each document, below 0 where it is left out
    data, starts        the part's positions, and where each of its terms' begin
    places              new number of each of its terms
    """
    for term in range(len(places)):
        at = starts[term]
        for posting in range(offsets[term], offsets[term + 1]):
            end = skip(data, at)
            if renumbered[documents[posting]] >= 0:
                sizes[places[term]] += end - at
            at = end


@compiled
def copy_kept_bytes(offsets, documents, renumbered, data, starts, places, cursors, out):
    """Copy what `count_kept_bytes` counts to where each new term's cursor is, and move the cursors on."""
    for term in range(len(places)):
        at = starts[term]
        for posting in range(offsets[term], offsets[term + 1]):
            end = skip(data, at)
            if renumbered[documents[posting]] >= 0:
                cursor = cursors[places[term]]
                for i in range(at, end):
                    out[cursor + i - at] = data[i]
                cursors[places[term]] = cursor + end - at
            at = end


@compiled
def gather_bytes(data, starts, sizes, order, out):
    """Copy the positions of terms, in the given order, end to end into `out`."""
    cursor = 0
    for term in order:
        start = starts[term]
        for i in range(sizes[term]):
            out[cursor + i] = data[start + i]
        cursor += sizes[term]
