"""Cutting documents into windows of whole sentences, counted in the encoder's own tokens."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from retriever.types import Document

Count = Callable[[Sequence[str]], list[int]]
"""Tokens of each text, special tokens included; see Encoder.count_tokens."""

# A sentence ends after its mark and what closes it, at a CJK mark, or at the end of a line: the last serves
# code, lists and tables, and costs prose nothing, since neighbouring pieces go into the same window anyway.
BOUNDARY = re.compile(
    r"""(?<=[.!?…])["'”’)\]]*[ \t]+(?=["'“‘(\[]?[^\s.,;:!?a-z])|(?<=[。！？｡])["”’」』）]*|\n\s*""",
)
ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|cf|al|Fig|Eq|No|Inc|Ltd|Co|Jr|Sr|approx)\.$"
)
# Tokenisers take long texts in one piece; words longer than this are cut blindly first.
LONGEST_WORD = 1000


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
    that fits gives one chunk; so does an empty one. Linear in the length of the text.
    """
    special = count_tokens([""])[0]
    heading = count_tokens([document.title])[0] - special if document.title else 0
    # A title may take half of the window; a longer one is cut by the encoder, not paid for by the text.
    budget = max(1, window - special - min(heading, window // 2))
    pieces = _pieces(document.text, budget, count_tokens, special)
    for _ in range(3):
        spans = list(_pack(pieces, budget, overlap))
        counts = count_tokens([document.text[start:end] for start, end in spans])
        excess = max(counts, default=0) - special - (window - special - min(heading, window // 2))
        # Some tokenisers count a whole a little higher than its parts.
        if excess <= 0 or budget <= excess:
            break
        budget -= excess
        pieces = _pieces(document.text, budget, count_tokens, special)
    return [
        Document(
            id=f"{document.id}#{number}",
            text=document.text[start:end],
            title=document.title,
            metadata=document.metadata,
            parent=document.id,
            span=(start, end),
        )
        for number, (start, end) in enumerate(spans)
    ]


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the ranges of sentences and lines; white space belongs to what it follows; nothing is left out."""
    ends: list[int] = []
    for found in BOUNDARY.finditer(text):
        if found.end() in (0, len(text)) or (ends and found.end() <= ends[-1]):
            continue
        tail = text[max(0, found.start() - 12) : found.start()]
        if tail.endswith(".") and "\n" not in found.group() and ABBREVIATION.search(tail):
            continue
        ends.append(found.end())
    starts = [0, *ends]
    return list(zip(starts, [*ends, len(text)], strict=True))


def _pieces(text: str, budget: int, count_tokens: Count, special: int) -> list[Piece]:
    """Return pieces that each fit the budget, wherever that is possible."""
    pieces: list[Piece] = []
    for piece in _counted(text, sentences(text), count_tokens, special):
        pieces.extend([piece] if piece.tokens <= budget else _cut(text, piece, budget, count_tokens, special))
    return pieces


def _counted(text: str, spans: Sequence[tuple[int, int]], count_tokens: Count, special: int) -> Iterator[Piece]:
    for first in range(0, len(spans), 1024):
        part = spans[first : first + 1024]
        counts = count_tokens([text[start:end] for start, end in part])
        for (start, end), count in zip(part, counts, strict=True):
            yield Piece(start, end, count - special)


def _cut(text: str, piece: Piece, budget: int, count_tokens: Count, special: int) -> Iterator[Piece]:
    """Cut one piece between words, and words that do not fit between characters."""
    spans = []
    for found in re.finditer(r"\s*\S+\s*?(?=\s|$)|\s+", text[piece.start : piece.end]):
        start, end = found.span()
        spans += [
            (piece.start + at, piece.start + min(at + LONGEST_WORD, end)) for at in range(start, end, LONGEST_WORD)
        ]
    words = _counted(text, spans, count_tokens, special)
    fitting = [part for word in words for part in _halves(text, word, budget, count_tokens, special)]
    start, end, tokens = fitting[0]
    for word in fitting[1:]:
        if tokens + word.tokens > budget:
            yield Piece(start, end, tokens)
            start, tokens = word.start, 0
        end, tokens = word.end, tokens + word.tokens
    yield Piece(start, end, tokens)


def _halves(text: str, word: Piece, budget: int, count_tokens: Count, special: int) -> list[Piece]:
    if word.tokens <= budget or word.end - word.start < 2:
        return [word]
    middle = (word.start + word.end) // 2
    halves = _counted(text, [(word.start, middle), (middle, word.end)], count_tokens, special)
    return [part for half in halves for part in _halves(text, half, budget, count_tokens, special)]


def _pack(pieces: Sequence[Piece], budget: int, overlap: int) -> Iterator[tuple[int, int]]:
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
        while back - 1 > first and repeated + pieces[back - 1].tokens <= room:
            back -= 1
            repeated += pieces[back].tokens
        first = back
