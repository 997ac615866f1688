"""Documents of earlier batches as further negatives.

Wang et al. 2020, "Cross-Batch Memory for Embedding Learning" (XBM), arXiv:1912.06798: an encoder changes slowly, so
what it gave in the last batches still serves. MoCo's momentum copy of the encoder (arXiv:1911.05722), which makes the
queue steadier for another pass over every document, is left out.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.batch import Batch
from training.judgments import Judgments
from training.negatives import Rows

VECTORS, ROWS = "queue.npy", "queue-rows.npy"


class MemoryQueue:
    """A ring of the latest document embeddings, without gradients.

    size    embeddings that are kept; the oldest give way
    barred  what is no negative of a query, see `TrainingCollection.barred`
    """

    def __init__(self, size: int, barred: Judgments) -> None:
        self.size = size
        self.barred = barred
        # From the oldest to the newest.
        self.vectors: Tensor | None = None
        self.rows: Rows = np.zeros(0, np.int64)

    def scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (B, n) inner products of the batch's queries with the n queued documents, and bool (B, n): barred."""
        if self.vectors is None:
            return batch.queries.new_zeros(batch.size, 0), batch.relevant[:, :0]
        older = self.vectors.to(batch.queries.device)
        barred = torch.from_numpy(self.barred.mask(batch.query_rows, self.rows)).to(older.device)
        return batch.queries @ older.T, barred

    def add(self, documents: Tensor, rows: Rows) -> None:
        """Put embeddings (n, H) of document rows int64[n] at the end."""
        latest = documents.detach()
        held = latest if self.vectors is None else torch.cat([self.vectors.to(latest.device), latest])
        # A copy, so that the slice does not keep what has left the queue.
        self.vectors = held[-self.size :].clone()
        self.rows = np.concatenate([self.rows, rows])[-self.size :]

    def save(self, folder: Path) -> None:
        if self.vectors is not None:
            np.save(folder / VECTORS, self.vectors.cpu().numpy(), allow_pickle=False)
            np.save(folder / ROWS, self.rows, allow_pickle=False)

    def load(self, folder: Path) -> None:
        """Take what `save` left, if it did."""
        if (folder / ROWS).is_file():
            self.vectors = torch.from_numpy(np.load(folder / VECTORS, allow_pickle=False))
            self.rows = np.load(folder / ROWS, allow_pickle=False)
