"""Lucene's StandardTokenizer: Unicode word boundaries (UAX #29) in the form of its JFlex grammar.

Han and Hiragana characters are tokens of one character; runs of Thai, Lao, Khmer and Myanmar are one token;
emoji sequences are tokens; a word longer than 255 UTF-16 units is cut as Lucene cuts it.
"""

import re
from collections.abc import Iterator

import regex

MAX_TOKEN_LENGTH = 255

# In ASCII the rules come down to: letters, digits and underscores, joined by one of : . ' between letters
# and one of , ; . ' between digits.
ASCII = re.compile(r"[A-Za-z0-9_]+(?:(?:(?<=[A-Za-z])[:.'](?=[A-Za-z])|(?<=[0-9])[,;.'](?=[0-9]))[A-Za-z0-9_]+)*")


def _grammar() -> str:
    """Return the rules as one pattern, named as in StandardTokenizerImpl.jflex."""
    extend = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]*"
    # \p{WB=ALetter} holds Complex_Context scripts nowhere, and Lucene takes Han and Hiragana out as well.
    katakana = rf"\p{{WB=Katakana}}{extend}"
    hebrew = rf"\p{{WB=Hebrew_Letter}}{extend}"
    letter = rf"[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{extend}"
    numeric = rf"[\p{{WB=Numeric}}\uFF10-\uFF19]{extend}"
    connector = rf"\p{{WB=ExtendNumLet}}{extend}"
    mid_letter = rf"[\p{{WB=MidLetter}}:\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{extend}"
    mid_number = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{extend}"
    single_quote = rf"\p{{WB=Single_Quote}}{extend}"
    double_quote = rf"\p{{WB=Double_Quote}}{extend}"
    han = rf"\p{{Script=Han}}{extend}"
    hiragana = rf"\p{{Script=Hiragana}}{extend}"
    complex_context = rf"(?:\p{{LB=SA}}{extend})+"
    kana_word = rf"{katakana}(?:(?:{connector})*{katakana})*"
    word = (
        rf"(?:{hebrew}(?:{double_quote}{hebrew}|{single_quote})"
        rf"|{numeric}(?:(?:(?:{connector})*|{mid_number}){numeric})*"
        rf"|{letter}(?:(?:(?:{connector})*|{mid_letter}){letter})*)+"
    )
    unit = rf"(?:{kana_word}|{word})"
    words = rf"(?:{connector})*{unit}(?:(?:{connector})+{unit})*(?:{connector})*"
    flag = r"\p{Regional_Indicator}\p{Regional_Indicator}"
    keycap = r"[0-9#*]\uFE0F?\u20E3"
    pictograph = (
        r"\p{Extended_Pictographic}(?:\uFE0F|\p{Emoji_Modifier})?[\p{WB=Extend}]*"
        r"(?:\u200D\p{Extended_Pictographic}(?:\uFE0F|\p{Emoji_Modifier})?[\p{WB=Extend}]*)*"
    )
    return "|".join([keycap, flag, pictograph, words, complex_context, han, hiragana])


UNICODE = regex.compile(_grammar(), regex.VERSION1)


def spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the half-open character range of each token, by the general rules."""
    for found in UNICODE.finditer(text):
        start, end = found.span()
        while end - start > MAX_TOKEN_LENGTH:
            # Lucene's buffer ends here; what follows is tokenised anew.
            yield start, start + MAX_TOKEN_LENGTH
            start += MAX_TOKEN_LENGTH
            rest = UNICODE.match(text, start, end)
            if rest is None:
                break
            end = rest.end()
        else:
            yield start, end


def words(text: str) -> list[str]:
    """Return the tokens of a text; the same as `spans`, several times faster where text is ASCII."""
    if text.isascii():
        tokens = ASCII.findall(text)
        if max(map(len, tokens), default=0) <= MAX_TOKEN_LENGTH:
            return [token for token in tokens if token.strip("_")] if "_" in text else tokens
    elif len(pieces := text.split()) > 1:
        # No token reaches across white space, and most words are ASCII even where a text is not.
        return [token for piece in pieces for token in words(piece)]
    return [text[start:end] for start, end in spans(text)]
