"""A collection to train on, as rows: texts of queries and documents, and what is relevant to what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    @cached_property
    def barred(self) -> Judgments:
        """What is no negative: relevant documents, copies of their text, and the query itself as a document."""
        copies: dict[str, list[int]] = {self.documents[row].content: [] for row in self.judgments.documents}
        for row, document in enumerate(self.documents):
            if document.content in copies:
                copies[document.content].append(row)
        barred = []
        for place, own in enumerate(self.itself):
            relevant = self.judgments.relevant(place)
            barred.append([copy for row in relevant for copy in copies[self.documents[row].content]] + own)
        return Judgments.of_lists(barred)

    @property
    def itself(self) -> list[list[int]]:
        """The document that bears the id of each query, where there is one."""
        rows = self.corpus.rows
        return [[rows[id_]] if id_ in rows else [] for id_ in self.query_ids]

    def restrict(self, pairs: NDArray[np.bool_]) -> "TrainingCollection":
        """Keep the pairs of query and relevant document where bool[nnz], in the judgments' order, is True.

        A query whose pairs are all gone goes too. Raises InvalidInput when none is left.
        """
        relevant: list[list[int]] = []
        for row in range(len(self.queries)):
            start, end = self.judgments.offsets[row], self.judgments.offsets[row + 1]
            relevant.append(self.judgments.documents[start:end][pairs[start:end]].tolist())
        left = [row for row, documents in enumerate(relevant) if documents]
        if not left:
            raise InvalidInput(f"of {len(pairs)} pairs none is left to train on; loosen the filter.")
        return replace(
            self,
            query_ids=[self.query_ids[row] for row in left],
            queries=[self.queries[row] for row in left],
            judgments=Judgments.of_lists([relevant[row] for row in left]),
        )


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


def pooled(collections: Sequence[TrainingCollection]) -> TrainingCollection:
    """Return several collections as one, rows counted through; an id gets its collection's number before it.

    The judgments of a query name documents of its own collection alone.
    """
    if len(collections) == 1:
        return collections[0]
    documents: list[Document] = []
    ids: list[str] = []
    relevant: list[list[int]] = []
    sha256: dict[str, str] = {}
    for number, part in enumerate(collections):
        first = len(documents)
        documents += [replace(document, id=f"{number}:{document.id}") for document in part.documents]
        ids += [f"{number}:{id_}" for id_ in part.query_ids]
        relevant += [(part.judgments.relevant(row) + first).tolist() for row in range(len(part.queries))]
        sha256 |= {f"{number}:{name}": digest for name, digest in (part.corpus.sha256 | part.sha256).items()}
    rows = {document.id: row for row, document in enumerate(documents)}
    return TrainingCollection(
        Corpus(collections[0].corpus.path, documents, rows, sha256),
        ids,
        [query for part in collections for query in part.queries],
        Judgments.of_lists(relevant),
        sha256,
        {
            name: sum(part.dropped[name] for part in collections)
            for name in collections[0].dropped
            if isinstance(collections[0].dropped[name], int)
        },
    )
