"""Batches over concurrent requests: what goes together, what waits, what is refused, what a fault costs."""

import functools
import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retriever.errors import DeadlineExceeded, ModelFault, ModelOverloaded, ModelUnavailable, OutOfMemory
from retriever.rerank import CrossEncoderReranker
from retriever.types import Document
from server.batching import LEAST_TEXT, SMALL_TOKENS, TOLERANCE, Batcher, Policy, Ticket, _Item, fill
from server.metrics import Metrics
from server.models import Models, encoding
from server.settings import Settings
from tests.server.conftest import Client, MakeClient


class Computer:
    """A model that can be held up; doubles numbers and remembers its batches."""

    def __init__(self, fail: Callable[[list[int]], None] = lambda payloads: None) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.fail = fail
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def __call__(self, group: str, payloads: list[int]) -> list[int]:
        self.entered.set()
        assert self.go.wait(30)
        self.batches.append((group, payloads))
        self.fail(payloads)
        return [2 * payload for payload in payloads]

    @contextmanager
    def held(self, batcher: Batcher[int, int]) -> Iterator[None]:
        """Keep the model busy with one item, so that what is submitted inside waits together."""
        self.go.clear()
        self.entered.clear()
        first = batcher.submit("busy", [0], [1])
        assert self.entered.wait(30)
        try:
            yield
        finally:
            self.go.set()
        first.wait()
        assert self.batches.pop(0) == ("busy", [0])


MakeBatcher = Callable[..., Batcher[int, int]]


@pytest.fixture
def make() -> Iterator[MakeBatcher]:
    made: list[Batcher[int, int]] = []

    def make(compute: Any, metrics: Metrics | None = None, workers: int = 1, **policy: Any) -> Batcher[int, int]:
        values = {
            "batch_tokens": 100,
            "wait_ms": 0.0,
            "queue": 8,
            "queue_seconds": 30.0,
            "batch_seconds": 60.0,
        } | policy
        made.append(Batcher("model", [compute] * workers, Policy(**values), (metrics or Metrics()).batches("model")))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def test_waiting_requests_share_a_batch_and_get_their_own_results(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer)
    with computer.held(batcher):
        tickets = [batcher.submit("a", [10 * i, 10 * i + 1], [10, 10]) for i in range(5)]
    assert [ticket.wait() for ticket in tickets] == [[20 * i, 20 * i + 2] for i in range(5)]
    assert [len(payloads) for _, payloads in computer.batches] == [10]


def test_a_batch_holds_no_more_tokens_than_allowed_and_a_longer_text_goes_alone(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, batch_tokens=100)
    with computer.held(batcher):
        long = batcher.submit("a", [1], [250])
        many = batcher.submit("a", list(range(25)), [20] * 25)
    assert many.wait() == [2 * i for i in range(25)]
    assert long.wait() == [2]
    sizes = sorted(len(payloads) for _, payloads in computer.batches)
    assert sizes == [1, 5, 5, 5, 5, 5]


def test_groups_never_mix(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer)
    with computer.held(batcher):
        tickets = [batcher.submit(group, [i], [5]) for i, group in enumerate("abab")]
    assert [ticket.wait() for ticket in tickets] == [[0], [2], [4], [6]]
    assert computer.batches == [("a", [0, 2]), ("b", [1, 3])]


def test_a_batch_waits_for_company_while_the_queue_is_short(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, wait_ms=60_000)
    first = batcher.submit("a", [1], [50])
    time.sleep(0.05)
    assert not first.future.done()
    # Full: nothing is gained by waiting on.
    second = batcher.submit("a", [2], [50])
    assert (first.wait(), second.wait()) == ([2], [4])
    assert computer.batches == [("a", [1, 2])]


def test_nothing_is_computed_for_nothing(make: MakeBatcher) -> None:
    batcher = make(Computer())
    assert batcher.submit("a", [], []).wait() == []


