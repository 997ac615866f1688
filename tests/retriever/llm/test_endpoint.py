"""An OpenAI-compatible endpoint in a process of its own: answers, and everything that can go wrong with one."""

import asyncio
import math
import signal
import threading
import time

import pytest
import torch

from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.index.sealed import open_index
from retriever.llm import chat, prompts
from retriever.llm.causal import TOLERANCE, CausalModel
from retriever.llm.endpoint import TOP_LOGPROBS, EndpointModel, _difference, _word
from retriever.llm.judge import Judge
from retriever.llm.rankers import LanguageRanker
from retriever.llm.usage import Deadline, OutOfTime, Usage
from retriever.pipeline import PipelineSpec, Rerank
from retriever.types import Document
from tests.retriever.llm.chat_server import served
from tests.retriever.llm.models import save_model

TEXTS = ["word " * count for count in (3, 9, 1, 7, 12)]
DOCUMENTS = [Document(str(place), text) for place, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def url():
    with served() as address:
        yield address


def ranker(url, model="longer", **options):
    return LanguageRanker(Judge(EndpointModel(model, url)), Rerank(model=model, backend="endpoint", **options))


def best_first(scores):
    return sorted(range(len(scores)), key=lambda place: -scores[place])


@pytest.mark.parametrize("mode", ["scoring", "generation"])
@pytest.mark.parametrize("strategy", ["all_pairs", "heap", "sliding"])
def test_pairs_are_compared_in_either_mode(url, mode, strategy):
    found = ranker(url, kind="pairwise", mode=mode, strategy=strategy, passes=4).rank("query", DOCUMENTS, None)
    assert best_first(found.scores) == [4, 1, 3, 0, 2]
    assert found.usage.ties == found.usage.invalid == 0
    # What the endpoint says that it read and wrote.
    assert found.usage.answer_tokens == 2 * found.usage.calls
    assert found.usage.prompt_tokens > 20 * found.usage.calls


def test_yes_or_no_is_read_from_the_listed_log_probabilities(url):
    scores, _ = ranker(url, kind="yes_no").score("query", DOCUMENTS)
    assert scores.tolist() == [-1.25, 1.25, -1.25, -1.25, 1.25]


def test_what_an_endpoint_does_not_tell(url):
    model = EndpointModel("longer", url)
    with pytest.raises(BackendUnavailable, match="query_likelihood with a model in this process"):
        model.likelihoods([prompts.likelihood("x")], ["y"], Deadline(), Usage())
    with pytest.raises(BackendUnavailable, match="lists no log-probabilities for bare; use mode: generation"):
        ranker(url, "bare", kind="pairwise").score("query", DOCUMENTS)
    assert ranker(url, "bare", kind="pairwise", mode="generation").score("query", DOCUMENTS)[0][4] == 4


@pytest.mark.parametrize("mode", ["scoring", "generation"])
def test_answers_beside_the_question_are_counted_and_decide_nothing(url, mode):
    found = ranker(url, "odd", kind="pairwise", mode=mode).rank("query", DOCUMENTS, None)
    assert found.usage.invalid == found.usage.calls == 8
    assert found.usage.ties == 4
    assert set(found.scores.tolist()) == {0.0}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nonsense", "does not answer as OpenAI's chat completions do"),
        ("empty", "does not answer as OpenAI's chat completions do"),
        ("deep", "does not answer as OpenAI's chat completions do"),
        ("negative", "does not answer as OpenAI's .*number of tokens from 0 to 1000000000 was expected, got -1"),
        ("uncountable", "does not answer as OpenAI's chat completions do"),
        ("galactic", "does not answer as OpenAI's chat completions do"),
        ("endless", "answered with over 1000000 bytes; that is no short answer"),
        ("broken", r"answered 500 for broken: .*out of order"),
        ("closed", r"answered 429 for closed: .*too many requests"),
        ("locked", r"answered 401 for locked: .*no key"),
    ],
)
def test_an_endpoint_that_fails_is_an_error_that_says_so(url, model, message, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BackendUnavailable, match=message):
        ranker(url, model, kind="yes_no").score("query", DOCUMENTS)


def test_the_key_is_of_the_environment(url, monkeypatch):
    # A mounted secret often ends in a line break.
    for key in ("secret", "secret\n"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert len(ranker(url, "locked", kind="yes_no").score("query", DOCUMENTS)[0]) == 5


@pytest.mark.parametrize("key", ["sécret-12", "secret-12\nx: y"])
def test_a_key_that_is_none_is_not_shown(url, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BackendUnavailable, match="OPENAI_API_KEY holds letters that no key has") as caught:
        ranker(url, "locked", kind="yes_no").score("query", DOCUMENTS)
    assert "cret-12" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["http://localhost:80x/v1", "http://127.0.0.1:99999/v1", "http://127.0.0.1:0/v1", "http://", "http://[::1/v1"],
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InvalidInput, match="is no address of an endpoint"):
        EndpointModel("model", address)


