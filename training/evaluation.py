"""Measuring an encoder on judged queries: all documents, exact search."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.topk import topk
from retriever.evaluation.collections import Collection
from retriever.evaluation.measures import measure
from retriever.evaluation.significance import compare
from retriever.protocols import Encoder
from retriever.types import Run
from training.collection import Corpus

MEASURES = ("nDCG@10", "RR@10", "R@100")
DEPTH = 100

PerQuery = dict[str, dict[str, float]]


def dense_run(
    encoder: Encoder, corpus: Corpus, collection: Collection, vectors: NDArray[np.float32] | None = None
) -> Run:
    """Return the best 100 documents of every judged query by exact inner product.

    vectors  of the documents, where they are known already
    """
    if vectors is None:
        vectors = encoder.encode_documents(corpus.documents)
    return vector_run(encoder.encode_queries(list(collection.judged.values())), vectors, corpus, collection)


def vector_run(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], corpus: Corpus, collection: Collection
) -> Run:
    """Return the same from the vectors of the judged queries, in their order, and of the documents."""
    # One more, as the query's own document is taken out.
    scores, found = nearest(queries, vectors, min(DEPTH + 1, len(vectors)))
    run: Run = {}
    for row, query in enumerate(collection.judged):
        ranked = [(corpus.documents[d].id, float(s)) for s, d in zip(scores[row], found[row], strict=True)]
        run[query] = [pair for pair in ranked if pair[0] != query][:DEPTH]
    return run


def nearest(
    queries: NDArray[np.float32], documents: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (scores, rows) (Q, k) of the documents with the largest inner products, best first; exact."""
    import torch

    scores, rows = topk(torch.from_numpy(queries), torch.from_numpy(documents), k)
    return scores.numpy(), rows.numpy().astype(np.int64)


def measured(run: Run, collection: Collection, names: Sequence[str] = MEASURES) -> PerQuery:
    """Return the measures of each judged query that has a text."""
    qrels = {query: collection.qrels[query] for query in collection.judged}
    return measure(run, qrels, names).per_query


def comparison(start: PerQuery, end: PerQuery) -> dict[str, Any]:
    """Return for each measure both means, their difference with its interval, and the paired test's p."""
    found: dict[str, Any] = {}
    for name in start:
        result = compare(start[name], end[name])
        found[name] = {
            "start": result.baseline,
            "end": result.system,
            "difference": result.difference,
            "interval": result.interval,
            "p": result.p,
            "queries": len(start[name]),
        }
    return found
