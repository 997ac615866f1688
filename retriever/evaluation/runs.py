"""TREC run files, and the scores that make every tool see the same order."""

import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from retriever.errors import InvalidInput
from retriever.storage import write_atomically
from retriever.types import Run

# Written with six decimals, so neighbours must differ by one of the last.
STEP = 1e-6


def strictly_decreasing(ranking: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the ranking with scores lowered just so far that each is below the one before.

    trec_eval ignores ranks and breaks ties in descending order of id; with these scores it sees the order
    that was meant, which is what Anserini's ScoreTiesAdjuster does as well.
    """
    adjusted: list[tuple[str, float]] = []
    for id_, score in ranking:
        score = round(score, 6)
        if adjusted and score > adjusted[-1][1] - STEP / 2:
            score = round(adjusted[-1][1] - STEP, 6)
        adjusted.append((id_, score))
    return adjusted


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run as TREC has it, gzipped when the name ends in .gz."""
    lines = [
        f"{query} Q0 {document} {rank} {score:.6f} {tag}\n"
        for query in sorted(run)
        for rank, (document, score) in enumerate(strictly_decreasing(run[query]), 1)
    ]
    content = "".join(lines).encode()
    # No time stamp inside: the same run gives the same bytes.
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_run(path: Path) -> Run:
    """Read a TREC run in trec_eval's order: by score, ties in descending order of id; ranks are ignored.

    Raises InvalidInput for a faulty line, a document that a query lists twice, or a score that is not finite.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the run {path}: {error}") from error
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        try:
            query, _, document, _, score, _ = cells
            value = float(score)
        except ValueError:
            raise InvalidInput(
                f"{path}:{number}: a run has six columns, the fifth a score; got {line[:80]!r}."
            ) from None
        if not math.isfinite(value):
            raise InvalidInput(f"{path}:{number}: the score {score} is not finite.")
        if document in found.setdefault(query, {}):
            raise InvalidInput(f"{path}:{number}: query {query!r} lists {document!r} a second time.")
        found[query][document] = value
    return {query: _trec_order(scores) for query, scores in found.items()}


def _trec_order(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    by_id = sorted(scores.items(), key=lambda pair: pair[0], reverse=True)
    return sorted(by_id, key=lambda pair: -pair[1])
