"""Where the words of a query stand in a document's text."""

from collections.abc import Collection

from retriever.analysis import Analyser

# Longer texts are marked in their first part only; a page shows no more.
MAX_CHARACTERS = 20_000


def highlights(text: str, terms: Collection[str], analyser: Analyser) -> list[tuple[int, int]]:
    """Return half-open character ranges of `text` whose tokens are among the analysed query terms."""
    wanted = set(terms)
    return [(token.start, token.end) for token in analyser.tokens(text[:MAX_CHARACTERS]) if token.term in wanted]
