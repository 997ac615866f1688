"""Query likelihood through one token: masks by hand, gradients, and the recipe on a small random model."""

import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.heads import open_model
from retriever.llm.bottleneck import Bottleneck
from retriever.llm.causal import CausalModel
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, Usage
from retriever.types import Document
from tests.retriever.llm.models import save_model
from tests.training.test_decoders import first_states
from tests.training.test_generation import FirstWords
from training.adaptation import adapt_without_labels
from training.collection import open_training_collection
from training.decoders import DecoderSettings, open_decoder
from training.generation import GenerationSettings
from training.losses.query_likelihood import attention_mask, predicting
from training.query_writing import LANGUAGE_MODEL, Writer, WritingCollator, can_be_masked, corrupted, padded
from training.recipe import run_recipe
from training.recipes.llm_ql import write
from training.recipes.registry import recipe
from training.settings import read_settings
from training.stages import Stages
from training.task import Task

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


def test_sequences_are_document_end_query_end(model, split_pydocs):
    collection = open_training_collection(split_pydocs, split="train")
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


def test_a_query_inside_a_sequence_has_no_beginning_of_its_own(folder, split_pydocs, tmp_path):
    start = shutil.copytree(folder, tmp_path / "start")
    tokenizer = AutoTokenizer.from_pretrained(start)
    first = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|>:0 $A:0", special_tokens=[("<|im_start|>", first)]
    )
    tokenizer.save_pretrained(start)
    model = open_decoder(DecoderSettings(), folder=start)
    collection = open_training_collection(split_pydocs, split="train")
    batch = WritingCollator(model, collection, query_tokens=5, document_tokens=12, share=0, seed=1)([{"row": 0}])
    ids, end = batch["pair_input_ids"][0].tolist(), int(batch["pair_ends"][0])
    assert ids[0] == first
    assert first not in ids[1:]
    assert ids[end] == model.tokenizer.eos_token_id
    text = model.tokenizer(collection.queries[0], add_special_tokens=False)["input_ids"]
    assert len(text) > 5
    assert ids[end + 1 :] == [*text[:4], model.tokenizer.eos_token_id]


@pytest.mark.parametrize(("kind", "takes"), [("llama", True), ("gpt2", True), ("mamba", False)])
def test_whether_a_body_takes_a_mask_for_each_token(tmp_path, kind, takes):
    folder = save_model(tmp_path, kind=kind, scale=0.2)
    assert can_be_masked(open_decoder(DecoderSettings(), folder=folder)[0].model) == takes


def test_a_body_that_takes_no_such_mask_is_refused_before_it_is_trained(split_pydocs, tmp_path):
    base = save_model(tmp_path / "mamba", kind="mamba", scale=0.2)
    settings = read_settings(recipe("llm_ql").settings, None, [f"base={base}", *LITTLE, *WRITING])
    with pytest.raises(InvalidInput, match=r"architecture of mamba \(mamba\) takes no mask .* recipe repllama"):
        run_recipe(recipe("llm_ql"), settings, split_pydocs, tmp_path / "out", offline=True)


def test_likelihoods_are_those_of_the_ranker_where_both_read_the_same_text(tmp_path):
    """Of text behind text, without a chat form; the ranker's answers begin with a space and have no end token."""
    base = save_model(tmp_path, scale=0.2, chat=False)
    tokenizer = AutoTokenizer.from_pretrained(base)
    documents, queries = ["parse a file", "Sparse matrices."], ["open a file", "multiply two of them"]
    asked = [Prompt(document, "A query:") for document in documents]
    ids = [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt.plain, f" {query}"))
        for prompt, query in zip(asked, queries, strict=True)
    ]
    writer = Writer(open_decoder(DecoderSettings(), folder=base), base).eval()
    ranker = CausalModel(base, device="cpu")
    expected = [sum(values) for values in ranker.likelihoods(asked, queries, Deadline(), Usage())]
    assert writer.likelihoods(ids, stop=False) == pytest.approx(expected, abs=1e-3)
    # A stop is something else: the last token stands for the whole text.
    assert np.abs(np.subtract(writer.likelihoods(ids, stop=True), expected)).max() > 0.01


LITTLE = ("document_tokens=24", "query_tokens=12", "hard=none", "fit.batch_size=16", "fit.steps=4")
WRITING = ("writing.fit.batch_size=16", "writing.fit.steps=4", "writing.fit.learning_rate=1e-3")


