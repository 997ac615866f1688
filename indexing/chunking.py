"""Cutting documents into windows of whole sentences, counted in the encoder's own tokens."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from retriever.errors import InvalidInput
from retriever.types import Document

Count = Callable[[Sequence[str]], list[int]]
"""Tokens of each text, special tokens included; see Encoder.count_tokens."""

# A sentence ends after its mark and what closes it, at a CJK mark, or at the end of a line: the last serves
# code, lists and tables. Rules instead of a trained splitter: they need no language, and a window does not
# care much where a sentence ends, while a build must give the same chunks everywhere and always.
BOUNDARY = re.compile(
    r"""(?<=[.!?…؟۔।॥])["'”’»)\]]*[ \t]+(?=["'“‘«(\[]?[^\s.,;:!?a-z])|(?<=[。！？｡])["”’」』）]*\s*|\n\s*""",
)
ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|cf|al|Fig|Eq|No|Inc|Ltd|Co|Jr|Sr|approx)\.$"
)
# Prose that was broken into lines has lines at least this long.
WRAPPED_LINE = 40
# What has more characters is not counted whole but cut first, so that the memory of a tokeniser is bounded.
LONGEST_SENTENCE = 20_000
LONGEST_WORD = 1_000
SPACE = re.compile(r"\s+")
# Parts of a sentence that is longer than the window: small enough to fill it, few enough to be counted fast.
GRAINS = 16
COUNTED_TEXTS = 1_024
COUNTED_CHARACTERS = 500_000
# How often windows are made smaller for a tokeniser that counts a whole higher than its parts.
ROUNDS = 8

CHUNK_ID = re.compile(r"(.+)#(?:0|[1-9][0-9]*)", re.DOTALL)

Span = tuple[int, int]


class Piece(NamedTuple):
    """A half-open range of characters and its number of tokens, special ones not counted."""

    start: int
    end: int
    tokens: int


