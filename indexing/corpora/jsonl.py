"""One JSON object a line: BEIR's corpus.jsonl, Pyserini's collections and the like."""

import json
from collections.abc import Iterator
from pathlib import Path

from indexing.corpora.corpus import Raw
from indexing.corpora.lines import read_lines


def read_jsonl(path: Path | None) -> Iterator[Raw]:
    """Yield the records of a file, or of standard input for None; blank lines are passed over."""
    name = "standard input" if path is None else str(path)
    for line in read_lines(path):
        if line.text is None:
            yield Raw(name, line.number, None, line.reason)
            continue
        if not line.text.strip():
            continue
        try:
            content = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            yield Raw(name, line.number, None, f"not JSON: {error}")
            continue
        if isinstance(content, dict):
            yield Raw(name, line.number, content)
        else:
            yield Raw(name, line.number, None, f"a JSON object is needed, got {type(content).__name__}")
