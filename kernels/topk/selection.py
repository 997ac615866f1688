"""The k largest of each row, where equal values are taken in order of column."""

from torch import Tensor


def select(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return ((Q, min(k, C)) largest values, descending; their columns, ascending where values are equal).

    values: (Q, C) float32. The columns of values of -inf are any.

    torch.topk takes any of several values that tie for the last place, and orders ties as it likes. Rows in
    which that can matter are rare, so they alone pay for a full sort. Waits for the device once on a GPU.
    """
    if k >= values.shape[1]:
        sorted_values, columns = values.sort(dim=1, descending=True, stable=True)
        return sorted_values, columns
    best, columns = values.topk(k, dim=1)
    columns, order = columns.sort(dim=1)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    last = best[:, -1:]
    tied = ((values >= last) & (last > float("-inf"))).sum(dim=1) > k  # (Q,)
    if bool(tied.any()):
        again, again_columns = values[tied].sort(dim=1, descending=True, stable=True)
        best[tied], columns[tied] = again[:, :k], again_columns[:, :k]
    return best, columns
