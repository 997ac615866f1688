"""Indexes of codes over HTTP, and those of a real model that makes codes itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from indexing.recoding import recode_index
from indexing.verification import verify_index
from kernels.hamming import packed, sign_scores
from retriever.codebook import train_codebook
from retriever.encoder import DenseEncoder, load_encoder
from retriever.heads.sign import SignHead
from retriever.index.form import Form, Stored
from retriever.index.manifest import read_manifest
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import HashingEncoder, ListCorpus, random_documents
from training.encoders import open_base
from training.settings import EncoderSettings

TEXTS = ["a file is opened", "sockets and ports", "sort a list of numbers", "read lines of text", "parse a date"]


@pytest.mark.parametrize(
    ("kind", "stored", "status"), [("binary", "none", "exact"), ("pq48", "none", "exact"), ("pq48", "float16", "exact")]
)
def test_search_and_description(
    make_client: Callable[..., Any], small_index: Path, tmp_path: Path, kind: str, stored: Stored, status: str
) -> None:
    codebook = None
    if kind == "pq48":
        vectors = np.load(next((small_index / "segments").glob("*/dense.vectors.npy")))
        codebook = train_codebook(vectors, 48, rotate=False, rounds=3)
    recode_index(small_index, tmp_path / "codes", Form(384, kind, stored, codebook))
    client = make_client(tmp_path / "codes")
    # Three hundred documents are fewer than would be rescored: all are looked at.
    found = client.search(pipeline="dense", filter={"kind": "function"}).json()
    assert found["results"][0]["status"] == status
    assert found["results"][0]["hits"]
    described = client.get("/v1/indexes/codes").json()["index"]
    assert (described["dense"]["kind"], described["dense"]["stored"]) == (kind, stored)
    assert described["bytes"]["dense_per_document"]["codes"] == pytest.approx(48, abs=1)


def test_more_documents_than_candidates_are_answered_approximately(
    make_client: Callable[..., Any], tmp_path: Path
) -> None:
    documents, encoder = random_documents(900, 3), HashingEncoder(96)
    settings = BuildSettings(dense="binary", store="float16", fields={"kind": "keyword"})
    build_index(ListCorpus(documents), tmp_path / "index", settings, encoder=encoder)
    client = make_client(tmp_path / "index", opened=open_index(tmp_path / "index", encoder=encoder))
    text = "boundary layer pressure"
    asked = {"query": text, "pipeline": "dense", "k": 10}
    found = client.search(**asked).json()["results"][0]
    # 500 of 900 are scored again; all are where a filter leaves few, or so many are asked for.
    assert found["status"] == "approximate"
    filtered = client.search(**asked, filter={"kind": "paper"}).json()["results"][0]
    assert filtered["status"] == "exact"
    assert client.search(**asked | {"k": 300}).json()["results"][0]["status"] == "exact"
    vectors = dict(zip([d.id for d in documents], encoder.encode_documents(documents), strict=True))
    (query,) = encoder.encode_queries([text])
    for hit in found["hits"]:
        assert hit["score"] == pytest.approx(float(vectors[hit["id"]] @ query), abs=2e-3)
    # Signs of width 96 take two words of 64 bits.
    described = client.get("/v1/indexes/index").json()["index"]
    assert described["bytes"]["dense_per_document"]["codes"] == pytest.approx(16, abs=1)


def test_a_model_with_a_head_makes_its_index(tmp_path: Path) -> None:
    model = open_base(EncoderSettings(base="splade-tiny", similarity="dot"), offline=True)
    model.append(SignHead(model.get_embedding_dimension()))
    model.save(str(tmp_path / "model"))
    encoder: DenseEncoder = load_encoder(tmp_path / "model")
    documents = [Document(str(place), text) for place, text in enumerate(TEXTS)]
    settings = BuildSettings(encoder=str(tmp_path / "model"))
    build_index(ListCorpus(documents), tmp_path / "index", settings, offline=True)
    part = read_manifest(tmp_path / "index")[0].dense
    assert part is not None
    assert (part.kind, part.stored, part.codes) == ("binary", "none", "model")
    assert verify_index(tmp_path / "index", offline=True).sound
    query = encoder.encode_queries(["open a file"])[0]
    expected = sign_scores(packed(encoder.encode_documents(documents)), query, np.arange(len(TEXTS)))
    with open_index(tmp_path / "index", offline=True) as index:
        ranking = index.search("open a file", 5, pipeline="dense").ranking()
    assert [int(id_) for id_, _ in ranking] == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose([score for _, score in ranking], np.sort(expected)[::-1], rtol=1e-5)


def test_local_vectors_over_http(make_client: Callable[..., Any], pydocs: Path, encoder: Any, tmp_path: Path) -> None:
    model = open_base(EncoderSettings(base="splade-tiny", similarity="dot"), offline=True)
    model.append(SignHead(model.get_embedding_dimension()))
    model.save(str(tmp_path / "model"))
    settings = BuildSettings(encoder=str(tmp_path / "model"), local_encoder="all-MiniLM-L6-v2")
    build_index(open_corpus(str(pydocs)), tmp_path / "index", settings, offline=True)
    opened = open_index(tmp_path / "index", offline=True)
    client = make_client(tmp_path / "index", opened=opened)
    assert client.get("/v1/indexes/index").json()["index"]["default_pipeline"] == "local"
    found = client.search(k=5).json()["results"][0]["hits"]
    assert all(set(hit["scores"]) == {"dense", "local"} for hit in found)
    plain = client.search(k=5, without=["local"]).json()["results"][0]["hits"]
    assert all(set(hit["scores"]) == {"dense"} for hit in plain)
    asked = {"first": ["bm25"], "local": {"depth": 100, "weight": 0}}
    hits = client.search(k=5, pipeline=asked).json()["results"][0]["hits"]
    # By the local vectors alone: those of an index of their own, as far as BM25 finds the same.
    assert [hit["score"] for hit in hits] == pytest.approx([hit["scores"]["local"] for hit in hits])
