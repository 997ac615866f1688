"""The nearest documents of each query by vectors in memory, without the relevant ones: negatives for one refresh."""

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from retriever.progress import Progress
from training.candidates import Candidates
from training.judgments import Judgments
from training.vectors import require_finite

# Queries that are searched together.
QUERIES = 4096


def nearest_candidates(
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    depth: int,
    excluded: Judgments | None = None,
    *,
    device: str = "cpu",
    quiet: bool = True,
) -> Candidates:
    """Return for each query the `depth` documents of largest inner product that are not excluded; exact.

    queries, documents  (Q, H) and (D, H), of one model
    excluded            of each query row the documents it must not have, such as relevant ones and their copies

    Equal scores stand in order of row. Holds the vectors once more on the device and Q * depth scores and rows.
    Raises InvalidInput for vectors that are not finite or do not fit.
    """
    import torch

    from kernels.topk import topk

    require_finite(queries, "query")
    require_finite(documents, "document")
    if queries.shape[1] != documents.shape[1]:
        raise InvalidInput(f"queries have width {queries.shape[1]} and documents {documents.shape[1]}; use one model.")
    if depth < 1 or len(documents) == 0:
        raise InvalidInput(f"depth must be 1 or more and there must be documents, got {depth} and {len(documents)}.")
    if excluded is not None and len(excluded) != len(queries):
        raise InvalidInput(f"excluded has {len(excluded)} queries, there are {len(queries)}.")
    corpus = torch.from_numpy(np.ascontiguousarray(documents, np.float32)).to(device)
    parts: list[Candidates] = []
    with Progress("mining", len(queries), quiet) as progress:
        for start in range(0, len(queries), QUERIES):
            block = np.ascontiguousarray(queries[start : start + QUERIES], np.float32)
            barred = _of_block(excluded, start, len(block))
            # As many more as a query may lose.
            most = min(len(documents), depth + int(np.diff(barred.offsets).max()))
            scores, rows = (found.cpu().numpy() for found in topk(torch.from_numpy(block).to(device), corpus, most))
            parts.append(_without(Candidates.of_matrix(rows, scores), barred, depth))
            progress.advance(len(block))
    return _joined(parts)


def _of_block(excluded: Judgments | None, start: int, count: int) -> Judgments:
    if excluded is None:
        return Judgments(np.zeros(count + 1, np.int64), np.zeros(0, np.int32))
    offsets = excluded.offsets[start : start + count + 1]
    return Judgments(offsets - offsets[0], excluded.documents[offsets[0] : offsets[-1]])


def _without(found: Candidates, barred: Judgments, depth: int) -> Candidates:
    """Leave out the barred documents and what is then below `depth`."""
    if len(barred.documents):
        width = int(max(found.documents.max(), barred.documents.max())) + 1
        owners = np.repeat(np.arange(len(barred)), np.diff(barred.offsets))
        keys = found.queries * width + found.documents
        found = found.restrict(~np.isin(keys, owners * width + barred.documents))
    return found.restrict(found.ranks < depth)


def _joined(parts: list[Candidates]) -> Candidates:
    offsets, total = [np.zeros(1, np.int64)], 0
    for part in parts:
        offsets.append(part.offsets[1:] + total)
        total += len(part.documents)
    if not parts:
        return Candidates(offsets[0], np.zeros(0, np.int32), np.zeros(0, np.float32))
    documents = np.concatenate([part.documents for part in parts])
    return Candidates(np.concatenate(offsets), documents, np.concatenate([part.scores for part in parts]))
