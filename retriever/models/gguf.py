"""A GGUF causal language model, dequantised to bfloat16 safetensors that any transformers code loads."""

import importlib.util
import json
from pathlib import Path

from retriever.errors import BackendUnavailable
from retriever.progress import without_transformers_bars

PACKED = "model.gguf"


def build(members: Path, out: Path) -> None:
    """Write model, tokenizer and chat template to `out`; about 4 bytes a parameter of memory, half a minute.

    Raises BackendUnavailable without the extra "gguf".
    """
    if importlib.util.find_spec("gguf") is None:
        raise BackendUnavailable(
            'Reading a GGUF file needs the package gguf. Install it with: pip install "retriever-engine[gguf]"'
        )
    with without_transformers_bars():
        _convert(members, out)
    if _pre_tokenizer(members / PACKED) == "smollm":
        split_digits(out / "tokenizer.json")
    for member in members.iterdir():
        if member.name != PACKED:
            member.rename(out / member.name)


def _convert(members: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(members, gguf_file=PACKED, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        members,
        gguf_file=PACKED,
        dtype=torch.float32,
        # Without it the packed weights may be kept, and then cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _pre_tokenizer(path: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field else ""


def split_digits(path: Path) -> None:
    """Make a byte-level tokenizer.json cut numbers into digits before anything else.

    SmolLM2's own tokenizer does; the conversion from GGUF leaves it out, and then "\\n\\n7" gives other
    tokens.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    byte_level = tokenizer["pre_tokenizer"]
    digits = {"type": "Digits", "individual_digits": True}
    if byte_level["type"] == "ByteLevel":
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
        path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")