def test_who_is_turned_away_asks_again(url):
    scores, _ = ranker(url, "limited", kind="yes_no").score("asked twice before", DOCUMENTS)
    assert scores.tolist() == [-1.25, 1.25, -1.25, -1.25, 1.25]


def test_who_is_turned_away_again_and_again_gives_up(url):
    prompt = prompts.likelihood("asked in vain")
    with pytest.raises(BackendUnavailable, match="answered 429 for closed"):
        EndpointModel("closed", url).write([prompt], Deadline(), Usage())
    # The first time, and after each of two pauses.
    assert EndpointModel("count", url).write([prompt], Deadline(), Usage()) == ["3"]


@pytest.mark.parametrize("model", ["dripping", "dripping_head"])
def test_drops_outlast_neither_deadline_nor_patience(url, model, monkeypatch):
    """The time for an answer is that of the clock, not that between two bytes."""
    monkeypatch.setattr(chat, "PATIENCE", 0.5)
    ask = EndpointModel(model, url).write
    started = time.perf_counter()
    with pytest.raises(BackendUnavailable, match=r"gave no whole answer within 0\.5 s"):
        ask([prompts.likelihood("x")], Deadline(), Usage())
    with pytest.raises(BackendUnavailable, match=r"gave no whole answer within 0\.5 s"):
        ask([prompts.likelihood("x")], Deadline(time.perf_counter() + 60), Usage())
    with pytest.raises(OutOfTime):
        ask([prompts.likelihood("x")], Deadline(time.perf_counter() + 0.2), Usage())
    assert time.perf_counter() - started < 20


def test_a_caller_with_an_event_loop_is_answered(url):
    async def ask():
        return EndpointModel("longer", url).write([prompts.pair("q", "a", "bb")], Deadline(), Usage())

    assert asyncio.run(ask()) == ["Passage B"]


