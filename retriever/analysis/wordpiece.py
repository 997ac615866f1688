"""The word pieces of a model as terms: what learned sparse models weigh.

Any tokenizer of Hugging Face will do, WordPiece, BPE or Unigram; its special tokens, the unknown one too, are left out.
"""

import hashlib
import re
from pathlib import Path

from tokenizers import Tokenizer

from retriever.analysis.analyser import Token
from retriever.errors import InvalidInput

SURROGATE = re.compile("[\ud800-\udfff]")


class WordPieceAnalyser:
    """Gives the pieces that the tokenizer of a model gives, without truncation."""

    def __init__(self, model: str) -> None:
        """model: a folder with tokenizer.json, or a name that retriever.models.resolve knows; never fetched here.

        Raises InvalidInput for a name or folder without a tokenizer, BackendUnavailable for a model that is not here.
        """
        path = _tokenizer_file(model)
        content = path.read_bytes()
        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises nothing narrower
            raise InvalidInput(f"{path} is not a tokenizer: {str(error)[:200]}") from error
        # Set once and never again, so that threads may share it.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {id_ for id_, token in added.items() if token.special}
        self._sha256 = hashlib.sha256(content).hexdigest()
        self.name = f"wordpiece:{model}"

    def fingerprint(self) -> str:
        return f"wordpiece 1 (tokenizer.json {self._sha256}, without special tokens)"

    def terms(self, text: str) -> list[str]:
        encoded = self._tokenizer.encode(_encodable(text), add_special_tokens=False)
        if self._special.isdisjoint(encoded.ids):
            return list(encoded.tokens)
        return [term for id_, term in zip(encoded.ids, encoded.tokens, strict=True) if id_ not in self._special]

    def tokens(self, text: str) -> list[Token]:
        encoded = self._tokenizer.encode(_encodable(text), add_special_tokens=False)
        found = zip(encoded.ids, encoded.tokens, encoded.offsets, strict=True)
        return [Token(term, start, end) for id_, term, (start, end) in found if id_ not in self._special]


def _encodable(text: str) -> str:
    """Return the text with halves of surrogate pairs replaced, one character by one."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def _tokenizer_file(model: str) -> Path:
    from retriever.models import resolve

    folder = Path(model).expanduser()
    if not (folder / "tokenizer.json").is_file():
        # An index is opened without a network; `retriever models pull` fetches.
        folder = resolve(model, offline=True)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InvalidInput(f"{folder} has no tokenizer.json, only a fast tokenizer can be an analyser.")
    return path
