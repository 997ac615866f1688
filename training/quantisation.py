"""Documents as product codes during training: the codebook it starts from, searching codes, settling new ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback

from kernels.pq import best_codes, laid_out, tables
from retriever.codebook import Codebook, require_parts, require_trainable, train_codebook
from retriever.errors import InvalidInput
from retriever.heads.product import ProductHead
from training.encoders import as_encoder, require_no_head, with_head
from training.task import Task

CODEBOOK = "codebook.safetensors"
CODES = "codes.npy"
# The pattern that names a product head's centroids among a model's parameters.
CENTROIDS = r"\.centroids$"
# Dimensions of a part where the settings say nothing: 32 times smaller than float32.
DIMENSIONS = 8


def start_codebook(
    task: Task[Any], model: Any, parts: int | None, *, given: Codebook | None = None, name: str = "codebook"
) -> tuple[Codebook, NDArray[np.uint8]]:
    """Return a codebook for a model's documents and their codes (D, M), by a stage.

    parts  M; None for the base's own, else `default_parts`
    given  a codebook that is there already, else OPQ is fitted to all documents

    Raises InvalidInput where `parts` does not divide the width or does not fit `given`, and for fewer than 256
    documents.
    """
    encoder = as_encoder(model)
    parts = parts or (given.parts if given else default_parts(encoder.width))
    require_parts(encoder.width, parts)
    if given is not None:
        require_given(given, parts)

    def work(folder: Path) -> dict[str, Any]:
        vectors = encoder.encode_documents(task.collection.documents)
        codebook = given or train_codebook(vectors, parts, seed=task.settings.seed)
        codes = codebook.encode(vectors)
        temporary = folder / f".{CODES}.part.npy"
        np.save(temporary, codes, allow_pickle=False)
        temporary.replace(folder / CODES)
        codebook.save(folder / CODEBOOK)
        error = ((codebook.rotated(vectors) - codebook.decode(codes)) ** 2).sum(axis=1).mean()
        return {"documents": len(codes), "bytes": parts, "squared_error": float(error), "entropy": entropy(codes)}

    folder = task.stages.run(name, work)
    return Codebook.load(folder / CODEBOOK), np.load(folder / CODES, allow_pickle=False)


def default_parts(width: int) -> int:
    """Return the parts where the settings say nothing: an eighth of the width, or the next fewer that divide it."""
    return max(parts for parts in range(1, max(1, width // DIMENSIONS) + 1) if width % parts == 0)


def require_quantisable(task: Task[Any], model: Any, parts: int | None) -> None:
    """Raise InvalidInput unless `open_quantised` can fit a codebook: known before the stages that come first."""
    require_no_head(model)
    width = int(model.get_embedding_dimension())
    require_trainable(len(task.collection.documents), width, parts or default_parts(width))


def require_given(given: Codebook, parts: int) -> None:
    """Raise InvalidInput unless a base's own codebook has so many parts."""
    if given.parts != parts:
        raise InvalidInput(f"the base has a codebook of {given.parts} parts already; leave out parts={parts}.")


def entropy(codes: NDArray[np.uint8]) -> float:
    """Return the bits that a byte of codes (D, M) tells, the mean over parts: 8 where all centroids are used alike."""
    found = []
    for part in codes.T:
        shares = np.bincount(part, minlength=256) / len(part)
        used = shares[shares > 0]
        found.append(-(used * np.log2(used)).sum())
    return float(np.mean(found))


def open_quantised(task: Task[Any], model: Any, parts: int | None, *, name: str = "codebook") -> tuple[Any, Any]:
    """Return the model with a product head at its end that starts from OPQ, and the head.

    In training the head gives rotated documents, for losses that quantise themselves.
    """
    require_quantisable(task, model, parts)
    codebook, _ = start_codebook(task, model, parts, name=name)
    head = ProductHead.of(codebook)
    head.continuous = True
    return with_head(model, head), head


def settling(head: Any) -> Any:
    """Return a callback that at the end of a training lets the trained centroids decide codes."""

    class Settling(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            head.settle()

    return Settling()


class CodedDocuments:
    """Documents as codes uint8 (D, M) that stay as they are, searched with a head's centroids of the moment."""

    def __init__(self, codes: NDArray[np.uint8], head: Any) -> None:
        self.codes = codes
        self.scanned = laid_out(codes)
        self.head = head

    def __len__(self) -> int:
        return len(self.codes)

    def nearest(self, queries: Tensor, k: int) -> NDArray[np.int64]:
        """Return rows (B, k) of the codes that score best, best first; exact."""
        found = best_codes(self.scanned, tables(queries.detach().cpu().numpy(), self.head.codebook.centroids), k)
        return np.stack([rows for _, rows in found]).astype(np.int64)

    def scores(self, queries: Tensor, documents: NDArray[np.int64]) -> Tensor:
        """Return (B, K) scores of the codes of rows (B, K); gradients reach queries and centroids."""
        centroids = self.head.centroids.float()
        parts = queries.reshape(len(queries), len(centroids), -1)
        table = torch.einsum("bms,mcs->bmc", parts, centroids)
        codes = torch.from_numpy(self.codes[documents].astype(np.int64)).to(queries.device)
        return table.gather(2, codes.transpose(1, 2)).sum(dim=1)
