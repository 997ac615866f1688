"""TREC run files, and the scores that make every tool see the same order."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from retriever.errors import InvalidInput
from retriever.storage import write_atomically
from retriever.types import Run

# Below it numbers are subnormal, and what is compiled for speed may take those for 0.
SMALLEST = np.finfo(np.float32).smallest_normal


def strictly_decreasing(ranking: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the ranking with scores as float32, lowered just so far that each is below the one before.

    trec_eval ignores ranks, keeps scores in float32 and breaks ties in descending order of id; with these
    scores it sees the order that was meant. A fixed step would be lost in scores above 16.
    """
    scores = np.array([score for _, score in ranking], np.float32)
    scores[np.abs(scores) < SMALLEST] = 0
    if (scores[1:] >= scores[:-1]).any():
        for place in range(1, len(scores)):
            if scores[place] >= scores[place - 1]:
                below = np.nextafter(scores[place - 1], np.float32(-np.inf))
                scores[place] = below if abs(below) >= SMALLEST else -SMALLEST
    return [(id_, score) for (id_, _), score in zip(ranking, scores.tolist(), strict=True)]


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run as TREC has it, gzipped when the name ends in .gz."""
    # Nine digits tell any two float32 numbers apart.
    lines = [
        f"{query} Q0 {document} {rank} {score:.9g} {tag}\n"
        for query in sorted(run)
        for rank, (document, score) in enumerate(strictly_decreasing(run[query]), 1)
    ]
    content = "".join(lines).encode()
    # No time stamp inside: the same run gives the same bytes.
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_run(path: Path) -> Run:
    """Read a TREC run in trec_eval's order: by float32 score, ties in descending order of id; ranks are ignored.

    Raises InvalidInput for a faulty line, a document that a query lists twice, or a score that is not finite.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the run {path}: {error}") from error
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.split()
        if not cells:
            continue
        try:
            query, _, document, _, score, _ = cells
            value = _float32(score)
        except ValueError:
            raise InvalidInput(
                f"{path}:{number}: a run has six columns, the fifth a score; got {line[:80]!r}."
            ) from None
        if not np.isfinite(value):
            raise InvalidInput(f"{path}:{number}: the score {score} is not a finite float32.")
        if document in found.setdefault(query, {}):
            raise InvalidInput(f"{path}:{number}: query {query!r} lists {document!r} a second time.")
        found[query][document] = value
    return {query: _trec_order(scores) for query, scores in found.items()}


def _trec_order(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    by_id = sorted(scores.items(), key=lambda pair: pair[0], reverse=True)
    return sorted(by_id, key=lambda pair: -pair[1])


def _float32(text: str) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(float(text)))