def test_what_does_not_fit_the_queue_is_told_to_come_back(make: MakeBatcher) -> None:
    computer, metrics = Computer(), Metrics()
    batcher = make(computer, metrics, queue=3)
    with computer.held(batcher):
        tickets = [batcher.submit("a", [i], [1]) for i in range(3)]
        for _ in range(4):
            with pytest.raises(ModelOverloaded) as refused:
                batcher.submit("a", [9], [1])
            assert refused.value.retry_after >= 1
        assert b'retriever_queue_requests{model="model"} 3.0' in metrics.expose()
    assert [ticket.wait() for ticket in tickets] == [[0], [2], [4]]
    assert b'retriever_batch_rejected_total{model="model"} 4.0' in metrics.expose()
    assert batcher.submit("a", [5], [1]).wait() == [10]
    assert b'retriever_queue_requests{model="model"} 0.0' in metrics.expose()
    assert b'retriever_queue_tokens{model="model"} 0.0' in metrics.expose()


def test_memory_of_what_waits_is_bounded(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, queue=1000)
    with computer.held(batcher):
        batcher.submit("a", [1], [1], characters=60_000_000)
        with pytest.raises(ModelOverloaded, match="waiting"):
            batcher.submit("a", [1], [1], characters=20_000_000)


def test_abandoned_work_is_not_computed(make: MakeBatcher) -> None:
    computer, metrics = Computer(), Metrics()
    batcher = make(computer, metrics)
    with computer.held(batcher):
        kept, gone = batcher.submit("a", [1], [1]), batcher.submit("a", [2, 3], [1, 1])
        gone.cancel()
        gone.cancel()
    assert kept.wait() == [2]
    with pytest.raises(CancelledError):
        gone.wait()
    assert computer.batches == [("a", [1])]
    assert b'retriever_abandoned_total{model="model"} 1.0' in metrics.expose()
    assert b'retriever_queue_tokens{model="model"} 0.0' in metrics.expose()


def test_the_rest_of_a_request_whose_client_leaves_midway_is_not_computed(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, batch_tokens=10)
    computer.go.clear()
    ticket = batcher.submit("a", list(range(100)), [10] * 100)
    assert computer.entered.wait(30)
    ticket.cancel()
    computer.go.set()
    assert batcher.submit("b", [1], [1]).wait() == [2]
    assert computer.batches == [("a", [0]), ("b", [1])]


def test_nobody_waits_longer_than_agreed(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, queue_seconds=0.05)
    with computer.held(batcher):
        late = batcher.submit("a", [1], [1])
        time.sleep(0.1)
    with pytest.raises(ModelOverloaded):
        late.wait()
    assert computer.batches == []


def test_what_waits_is_let_go_although_every_thread_hangs(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, queue_seconds=0.1)
    with computer.held(batcher):
        waiting = batcher.submit("a", [1], [1])
        with pytest.raises(ModelOverloaded, match="busy"):
            waiting.future.result(10)


def test_a_batch_that_hangs_is_given_up_and_the_model_asked_no_more_until_it_is_back(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, batch_seconds=0.2, batch_tokens=1)
    computer.go.clear()
    hanging = batcher.submit("a", [1, 2], [1, 1])
    assert computer.entered.wait(30)
    for ticket in (hanging, batcher.submit("a", [3], [1])):
        with pytest.raises(DeadlineExceeded, match="within 0.2 s"):
            ticket.wait()
    assert batcher.hanging(0.2) == 1
    with pytest.raises(ModelUnavailable, match="not come back"):
        batcher.submit("a", [4], [1])
    computer.go.set()
    while batcher.hanging(0.2):
        time.sleep(0.01)
    assert batcher.submit("a", [5], [1]).wait() == [10]
    # The rest of what hung was not computed after all.
    assert [payloads for _, payloads in computer.batches] == [[1], [5]]


def test_a_large_request_does_not_keep_small_ones_waiting(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer, batch_tokens=50)
    with computer.held(batcher):
        large = batcher.submit("a", list(range(50)), [50] * 50)
        small = batcher.submit("a", [1000], [1])
    assert small.wait() == [2000]
    assert len(large.wait()) == 50
    assert [1000] in [payloads for _, payloads in computer.batches[:2]]


def too_many(most: int) -> Callable[[list[int]], None]:
    def fail(payloads: list[int]) -> None:
        if len(payloads) > most:
            raise torch.OutOfMemoryError("out of memory")

    return fail


