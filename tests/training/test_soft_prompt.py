"""A soft prompt before a small language model: trained, saved, compared, and writing queries."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from indexing.corpora import open_corpus
from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from training.collection import read_corpus
from training.generation import GenerationSettings, generate_queries
from training.generation.job import open_generator
from training.generation.pairs import read_pairs
from training.generation.soft_prompt import (
    CONFIG,
    WEIGHTS,
    Sequences,
    SoftPrompt,
    SoftPromptedModel,
    mean_log_likelihoods,
    token_log_likelihoods,
)
from training.recipe import run_recipe
from training.recipes.registry import CONFIGS, recipe
from training.recipes.soft_prompt import LIKELIHOOD, Prompted, start_of
from training.settings import read_settings


@pytest.fixture(scope="module")
def tiny(split_pydocs, tmp_path_factory):
    """Return the folder of a causal model of two layers over bytes that has read the documents of *pydocs*."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<end>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    text = tokenizer("\n".join(document.content for document in read_corpus(split_pydocs).documents))["input_ids"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for start in range(0, 120 * 512, 512):
        ids = torch.tensor(text[start % (len(text) - 512) :][:512]).reshape(8, 64)
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings_of(*changes):
    return read_settings(recipe("soft_prompt").settings, CONFIGS / "soft_prompt.yaml", changes, ignore=("recipe",))


@pytest.fixture(scope="module")
def trained(tiny, split_pydocs, tmp_path_factory):
    """Return the report and the folder of a soft prompt."""
    changes = (f"base={tiny}", "tokens=6", "max_queries=60", "document_tokens=40", "query_tokens=40", "tried=2",
               "fit.epochs=12", "fit.batch_size=4", "held_out=20")  # fmt: skip
    settings = settings_of(*changes)
    folder = tmp_path_factory.mktemp("soft") / "prompt"
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    report = run_recipe(recipe("soft_prompt"), settings, split_pydocs, folder, splits=("test",), offline=True)
    assert before == {path.name: path.read_bytes() for path in tiny.iterdir()}
    return report, folder


@pytest.mark.slow
def test_nothing_but_the_prompt_is_trained_and_it_beats_a_hard_one(trained, tiny):
    report, folder = trained
    soft = SoftPrompt.load(folder)
    assert soft.prompt.shape == (6, 32)
    assert len(soft.examples) == 1
    losses = []
    for number in range(2):
        stage = report["stages"][f"prompt-{number}"]
        assert stage["trained_weights"] == 6 * 32
        assert stage["validation_loss"] < stage["validation_losses"][0]
        losses.append(stage["validation_loss"])
    found = report["evaluation"]["test"][LIKELIHOOD]
    assert found["end"] > found["start"]
    assert found["queries"] == 20
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, "README.md", "training_report.json"}


def test_gradients_reach_the_prompt_alone(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny).float().eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    prompt = start_of(model, tokenizer, "write a query", 5).requires_grad_(True)
    rows = Sequences.of(tokenizer, [("a text of words", "some words")] * 2, [], document_tokens=8, query_tokens=8)
    logs, there = token_log_likelihoods(model, rows.batch([0, 1]), prompt)
    (-logs[there].mean()).backward()
    assert prompt.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_likelihoods_are_those_of_the_words(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    pairs = [("a text of words", "some words"), ("another text that is longer", "one more query")]
    rows = Sequences.of(tokenizer, pairs, [("shown text", "shown query")], document_tokens=60, query_tokens=60)
    text = tokenizer.decode(rows.ids[0])
    assert text == "Text: shown text\nQuery: shown query\n\nText: a text of words\nQuery: some words\n"
    found = mean_log_likelihoods(model, rows)
    for ids, first, value in zip(rows.ids, rows.first, found, strict=True):
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=1)
        expected = [float(logs[place - 1, ids[place]]) for place in range(first, len(ids) - 1)]
        assert value == pytest.approx(np.mean(expected), abs=1e-4)
    # A prompt of real tokens' embeddings is those tokens.
    ids = tokenizer("write a query", add_special_tokens=False)["input_ids"]
    hard = Sequences([[*ids, *row] for row in rows.ids], [first + len(ids) for first in rows.first])
    prompt = start_of(model, tokenizer, "write a query", len(ids))
    assert mean_log_likelihoods(model, rows, prompt) == pytest.approx(mean_log_likelihoods(model, hard), abs=1e-4)


def test_a_gradient_that_is_not_finite_stops_the_training(tiny, split_pydocs, tmp_path, monkeypatch):
    forward = Prompted.forward

    def broken(self, input_ids, attention_mask, labels):
        found = forward(self, input_ids, attention_mask, labels)
        # The root of 0 is 0, its slope infinite.
        return found | {"loss": found["loss"] + (0 * self.prompt).sum().sqrt()}

    monkeypatch.setattr(Prompted, "forward", broken)
    settings = settings_of(f"base={tiny}", "tokens=4", "max_queries=20", "tried=1", "fit.epochs=1", "held_out=4")
    with pytest.raises(ModelFault, match="the norm of the soft prompt's gradient is nan; lower learning_rate"):
        run_recipe(recipe("soft_prompt"), settings, split_pydocs, tmp_path / "x", splits=(), offline=True)
    assert not (tmp_path / "x").exists()


def test_a_trained_prompt_writes_queries(trained, split_pydocs, tmp_path):
    _, folder = trained
    documents = list(open_corpus(str(split_pydocs)))[:12]
    settings = GenerationSettings(model=str(folder), queries=2, new_tokens=24)
    generate_queries(documents, tmp_path / "q.parquet", settings, offline=True)
    pairs = read_pairs(tmp_path / "q.parquet")
    assert {document for _, document in pairs} <= {document.id for document in documents}
    generator = open_generator(settings, offline=True)
    assert isinstance(generator, SoftPromptedModel)
    texts = [document.content for document in documents[:3]]
    assert generator.answers(texts, 2, seed=1) == generator.answers(texts, 2, seed=1)
    # Beside longer texts, and so behind fillings, a text gets the answer that it gets alone.
    greedy = SoftPromptedModel(folder, new_tokens=24, temperature=0, offline=True)
    assert greedy.answers(texts, 1, seed=0) == [greedy.answers([text], 1, seed=0)[0] for text in texts]


def test_bad_input(trained, tiny, split_pydocs, tmp_path):
    _, folder = trained
    with pytest.raises(InvalidInput, match="its own examples"):
        open_generator(GenerationSettings(model=str(folder), examples=(("a", "b"),)))
    soft = SoftPrompt.load(folder)
    other = tmp_path / "other"
    other.mkdir()
    SoftPrompt(soft.model, "0" * 64, soft.examples, 12, soft.prompt).save(other)
    with pytest.raises(InvalidInput, match="other weights"):
        SoftPromptedModel(other, offline=True)
    SoftPrompt(soft.model, soft.digest, soft.examples, 12, np.full((2, 32), np.nan, np.float32)).save(other)
    with pytest.raises(BackendUnavailable, match="damaged"):
        SoftPrompt.load(other)
    (other / CONFIG).write_text(json.dumps({"model": "x"}))
    with pytest.raises(BackendUnavailable, match="no soft prompt"):
        SoftPrompt.load(other)
    settings = settings_of(f"base={tiny}", "max_queries=4")
    with pytest.raises(InvalidInput, match="pairs are too few"):
        run_recipe(recipe("soft_prompt"), settings, split_pydocs, tmp_path / "x", splits=(), offline=True)
