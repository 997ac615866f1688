"""Removing pairs that are likely mismatched and candidates that are likely relevant."""

import numpy as np
from numpy.typing import NDArray

from kernels.topk import topk
from retriever.errors import InvalidInput
from training.candidates import Candidates
from training.vectors import require_finite

# Pairs that are looked at together.
BLOCK = 1024


def consistent(
    query_vectors: NDArray[np.float32],
    document_vectors: NDArray[np.float32],
    positives: NDArray[np.integer],
    top_k: int = 2,
    threshold: float = 0.7,
    *,
    device: str = "cpu",
) -> NDArray[np.bool_]:
    """Return bool[P]: which pairs are consistent (CoRNStack, arXiv:2412.01007).

    query_vectors     (P, H), of each pair; pairs of one query repeat it
    document_vectors  (D, H), the whole corpus; both of unit length where `threshold` means a cosine
    positives         [P], the document row of each pair

    A pair is kept if its document is among the `top_k` of its query and their inner product is at least
    `threshold`. Documents equal to the k-th best count as among them, so copies do not push each other out.
    Exact, block by block, so scores need little memory; document vectors that are not writable are copied once.
    """
    require_finite(query_vectors, "query")
    require_finite(document_vectors, "document")
    if positives.shape != (len(query_vectors),):
        raise InvalidInput(f"positives must be ({len(query_vectors)},), one a query vector, got {positives.shape}.")
    if len(positives) and not 0 <= positives.min() <= positives.max() < len(document_vectors):
        raise InvalidInput(
            f"positives must lie in 0 to {len(document_vectors) - 1}, got {positives.min()} to {positives.max()}."
        )
    if top_k < 1:
        raise InvalidInput(f"top_k must be 1 or more, got {top_k}.")
    import torch

    # torch warns of arrays that it could write to but must not.
    writable = np.require(document_vectors, np.float32, ["C", "W"])
    documents = torch.from_numpy(writable).to(device)
    kept = np.zeros(len(positives), np.bool_)
    for start in range(0, len(positives), BLOCK):
        rows = torch.tensor(np.asarray(positives[start : start + BLOCK], np.int64), device=device)
        queries = torch.tensor(np.asarray(query_vectors[start : start + BLOCK], np.float32), device=device)
        scores, found = topk(queries, documents, min(top_k, len(documents)))
        similarity = (queries * documents[rows]).sum(dim=1)
        # This sum and the product behind `scores` may differ in their last bits.
        last = scores[:, -1]
        among = (found == rows[:, None]).any(dim=1) | (similarity >= last - 1e-6 * last.abs())
        kept[start : start + BLOCK] = (among & (similarity >= threshold)).cpu().numpy()
    return kept


def below_positive(candidates: Candidates, positive_scores: NDArray[np.floating], ratio: float = 0.95) -> Candidates:
    """Keep candidates that score less than `ratio` times the positive (TopK-PercPos, NV-Retriever, arXiv:2407.15831).

    positive_scores  [Q], by the same scorer as the candidates; with several positives the least is the strict choice

    The distance is (1 - ratio) * |positive|, so that the bound lies below a positive whose score is negative too.
    """
    bounds = _of_queries(positive_scores, candidates)
    bounds = bounds - (1 - ratio) * np.abs(bounds)
    return candidates.restrict(candidates.scores < bounds[candidates.queries])


def teacher_margin(
    candidates: Candidates,
    teacher_scores: NDArray[np.floating],
    teacher_positive: NDArray[np.floating],
    margin: float = 3.0,
) -> Candidates:
    """Keep candidates whose teacher score is at least `margin` below that of the positive.

    teacher_scores    [nnz], of each candidate
    teacher_positive  [Q], of the positive of each query

    The default is INCOME's, for logits of a cross-encoder (arXiv:2205.11498).
    """
    if teacher_scores.shape != candidates.documents.shape:
        raise InvalidInput(f"teacher_scores must be {candidates.documents.shape}, got {teacher_scores.shape}.")
    unscored = ~np.isfinite(teacher_scores)
    if unscored.any():
        row = int(candidates.queries[np.argmax(unscored)])
        raise InvalidInput(f"the teacher gave NaN or infinity to a candidate of query row {row}.")
    bounds = _of_queries(teacher_positive, candidates) - margin
    return candidates.restrict(teacher_scores <= bounds[candidates.queries])


def _of_queries(scores: NDArray[np.floating], candidates: Candidates) -> NDArray[np.float64]:
    if scores.shape != (len(candidates),):
        raise InvalidInput(f"scores of positives must be ({len(candidates)},), one a query, got {scores.shape}.")
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores)))
        raise InvalidInput(f"the score of the positive of query row {row} is {scores[row]}.")
    return np.asarray(scores, np.float64)
