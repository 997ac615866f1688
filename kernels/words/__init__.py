"""Words of ASCII texts, numbered by compiled code, and vocabularies merged by it."""

from kernels.words.merging import MergedStrings, merge_sorted
from kernels.words.numbering import NumberedWords, numbered_words

__all__ = ["MergedStrings", "NumberedWords", "merge_sorted", "numbered_words"]