def test_a_batch_too_large_for_memory_is_halved_once(make: MakeBatcher) -> None:
    computer, metrics = Computer(too_many(4)), Metrics()
    batcher = make(computer, metrics)
    with computer.held(batcher):
        tickets = [batcher.submit("a", [i], [1]) for i in range(7)]
    assert [ticket.wait() for ticket in tickets] == [[2 * i] for i in range(7)]
    assert [len(payloads) for _, payloads in computer.batches] == [7, 4, 3]
    assert b'retriever_out_of_memory_total{model="model"} 1.0' in metrics.expose()


def test_what_does_not_fit_in_half_fails_and_the_next_requests_are_fine(make: MakeBatcher) -> None:
    computer = Computer(lambda payloads: too_many(0)([1]) if 13 in payloads else None)
    batcher = make(computer)
    with computer.held(batcher):
        # Longest first: 13 is in the first half.
        poison, near, far = (batcher.submit("a", [i], [tokens]) for i, tokens in ((13, 9), (1, 8), (2, 7)))
    with pytest.raises(OutOfMemory, match="shorter or fewer"):
        poison.wait()
    assert sum(ticket.future.exception() is None for ticket in (near, far)) >= 1
    assert batcher.submit("a", [4], [1]).wait() == [8]


def test_one_faulty_request_does_not_harm_those_beside_it(make: MakeBatcher) -> None:
    def fail(payloads: list[int]) -> None:
        if 13 in payloads:
            raise ValueError("unlucky")

    computer = Computer(fail)
    batcher = make(computer)
    with computer.held(batcher):
        tickets = [batcher.submit("a", [i, i + 1], [5, 5]) for i in (1, 13, 20)]
    assert tickets[0].wait() == [2, 4]
    assert tickets[2].wait() == [40, 42]
    with pytest.raises(ModelFault, match="ValueError"):
        tickets[1].wait()


def test_a_lost_device_is_said_so_and_asked_no_more(make: MakeBatcher) -> None:
    def fail(payloads: list[int]) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    batcher = make(Computer(fail))
    with pytest.raises(ModelFault, match="RuntimeError"):
        batcher.submit("a", [1], [1]).wait()
    assert batcher.broken == "CUDA error: an illegal memory access was encountered"
    with pytest.raises(ModelUnavailable, match="illegal memory access"):
        batcher.submit("a", [1], [1])


def test_a_device_lost_at_the_second_try_is_noticed_and_what_waits_is_refused(make: MakeBatcher) -> None:
    def fail(payloads: list[int]) -> None:
        if len(payloads) > 1:
            raise torch.OutOfMemoryError("too little")
        raise RuntimeError("CUDA error: unspecified launch failure")

    computer = Computer(fail)
    batcher = make(computer, batch_tokens=2)
    computer.go.clear()
    together = batcher.submit("a", [1, 2], [1, 1])
    assert computer.entered.wait(30)
    waiting = batcher.submit("a", [3], [1])
    computer.go.set()
    with pytest.raises(ModelFault):
        together.wait()
    with pytest.raises(ModelUnavailable, match="launch failure"):
        waiting.wait()
    assert batcher.broken == "CUDA error: unspecified launch failure"


def test_closing_refuses_what_waits_and_what_comes(make: MakeBatcher) -> None:
    computer = Computer()
    batcher = make(computer)
    computer.go.clear()
    running = batcher.submit("a", [1], [1])
    assert computer.entered.wait(30)
    waiting = batcher.submit("a", [2], [1])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(ModelUnavailable, match="stopping"):
        waiting.wait()
    computer.go.set()
    closing.join(30)
    with pytest.raises(ModelUnavailable, match="stopping"):
        batcher.submit("a", [3], [1])
    # A batch that had begun is finished.
    assert running.future.done()


def test_many_threads_lose_nothing(make: MakeBatcher) -> None:
    batcher = make(Computer(), queue=1000, batch_tokens=64, workers=3)

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(30):
            payloads = [generator.randrange(1000) for _ in range(generator.randrange(1, 9))]
            ticket = batcher.submit("a", payloads, [generator.randrange(1, 40) for _ in payloads])
            if generator.random() < 0.2:
                ticket.cancel()
            else:
                assert ticket.wait() == [2 * payload for payload in payloads]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_threads_of_a_model_share_one_large_request(make: MakeBatcher) -> None:
    both = threading.Barrier(2)

    def compute(group: str, payloads: list[int]) -> list[int]:
        # Passes only when two batches are computed at the same time.
        both.wait(30)
        return [2 * payload for payload in payloads]

    batcher = make(compute, workers=2, batch_tokens=10_000)
    time.sleep(0.05)
    assert batcher.submit("a", list(range(10)), [100] * 10).wait() == [2 * i for i in range(10)]


