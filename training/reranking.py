"""A cross-encoder's order of a run's best documents, and the report of recipes that train one beside their encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retriever.evaluation.collections import Collection
from retriever.types import Run
from training.collection import Corpus
from training.encoders import as_encoder
from training.evaluation import MEASURES, PerQuery, comparison, dense_run, measured
from training.rankers import open_ranker
from training.recipe import compare_models
from training.recipes.cross_encoder import draw_queries
from training.task import Task
from training.teachers import CrossEncoderTeacher

# So many documents of so many queries: what a cross-encoder reads in a report should not take longer than training.
DEPTH, QUERIES = 20, 200


def compare_with_ranker(task: Task[Any], trained: Path, ranker: Path, *, max_tokens: int) -> dict[str, Any]:
    """Return by split the encoder's measures, and those of its best 20 documents in the ranker's order.

    The start of the first is the base, of the second the trained encoder's own order of the same documents, for at
    most 200 queries.
    """
    held_out = [found for part in task.parts for found in part.held_out]
    found, _ = compare_models(task, trained, held_out)
    if not held_out:
        return found
    corpus, encoder = task.collection.corpus, as_encoder(task.open_base(trained))
    vectors = encoder.encode_documents(corpus.documents)
    names = MEASURES[:2]
    for split in held_out:
        few = draw_queries(split, QUERIES, task.settings.seed)
        run = {query: best[:DEPTH] for query, best in dense_run(encoder, corpus, few, vectors).items()}
        after = reranked(run, ranker, corpus, few, depth=DEPTH, max_tokens=max_tokens, names=names)
        found[f"{split.split}, best {DEPTH} by {ranker.name}"] = comparison(measured(run, few, names), after)
    return found


def reranked(
    run: Run,
    ranker: Path,
    corpus: Corpus,
    collection: Collection,
    *,
    depth: int,
    max_tokens: int = 96,
    names: Sequence[str] = MEASURES,
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
    return measured(ordered, collection, names)
