"""An OpenAI-compatible endpoint in a process of its own: answers, and everything that can go wrong with one."""

import math
import subprocess
import sys
import time

import pytest

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.index.sealed import open_index
from retriever.llm import prompts
from retriever.llm.endpoint import EndpointModel
from retriever.llm.judge import Judge
from retriever.llm.rankers import LanguageRanker
from retriever.llm.usage import Deadline, OutOfTime, Usage
from retriever.pipeline import PipelineSpec, Rerank
from retriever.types import Document

TEXTS = ["word " * count for count in (3, 9, 1, 7, 12)]
DOCUMENTS = [Document(str(place), text) for place, text in enumerate(TEXTS)]


def start(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.retriever.llm.chat_server", *arguments], stdout=subprocess.PIPE, text=True
    )
    return process, f"http://127.0.0.1:{int(process.stdout.readline())}/v1"


@pytest.fixture(scope="module")
def url():
    process, address = start()
    yield address
    process.kill()
    process.wait()
    process.stdout.close()


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
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert len(ranker(url, "locked", kind="yes_no").score("query", DOCUMENTS)[0]) == 5


def test_who_is_turned_away_asks_again(url):
    scores, _ = ranker(url, "limited", kind="yes_no").score("asked twice before", DOCUMENTS)
    assert scores.tolist() == [-1.25, 1.25, -1.25, -1.25, 1.25]


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
    from retriever.llm.endpoint import _difference

    tops = [("A", -1.0), (" a", -2.0), ("B", -3.0), ("the", -9.0)]
    listed = [{"token": "A", "logprob": -1.0, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops]}]
    expected = math.log(math.exp(-1) + math.exp(-2)) + 3
    assert _difference({"logprobs": {"content": listed}}, ("a", "b"), "m") == pytest.approx(expected)
    # A word that is not listed is no likelier than the least likely one that is.
    del tops[2]
    listed[0]["top_logprobs"] = [{"token": t, "logprob": p} for t, p in tops]
    expected = math.log(math.exp(-1) + math.exp(-2)) + 9
    assert _difference({"logprobs": {"content": listed}}, ("a", "b"), "m") == pytest.approx(expected)


def search(index, model, **options):
    rerank = Rerank(model=model, kind="pairwise", backend="endpoint", depth=5)
    return index.search("read a file", 8, pipeline=PipelineSpec(first=("bm25",), rerank=rerank), **options)


def test_a_search_goes_on_without_an_endpoint_that_fails(small_index, url, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with open_index(small_index) as index:
        plain = [hit.id for hit in index.search("read a file", 8, pipeline="bm25").hits]
        answer = search(index, "longer")
        assert answer.status == "exact"
        assert answer.usage["calls"] == 8
        assert {hit.id for hit in answer.hits[:5]} == set(plain[:5])
        for model in ("nonsense", "broken"):
            answer = search(index, model)
            assert answer.degraded == ["rerank_failed"]
            assert [hit.id for hit in answer.hits] == plain
        answer = search(index, "slow", deadline_ms=300)
        assert answer.degraded == ["rerank_timeout"]
        assert [hit.id for hit in answer.hits] == plain


@pytest.mark.slow
def test_a_real_model_behind_a_real_server():
    process, address = start("SmolLM2-135M-Instruct")
    try:
        found = ranker(address, kind="pairwise", mode="generation").rank("water for green tea", DOCUMENTS[:2], None)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert found.usage.calls == 2
    assert 0 < found.usage.answer_tokens <= 16
    assert sorted(found.scores.tolist()) == [0.0, 1.0]