def test_a_replica_shares_weights_and_works_alone(encoder: Any) -> None:
    twin = encoder.replica()
    for ours, theirs in zip(encoder.model.parameters(), twin.model.parameters(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()
    assert twin.model.tokenizer is not encoder.model.tokenizer
    assert twin._lock is not encoder._lock
    np.testing.assert_array_equal(twin.encode_queries(["zip"]), encoder.encode_queries(["zip"]))


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(lengths=LENGTHS, most=st.integers(1, 2000), data=st.data())
def test_a_batch_is_within_its_bounds_whatever_waits(lengths: list[int], most: int, data: st.DataObject) -> None:
    items = [_Item(None, i, tokens, None) for i, tokens in enumerate(lengths)]
    anchor = items[data.draw(st.integers(0, len(items) - 1))]
    batch = fill(anchor, (item for item in items if item is not anchor), most)
    assert anchor in batch
    assert len({item.position for item in batch}) == len(batch)
    padded = max(item.tokens for item in batch) * len(batch)
    assert len(batch) == 1 or padded <= most
    assert padded <= SMALL_TOKENS or sum(item.tokens for item in batch) >= LEAST_TEXT * padded


def test_equal_lengths_fill_a_batch() -> None:
    items = [_Item(None, i, 16, None) for i in range(100)]
    assert len(fill(items[50], iter(items[:50] + items[51:]), 64 * 16)) == 64


# What else is in a batch.


def real_texts(pydocs: Path, count: int) -> list[str]:
    from indexing.corpora import open_corpus

    texts = [document.content for document in itertools.islice(open_corpus(str(pydocs)), count)]
    return [*texts, "zip", "a", "word " * 400]


def test_vectors_do_not_depend_on_what_else_is_in_the_batch(encoder: Any, pydocs: Path) -> None:
    texts = real_texts(pydocs, 40)
    computes = [encoding(encoder), encoding(encoder.replica())]
    compute = computes[0]
    alone = np.stack([compute("document", [text])[0] for text in texts])
    policy = Policy(batch_tokens=2048, wait_ms=5, queue=100, queue_seconds=60, batch_seconds=60)
    batcher: Batcher[str, Any] = Batcher("minilm", computes, policy, Metrics().batches("minilm"), 1)
    counts = [min(count, encoder.max_tokens) for count in encoder.count_tokens(texts)]
    try:
        for seed in range(2):
            order = list(range(len(texts)))
            random.Random(seed).shuffle(order)
            # Each text in a request of its own, among others in another order each time.
            tickets = [(i, batcher.submit("document", [texts[i]], [counts[i]])) for i in order]
            for i, ticket in tickets:
                (row,) = ticket.wait()
                assert np.abs(row - alone[i]).max() <= TOLERANCE
    finally:
        batcher.close()


def test_scores_do_not_depend_on_what_else_is_in_the_batch(tiny_reranker: Path, pydocs: Path) -> None:
    texts = real_texts(pydocs, 20)
    inner = CrossEncoderReranker(tiny_reranker, device="cpu")
    settings = Settings(index=Path("unused"), rerank_models=[str(tiny_reranker)], device="cpu")
    models = Models(settings, Metrics())
    models.prepare()
    _, model = models.cross_encoder(None)
    try:
        queries = ["decode json", "parse a date", "zip archive", "how are tokens counted"]
        scored = [(query, model.submit(query, texts)) for query in queries]
        for query, found in scored:
            expected, truncated = inner.score(query, [Document(str(i), text) for i, text in enumerate(texts)])
            assert sum(found.truncated) == truncated
            np.testing.assert_allclose(found.logits(found.ticket.wait()), expected, atol=1e-4)
    finally:
        models.close()


# Over HTTP.


def test_concurrent_requests_and_searches_share_batches(make_client: MakeClient, encoder: Any) -> None:
    client = make_client(limits={"batch_wait_ms": 200, "threads": 8})
    texts = [f"text number {number} about archives" for number in range(12)]
    alone = encoder.encode_documents([Document(text, text) for text in texts])

    def ask(number: int) -> Any:
        if number < 12:
            body = {"model": "all-MiniLM-L6-v2", "input": texts[number]}
            return client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
        return client.search(f"query {number}", pipeline="dense", k=1).json()["results"][0]["status"]

    before = batches(client)
    with ThreadPoolExecutor(18) as pool:
        answers = list(pool.map(ask, range(18)))
    np.testing.assert_allclose(answers[:12], alone, atol=TOLERANCE)
    assert answers[12:] == ["exact"] * 6
    # Documents and queries have prompts of their own, so two batches at least.
    assert 2 <= batches(client) - before < 18


def batches(client: Client) -> float:
    name = 'retriever_batch_inputs_count{model="all-MiniLM-L6-v2"} '
    return float(next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name)).split()[1])


