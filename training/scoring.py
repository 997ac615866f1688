"""Scoring pairs by a cross-encoder as a job: what students imitate, computed once and kept."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection
from retriever.index.sealed import Index
from retriever.storage import sha256_of
from retriever.types import Document
from training.candidate_files import read_columns, score_schema
from training.portions import WHOLE, Outcome, Plan, Shard, read_metadata, run
from training.teachers import model_digest

if TYPE_CHECKING:
    import pyarrow as pa

    from retriever.protocols import Reranker

# Queries between two saves.
PORTION = 64


def score_pairs(
    pairs: Path,
    output: Path,
    model: str,
    index: Index,
    collection: Collection,
    *,
    portion: int = PORTION,
    shard: Shard = WHOLE,
    restart: bool = False,
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
) -> Outcome:
    """Write the raw logit of each distinct (query, document) of a file, the relevant ones among them.

    pairs              a Parquet file with the columns query_id and document_id, such as mined candidates
    index, collection  where the texts are; mined candidates are refused with others than they were mined from

    A document that was cut into chunks is scored whole, as far as the model reads. The other arguments are those of
    `training.portions.run`, which also says how the job resumes. Raises InvalidInput for ids that have no text.
    """
    _require_same_texts(pairs, index, collection)
    by_query = _pairs_by_query(pairs)
    if unknown := [query for query in by_query if query not in collection.queries]:
        raise InvalidInput(f"{collection.name} has no text of {len(unknown)} queries, such as {unknown[0]!r}.")
    queries = list(by_query)
    plan = Plan(
        job="scoring",
        depends_on={
            "pairs": sha256_of(pairs),
            "index": index.fingerprint,
            "collection": collection.sha256,
            "model_sha256": model_digest(model, offline=offline),
            "portion": portion,
        },
        facts={"model": model},
        sizes=[len(queries[start : start + portion]) for start in range(0, len(queries), portion)],
    )
    loaded: list[Reranker] = []

    def make(number: int) -> tuple["pa.Table", Counter[str]]:
        if not loaded:
            from retriever.rerank import CrossEncoderReranker

            loaded.append(CrossEncoderReranker(model, device=device, offline=offline))
        part = {query: by_query[query] for query in queries[number * portion : (number + 1) * portion]}
        return _score(part, loaded[0], index, collection)

    return run(plan, output, make, shard=shard, restart=restart, quiet=quiet)


def _require_same_texts(pairs: Path, index: Index, collection: Collection) -> None:
    """Refuse texts of another index or collection than the file says it was mined from, if it says so."""
    try:
        mined: dict[str, Any] = read_metadata(pairs)["depends_on"]
    except (InvalidInput, KeyError):
        # A file from elsewhere; it is up to its maker what it was made from.
        return
    for name, expected, got in (
        ("index", mined.get("index"), index.fingerprint),
        ("collection", mined.get("collection"), collection.sha256),
    ):
        if expected is not None and expected != got:
            raise InvalidInput(
                f"{pairs} was mined from another {name} ({expected}) than the one given ({got}); "
                "score it with the same, or mine again."
            )


def _pairs_by_query(pairs: Path) -> dict[str, list[str]]:
    table = read_columns(pairs, ["query_id", "document_id"])
    found: dict[str, dict[str, None]] = {}
    for query, document in zip(table["query_id"].to_pylist(), table["document_id"].to_pylist(), strict=True):
        if query is None or document is None:
            raise InvalidInput(f"{pairs} holds a pair without an id.")
        found.setdefault(query, {})[document] = None
    if not found:
        raise InvalidInput(f"{pairs} holds no pairs.")
    return {query: list(documents) for query, documents in found.items()}


def _score(
    part: dict[str, list[str]], reranker: "Reranker", index: Index, collection: Collection
) -> tuple["pa.Table", Counter[str]]:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in score_schema().names}
    counts: Counter[str] = Counter()
    for query, ids in part.items():
        documents = [_document(index, id_) for id_ in ids]
        scores, cut = reranker.score(collection.queries[query], documents)
        columns["query_id"] += [query] * len(ids)
        columns["document_id"] += ids
        columns["score"] += scores.tolist()
        counts["pairs"] += len(ids)
        counts["cut_to_model_length"] += cut
    return pa.table(columns, schema=score_schema()), counts


def _document(index: Index, id_: str) -> Document:
    found = index.get(id_)
    if found is None:
        raise InvalidInput(f"{index.path} holds no document {id_!r}; give the index that the pairs are from.")
    return found
