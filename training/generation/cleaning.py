"""What remains of a language model's answer as a query."""

import re
from collections import Counter
from collections.abc import Iterable

from retriever.errors import ModelFault

MIN_WORDS, MAX_WORDS = 2, 64
# The share of documents for which one and the same query may come, of at least so many documents.
MOST_ALIKE, FEW = 0.2, 20

_NAMES = "query|question|search query|answer|keywords|claim"
# Numbers, dashes and letters begin words too ("1.5 mg", "Q-learning", "a.out"): what follows a label stands apart.
_LABEL = re.compile(
    rf"^\s*(?:\*+|(?:{_NAMES})\s*\d*\s*:"
    rf"|(?:[-•>]+|\(?\d{{1,3}}[.):]|[qa]\s*\d*\s*:|(?:{_NAMES})\s*\d*\s*\.)(?=[\s*_#\"'`“«]|$))\s*",
    re.IGNORECASE,
)
_MARKS = " \t\"'`*_“”«»"
# Of a heading, "## like this ##"; that of C# belongs to a word.
_CLOSING_MARKS = re.compile(rf"[{re.escape(_MARKS)}]+#+[{re.escape(_MARKS)}]*$")


def clean(answer: str) -> str | None:
    """Return the query in an answer, None where there is none that makes sense.

    Takes the first line that says something, without labels, numbers, quotes and mark-up, and cuts a line that begins
    to repeat itself.
    """
    for line in answer.splitlines():
        text = " ".join(line.split())
        while (shorter := _LABEL.sub("", text, count=1)) != text:
            text = shorter
        text = _unrepeated(_CLOSING_MARKS.sub("", text.strip(_MARKS).lstrip("#" + _MARKS)))
        words = text.split()
        if sum(any(c.isalnum() for c in word) for word in words) >= MIN_WORDS:
            return " ".join(words[:MAX_WORDS]) if len(words) > MAX_WORDS else text
    return None


def _unrepeated(text: str) -> str:
    """Cut where at least three words come again at once, as a model that has lost its way writes."""
    words = text.split()
    lowered = [word.lower() for word in words]
    for size in range(3, len(words) // 2 + 1):
        for start in range(len(words) - 2 * size + 1):
            if lowered[start : start + size] == lowered[start + size : start + 2 * size]:
                return " ".join(words[: start + size])
    return text


def require_variety(queries: Iterable[tuple[str, str]], who: str) -> None:
    """Refuse pairs of (query, document id) in which one query came for a great share of all documents.

    Raises ModelFault: such queries would teach that anything is relevant.
    """
    documents: dict[str, set[str]] = {}
    everywhere: set[str] = set()
    for query, document in queries:
        documents.setdefault(query.casefold(), set()).add(document)
        everywhere.add(document)
    if len(everywhere) < FEW:
        return
    counts = Counter({query: len(found) for query, found in documents.items()})
    query, count = counts.most_common(1)[0]
    if count > MOST_ALIKE * len(everywhere):
        raise ModelFault(
            f"{who} repeats itself: {query!r} came for {count:,} of {len(everywhere):,} documents. Raise the "
            "temperature, change the style, give examples, or use another model."
        )
