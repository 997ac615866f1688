"""Lucene's StandardTokenizer: Unicode word boundaries (UAX #29) in the form of its JFlex grammar.

Han and Hiragana characters are tokens of one character; runs of Thai, Lao, Khmer and Myanmar are one token;
emoji sequences are tokens; a word longer than 255 UTF-16 units is cut as Lucene cuts it.

Lucene has the classes of Unicode 12.1, whatever the Unicode of Python and its modules: they are frozen in
`word_breaks`, which `python -m tests.agreement.scanner` writes.
"""

import re
from collections.abc import Generator, Iterator
from itertools import groupby

from retriever.analysis.word_breaks import RANGES

MAX_TOKEN_LENGTH = 255
# A space of which words are made, of class _.
NARROW_SPACE = "\u202f"

# In ASCII the rules come down to: letters, digits and underscores, joined by one of : . ' between letters
# and one of , ; . ' between digits.
ASCII = re.compile(r"[A-Za-z0-9_]+(?:(?:(?<=[A-Za-z])[:.'](?=[A-Za-z])|(?<=[0-9])[,;.'](?=[0-9]))[A-Za-z0-9_]+)*")


def _classes() -> str:
    """Return a letter for each code point, a space for those that are in no token.

    L     letter (ALetter), B those that are pictographs as well, H Hebrew letter, N digit, K Katakana
    _     joins all these (ExtendNumLet)
    :     joins letters (MidLetter), `,` digits (MidNum), `.` both (MidNumLet)
    ' "   Single_Quote, Double_Quote
    J     Han or Hiragana; T Thai, Lao, Khmer and Myanmar, t their marks
    E     pictograph, R half of a flag, # what a keycap encloses besides digits
    x     mark (Extend, Format), and those that have a part in emoji: z joiner, m skin tone, k keycap, g tag, G end of
          tag, v and V presentation as text and as emoji
    """
    letters = []
    at = 0
    found = [(*points.split("-"), letter) for letter, text in RANGES.items() for points in text.split()]
    for first, last, letter in sorted((int(row[0], 16), int(row[-2], 16), row[-1]) for row in found):
        letters += [" " * (first - at), letter * (last + 1 - first)]
        at = last + 1
    return "".join(letters)


def _grammar() -> str:
    """Return the rules over the letters of `_classes` as one pattern that finds the longest token.

    Lucene's automaton finds the longest match of any rule. Here no step has to be taken back for a longer match, which
    the possessive quantifiers say.
    """
    marks = "xtzkvVmgG"
    any_marks = f"[{marks}]*+"
    # All marks but the two that choose the presentation.
    plain = "[xtzkmgG]*+"

    def run(letters: str) -> str:
        return f"[{letters}][{letters}{marks}]*+"

    letters = f"(?:{run('LB')}|H{any_marks})"
    part = (
        rf"(?:H{any_marks}(?:\"{any_marks}H|'){any_marks}"
        rf"|{run('N')}(?:[,.']{any_marks}{run('N')})*+"
        rf"|{letters}(?:[:.']{any_marks}{letters})*+)"
    )
    unit = rf"(?:{part}++|{run('K')})"
    words = rf"(?:{run('_')})?+{unit}(?:{run('_')}{unit})*+(?:{run('_')})?+"
    # From one pictograph of a sequence to the next, and the end of a sequence.
    step = rf"(?:(?<=z)|V(?:z++|zm{plain}(?<=z)))"
    rest = rf"{plain}(?:{step}[EB]{plain})*+(?:V(?:zm{plain})?+)?+"
    # As a word this would end before E; without an E the word is as long.
    letter_pictograph = rf"B{plain}(?:{step}B{plain})*+{step}E{rest}"
    subdivision = rf"(?:E|z++[EB]){plain}Vg++G"
    pictograph = rf"(?:E|z++[EB]|m{plain}(?<=z)[EB]){rest}|m{plain}"
    keycap = rf"\#{plain}Vk{plain}|\#[xtzkmgG]*k{plain}"
    flag = rf"R{any_marks}R{any_marks}"
    south_east_asian = run("Tt")
    ideograph = rf"J{any_marks}"
    # What joins, before nothing that it could join to: no token, and skipped at once, or time would be quadratic.
    skipped = r"(?P<skipped>_(?:[_xkvVgG]|z++(?![EBm]))*+|z++)"
    return "|".join(
        [letter_pictograph, words, ideograph, south_east_asian, subdivision, pictograph, keycap, flag, skipped]
    )


CLASSES = _classes()
GRAMMAR = re.compile(_grammar())
CONNECTORS = re.compile("_+")


def spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the half-open character range of each token, by the general rules."""
    classes = text.translate(CLASSES)
    at: int | None = 0
    while at is not None:
        after, at = at, None
        for found in GRAMMAR.finditer(classes, after):
            start, end = found.span()
            if found.lastgroup:
                continue
            if 2 * (end - start) > MAX_TOKEN_LENGTH and _units(text[start:end]) > MAX_TOKEN_LENGTH:
                at = yield from _cut(text, classes, start, end)
                break
            yield start, end


def _cut(text: str, classes: str, start: int, end: int) -> Generator[tuple[int, int], None, int]:
    """Yield the tokens within one that is too long; return where to go on, which may be beyond its end."""
    while start < end:
        # Lucene finds the longest token within its buffer; where there is none, it skips a character.
        limit = start + MAX_TOKEN_LENGTH
        while _units(text[start:limit]) > MAX_TOKEN_LENGTH:
            limit -= 1
        found = GRAMMAR.match(classes, start, limit)
        if found is None or found.lastgroup:
            connectors = CONNECTORS.match(classes, start)
            start = max(start + 1, connectors.end() + 1 - MAX_TOKEN_LENGTH if connectors else 0)
        else:
            yield found.span()
            start = found.end()
    return start


def _units(text: str) -> int:
    """Return the length in UTF-16."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def words(text: str) -> list[str]:
    """Return the tokens of a text; the same as `spans`, several times faster where text is ASCII."""
    if text.isascii():
        tokens = ASCII.findall(text)
        if max(map(len, tokens), default=0) <= MAX_TOKEN_LENGTH:
            return [token for token in tokens if token.strip("_")] if "_" in text else tokens
    elif NARROW_SPACE not in text and len(pieces := text.split()) > 1:
        # No token reaches across other white space, and most words are ASCII even where a text is not.
        found: list[str] = []
        for plain, some in groupby(pieces, str.isascii):
            for piece in [" ".join(some)] if plain else some:
                found += words(piece)
        return found
    return [text[start:end] for start, end in spans(text)]
