"""Fields of a document that can be searched by name, and their weights.

A document's `contents`, its title and text together, are always searched; title, text and metadata have inverted
parts of their own where a build was asked for them.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence

from retriever.errors import InvalidInput
from retriever.types import Document

CONTENTS = "contents"
MOST_FIELDS = 16
LEAST_WEIGHT, LARGEST_WEIGHT = 1e-3, 1e3

# What the query syntax reads before a colon.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def field_text(document: Document, name: str) -> str:
    """Return what a field of a document says: contents, title, text, or the string or strings of its metadata.

    Other metadata, such as numbers, says nothing; several strings are joined by one space.
    """
    if name == CONTENTS:
        return document.content
    if name == "title":
        return document.title
    if name == "text":
        return document.text
    value = document.metadata.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return " ".join(part for part in value if isinstance(part, str))
    return ""


def require_names(names: Sequence[str]) -> None:
    """Raise ValueError unless these can be search fields of an index."""
    if len(names) > MOST_FIELDS:
        raise ValueError(f"at most {MOST_FIELDS} search fields can be built, got {len(names)}")
    for name in names:
        if name == CONTENTS:
            raise ValueError(f"{CONTENTS} (title and text together) is always searched; leave it out")
        if not NAME.fullmatch(name):
            raise ValueError(
                f"a search field is title, text or a metadata field whose name has letters, digits, _ . - and begins "
                f"with a letter or _, got {name!r}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"a search field stands twice in {list(names)}")


def require_weights(weights: Mapping[str, float]) -> None:
    """Raise ValueError unless each field has a weight from LEAST_WEIGHT to LARGEST_WEIGHT."""
    if not weights:
        raise ValueError("give at least one field its weight, such as title=2")
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not LEAST_WEIGHT <= weight <= LARGEST_WEIGHT:
            raise ValueError(
                f"the weight of the field {name!r} must be a number from {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}, "
                f"got {weight!r}; leave out fields that should not count"
            )


def require_known(weights: Mapping[str, float], known: Collection[str]) -> None:
    """Raise InvalidInput unless an index has all these fields."""
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise InvalidInput(
            f"the field {unknown[0]!r} cannot be searched by name in this index; it has {', '.join(known)}. "
            f"Build it with --search-fields to search title, text or metadata by name."
        )


def read_weights(text: str) -> dict[str, float]:
    """Read `title=2,contents=1`. Raises InvalidInput."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not equals or math.isnan(weight):
            raise InvalidInput(f"field weights are written title=2,contents=1, got {text!r}.")
        if name in weights:
            raise InvalidInput(f"the field {name!r} has two weights in {text!r}.")
        weights[name] = weight
    try:
        require_weights(weights)
    except ValueError as error:
        raise InvalidInput(f"{error}.") from error
    return weights