def chunk(document: Document, *, count_tokens: Count, window: int, overlap: int) -> list[Document]:
    """Cut a document into chunks that fit a window of `window` tokens, title and special tokens included.

    overlap  tokens of whole sentences that a chunk repeats from the one before, at most

    The chunks' spans cover the text without a gap, so the parent can be put together again. A sentence that
    is longer than the window is cut between words, a word that is longer between characters. A document
    that fits gives one chunk; so does an empty one.

    A title that leaves less than a quarter of the window to the text does not make the chunks any smaller:
    they exceed the window then, as does a single character of more tokens than that.

    Linear in the length of the text: every sentence is counted once, then every window, title included.
    Raises InvalidInput for a window that holds no more than the special tokens, or a negative overlap.
    """
    special = count_tokens([""])[0]
    if window <= special or overlap < 0:
        raise InvalidInput(
            f"window must be more than the {special} special tokens and overlap 0 or more, got {window} and {overlap}."
        )
    heading = count_tokens([document.title])[0] - special if document.title else 0
    allowed = max(window, special + heading + window // 4)
    budget = max(1, allowed - special - heading)
    text, lead = document.text, f"{document.title} " if document.title else ""
    strips = [strip for sentence in sentences(text) for strip in _strips(text, sentence)]
    pieces = _counted(text, strips, count_tokens, special)
    for _ in range(ROUNDS):
        pieces = _fitting(text, pieces, budget, count_tokens, special)
        spans = list(_pack(pieces, budget, overlap))
        counts = _counts(text, spans, count_tokens, lead)
        # A single character cannot be cut, however long its window is.
        longest = max((count for (start, end), count in zip(spans, counts, strict=True) if end - start > 1), default=0)
        if longest <= allowed or budget == 1:
            break
        budget = max(1, budget - (longest - allowed))
    return [
        Document(
            id=f"{document.id}#{number}",  # see `owner_of`
            text=text[start:end],
            title=document.title,
            metadata=document.metadata,
            parent=document.id,
            span=(start, end),
        )
        for number, (start, end) in enumerate(spans)
    ]


def owner_of(id_: str) -> str | None:
    """Return the id of the document whose chunk would have this id, or None when no chunk can have it."""
    found = CHUNK_ID.fullmatch(id_)
    return found.group(1) if found else None


def sentences(text: str) -> list[Span]:
    """Return the ranges of sentences and lines; white space belongs to what it follows; nothing is left out."""
    ends: list[int] = []
    line_start = 0
    for found in BOUNDARY.finditer(text):
        start, end = found.span()
        at_line_end = text.startswith("\n", start)
        wrapped = at_line_end and start - line_start >= WRAPPED_LINE and _goes_on(text, start, end)
        if "\n" in found.group():
            line_start = end
        if wrapped or end in (0, len(text)):
            continue
        tail = text[max(0, start - 12) : start]
        if not at_line_end and tail.endswith(".") and ABBREVIATION.search(tail):
            continue
        ends.append(end)
    return list(zip([0, *ends], [*ends, len(text)], strict=True))


def _goes_on(text: str, start: int, end: int) -> bool:
    """Return whether a sentence runs over this end of a line, as it does in prose broken into lines."""
    before = text[max(0, start - 2) : start].rstrip("\r")[-1:]
    return end - start == 1 and (before.isalnum() or before in {",", ";"}) and text[end : end + 1].islower()


def _strips(text: str, span: Span) -> Iterator[Span]:
    """Cut a sentence of more than LONGEST_SENTENCE characters, after a space where there is one."""
    start, end = span
    while end - start > LONGEST_SENTENCE:
        space = text.rfind(" ", start + LONGEST_SENTENCE // 2, start + LONGEST_SENTENCE)
        middle = space + 1 if space >= 0 else start + LONGEST_SENTENCE
        yield start, middle
        start = middle
    yield start, end


def _counts(text: str, spans: Sequence[Span], count_tokens: Count, lead: str = "") -> Iterator[int]:
    """Yield the tokens of each range of the text after `lead`, special ones included."""
    batch: list[str] = []
    characters = 0
    for start, end in spans:
        batch.append(lead + text[start:end])
        characters += len(batch[-1])
        if len(batch) == COUNTED_TEXTS or characters >= COUNTED_CHARACTERS:
            yield from count_tokens(batch)
            batch, characters = [], 0
    if batch:
        yield from count_tokens(batch)


def _counted(text: str, spans: Sequence[Span], count_tokens: Count, special: int) -> list[Piece]:
    counts = _counts(text, spans, count_tokens)
    return [Piece(start, end, count - special) for (start, end), count in zip(spans, counts, strict=True)]


def _fitting(text: str, pieces: list[Piece], budget: int, count_tokens: Count, special: int) -> list[Piece]:
    """Return the pieces in order, those over the budget in parts, down to single characters."""
    fitting: list[Piece] = []
    while pieces:
        parts: list[Span] = []
        for piece in pieces:
            if piece.tokens <= budget or piece.end - piece.start == 1:
                fitting.append(piece)
            else:
                parts += _cut(text, piece, budget)
        pieces = _counted(text, parts, count_tokens, special)
    return sorted(fitting)


def _cut(text: str, piece: Piece, budget: int) -> list[Span]:
    """Return parts of about a sixteenth of the budget, cut after white space, or anywhere where there is none."""
    step = max(1, (piece.end - piece.start) * max(1, budget // GRAINS) // piece.tokens)
    cuts = [piece.start]
    while cuts[-1] < piece.end:
        goal = cuts[-1] + step
        space = SPACE.search(text, goal, min(goal + LONGEST_WORD, piece.end))
        if space:
            cuts.append(space.end())
        else:
            cuts.append(goal if goal + LONGEST_WORD < piece.end else piece.end)
    if len(cuts) == 2:
        cuts = [*range(piece.start, piece.end, step), piece.end]
    return list(itertools.pairwise(cuts))


def _pack(pieces: Sequence[Piece], budget: int, overlap: int) -> Iterator[Span]:
    """Fill windows from left to right; each begins with as many old pieces as the overlap allows."""
    first = 0
    while first < len(pieces):
        last, tokens = first, 0
        while last < len(pieces) and (last == first or tokens + pieces[last].tokens <= budget):
            tokens += pieces[last].tokens
            last += 1
        yield pieces[first].start, pieces[last - 1].end
        if last == len(pieces):
            return
        back, repeated = last, 0
        room = min(overlap, budget - pieces[last].tokens)
        while back - 1 > first and 0 < room >= repeated + pieces[back - 1].tokens:
            back -= 1
            repeated += pieces[back].tokens
        first = back
