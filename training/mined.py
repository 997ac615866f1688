"""Hard negatives within a recipe: the documents that an encoder itself ranks high, without the relevant ones."""

from pathlib import Path

import numpy as np

from retriever.progress import Progress
from retriever.protocols import Encoder
from training.candidates import Candidates
from training.collection import TrainingCollection
from training.evaluation import nearest
from training.negatives import Sampler

# Taken on top of the depth, since relevant ones among them are left out.
SPARE = 10
CANDIDATES = "candidates.npz"
QUERIES = 1024


def mine(encoder: Encoder, collection: TrainingCollection, depth: int, folder: Path) -> Candidates:
    """Return for each query row the `depth` best documents that are not relevant to it; kept in `folder`.

    A document with the text of a relevant one counts as relevant.
    """
    vectors = encoder.encode_documents(collection.documents)
    twins = _twins(collection)
    lists: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    with Progress("mining", len(collection.queries), quiet=False) as progress:
        for start in range(0, len(collection.queries), QUERIES):
            texts = collection.queries[start : start + QUERIES]
            most = min(len(vectors), depth + SPARE + int(np.diff(collection.judgments.offsets).max()))
            found_scores, found = nearest(encoder.encode_queries(texts), vectors, most)
            for place in range(len(texts)):
                row = start + place
                relevant = np.unique(twins[collection.judgments.relevant(row)])
                kept = ~np.isin(twins[found[place]], relevant)
                # The query itself, where it is a document too.
                itself = collection.corpus.rows.get(collection.query_ids[row], -1)
                kept &= found[place] != itself
                lists.append(found[place][kept][:depth].astype(np.int32))
                scores.append(found_scores[place][kept][:depth])
            progress.advance(len(texts))
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in lists])]).astype(np.int64)
    candidates = Candidates(offsets, np.concatenate(lists), np.concatenate(scores).astype(np.float32))
    _save(candidates, folder / CANDIDATES)
    return candidates


def _twins(collection: TrainingCollection) -> np.ndarray:
    """Return for each document row the first row with the same content."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(d.content, row) for row, d in enumerate(collection.documents)], np.int64)


def _save(candidates: Candidates, path: Path) -> None:
    """Write candidates so that a crash leaves the whole file or none."""
    temporary = path.with_name(f".{path.name}.part.npz")
    np.savez(temporary, offsets=candidates.offsets, documents=candidates.documents, scores=candidates.scores)
    temporary.replace(path)


def load(folder: Path) -> Candidates:
    """Return what `mine` left in a folder."""
    with np.load(folder / CANDIDATES, allow_pickle=False) as arrays:
        return Candidates(arrays["offsets"], arrays["documents"], arrays["scores"])


def uniform_of(candidates: Candidates) -> Sampler:
    """Return the sampler that draws uniformly from a query's candidates, without replacement."""

    def sample(query: int, count: int, generator: np.random.Generator) -> np.ndarray:
        documents = candidates.documents[candidates.offsets[query] : candidates.offsets[query + 1]]
        return generator.choice(documents, min(count, len(documents)), replace=False)

    return sample
