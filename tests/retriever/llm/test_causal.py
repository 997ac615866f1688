"""Likelihoods are the sums of single steps of the model, whatever shares the batch."""

import functools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from retriever.errors import BackendUnavailable, InvalidInput, ModelFault, PromptTooLong
from retriever.llm import prompts
from retriever.llm.beginnings import alike
from retriever.llm.causal import TOLERANCE, CausalModel
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, OutOfTime, Usage
from tests.retriever.llm.models import save_model

FOREVER = Deadline()
DOCUMENTS = [
    "Open the file and iterate over it line by line.",
    "Sparse matrices.",
    "for line in open(path): print(line) " * 6,
    "",
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "x",
]
QUERIES = ["read a file", "how do I read a file line by line", "x", "日本語", "sparse", "what is this?"]


@pytest.fixture(scope="module", params=[("llama", True), ("gpt2", False)])
def folder(request, tmp_path_factory):
    kind, chat = request.param
    return save_model(tmp_path_factory.mktemp("models") / kind, kind=kind, chat=chat)


@pytest.fixture(scope="module")
def model(folder):
    return CausalModel(folder, device="cpu")


@functools.cache
def _opened(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()


@functools.cache
def one_by_one(folder, prompt, answer):
    """Return log p of each token of the answer by transformers alone, a forward pass for each, without padding."""
    tokenizer, model = _opened(folder)
    if tokenizer.chat_template is None:
        ids, answer = tokenizer(prompt.plain, add_special_tokens=False)["input_ids"], f" {answer}"
    else:
        text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = []
    for token in tokenizer(answer, add_special_tokens=False)["input_ids"]:
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        found.append(float(torch.log_softmax(logits, 0)[token]))
        ids = [*ids, token]
    return found


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
def test_likelihoods_are_those_of_single_steps(folder, model, monkeypatch, padding, batch_tokens):
    monkeypatch.setattr(model, "_padding", padding)
    monkeypatch.setattr(model, "_batch_tokens", batch_tokens)
    monkeypatch.setattr(model, "_shared", ([], None))
    asked = [prompts.likelihood(document) for document in DOCUMENTS]
    usage = Usage()
    found = model.likelihoods(asked, QUERIES, FOREVER, usage)
    for prompt, query, values in zip(asked, QUERIES, found, strict=True):
        assert values == pytest.approx(one_by_one(folder, prompt, query), abs=TOLERANCE / 10)
    assert usage.answer_tokens == sum(map(len, found))
    # The beginning that the first call left serves a call with other documents.
    again = model.likelihoods(asked[3:], QUERIES[3:], FOREVER, usage)
    for values, before in zip(again, found[3:], strict=True):
        assert values == pytest.approx(before, abs=TOLERANCE / 10)


def test_the_document_is_a_shared_beginning_too(folder, model):
    """Several queries of one document: all but the queries is computed once."""
    prompt = prompts.likelihood(DOCUMENTS[2])
    found = model.likelihoods([prompt] * 6, QUERIES, FOREVER, Usage())
    assert len(model._shared[0]) >= len(model._prompt_ids(prompt)) - 1
    for query, values in zip(QUERIES, found, strict=True):
        assert values == pytest.approx(one_by_one(folder, prompt, query), abs=TOLERANCE / 10)


def test_sequences_that_begin_alike_are_found():
    long, other = [1, 2, 3, 4, 5, 6], [9, 8, 7, 6]
    sequences = [[*long, 7], [*other, 1], [*long, 9, 9], [5], [*long, 8], [*other, 2], long, [*long[:3], 0, 0, 0]]
    assert alike(sequences) == [[6, 0, 4, 2], [7, 3, 1, 5]]
    assert alike([[3], [1], [2]]) == [[1, 2, 0]]
    assert alike([]) == []


def test_pairs_that_share_a_passage_give_what_they_give_alone(model, monkeypatch):
    asked = [prompts.pair("read", DOCUMENTS[2], second) for second in QUERIES]
    asked += [prompts.pair("read", first, DOCUMENTS[2]) for first in DOCUMENTS[:2]]
    asked += [prompts.pair("read", "word " * 60, second) for second in QUERIES]
    passes = []
    forward = model._forward
    monkeypatch.setattr(model, "_forward", lambda rows, *given: (passes.append(len(rows)), forward(rows, *given))[1])
    found = model.choose(asked[::-1], prompts.PASSAGES, FOREVER, Usage())
    assert sorted(passes) == [2, 6, 6]
    alone = [model.choose([prompt], prompts.PASSAGES, FOREVER, Usage())[0] for prompt in asked[::-1]]
    assert found == pytest.approx(alone, abs=TOLERANCE)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_choice_is_a_difference_of_logits(folder, model, monkeypatch, padding):
    monkeypatch.setattr(model, "_padding", padding)
    asked = [prompts.pair("read a file", first, second) for first, second in zip(DOCUMENTS, QUERIES, strict=True)]
    for options in (prompts.PASSAGES, prompts.YES_NO):
        found = model.choose(asked, options, FOREVER, Usage())
        for prompt, value in zip(asked, found, strict=True):
            first, second = (one_by_one(folder, prompt, option) for option in options)
            assert value == pytest.approx(sum(first) - sum(second), abs=TOLERANCE)
    with pytest.raises(InvalidInput, match="begins with the other"):
        model.choose(asked, ("Yes", "Yes"), FOREVER, Usage())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_choice_in_bfloat16_is_of_logits_that_are_not_rounded(tmp_path, kind):
    """As bfloat16 has them, logits around 1 are 1/256 apart, and near ones become equal."""
    exact = CausalModel(save_model(tmp_path / kind, kind=kind), precision="bfloat16")
    asked = [prompts.pair("read a file", first, second) for first, second in zip(DOCUMENTS, QUERIES, strict=True)]
    found = exact.choose(asked, prompts.PASSAGES, FOREVER, Usage())
    *common, first_id = exact._answer_ids(prompts.PASSAGES[0])
    assert exact._answer_ids(prompts.PASSAGES[1])[:-1] == common
    weights = (
        exact._model.get_output_embeddings().weight[[first_id, exact._answer_ids(prompts.PASSAGES[1])[-1]]].float()
    )
    for prompt, value in zip(asked, found, strict=True):
        with torch.inference_mode():
            tokens = torch.tensor([[*exact._prompt_ids(prompt), *common]])
            states = exact._model.base_model(tokens).last_hidden_state[0, -1].float()
            first, second = (weights @ states).tolist()
        rounded = torch.tensor([first, second]).bfloat16().float()
        # Batch and shared beginnings change the states themselves by their own last digit.
        assert value == pytest.approx(first - second, abs=0.03)
        assert value != float(rounded[0] - rounded[1])


def test_written_answers_do_not_depend_on_the_batch(model):
    asked = [prompts.pair("read a file", first, "x") for first in DOCUMENTS[:4]]
    together = model.write(asked, FOREVER, Usage())
    assert together == [model.write([prompt], FOREVER, Usage())[0] for prompt in asked]


def test_tokenizers_without_padding_or_end_do(tmp_path):
    whole = CausalModel(save_model(tmp_path / "a"), device="cpu")
    bare = CausalModel(save_model(tmp_path / "b", pad=False), device="cpu")
    asked = [prompts.likelihood(document) for document in DOCUMENTS]
    assert bare.likelihoods(asked, QUERIES, FOREVER, Usage()) == whole.likelihoods(asked, QUERIES, FOREVER, Usage())
    assert len(bare.write(asked, FOREVER, Usage())) == 6


def test_what_does_not_fit_into_the_window_is_refused(tmp_path):
    model = CausalModel(save_model(tmp_path / "m", window=64), device="cpu")
    assert model.window == 64
    with pytest.raises(PromptTooLong, match=r"reads 64; shorten the query"):
        model.likelihoods([Prompt("hello", "")], ["word " * 100], FOREVER, Usage())
    with pytest.raises(InvalidInput, match="reads 64"):
        model.write([Prompt("hello " * 100, "")], FOREVER, Usage())
    with pytest.raises(InvalidInput, match="empty answer"):
        model.likelihoods([Prompt("hello", "")], [""], FOREVER, Usage())


def test_numbers_that_are_not_finite_are_a_fault(tmp_path):
    model = CausalModel(save_model(tmp_path / "m"), device="cpu")
    model._model.lm_head.weight.data[5] = math.nan
    with pytest.raises(ModelFault, match="not finite"):
        model.likelihoods([Prompt("hello", "")], ["word"], FOREVER, Usage())
    with pytest.raises(ModelFault, match=r"not finite; try precision='float32'"):
        model.write([Prompt("hello", "")] * 5, FOREVER, Usage())
    assert not model._model._forward_hooks


def test_models_that_are_none_are_refused(tmp_path):
    with pytest.raises(BackendUnavailable, match="lacks weights|no language model"):
        CausalModel("all-MiniLM-L6-v2", device="cpu")
    save_model(tmp_path / "m")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendUnavailable, match=r"lacks weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        CausalModel(tmp_path / "m", device="cpu")
    for options in ({"padding": "middle"}, {"precision": "int8"}, {"max_batch_tokens": 0}):
        with pytest.raises(InvalidInput):
            CausalModel(tmp_path / "m", device="cpu", **options)


def test_a_document_cannot_speak_in_another_role(model):
    special = model._tokenizer.all_special_tokens[0]
    sneaky = f"nice{special}{special[: len(special) // 2]}{special}{special[len(special) // 2 :]} words"
    cut = model.cut(sneaky, 50)
    assert special not in cut
    assert len(cut) == len(sneaky)
    assert cut.startswith("nice ")


def test_texts_are_cut_by_tokens(model):
    assert model.cut("one two three four", 3) == "one two three"
    assert model.cut("one two", 3) == "one two"
    assert len(model.cut("x" * 1_000_000, 4)) <= 4 * 64


def test_a_passed_deadline_stops_before_the_next_batch(model):
    asked = [prompts.likelihood(document) for document in DOCUMENTS]
    for call in (
        lambda: model.likelihoods(asked, QUERIES, Deadline(0.0), Usage()),
        lambda: model.choose(asked, prompts.YES_NO, Deadline(0.0), Usage()),
        lambda: model.write(asked, Deadline(0.0), Usage()),
    ):
        with pytest.raises(OutOfTime):
            call()


@pytest.mark.parametrize("kind", ["likelihoods", "choose", "write"])
def test_a_deadline_ends_waiting_for_another_thread(model, kind):
    """While one thread is inside a pass, another one gives up when its own time has passed."""
    asked = [prompts.likelihood(document) for document in DOCUMENTS[:2]]
    rest = {"likelihoods": [QUERIES[:2]], "choose": [prompts.YES_NO], "write": []}[kind]
    ask = getattr(model, kind)
    inside, done = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert done.wait(60)

    with ThreadPoolExecutor(2) as pool, model._model.base_model.register_forward_pre_hook(wait):
        first = pool.submit(ask, asked, *rest, FOREVER, Usage())
        assert inside.wait(60)
        second = pool.submit(ask, asked, *rest, Deadline(time.perf_counter() + 0.2), Usage())
        try:
            with pytest.raises(OutOfTime):
                second.result(timeout=30)
            assert not first.done()
        finally:
            done.set()
        found = first.result(timeout=60)
    # Who gave up left nothing behind. Threads differ in how many more they compute with, and so in the last digits.
    again = ask(asked, *rest, FOREVER, Usage())
    assert found == again if kind == "write" else np.allclose(np.hstack(found), np.hstack(again), atol=1e-4)


def test_many_threads_get_what_one_gets(model):
    asked = [prompts.likelihood(document) for document in DOCUMENTS]
    expected = model.likelihoods(asked, QUERIES, FOREVER, Usage())
    found = {}

    def work(number):
        found[number] = model.likelihoods(asked, QUERIES, FOREVER, Usage())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for values in found.values():
        for own, other in zip(values, expected, strict=True):
            assert own == pytest.approx(other, abs=TOLERANCE / 10)


def test_a_real_model_finds_the_query_likelier_behind_its_document():
    model = CausalModel("SmolLM2-135M-Instruct", device="cpu", offline=True)
    documents = [
        "To brew green tea, heat the water to 80 degrees and steep the leaves for two minutes.",
        "The heart pumps blood through arteries and veins.",
    ]
    asked = [prompts.likelihood(document) for document in documents]
    found = model.likelihoods(asked, ["how hot should water for green tea be"] * 2, FOREVER, Usage())
    assert sum(found[0]) > sum(found[1]) + 5
