"""From one encoder to another without a gap: two vector spaces over the same documents, compared, then swapped."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.encoder import load_encoder
from server.aliases import FILE
from server.app import create_app
from server.settings import Settings
from server.shadow import overlap
from tests.server.conftest import Client
from training.encoders import open_base
from training.settings import EncoderSettings

QUERIES = ["decode a json document", "read lines of a file", "sort a list of numbers", "open a zip archive"]
K = 5


def asked(client: Client, query: str, index: str = "docs") -> Any:
    body = {"query": query, "k": K, "pipeline": "dense"}
    response = client.post(f"/v1/indexes/{index}/search", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer: Any) -> list[str]:
    return [hit["id"] for hit in answer["results"][0]["hits"]]


def test_another_encoder_takes_over(pydocs: Path, small_index: Path, encoder: Any, tmp_path: Path) -> None:
    model = tmp_path / "other-encoder"
    open_base(EncoderSettings(base="splade-tiny", similarity="cosine"), offline=True).save(str(model))
    other = load_encoder(str(model), device="cpu", offline=True)
    root = tmp_path / "root"
    shutil.copytree(small_index, root / "docs-1")
    build_index(open_corpus(str(pydocs)), root / "docs-2", BuildSettings(encoder=str(model)), encoder=other)
    (root / FILE).write_text(json.dumps({"docs": "docs-1"}))
    settings = Settings(index=root, writable=True, offline=True, device="cpu", default_index="docs")
    with Client(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        begun = client.post("/v1/indexes/docs/shadow", json={"index": "docs-2", "fraction": 1, "k": K}).json()
        assert (begun["index"], begun["shadow"]) == ("docs-1", "docs-2")
        before = [asked(client, query) for query in QUERIES]
        assert {answer["index"]["name"] for answer in before} == {"docs-1"}
        deadline = time.monotonic() + 60
        while (report := client.get("/v1/indexes/docs/shadow").json())["queries"] < len(QUERIES):
            assert time.monotonic() < deadline, report
            time.sleep(0.02)
        theirs = [ids(asked(client, query, "docs-2")) for query in QUERIES]
        found = [overlap(ids(answer), there) for answer, there in zip(before, theirs, strict=True)]
        assert (report["failed"], report["dropped"]) == (0, 0)
        assert report["mean_overlap"] == pytest.approx(np.mean(found))
        # Another space indeed.
        assert 0 <= report["mean_overlap"] < 1

        assert client.put("/v1/aliases/docs", json={"index": "docs-2"}).json()["before"] == "docs-1"
        documents = list(open_corpus(str(pydocs)))
        scores = other.encode_queries(QUERIES) @ other.encode_documents(documents).T  # (Q, D)
        for query, row, there in zip(QUERIES, scores, theirs, strict=True):
            after = asked(client, query)
            assert after["index"]["name"] == "docs-2"
            assert ids(after) == there
            given = {document.id: score for document, score in zip(documents, row.tolist(), strict=True)}
            hits = after["results"][0]["hits"]
            assert [hit["score"] for hit in hits] == pytest.approx(np.sort(row)[::-1][:K].tolist(), abs=1e-4)
            assert [hit["score"] for hit in hits] == pytest.approx([given[hit["id"]] for hit in hits], abs=1e-4)
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/indexes/docs").json()["encoder"] == "other-encoder"
