"""A cross-encoder's order of a run's best documents."""

from pathlib import Path

import numpy as np

from retriever.evaluation.collections import Collection
from retriever.types import Run
from training.collection import Corpus
from training.evaluation import PerQuery, measured
from training.rankers import open_ranker
from training.teachers import CrossEncoderTeacher


def reranked(
    run: Run, ranker: Path, corpus: Corpus, collection: Collection, *, depth: int, max_tokens: int = 96
) -> PerQuery:
    """Return the measures of a run whose best `depth` documents of each query stand in the ranker's order."""
    queries = list(run)
    rows = [[corpus.rows[document] for document, _ in run[query][:depth]] for query in queries]
    teacher = CrossEncoderTeacher(
        open_ranker(ranker, max_tokens=max_tokens, seed=0, offline=True),
        [collection.queries[query] for query in queries],
        [document.content for document in corpus.documents],
    )
    owners = np.repeat(np.arange(len(queries)), [len(row) for row in rows])
    scores = iter(teacher.scores(owners, np.concatenate([np.array(row, np.int64) for row in rows])).tolist())
    ordered: Run = {}
    for query, found in zip(queries, rows, strict=True):
        pairs = [(corpus.documents[row].id, next(scores)) for row in found]
        ordered[query] = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return measured(ordered, collection)
