"""Mined candidates and teacher scores on disk: the Parquet files of docs/training-data.md, and reading them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput
from training.candidates import Candidates

if TYPE_CHECKING:
    import pyarrow as pa

JUDGED = "judged"
"""Source of a relevant document that no source found."""

# The constant of reciprocal rank fusion, see retriever.fusion.
CONSTANT = 60


def mined_schema() -> "pa.Schema":
    """Return the columns of a file of mined candidates."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("score", pa.float32()),
            pa.field("source", pa.dictionary(pa.int8(), pa.string()), nullable=False),
            pa.field("label", pa.int8(), nullable=False),
            pa.field("teacher", pa.float32()),
        ]
    )


def score_schema() -> "pa.Schema":
    """Return the columns of a file of teacher scores."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ]
    )


def read_columns(path: Path, names: list[str]) -> "pa.Table":
    """Read columns of a Parquet file. Raises InvalidInput naming what is missing or wrong."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = pq.read_schema(path).names
        if absent := [name for name in names if name not in present]:
            raise InvalidInput(f"{path} has no column {', '.join(absent)}; it has {', '.join(present)}.")
        return pq.read_table(path, columns=names)
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}.") from None
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is no readable Parquet file: {error}") from error


def codes_of(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Return the distinct strings of a column, and of each row the place of its string among them."""
    import pyarrow as pa

    values = column.combine_chunks()
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    codes: NDArray[np.int64] = values.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, values.dictionary.to_pylist()


def rows_of(column: Any, rows: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the row of each id of a column, -1 for ids that are not in `rows`. Looks each distinct id up once."""
    codes, ids = codes_of(column)
    return np.array([rows.get(id_, -1) for id_ in ids] or [-1], np.int64)[codes]


def floats_of(column: Any) -> NDArray[np.float32]:
    """Return the values of a column, NaN where there is none."""
    values: NDArray[np.float32] = column.combine_chunks().to_numpy(zero_copy_only=False).astype(np.float32)
    return values


def read_candidates(
    path: Path,
    query_rows: Mapping[str, int],
    document_rows: Mapping[str, int],
    *,
    source: str | None = None,
    by: Literal["score", "teacher"] = "score",
    label: int = 0,
) -> Candidates:
    """Read mined candidates of the queries that `query_rows` names; others in the file are left out.

    query_rows, document_rows  row of each id; query rows are 0 .. Q - 1
    source                     only candidates of this one, such as "bm25"; None takes all that the file has
    by                         what orders them and becomes `scores`: the source's score, or the teacher's
    label                      0 for negatives, 1 for relevant documents; of these only the ones that have a score

    With several sources a document stands once; by "score" its score is then the sum of 1 / (60 + rank) over the
    sources that found it, since their own scores do not compare. Equal scores stand in order of rank, then of
    document row. A query without candidates has an empty range.
    Raises InvalidInput when none of the queries occurs, a document is not in `document_rows`, a source is not in the
    file, or a teacher score is missing.
    """
    if by not in ("score", "teacher"):
        raise InvalidInput(f"by must be score or teacher, got {by!r}.")
    table = read_columns(path, ["query_id", "document_id", "rank", "source", "label", by])
    queries = rows_of(table["query_id"], query_rows)
    if len(queries) and queries.max() < 0:
        raise InvalidInput(f"{path} holds no candidates of these {len(query_rows)} queries; was it mined for others?")
    sources, names = codes_of(table["source"])
    if source is not None and source not in names:
        raise InvalidInput(f"{path} has no candidates from {source!r}; it has {', '.join(sorted(names))}.")
    kept = (queries >= 0) & (table["label"].to_numpy() == label)
    if source is not None:
        kept &= sources == names.index(source)
    documents = rows_of(table["document_id"], document_rows)
    if (lost := kept & (documents < 0)).any():
        first = table["document_id"].take(np.flatnonzero(lost)[:1]).to_pylist()[0]
        raise InvalidInput(
            f"{path}: {np.count_nonzero(lost)} candidates are not in this corpus, such as document {first!r}; "
            "mine them again from an index of it."
        )
    values = floats_of(table[by])
    if by == "score":
        # A relevant document that no source found has none.
        kept &= ~np.isnan(values)
    ranks, values = table["rank"].to_numpy()[kept], values[kept]
    fused = by == "score" and len(np.unique(sources[kept])) > 1
    if fused:
        values = np.where(ranks > 0, 1 / (CONSTANT + ranks), 0)
    elif by == "teacher" and np.isnan(values).any():
        raise InvalidInput(f"{path} lacks teacher scores; mine with --denoise, or use the output of `train score`.")
    return _collect(len(query_rows), queries[kept], documents[kept], ranks, values, fused)


def _collect(
    count: int,
    queries: NDArray[np.int64],
    documents: NDArray[np.int64],
    ranks: NDArray[np.int32],
    values: NDArray[Any],
    add: bool,
) -> Candidates:
    """Make each pair stand once, with its values added or the first one kept, and order each query's best first."""
    width = int(documents.max()) + 1 if len(documents) else 1
    keys, first, group = np.unique(queries * width + documents, return_index=True, return_inverse=True)
    best_rank = np.full(len(keys), np.iinfo(np.int32).max, np.int32)
    np.minimum.at(best_rank, group, ranks)
    scores = np.bincount(group, values, len(keys)) if add else values[first]
    queries, documents = keys // width, keys % width
    order = np.lexsort((documents, best_rank, -scores, queries))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(queries, minlength=count))]).astype(np.int64)
    return Candidates(offsets, documents[order].astype(np.int32), scores[order].astype(np.float32))
