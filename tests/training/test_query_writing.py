"""Query likelihood through one token: masks by hand, gradients, and the recipe on a small random model."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.llm.causal import CausalModel
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, Usage
from tests.retriever.llm.models import save_model
from training.collection import open_training_collection
from training.decoders import DecoderSettings, open_decoder
from training.losses.query_likelihood import attention_mask, predicting
from training.query_writing import LANGUAGE_MODEL, Writer, WritingCollator, corrupted, padded
from training.recipe import run_recipe
from training.recipes.registry import recipe
from training.settings import read_settings

SEQUENCES = [([5, 9, 11, 2], [21, 22, 2]), ([7, 2], [31, 32, 33, 34, 2]), ([4, 4, 4, 4, 4, 2], [41, 2])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", scale=0.2)


@pytest.fixture(scope="module")
def model(folder):
    return open_decoder(DecoderSettings(), folder=folder)


@pytest.fixture(scope="module")
def writer(model, folder):
    return Writer(model, folder).eval()


def spans(*values):
    return tuple(torch.tensor([value]) for value in values)


def test_the_mask_of_a_short_sequence():
    # Document 0 and 1, its end token 2, a query of 3 and 4, padding 5.
    stopped = attention_mask(*spans(0, 2, 5), 6, stop=True)[0, 0].int()
    assert stopped.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    left = attention_mask(*spans(1, 3, 6), 6, stop=True)[0, 0].int()
    assert left[1:, 1:].tolist() == stopped[:5, :5].tolist()
    assert left[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert left[:, 0].tolist() == [1, 0, 0, 0, 0, 0]
    causal = attention_mask(*spans(0, 2, 5), 5, stop=False)[0, 0]
    assert torch.equal(causal, torch.ones(5, 5).tril().bool())


def test_the_places_that_count():
    assert predicting(*spans(0, 2, 5), 6)[0].tolist() == [False, False, True, True, False, False]
    assert predicting(*spans(1, 3, 6), 6, document=True)[0].tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("stop", [True, False])
def test_likelihoods_depend_on_neither_batch_nor_padding(writer, stop):
    together = writer.likelihoods(SEQUENCES, stop=stop)
    alone = [writer.likelihoods([one], stop=stop)[0] for one in SEQUENCES]
    assert together == pytest.approx(alone, abs=1e-4)
    left = padded(SEQUENCES, left=True)
    with torch.inference_mode():
        logits, targets = writer.logits(left, stop=stop)
        found = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
    assert [float(part.sum()) for part in found.split([3, 5, 2])] == pytest.approx(alone, abs=1e-4)


def test_without_a_stop_it_is_the_models_own_likelihood(writer):
    for document, query in SEQUENCES:
        with torch.inference_mode():
            logits = writer.causal(input_ids=torch.tensor([document + query])).logits[0]
        steps = functional.log_softmax(logits, -1)
        expected = sum(float(steps[len(document) + i - 1, token]) for i, token in enumerate(query))
        assert writer.likelihoods([(document, query)], stop=False)[0] == pytest.approx(expected, abs=1e-4)


def gradients_of_keys(writer, stop):
    """Return how much the last layer's keys of each place move the loss of all but the query's first token."""
    kept = []
    handle = writer.body.layers[-1].self_attn.k_proj.register_forward_hook(
        lambda module, inputs, output: (output.retain_grad(), kept.append(output))[0]
    )
    logits, targets = writer.logits(padded(SEQUENCES[:1]), stop=stop)
    handle.remove()
    # The end token tells the first one, and it sees the whole document.
    functional.cross_entropy(logits[1:], targets[1:]).backward()
    writer.zero_grad()
    return kept[0].grad[0].abs().sum(-1)


def test_the_loss_reaches_the_document_through_its_end_token_alone(writer):
    stopped, open_ = gradients_of_keys(writer, True), gradients_of_keys(writer, False)
    assert torch.equal(stopped[:3], torch.zeros(3))
    assert float(stopped[3]) > 0
    assert (open_[:4] > 0).all()


def test_a_query_of_a_stopped_document_hangs_on_the_end_token_states(writer):
    """With the end token's keys and values set to zero, nothing of the document is left."""

    def later(document):
        handles = [
            getattr(layer.self_attn, name).register_forward_hook(
                lambda module, inputs, output: output.index_fill(1, torch.tensor([3]), 0.0)
            )
            for layer in writer.body.layers
            for name in ("k_proj", "v_proj")
        ]
        with torch.inference_mode():
            logits, _ = writer.logits(padded([(document, [21, 22, 23, 2])]), stop=True)
        for handle in handles:
            handle.remove()
        return logits[1:]

    assert torch.equal(later([5, 9, 11, 2]), later([80, 70, 60, 2]))


