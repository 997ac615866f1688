"""Where the documents of a training example come from: one relevant, some that are not."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from training.collection import TrainingCollection
from training.judgments import Judgments

Rows = NDArray[np.int64]

Draw = Callable[[Rows, np.random.Generator], tuple[Rows, Rows]]
"""Of query rows (B,) the rows of a relevant document each (B,) and of negatives (B, h).

One that changes from epoch to epoch has a method `set_epoch`.
"""


Sampler = Callable[[int, int, np.random.Generator], NDArray[np.int32]]
"""Of (query row, how many, generator) at most so many rows of mined negatives."""


def positives_only(judgments: Judgments) -> Draw:
    """Draw a relevant document uniformly and no negatives: those of the batch do."""

    def draw(queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        return draw_positives(judgments, queries, generator), np.zeros((len(queries), 0), np.int64)

    return draw


def with_negatives(collection: TrainingCollection, count: int, mined: Sampler | None = None) -> Draw:
    """Draw a relevant document and `count` negatives of each query.

    mined  gives hard negatives; where they are too few, or none are mined, random documents fill up
    No negative is relevant to its query, a copy of what is, or the query itself.
    """

    def draw(queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        positives = draw_positives(collection.judgments, queries, generator)
        negatives = np.empty((len(queries), count), np.int64)
        for place, query in enumerate(queries.tolist()):
            hard = mined(query, count, generator) if mined else np.zeros(0, np.int32)
            negatives[place, : len(hard)] = hard
            for column in range(len(hard), count):
                negatives[place, column] = random_negative(collection, query, generator)
        return positives, negatives

    return draw


def of_parts(draws: Mapping[int, Draw], collections: Sequence[TrainingCollection]) -> Draw:
    """Draw each batch within the one collection that its queries are of.

    draws        by the number of the collection, in rows of its own
    collections  those of `training.collection.pooled`, whose rows are taken and given; all queries of a batch must be
                 of one that has a draw
    """
    first_query = np.cumsum([0, *(len(collection.queries) for collection in collections)])
    first_document = np.cumsum([0, *(len(collection.documents) for collection in collections)])

    def draw(queries: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
        part = int(np.searchsorted(first_query, queries[0], side="right")) - 1
        positives, negatives = draws[part](queries - first_query[part], generator)
        return positives + first_document[part], negatives + first_document[part]

    return draw


def draw_positives(judgments: Judgments, queries: Rows, generator: np.random.Generator) -> Rows:
    """Return one relevant document of each query, drawn uniformly."""
    starts = judgments.offsets[queries]
    return judgments.documents[generator.integers(starts, judgments.offsets[queries + 1])].astype(np.int64)


def random_negative(collection: TrainingCollection, query: int, generator: np.random.Generator) -> int:
    """Return a document that is neither relevant to the query nor a copy of what is, drawn uniformly."""
    relevant, documents = collection.barred.relevant(query), len(collection.documents)
    if len(relevant) >= documents:
        raise InvalidInput(
            f"every document is relevant to query {collection.query_ids[query]!r}, or a copy of what is: it has no "
            "negatives; leave the query out or add documents."
        )
    # Uniform over the others: the i-th of those that are not relevant.
    place = int(generator.integers(0, documents - len(relevant)))
    return place + int(np.searchsorted(relevant - np.arange(len(relevant)), place, side="right"))
