import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from retriever.models import gguf


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A byte-level tokenizer that knows the merge of two line feeds."""
    letters = {letter: place for place, letter in enumerate([*"a47", "Ċ", "ĊĊ"])}
    made = Tokenizer(models.BPE(vocab=letters, merges=[("Ċ", "Ċ")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_digits_stand_alone(tokenizer: Path) -> None:
    """The byte-level rule gives the last blank to the next word; a cut at the digit keeps both together."""
    text = "a\n\n47"
    assert Tokenizer.from_file(str(tokenizer)).encode(text).tokens == ["a", "Ċ", "Ċ", "4", "7"]
    gguf.split_digits(tokenizer)
    after = Tokenizer.from_file(str(tokenizer))
    assert after.encode(text).tokens == ["a", "ĊĊ", "4", "7"]
    assert after.decode(after.encode(text).ids) == text


def test_digits_are_split_once(tokenizer: Path) -> None:
    gguf.split_digits(tokenizer)
    once = json.loads(tokenizer.read_text())
    gguf.split_digits(tokenizer)
    assert json.loads(tokenizer.read_text()) == once