def test_words_are_corrupted_at_the_rate_asked_for():
    generator = np.random.default_rng(0)
    text = "word " * 2000
    found = corrupted(text, 0.6, generator).split(" ")
    assert found.count("_") / 2000 == pytest.approx(0.6, abs=0.05)
    assert len(found) == 2001
    assert corrupted("a  b\nc", 0.0, generator) == "a  b\nc"


def test_every_text_ends_in_the_end_token_also_when_cut(model):
    inputs = model.preprocess(["one", "one two three four five six seven eight nine ten"], max_length=6)
    end = model.tokenizer.eos_token_id
    lengths = inputs["attention_mask"].sum(1)
    assert lengths.max() == 6
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        assert ids[mask.bool()][-1] == end


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    folder = save_model(tmp_path / "endless", pad=False)
    with pytest.raises(InvalidInput, match="no end token"):
        open_decoder(DecoderSettings(), folder=folder)


def test_an_encoder_reads_the_last_token_whatever_the_batch(model, folder, tmp_path):
    model.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    encoder = load_encoder(str(tmp_path / "encoder"), device="cpu")
    together = encoder.encode_queries(["a cat", "a much longer text about dogs and their owners", "b"])
    alone = np.concatenate([encoder.encode_queries([text]) for text in ("a cat", "b")])
    assert np.abs(together[[0, 2]] - alone).max() < 1e-4
    ids = model.tokenizer("query: a cat")["input_ids"]
    assert ids[-1] == model.tokenizer.eos_token_id
    with torch.inference_mode():
        state = model[0].model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    assert np.abs(functional.normalize(state, dim=0).numpy() - alone[0]).max() < 1e-4


def test_sequences_are_document_end_query_end(model, pydocs):
    collection = open_training_collection(pydocs, split="test")
    collator = WritingCollator(model, collection, query_tokens=8, document_tokens=12, share=0.5, seed=1)
    features = [{"row": 0}, {"row": 3}]
    batch = collator(features)
    end = model.tokenizer.eos_token_id
    for row in range(2):
        ids, stop = batch["pair_input_ids"][row], int(batch["pair_stops"][row])
        assert int(ids[batch["pair_ends"][row]]) == int(ids[stop - 1]) == end
        assert stop <= 20
    assert torch.equal(collator(features)["pair_input_ids"], batch["pair_input_ids"])
    collator.set_epoch(1)
    assert not torch.equal(collator(features)["pair_input_ids"], batch["pair_input_ids"])


def test_the_recipe_makes_an_encoder_and_a_ranker(pydocs, folder, tmp_path):
    data = shutil.copytree(pydocs, tmp_path / "pydocs")
    (data / "qrels" / "test.tsv").rename(data / "qrels" / "train.tsv")
    changes = [
        f"base={folder}", "document_tokens=24", "query_tokens=12", "hard=none", "fit.batch_size=16",
        "writing.fit.batch_size=16", "writing.fit.steps=4", "writing.fit.learning_rate=1e-3", "fit.steps=4",
    ]  # fmt: skip
    settings = read_settings(recipe("llm_ql").settings, None, changes)
    report = run_recipe(recipe("llm_ql"), settings, data, tmp_path / "out", offline=True, keep_work=True)
    assert [report["stages"][name]["steps"] for name in ("query_likelihood", "contrastive")] == [4, 4]
    encoder = load_encoder(str(tmp_path / "out"), device="cpu")
    assert encoder.encode_queries(["read a file"]).shape == (1, 32)
    ranker = CausalModel(next(tmp_path.glob(f".out.work/*query_likelihood*/{LANGUAGE_MODEL}")), offline=True)
    prompt, usage = Prompt("", "parse a file"), Usage()
    assert np.isfinite(ranker.likelihoods([prompt], ["open a file"], Deadline(None), usage)[0]).all()