def test_what_interrupts_the_caller_ends_the_requests(url):
    """The signal reaches the main thread while it waits for an endpoint that answers without end."""
    threading.Timer(0.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        EndpointModel("dripping", url).write([prompts.likelihood("x")] * 20, Deadline(), Usage())
    assert time.perf_counter() - started < 20


def test_a_deadline_ends_the_waiting(url):
    started = time.perf_counter()
    found = ranker(url, "slow", kind="yes_no").rank("query", DOCUMENTS, started + 0.2)
    assert not found.complete
    assert found.scores.tolist() == []
    with pytest.raises(OutOfTime):
        EndpointModel("longer", url).write([prompts.likelihood("x")], Deadline(0.0), Usage())


def test_an_address_is_needed(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(BackendUnavailable, match="set OPENAI_BASE_URL"):
        EndpointModel("m")
    with pytest.raises(InvalidInput, match="begins with http"):
        EndpointModel("m", "file:///etc/passwd")
    with pytest.raises(InvalidInput, match="concurrent"):
        EndpointModel("m", "http://127.0.0.1:9", concurrent=0)
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        EndpointModel("m", "http://127.0.0.1:9/v1").write([prompts.likelihood("x")], Deadline(), Usage())


def test_variants_of_a_word_add_up():
    tops = [("A", -1.0), (" A", -2.0), ("B", -3.0), ("the", -9.0)]
    listed = [{"token": "A", "logprob": -1.0, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops]}]
    expected = math.log(math.exp(-1) + math.exp(-2)) + 3
    assert _difference({"logprobs": {"content": listed}}, ("A", "B"), "m") == pytest.approx(expected)
    # A word that is not listed is no likelier than the least likely one that is.
    del tops[2]
    listed[0]["top_logprobs"] = [{"token": t, "logprob": p} for t, p in tops]
    expected = math.log(math.exp(-1) + math.exp(-2)) + 9
    assert _difference({"logprobs": {"content": listed}}, ("A", "B"), "m") == pytest.approx(expected)


def test_what_is_most_unlikely_counts_so(url):
    """OpenAI lists -9999 for it, whose exp is 0."""
    scores, _ = ranker(url, "unlikely", kind="yes_no").score("query", DOCUMENTS)
    assert scores.tolist() == [-9998.75, 9998.75, -9998.75, -9998.75, 9998.75]


@pytest.mark.parametrize("model", ["infinite", "huge", "positive", "unknown"])
def test_what_is_no_log_probability_is_a_fault(url, model):
    with pytest.raises(ModelFault, match=f"as a log-probability of {model}; use mode: generation"):
        ranker(url, model, kind="yes_no").score("query", DOCUMENTS)


def test_an_article_is_no_passage(url):
    found = ranker(url, "article", kind="pairwise", strategy="all_pairs").rank("query", DOCUMENTS, None)
    assert best_first(found.scores) == [4, 1, 3, 0, 2]
    assert found.usage.ties == found.usage.invalid == 0
    listed = [{"token": " YES", "logprob": -0.5, "top_logprobs": [{"token": " YES", "logprob": -0.5}]}]
    listed[0]["top_logprobs"].append({"token": "no", "logprob": -1.0})
    assert _difference({"logprobs": {"content": listed}}, ("yes", "no"), "m") == 0.5


def search(index, model, **options):
    rerank = Rerank(model=model, kind="pairwise", backend="endpoint", depth=5)
    return index.search("read a file", 8, pipeline=PipelineSpec(first=("bm25",), rerank=rerank), **options)


def test_a_search_goes_on_without_an_endpoint_that_fails(small_index, url, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with open_index(small_index) as index:
        plain = [hit.id for hit in index.search("read a file", 8, pipeline="bm25").hits]
        answer = search(index, "longer")
        assert answer.status == "exact"
        assert answer.usage["calls"] == 8
        assert {hit.id for hit in answer.hits[:5]} == set(plain[:5])
        for model in ("nonsense", "broken", "closed", "huge", "galactic", "endless"):
            answer = search(index, model)
            assert answer.degraded == ["rerank_failed"]
            assert [hit.id for hit in answer.hits] == plain
            assert caplog.messages[-1].startswith("rerank failed: ")
        for model in ("slow", "dripping"):
            answer = search(index, model, deadline_ms=300)
            assert answer.degraded == ["rerank_timeout"]
            assert [hit.id for hit in answer.hits] == plain
        # Without a deadline it is patience that ends.
        monkeypatch.setattr(chat, "PATIENCE", 0.3)
        for model in ("slow", "dripping"):
            answer = search(index, model)
            assert answer.degraded == ["rerank_failed"]
            assert [hit.id for hit in answer.hits] == plain


def test_a_choice_over_http_is_that_of_the_model_in_this_process(tmp_path):
    """Between the two likeliest words, since a model of chance says neither Yes nor No."""
    folder = save_model(tmp_path / "model")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    inside = CausalModel(folder, device="cpu")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    words = {}
    for place in range(30):
        prompt = prompts.likelihood(f"number {place}")
        text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            found = model(ids).logits[0, -1].topk(TOP_LOGPROBS).indices.tolist()
        texts = [tokenizer.decode([token]) for token in found]
        single = [
            text for token, text in zip(found, texts, strict=True)
            if text.strip().isalpha() and inside._ids(text) == [token] and [_word(t) for t in texts].count(_word(text)) == 1
        ]  # fmt: skip
        if len(single) > 1 and single[0] == texts[0]:
            words[prompt] = (single[0], single[1])
    assert len(words) >= 3
    with served(str(folder)) as address:
        for prompt, options in words.items():
            (found,) = EndpointModel("m", address).choose([prompt], options, Deadline(), Usage())
            assert found > 0
            assert inside.choose([prompt], options, Deadline(), Usage()) == pytest.approx([found], abs=TOLERANCE)


@pytest.mark.slow
def test_a_real_model_behind_a_real_server():
    with served("SmolLM2-135M-Instruct") as address:
        found = ranker(address, kind="pairwise", mode="generation").rank("water for green tea", DOCUMENTS[:2], None)
        asked = [prompts.yes_no("green tea", text) for text in ("Green tea is brewed with hot water.", *TEXTS)]
        outside = EndpointModel("m", address).choose(asked, prompts.YES_NO, Deadline(), Usage())
    assert found.usage.calls == 2
    assert 0 < found.usage.answer_tokens <= 16
    assert sorted(found.scores.tolist()) == [0.0, 1.0]
    inside = CausalModel("SmolLM2-135M-Instruct", device="cpu", offline=True)
    values = inside.choose(asked, prompts.YES_NO, Deadline(), Usage())
    assert best_first(outside) == best_first(values)
    # Over HTTP variants of a word, such as YES, add up.
    assert outside == pytest.approx(values, abs=0.2)
