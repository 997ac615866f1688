"""The live recall of approximate search, against an HNSW index that is made worse."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.index.dense import DenseReader
from server.recall import recall
from tests.server.conftest import Client, MakeClient


def test_recall_by_hand() -> None:
    assert recall([3, 2, 1], [3, 2, 1]) == 1
    # The second best is missed, and what came instead is worse than the third.
    assert recall([3, 1, 0.5], [3, 2, 1]) == pytest.approx(2 / 3)
    # Of equal ones any will do.
    assert recall([3, 2, 2], [3, 2, 2]) == 1
    assert recall([], [3, 2]) == 0
    assert recall([], []) is None


@pytest.fixture(scope="module")
def approximate(pydocs: Path, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("indexes") / "approximate"
    settings = BuildSettings(fields={"lines": "number"}, dense="hnsw")
    build_index(open_corpus(str(pydocs)), path, settings, encoder=encoder)
    return path


def value(client: Client, name: str) -> float:
    """Return a number of /metrics, once what waits has been measured."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(lines[0].split()[-1]) if lines else 0.0


def wait_for(client: Client, name: str, wanted: float) -> None:
    deadline = time.monotonic() + 20
    while value(client, name) < wanted:
        assert time.monotonic() < deadline, client.get("/metrics").text
        time.sleep(0.01)


COUNT = 'retriever_ann_recall_count{filtered="no",index="approximate"}'
SUM = 'retriever_ann_recall_sum{filtered="no",index="approximate"}'


def test_sampled_queries_are_searched_exactly_too(
    make_client: MakeClient, approximate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(approximate, ann_recall_sample=1.0)
    queries = ["decode json", "zip archive", "regular expression", "open a socket"]
    assert client.post("/v1/search", json={"queries": queries, "pipeline": "dense"}).status_code == 200
    wait_for(client, COUNT, 4)
    # Three hundred documents are no task for HNSW.
    assert value(client, SUM) == 4
    # Words alone are not sampled, nor what is exact anyway.
    client.search(pipeline="bm25")

    def worst(self: DenseReader, query: Any, count: int) -> Any:
        return np.sort(np.argsort(self.vectors @ query)[:count])

    monkeypatch.setattr(DenseReader, "_candidates", worst)
    client.search(pipeline="dense")
    wait_for(client, COUNT, 5)
    assert value(client, COUNT) == 5
    assert value(client, SUM) == 4


def test_exact_search_is_not_measured(make_client: MakeClient) -> None:
    client = make_client(ann_recall_sample=1.0)
    client.search(pipeline="dense")
    client.service.recall.close()
    assert "retriever_ann_recall_count{" not in client.get("/metrics").text


def test_nothing_is_measured_unless_asked_for(make_client: MakeClient, approximate: Path) -> None:
    client = make_client(approximate)
    client.search(pipeline="dense")
    assert client.service.recall._sampler is None
    assert value(client, COUNT) == 0