def dtypes(folder):
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118  it is no mapping


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("repllama", ()),
        ("llm_ql", (*WRITING, "attention=bidirectional", "pooling=multi_layer", "latents=5")),
        pytest.param("llm_ql", WRITING, marks=pytest.mark.slow),
        pytest.param("llm_ql", (*WRITING, "attention=bidirectional"), marks=pytest.mark.slow),
        pytest.param("llm_ql", (*WRITING, "pooling=multi_layer", "latents=5"), marks=pytest.mark.slow),
    ],
    ids=["repllama", "bidirectional multi_layer", "llm_ql", "bidirectional", "multi_layer"],
)
def test_the_recipes_make_encoders_and_a_ranker(split_pydocs, folder, tmp_path, name, changes):
    """The base is in bfloat16, as language models are published."""
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(base)
    AutoTokenizer.from_pretrained(folder).save_pretrained(base)
    assert dtypes(base) == {"BF16"}
    settings = read_settings(recipe(name).settings, None, [f"base={base}", *LITTLE, *changes])
    report = run_recipe(recipe(name), settings, split_pydocs, tmp_path / "out", offline=True, keep_work=True)
    assert [stage["steps"] for stage in report["stages"].values()] == [4] * len(report["stages"])
    assert 0 <= report["evaluation"]["test"]["nDCG@10"]["end"] <= 1
    assert dtypes(tmp_path / "out") == {"F32"}
    encoder = load_encoder(str(tmp_path / "out"), device="cpu")
    assert encoder.encode_queries(["read a file"]).shape == (1, 32)
    opened = open_model(tmp_path / "out")
    assert torch.equal(first_states(opened, 8), first_states(opened, 9)) == (settings.attention == "causal")
    if name == "llm_ql":
        written = next(tmp_path.glob(f".out.work/*query_likelihood*/{LANGUAGE_MODEL}"))
        assert dtypes(written) == {"F32"}
        assert getattr(AutoConfig.from_pretrained(written), "is_causal", True)
        ranker = CausalModel(written, offline=True)
        prompt, usage = Prompt("", "parse a file"), Usage()
        assert np.isfinite(ranker.likelihoods([prompt], ["open a file"], Deadline(None), usage)[0]).all()
        kept = Bottleneck(tmp_path / "out" / LANGUAGE_MODEL, device="cpu")
        # Of 24 tokens the prompt takes three.
        assert (kept.max_tokens, kept.max_query_tokens) == (21, 12)
        documents = kept.encode_documents([Document("d", "parse a file")])
        assert np.isfinite(kept.likelihoods(kept.encode_queries(["open a file"])[0], documents, Deadline())).all()


def test_a_tokenizer_with_an_end_and_no_padding_trains_and_loads(split_pydocs, folder, tmp_path):
    base = shutil.copytree(folder, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(base)
    assert AutoTokenizer.from_pretrained(base).pad_token is None
    settings = read_settings(recipe("llm_ql").settings, None, [f"base={base}", *LITTLE, *WRITING])
    run_recipe(recipe("llm_ql"), settings, split_pydocs, tmp_path / "out", offline=True)
    encoder = load_encoder(str(tmp_path / "out"), device="cpu")
    texts = ["open a file", "how do I read a file line by line", "x"]
    alone = np.concatenate([encoder.encode_queries([text]) for text in texts])
    assert np.abs(encoder.encode_queries(texts) - alone).max() < 1e-4
    kept = Bottleneck(tmp_path / "out" / LANGUAGE_MODEL, device="cpu")
    documents = kept.encode_documents([Document(str(n), text) for n, text in enumerate(texts)])
    assert np.isfinite(kept.likelihoods(kept.encode_queries(["x"])[0], documents, Deadline())).all()
    ranker = CausalModel(tmp_path / "out" / LANGUAGE_MODEL, device="cpu")
    assert len(ranker.write([Prompt(text, "") for text in texts], Deadline(), Usage())) == 3


def test_interrupted_while_saving_the_fitted_language_model_is_saved_later(split_pydocs, folder, tmp_path, monkeypatch):
    settings = read_settings(recipe("llm_ql").settings, None, [f"base={folder}", *LITTLE, *WRITING])
    task = Task(open_training_collection(split_pydocs), settings, Stages(tmp_path / "work", {}), True)
    place = tmp_path / "stage"
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(task, place)
    write(task, place)
    fitted = open_model(place)[0].model.state_dict()
    saved = AutoModelForCausalLM.from_pretrained(place / LANGUAGE_MODEL).base_model.state_dict()
    start = AutoModelForCausalLM.from_pretrained(folder).base_model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in fitted.items())
    assert any(not torch.equal(start[name], value) for name, value in fitted.items())
    # A training may go on from the causal model as it would from the stage's encoder.
    base = settings.model_copy(update={"base": str(place / LANGUAGE_MODEL)})
    vectors = [model.encode_query(["open a file"]) for model in (open_decoder(base, offline=True), open_model(place))]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-5


@pytest.mark.slow
def test_adapting_a_language_model_without_a_gain_leaves_it_as_the_encoder_it_was_compared_as(
    split_pydocs, folder, tmp_path
):
    changes = (f"base={folder}", *LITTLE, "fit.steps=1", "fit.learning_rate=1e-12")
    settings = read_settings(recipe("repllama").settings, None, changes)
    found = adapt_without_labels(
        str(split_pydocs), tmp_path / "model", recipe("repllama"), settings, GenerationSettings(queries=1, documents=60),
        offline=True, generator=FirstWords(),
    )  # fmt: skip
    assert (found["kept"], found["split"]) == ("base", "test")
    kept = load_encoder(str(tmp_path / "model"), device="cpu").encode_queries(["open a file"])
    base = open_decoder(settings, offline=True).encode_query(["open a file"], normalize_embeddings=True)
    assert np.abs(kept - base).max() < 1e-5
