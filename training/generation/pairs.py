"""From generated queries to a collection that recipes take: filtered, and with documents held out."""

import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.corpora.beir import corpus_file
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.index.sealed import open_index
from retriever.protocols import Encoder
from retriever.storage import write_atomically
from retriever.types import Document
from training.candidate_files import read_columns
from training.filters import consistent
from training.generation.cleaning import require_variety
from training.portions import read_metadata

Pair = tuple[str, str]
# Queries that are searched together.
QUERIES = 256


@dataclass(frozen=True)
class Consistency:
    """A filter by an encoder: a pair stays if the query finds its document, see `training.filters.consistent`.

    top_k      the document is among so many of the whole corpus; CoRNStack (arXiv:2412.01007) has 2
    threshold  and scores at least so much; CoRNStack has a cosine of .7, the default asks for nothing
    """

    encoder: Encoder
    top_k: int
    threshold: float = -math.inf

    def kept(self, pairs: Sequence[Pair], documents: Sequence[Document]) -> list[Pair]:
        """Return the consistent ones of (query, document id). Cost: encoding all documents."""
        if not pairs:
            return []
        rows = {document.id: row for row, document in enumerate(documents)}
        # Most queries came once, but an equal one is not encoded again.
        places = {query: place for place, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        vectors = self.encoder.encode_queries(list(places))
        stays = consistent(
            vectors[[places[query] for query, _ in pairs]],
            self.encoder.encode_documents(documents),
            np.array([rows[id_] for _, id_ in pairs]),
            self.top_k,
            self.threshold,
        )
        return [pair for pair, stay in zip(pairs, stays, strict=True) if stay]


def read_pairs(path: Path) -> list[Pair]:
    """Return (query, document id) of a file that `generate_queries` wrote."""
    table = read_columns(path, ["query", "document_id"])
    return list(zip(table["query"].to_pylist(), table["document_id"].to_pylist(), strict=True))


def found_again(pairs: Sequence[Pair], corpus: Path, top_k: int) -> list[Pair]:
    """Keep the pairs whose document BM25 finds for the query among its first `top_k` (SPTAR, arXiv:2307.08303).

    corpus  a BEIR folder
    SPTAR has 30 on MS MARCO and 70 on FiQA. Builds a BM25 index of the corpus in a temporary folder.
    """
    if top_k < 1:
        raise InvalidInput(f"the filter's top_k must be 1 or more, got {top_k}.")
    kept: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        build_index(open_corpus(str(corpus)), Path(folder) / "index", BuildSettings(parts=("bm25",)), quiet=True)
        with open_index(Path(folder) / "index") as index:
            for start in range(0, len(pairs), QUERIES):
                part = pairs[start : start + QUERIES]
                answers = index.batch_search([query for query, _ in part], top_k, pipeline="bm25", documents=False)
                kept += [
                    pair
                    for pair, answer in zip(part, answers, strict=True)
                    if any(hit.id == pair[1] for hit in answer.hits)
                ]
    return kept


def write_collection(
    generated: Path,
    documents: Sequence[Document],
    folder: Path,
    *,
    top_k: int | None = 30,
    held_out: float = 0.1,
    consistency: Consistency | None = None,
) -> dict[str, Any]:
    """Write a BEIR folder of documents and generated queries, with a train and a dev split, and return counts.

    folder    gets queries.jsonl and qrels, and corpus.jsonl unless it holds a corpus already
    top_k     of the filter `found_again`; None keeps all
    held_out  the share of documents whose queries make the dev split; a document is in one split only, by its id
    consistency  a second filter, of what the first has kept; None for none

    A query that came for several documents has all of them as relevant ones, and goes to dev only if all are there.
    Raises InvalidInput when no query, or none of a split, is left; ModelFault when the generator repeated itself.
    """
    pairs = read_pairs(generated)
    if not pairs:
        raise InvalidInput(f"{generated} holds no queries; the language model gave no usable answer.")
    require_variety(pairs, str(read_metadata(generated)["depends_on"]["model"]))
    folder.mkdir(parents=True, exist_ok=True)
    if corpus_file(folder) is None:
        write_corpus(documents, folder)
    kept = pairs if top_k is None else found_again(pairs, folder, top_k)
    if consistency is not None:
        kept = consistency.kept(kept, documents)
    relevant: dict[str, list[str]] = {}
    for query, document in kept:
        relevant.setdefault(query, []).append(document)
    splits: dict[str, dict[str, list[str]]] = {"train": {}, "dev": {}}
    for query, ids in relevant.items():
        dev = all(_held_out(id_, held_out) for id_ in ids)
        own = [id_ for id_ in ids if dev or not _held_out(id_, held_out)]
        splits["dev" if dev else "train"][query] = own
    for split, queries in splits.items():
        if not queries and (split == "train" or held_out > 0):
            raise InvalidInput(
                f"of {len(pairs):,} generated queries {len(kept):,} passed the filter, none of them for {split}; "
                "generate more, or loosen the filter."
            )
    write_queries(splits, folder)
    return {"generated": len(pairs), "kept": len(kept), **{split: len(found) for split, found in splits.items()}}


def _held_out(document: str, share: float) -> bool:
    return int(hashlib.sha256(document.encode()).hexdigest()[:8], 16) < share * 2**32


def write_corpus(documents: Sequence[Document], folder: Path) -> None:
    """Write corpus.jsonl of a BEIR folder."""
    lines = (
        json.dumps({"_id": document.id, "title": document.title, "text": document.text}, ensure_ascii=False)
        for document in documents
    )
    write_atomically(folder / "corpus.jsonl", ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))


def write_queries(splits: dict[str, dict[str, list[str]]], folder: Path) -> None:
    """Write queries.jsonl and qrels of a BEIR folder: for each split the ids of the relevant documents by query.

    A split without queries is left out, and the file of one that was there before is removed.
    """
    ids = {
        query: f"g:{hashlib.sha256(query.encode()).hexdigest()[:16]}" for found in splits.values() for query in found
    }
    records = [json.dumps({"_id": id_, "text": query}, ensure_ascii=False) for query, id_ in ids.items()]
    write_atomically(folder / "queries.jsonl", ("\n".join(records) + "\n").encode())
    (folder / "qrels").mkdir(exist_ok=True)
    for split, found in splits.items():
        path = folder / "qrels" / f"{split}.tsv"
        if not found:
            path.unlink(missing_ok=True)
        else:
            rows = [f"{ids[query]}\t{document}\t1" for query, own in found.items() for document in own]
            content = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
            write_atomically(path, content.encode())
