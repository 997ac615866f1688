"""Hard negatives within a recipe: the documents that an encoder itself ranks high, without the relevant ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retriever.protocols import Encoder
from training.candidates import Candidates
from training.collection import TrainingCollection
from training.judgments import Judgments
from training.nearest import nearest_candidates

FILE = "candidates.npz"


@dataclass(frozen=True)
class Mined:
    """What an encoder finds for each training query.

    positive_scores  float32[Q], the least score of a relevant document by the same encoder
    """

    candidates: Candidates
    positive_scores: NDArray[np.float32]


def mine(encoder: Encoder, collection: TrainingCollection, depth: int, *, unlabelled: bool = False) -> Mined:
    """Return the `depth` best documents of each query row that are not relevant to it.

    unlabelled  keep the relevant ones in their places, for methods that do not look at judgments
    A document with the text of a relevant one counts as relevant; the query itself, where it is a document, is never
    a candidate. Encodes the whole corpus.
    """
    documents = encoder.encode_documents(collection.documents)
    queries = encoder.encode_queries(collection.queries)
    excluded = Judgments.of_lists(collection.itself) if unlabelled else collection.barred
    found = nearest_candidates(queries, documents, depth, excluded, quiet=False)
    least = np.array(
        [(documents[collection.judgments.relevant(row)] @ queries[row]).min() for row in range(len(queries))],
        np.float32,
    )
    return Mined(found, least)


def save(mined: Mined, folder: Path) -> None:
    """Write so that a crash leaves the whole file or none."""
    temporary = folder / f".{FILE}.part.npz"
    found = mined.candidates
    np.savez(
        temporary,
        offsets=found.offsets,
        documents=found.documents,
        scores=found.scores,
        positive_scores=mined.positive_scores,
    )
    temporary.replace(folder / FILE)


def load(folder: Path) -> Mined:
    """Return what `save` wrote."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        found = Candidates(arrays["offsets"], arrays["documents"], arrays["scores"])
        return Mined(found, arrays["positive_scores"])
