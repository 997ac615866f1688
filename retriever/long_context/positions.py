"""Which position of the window a token beyond it gets. LongEmbed, arXiv:2404.12096, section 4.

`positions` (B, T) are the places of tokens in their text, from 0; `long` (B,) bool says which texts are beyond the
window. The others keep their places, whatever stands beside them in a batch. LongEmbed's code takes the factor of
`grouped` from the longest text of a batch, so that a vector depends on its neighbours; here it is that of the length.
"""

import torch
from torch import Tensor


def grouped(positions: Tensor, long: Tensor, factor: int) -> Tensor:
    """Return ⌊p / factor⌋: so many neighbouring tokens share a position."""
    return torch.where(long[:, None], positions // factor, positions)


def recurrent(positions: Tensor, long: Tensor, window: int) -> Tensor:
    """Return p mod window: positions begin again behind the window."""
    return torch.where(long[:, None], positions % window, positions)


def interpolated(positions: Tensor, long: Tensor, factor: int) -> Tensor:
    """Return rows of an `interpolated_table`: all of them for long texts, every factor-th one for short ones."""
    return torch.where(long[:, None], positions, positions * factor)


def interpolated_table(table: Tensor, window: int, factor: int) -> Tensor:
    """Return (window * factor, H) between the first `window` rows of (P, H); row i * factor is row i to the bit.

    Behind the last exact row, (window - 1) * factor, it is repeated: nothing is known of what would follow.
    """
    ends = torch.cat([table[1:window], table[window - 1 : window]])
    share = torch.arange(factor, dtype=torch.float32, device=table.device)[None, :, None] / factor
    begins = table[:window].float()
    rows = begins[:, None] + share * (ends.float() - begins)[:, None]  # (window, factor, H)
    return rows.reshape(window * factor, -1).to(table.dtype)
