"""Terms as they stand between white space: for text that was analysed elsewhere."""

import re

from retriever.analysis.analyser import Token

WORD = re.compile(r"\S+")


class WhitespaceAnalyser:
    """Splits, and nothing else."""

    name = "whitespace"

    def fingerprint(self) -> str:
        return "whitespace 1"

    def terms(self, text: str) -> list[str]:
        return text.split()

    def tokens(self, text: str) -> list[Token]:
        return [Token(found.group(), found.start(), found.end()) for found in WORD.finditer(text)]
