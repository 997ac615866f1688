"""The Porter stemmer as Lucene has it (PorterStemmer.java, after Martin Porter's own revision).

It differs from the published algorithm of 1980, and from Snowball's "porter", in three places: -bli becomes
-ble, -logi becomes -log, and words of one or two letters are left alone.
"""

from collections.abc import Iterable

STEP_2 = [
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"),
    ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"),
    ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"),
    ("logi", "log"),
]  # fmt: skip
STEP_3 = [
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
]  # fmt: skip
STEP_4 = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "sion", "tion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
]  # fmt: skip


def _by_ending(suffixes: Iterable[str]) -> dict[str, list[str]]:
    """Group suffixes by their last two letters, which most words share with none; each group keeps the order."""
    groups: dict[str, list[str]] = {}
    for suffix in suffixes:
        groups.setdefault(suffix[-2:], []).append(suffix)
    return groups


RULES_2, RULES_3 = dict(STEP_2), dict(STEP_3)
ENDINGS_2, ENDINGS_3, ENDINGS_4 = _by_ending(RULES_2), _by_ending(RULES_3), _by_ending(STEP_4)


def _is_consonant(word: str, i: int) -> bool:
    if word[i] in "aeiou":
        return False
    if word[i] == "y":
        return i == 0 or not _is_consonant(word, i - 1)
    return True


def _measure(stem: str) -> int:
    """Return how many vowel-consonant sequences the stem holds."""
    count = 0
    was_vowel = False
    for i in range(len(stem)):
        consonant = _is_consonant(stem, i)
        count += was_vowel and consonant
        was_vowel = not consonant
    return count


def _has_vowel(stem: str) -> bool:
    return any(not _is_consonant(stem, i) for i in range(len(stem)))


def _ends_double_consonant(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _is_consonant(word, len(word) - 1)


def _ends_cvc(word: str) -> bool:
    last = len(word) - 1
    return (
        last >= 2
        and _is_consonant(word, last)
        and not _is_consonant(word, last - 1)
        and _is_consonant(word, last - 2)
        and word[last] not in "wxy"
    )


def _step_1(word: str) -> str:
    if word.endswith("s"):
        if word.endswith(("sses", "ies")):
            word = word[:-2]
        elif not word.endswith("ss"):
            word = word[:-1]
    if word.endswith("eed"):
        if _measure(word[:-3]) > 0:
            word = word[:-1]
    else:
        for suffix in ("ed", "ing"):
            if word.endswith(suffix):
                if _has_vowel(word[: -len(suffix)]):
                    word = _repair(word[: -len(suffix)])
                break
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    return word


def _repair(stem: str) -> str:
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if _ends_double_consonant(stem):
        return stem if stem[-1] in "lsz" else stem[:-1]
    if _measure(stem) == 1 and _ends_cvc(stem):
        return stem + "e"
    return stem


def _replace(word: str, endings: dict[str, list[str]], rules: dict[str, str]) -> str:
    """Apply the first rule whose suffix fits, if the stem before it has a measure above 0."""
    for suffix in endings.get(word[-2:], ()):
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            return stem + rules[suffix] if _measure(stem) > 0 else word
    return word


def _step_4(word: str) -> str:
    for suffix in ENDINGS_4.get(word[-2:], ()):
        if word.endswith(suffix):
            # Of -sion and -tion only -ion goes.
            stem = word[:-3] if suffix in ("sion", "tion") else word[: -len(suffix)]
            return stem if _measure(stem) > 1 else word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_cvc(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word


def stem(word: str) -> str:
    """Return the stem of a lower-case word."""
    if len(word) <= 2:
        return word
    word = _step_1(word)
    word = _replace(word, ENDINGS_2, RULES_2)
    word = _replace(word, ENDINGS_3, RULES_3)
    return _step_5(_step_4(word))
