"""Folding letters that differ only in marks, so that two spellings of one word become one term."""

import unicodedata

import regex

# Letters whose stroke or ligature Unicode does not take apart; Lucene's ASCIIFoldingFilter has the same pairs.
LETTERS = str.maketrans({
    "ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ß": "ss",
    "Ø": "O", "Ł": "L", "Đ": "D", "Ħ": "H", "Ŧ": "T", "Ð": "D", "Þ": "TH", "Æ": "AE", "Œ": "OE", "ẞ": "SS",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-", "\u2013": "-",
})  # fmt: skip
SPELLINGS = {
    "ё": "е",  # mostly written without its dots
    "ى": "ي", "ة": "ه", "آ": "ا", "أ": "ا", "إ": "ا", "ٱ": "ا",  # as Lucene's ArabicNormalizer
    "\u0901": "\u0902",  # candrabindu as anusvara, as Lucene's HindiNormalizer
}  # fmt: skip
ACCENT = "[\u0300-\u036f]"
ACCENTED = regex.compile(r"[\p{Script=Latin}\p{Script=Greek}--[a-z]]", regex.VERSION1)
# Not written in most text: accents that no letter took up, Hebrew points, Arabic vowels and tatweel, the
# Devanagari nukta; and what is never seen: joiners, soft hyphens, variation selectors.
UNWRITTEN = regex.compile(
    r"[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    r"\u06d6-\u06dc\u06df-\u06e4\u093c\p{Default_Ignorable_Code_Point}]"
)
# Those of them that NFC may join to a letter, and which then have to be taken apart first.
NUKTA = regex.compile("[\u0929\u0931\u0934\u0958-\u095f]")
DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.VERSION1)
MARK = regex.compile(r"\p{M}")


def fold(token: str) -> str:
    """Return a token in NFKC without case, accents, vowel points and invisible characters; may be empty.

    Latin and Greek lose every accent, and ø ł đ ħ ŧ ð þ æ œ ı become ASCII; Cyrillic loses stress marks and the
    dots of ё, but keeps й and ї; Arabic loses vowel signs, tatweel and the hamza of alef, and writes ى as ي and ة as ه;
    Hebrew loses its points; Devanagari loses the nukta, and candrabindu becomes anusvara; decimal digits of every
    script become ASCII. Marks that make other words, such as Indic vowels, Thai tones and kana voicing, stay.
    """
    if token.isascii():
        return token.lower()
    token = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", token).casefold())
    token = ACCENTED.sub(lambda found: regex.sub(ACCENT, "", _apart(found.group())), token).translate(LETTERS)
    for spelling, other in SPELLINGS.items():
        token = token.replace(spelling, other)
    token = UNWRITTEN.sub("", NUKTA.sub(lambda found: _apart(found.group()), token))
    token = DIGIT.sub(lambda found: str(unicodedata.decimal(found.group(), found.group())), token)
    return unicodedata.normalize("NFC", token)


def ascii_fold(text: str) -> str:
    """Return a text with ASCII for each letter that is ASCII but for its marks; other characters stay."""
    return text if text.isascii() else "".join(map(_ascii, text.translate(LETTERS)))


def _ascii(character: str) -> str:
    bare = MARK.sub("", unicodedata.normalize("NFKD", character))
    return bare if bare.isascii() and bare else character


def _apart(text: str) -> str:
    return unicodedata.normalize("NFD", text)