def work_with(batcher: Batcher[Any, Any], compute: Any, batch: list[_Item], _: Any) -> None:
    """Do a batch with another model than the batcher's own."""
    Batcher._work(batcher, batch, compute)


def test_search_by_words_alone_survives_a_model_without_memory(
    make_client: MakeClient, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()

    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    _, model = client.service.models.embedder(None)
    monkeypatch.setattr(model.batcher, "_work", functools.partial(work_with, model.batcher, fail))
    assert client.search(pipeline="hybrid").json()["results"][0]["degraded"] == ["dense_failed"]
    assert client.search(pipeline="dense").status_code == 507
    response = client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": "a"})
    assert response.status_code == 507
    assert response.json()["error"]["code"] == "out_of_memory"


def test_a_lost_device_makes_the_service_not_ready(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(readiness_seconds=0)
    assert client.get("/readyz").status_code == 200
    (batcher,) = client.service.models._batchers()
    monkeypatch.setattr(batcher, "broken", "CUDA error: unspecified launch failure")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "launch failure" in response.json()["error"]["message"]


def test_a_full_queue_is_no_reason_to_be_taken_out(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(readiness_seconds=0)
    (batcher,) = client.service.models._batchers()

    def refuse(*arguments: object, **options: object) -> Ticket[Any]:
        raise ModelOverloaded("busy", 7)

    monkeypatch.setattr(batcher, "submit", refuse)
    assert client.get("/readyz").status_code == 200
    response = client.post("/embed", json={"inputs": "a"})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.json() == {"error": "busy", "error_type": "Overloaded"}


def test_a_client_that_leaves_is_not_worked_for(service_url: str) -> None:
    import json
    import socket
    from urllib.parse import urlsplit

    import httpx

    def abandoned() -> float:
        name = 'retriever_abandoned_total{model="all-MiniLM-L6-v2"} '
        lines = httpx.get(f"{service_url}/metrics").text.splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(name)), 0.0)

    before = abandoned()
    parts = urlsplit(service_url)
    assert parts.hostname is not None
    # Minutes of work, were it done.
    body = json.dumps({"model": "all-MiniLM-L6-v2", "input": ["word " * 190] * 2000}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(1.0)
    deadline = time.monotonic() + 60
    while abandoned() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert abandoned() == before + 1
    # A batch in progress is finished first, and on a busy machine that takes its time.
    while time.monotonic() < deadline + 60:
        request = {"model": "all-MiniLM-L6-v2", "input": "a"}
        answer = httpx.post(f"{service_url}/v1/embeddings", json=request, timeout=60)
        if answer.status_code != 429:
            break
    assert answer.status_code == 200
    assert math.isclose(sum(x * x for x in answer.json()["data"][0]["embedding"]), 1, abs_tol=1e-4)


def test_reranking_past_its_deadline_is_left_undone(tiny_reranker: Path) -> None:
    models = Models(Settings(index=Path("unused"), rerank_models=[str(tiny_reranker)], device="cpu"), Metrics())
    models.prepare()
    _, model = models.cross_encoder(None)
    documents = [Document(str(i), f"text {i}") for i in range(20)]
    try:
        expected, _ = model.score("query", documents)
        found = model.score_until("query", documents, time.perf_counter() + 60)
        assert found is not None
        np.testing.assert_allclose(found[0], expected, atol=1e-4)
        assert model.score_until("query", documents, time.perf_counter() - 1) is None
    finally:
        models.close()
