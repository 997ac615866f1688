"""A collection to train on, as rows: texts of queries and documents, and what is relevant to what."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexing.corpora import open_corpus
from indexing.corpora.beir import NAMES, corpus_file
from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, open_collection
from retriever.storage import sha256_of
from retriever.types import Document
from training.judgments import Judgments

NAMED = 5


@dataclass(frozen=True)
class Corpus:
    """All documents of a collection, by row."""

    path: Path
    documents: list[Document]
    rows: dict[str, int]
    sha256: dict[str, str]


@dataclass(frozen=True)
class TrainingCollection:
    """Queries of the train split that have a relevant document in the corpus.

    queries    texts by row
    judgments  relevant documents of each query row; every query has at least one
    dropped    counts and first names of what could not be used, for the report
    """

    corpus: Corpus
    query_ids: list[str]
    queries: list[str]
    judgments: Judgments
    sha256: dict[str, str]
    dropped: dict[str, Any]

    @property
    def documents(self) -> list[Document]:
        return self.corpus.documents


def read_corpus(path: Path) -> Corpus:
    """Read the documents of a BEIR folder into memory. Raises InvalidInput where there are none."""
    file = corpus_file(path)
    if file is None:
        raise InvalidInput(f"{path} is no BEIR folder: it has none of {', '.join(NAMES)}.")
    documents = list(open_corpus(str(path)))
    if not documents:
        raise InvalidInput(f"{file} holds no documents.")
    rows = {document.id: row for row, document in enumerate(documents)}
    return Corpus(path, documents, rows, {file.name: sha256_of(file)})


def open_training_collection(
    path: Path, split: str = "train", *, max_queries: int | None = None, seed: int = 0, corpus: Corpus | None = None
) -> TrainingCollection:
    """Read a BEIR folder's corpus and the judgments of a split.

    max_queries  keep so many queries, drawn by `seed`
    Queries without a relevant document in the corpus are left out and counted, never silently used.
    Raises InvalidInput when nothing is left to train on.
    """
    corpus = corpus or read_corpus(path)
    return select(open_collection(str(path), split), corpus, max_queries=max_queries, seed=seed)


def select(
    collection: Collection, corpus: Corpus, *, max_queries: int | None = None, seed: int = 0
) -> TrainingCollection:
    """Turn judged queries into rows, see `open_training_collection`."""
    rows = corpus.rows
    ids: list[str] = []
    relevant: list[list[int]] = []
    missing: list[str] = []
    without: list[str] = []
    for query in collection.judged:
        wanted = [document for document, grade in collection.qrels[query].items() if grade > 0]
        missing += [document for document in wanted if document not in rows]
        # A document that bears the query's id is the query itself.
        found = [rows[document] for document in wanted if document in rows and document != query]
        if found:
            ids.append(query)
            relevant.append(found)
        else:
            without.append(query)
    if not ids:
        raise InvalidInput(
            f"{corpus.path} has no {collection.split} query with a relevant document in the corpus; "
            f"{len(missing)} judged documents are missing from it, such as {missing[:NAMED]}."
        )
    if max_queries is not None and len(ids) > max_queries:
        kept = np.sort(np.random.default_rng(seed).permutation(len(ids))[:max_queries])
        ids, relevant = [ids[i] for i in kept], [relevant[i] for i in kept]
    return TrainingCollection(
        corpus,
        ids,
        [collection.queries[id_] for id_ in ids],
        Judgments.of_lists(relevant),
        collection.sha256,
        {
            "queries_without_relevant_document": len(without),
            "first_queries": without[:NAMED],
            "judged_documents_missing": len(missing),
            "first_documents": missing[:NAMED],
        },
    )
