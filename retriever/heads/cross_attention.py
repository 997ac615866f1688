"""Attention from one set of states to another, with a feed-forward layer behind it: the body of trained poolers."""

from torch import Tensor, nn
from torch.nn import functional


class CrossAttention(nn.Module):
    """X = A + attention(LN(A), LN(B)), Y = X + feedforward(LN(X)) with GEGLU of width 4H.

    heads  must divide width; each attends with width / heads numbers
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}.")
        self.heads = heads
        self.norm_asking, self.norm_asked, self.norm_between = (nn.LayerNorm(width) for _ in range(3))
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.widening = nn.Linear(width, 8 * width)
        self.narrowing = nn.Linear(4 * width, width)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Return Y (B, A, H) for A (B, A, H) and B (B, R, H); a batch of one stands for all rows."""
        batch = max(len(asking), len(asked))
        query = self._split(self.query(self.norm_asking(asking)), batch)
        key, value = self.key_value(self.norm_asked(asked)).chunk(2, dim=-1)
        found = functional.scaled_dot_product_attention(query, self._split(key, batch), self._split(value, batch))
        read: Tensor = asking + self.output(found.transpose(1, 2).flatten(2))
        gate, value = self.widening(self.norm_between(read)).chunk(2, dim=-1)
        changed: Tensor = self.narrowing(value * functional.gelu(gate))
        return read + changed

    def _split(self, rows: Tensor, batch: int) -> Tensor:
        """Return (batch, heads, rows, H / heads)."""
        return rows.reshape(*rows.shape[:2], self.heads, -1).transpose(1, 2).expand(batch, -1, -1, -1)
