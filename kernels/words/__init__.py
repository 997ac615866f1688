"""Words of ASCII texts, numbered by compiled code."""

from kernels.words.numbering import NumberedWords, numbered_words

__all__ = ["NumberedWords", "numbered_words"]
