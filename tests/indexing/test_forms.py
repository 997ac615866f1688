"""Indexes that keep codes or float16: built, added to, changed, compacted, verified and served like others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents
from indexing.codebooks import codebook_for
from indexing.journal import Operation
from indexing.live import add_vectors, apply_operations, encode_waiting
from indexing.merging import merge_small
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from kernels import hamming, pq
from retriever.codebook import Codebook, train_codebook
from retriever.errors import IndexCorrupt, IndexMismatch, InvalidInput, ModelFault
from retriever.heads.product import ProductHead
from retriever.heads.sign import SignHead
from retriever.index import dense
from retriever.index.form import write_codebook
from retriever.index.manifest import describe_file, publish, read_manifest
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import HashingEncoder, ListCorpus, random_documents
from training.encoders import open_base
from training.settings import EncoderSettings

DOCUMENTS = random_documents(600, 1)
MORE = random_documents(100, 2, prefix="m")
FIELDS = {"year": "number", "kind": "keyword"}
FORMS = [("flat", "float16"), ("binary", "float16"), ("binary", "none"), ("opq8", "none"), ("pq16", "float32")]
QUERIES = ["boundary layer pressure", "supersonic wing drag", "creep of a shell"]


class Signs(HashingEncoder):
    """An encoder whose documents are signs, as a model with a sign head has them."""

    codes = "sign"

    def encode_documents(self, documents):
        return np.where(super().encode_documents(documents) >= 0, np.float32(1), np.float32(-1))


class Products(HashingEncoder):
    """An encoder whose documents are centroids in a rotated space, as a model with a product head has them."""

    def __init__(self):
        super().__init__()
        self.codes = train_codebook(super().encode_documents(DOCUMENTS[:600]), 8, rounds=3)

    def encode_queries(self, queries):
        found = super().encode_queries(queries)
        return self.codes.rotated(found) if hasattr(self, "codes") else found

    def encode_documents(self, documents):
        turned = self.encode_queries([document.content for document in documents])
        return self.codes.decode(self.codes.encode_rotated(turned)) if hasattr(self, "codes") else turned


def build(path, encoder=None, corpus=DOCUMENTS, **settings):
    settings = BuildSettings(shard_documents=150, segment_documents=300, fields=FIELDS, **settings)
    build_index(ListCorpus(corpus), path, settings, encoder=encoder or HashingEncoder())
    return path


def answers(path, encoder=None, k=20, **options):
    with open_index(path, encoder=encoder or HashingEncoder()) as index:
        return [answer.ranking() for answer in index.batch_search(QUERIES, k, pipeline="dense", **options)]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert [id_ for id_, _ in one] == [id_ for id_, _ in other]
        np.testing.assert_allclose([score for _, score in one], [score for _, score in other], rtol=1e-6)


@pytest.mark.parametrize(("kind", "stored"), FORMS)
def test_an_index_of_codes_lives_like_any_other(tmp_path, kind, stored):
    path = build(tmp_path / "index", dense=kind, store=stored, oversample=40)
    manifest, _ = read_manifest(path)
    names = {Path(name).name for segment in manifest.segments for name in segment.files}
    assert ("dense.vectors.npy" in names) == (stored != "none")
    assert ("dense.codes.npy" in names) == (kind != "flat")
    assert len(manifest.segments) == 2
    assert verify_index(path, encoder=HashingEncoder()).sound

    add_documents(ListCorpus(MORE), path, encoder=HashingEncoder())
    gone = [document.id for document in DOCUMENTS[::7]]
    delete_documents(path, gone)
    before = answers(path)
    assert before[0]
    assert not {id_ for found in before for id_, _ in found} & set(gone)
    assert any(id_.startswith("m") for found in answers(path, k=500) for id_, _ in found)

    filtered = answers(path, filter={"kind": "paper"})
    kinds = {document.id: document.metadata["kind"] for document in [*DOCUMENTS, *MORE]}
    assert {kinds[id_] for found in filtered for id_, _ in found} == {"paper"}

    codebook = read_manifest(path)[0].dense.codebook
    compact_index(path)
    assert len(read_manifest(path)[0].segments) == 1
    # One codebook for the life of the index, so that codes are only copied.
    assert read_manifest(path)[0].dense.codebook == codebook
    assert_same(answers(path), before)
    assert verify_index(path, encoder=HashingEncoder()).sound


@pytest.mark.parametrize(("kind", "stored"), [("binary", "none"), ("opq8", "none"), ("pq8", "float16")])
def test_documents_in_service_are_coded_as_they_come(tmp_path, kind, stored):
    path = build(tmp_path / "index", dense=kind, store=stored)
    whole = build(tmp_path / "whole", corpus=[*DOCUMENTS, *MORE], dense=kind, store=stored)
    changes = [Operation(number, document.id, document, 1) for number, document in enumerate(MORE, 1)]
    for start in range(0, 100, 10):
        apply_operations(path, changes[start : start + 10])
    assert read_manifest(path)[0].unencoded == 100
    add_vectors(path, encode_waiting(path, HashingEncoder(), None))
    merge_small(path)
    assert read_manifest(path)[0].unencoded == 0
    assert verify_index(path, encoder=HashingEncoder()).sound
    if kind == "binary":
        # Without training the same documents give the same codes, however they came.
        compact_index(path)
        compact_index(whole)
        assert_same(answers(path), answers(whole))
    else:
        ids = {id_ for found in answers(path, k=700) for id_, _ in found}
        assert {document.id for document in MORE if document.content.strip()} <= ids


@pytest.mark.parametrize("encoder", [Signs(), Products()], ids=["signs", "products"])
def test_codes_of_the_model_lose_nothing(tmp_path, encoder):
    path = build(tmp_path / "codes", encoder)
    part = read_manifest(path)[0].dense
    assert (part.kind, part.stored, part.codes) == ("binary" if encoder.codes == "sign" else "pq8", "none", "model")
    flat = build(tmp_path / "flat", encoder, store="float32")
    assert read_manifest(flat)[0].dense.kind == "flat"
    with open_index(path, encoder=encoder) as index, open_index(flat, encoder=encoder) as other:
        vectors = encoder.encode_queries(QUERIES)
        found, _ = index.search_dense(vectors, 30, None, exact=True)
        wanted, _ = other.search_dense(vectors, 30, None, exact=True)
        for one, two in zip(found, wanted, strict=True):
            # Equal codes tie, and sums in another order split some of their ties.
            np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
        assert index.describe()["bytes"]["dense"] < other.describe()["bytes"]["dense"] / 3
    add_documents(ListCorpus(MORE), path, encoder=encoder)
    assert verify_index(path, encoder=encoder).sound


def test_a_codebook_serves_several_indexes_of_one_encoder(tmp_path):
    first = build(tmp_path / "first", dense="opq8", store="none")
    file = first / read_manifest(first)[0].dense.codebook
    settings = BuildSettings(dense="opq8", store="none")
    few = ListCorpus(MORE)
    build_index(few, tmp_path / "second", settings, encoder=HashingEncoder(), codebook=file)
    assert verify_index(tmp_path / "second", encoder=HashingEncoder()).sound
    with pytest.raises(IndexMismatch, match="codebook of another encoder"):
        build_index(few, tmp_path / "third", settings, encoder=HashingEncoder(seed="x"), codebook=file)
    with pytest.raises(InvalidInput, match="has 8 parts; build with opq8"):
        build_index(few, tmp_path / "third", BuildSettings(dense="pq4"), encoder=HashingEncoder(), codebook=file)
    with pytest.raises(InvalidInput, match="for an index of kind pqM or opqM"):
        build_index(few, tmp_path / "third", BuildSettings(), encoder=HashingEncoder(), codebook=file)


def test_a_codebook_put_in_from_another_index_is_refused(tmp_path):
    path = build(tmp_path / "one", dense="opq8", store="none")
    other = build(tmp_path / "two", HashingEncoder(seed="x"), dense="opq8", store="none")
    name = read_manifest(path)[0].dense.codebook
    own = (path / name).read_bytes()
    (path / name).write_bytes((other / read_manifest(other)[0].dense.codebook).read_bytes())
    with pytest.raises((IndexCorrupt, IndexMismatch)):
        open_index(path, encoder=HashingEncoder())
    assert not verify_index(path, encoder=HashingEncoder()).sound
    (path / name).write_bytes(own)
    assert verify_index(path, encoder=HashingEncoder()).sound


def test_bad_forms_are_refused_before_anything_is_encoded(tmp_path):
    encoder = HashingEncoder()
    for settings, complaint in (
        ({"dense": "pq5"}, "5 parts do not divide the width 32"),
        ({"dense": "flat", "store": "none"}, "only codes can stand alone"),
    ):
        with pytest.raises(InvalidInput, match=complaint):
            build(tmp_path / "index", encoder, **settings)
    assert encoder.encoded == 0


def test_a_byte_a_dimension_has_even_levels():
    levels = codebook_for("pq2", np.array([[0, -1], [255, 1], [3, 0]] * 100, np.float32))
    # The first dimension has levels 0, 1, ... 255; 300 is beyond the last.
    assert levels.encode(np.array([[7.4, -1], [300, 1]], np.float32)).tolist() == [[7, 0], [255, 255]]
    with pytest.raises(InvalidInput, match="without vectors"):
        codebook_for("pq2", np.zeros((0, 2), np.float32))


def test_too_few_and_constant_vectors(tmp_path):
    with pytest.raises(InvalidInput, match="256 centroids cannot be found from 1"):
        build(tmp_path / "few", corpus=MORE, dense="pq8")
    same = [Document(f"d{i}", "the same words") for i in range(400)]
    with pytest.raises(InvalidInput, match="all 400 vectors are the same"):
        build(tmp_path / "same", corpus=same, dense="opq8")


def test_vectors_that_are_not_finite_do_not_spoil_a_codebook(tmp_path):
    corpus = [*DOCUMENTS, Document("bad", "broken")]
    path = build(tmp_path / "index", HashingEncoder(broken=["broken"]), corpus, dense="opq8", max_bad_vectors=1)
    assert verify_index(path, encoder=HashingEncoder()).sound
    assert "bad" not in {id_ for found in answers(path, k=700) for id_, _ in found}


def test_an_index_of_the_old_binary_kind_is_read_and_its_new_segments_have_codes(tmp_path):
    path = build(tmp_path / "index", dense="BFlat")
    manifest, _ = read_manifest(path)
    publish(path, manifest.model_copy(update={"dense": manifest.dense.model_copy(update={"kind": "binary"})}))
    before = answers(path)
    add_documents(ListCorpus(MORE), path, encoder=HashingEncoder())
    assert verify_index(path, encoder=HashingEncoder()).sound
    compact_index(path)
    names = {Path(name).name for name in read_manifest(path)[0].segments[0].files}
    assert "dense.codes.npy" in names
    assert "dense.faiss" not in names
    assert before[0]


def test_a_manifest_of_the_format_before_is_read_and_a_later_one_is_refused(tmp_path):
    path = build(tmp_path / "index")
    wanted = answers(path)
    rewrite(path, format=2)
    content = json.loads((path / (path / "CURRENT").read_text().split()[0]).read_bytes())
    for name in ("stored", "codes", "codebook"):
        del content["dense"][name]
    rewrite(path, **content)
    assert_same(answers(path), wanted)
    for number in (1, 99):
        rewrite(path, format=number)
        with pytest.raises(IndexMismatch, match=rf"index format {number}, this version reads"):
            open_index(path)


def rewrite(path, **changes):
    """Change the manifest in force as another version would have written it."""
    import hashlib

    name = (path / "CURRENT").read_text().split()[0]
    content = json.loads((path / name).read_bytes()) | changes
    if "dense" in changes:
        content["dense"] = changes["dense"]
    written = json.dumps(content).encode()
    (path / name).write_bytes(written)
    (path / "CURRENT").write_text(f"{name} {hashlib.sha256(written).hexdigest()}\n")


def test_describe_says_the_form_and_the_bytes_of_a_document(tmp_path):
    path = build(tmp_path / "index", HashingEncoder(width=64), dense="opq8", store="float16")
    with open_index(path, encoder=HashingEncoder(width=64)) as index:
        description = index.describe()
    assert description["dense"]["kind"] == "opq8"
    assert description["dense"]["stored"] == "float16"
    each = description["bytes"]["dense_per_document"]
    assert each == {"codes": pytest.approx(8, abs=1), "vectors": pytest.approx(128, abs=1)}


def test_more_documents_have_more_candidates_scored_again():
    assert [dense.least_candidates(n) for n in (1, 62_500, 62_501, 250_000, 1_000_000)] == [500, 500, 501, 1000, 2000]


def test_live_recall_is_measured_against_what_is_stored(tmp_path, monkeypatch):
    # Else so few documents are all looked at.
    monkeypatch.setattr(dense, "LEAST_CANDIDATES", 20)
    path = build(tmp_path / "index", dense="binary", store="none")
    vectors = HashingEncoder().encode_queries(QUERIES)
    with open_index(path, encoder=HashingEncoder()) as index:
        found, exact = index.search_dense(vectors, 10, None)
        best, really = index.search_dense(vectors, 10, None, exact=True)
    assert (exact, really) == (False, True)
    encoded = HashingEncoder().encode_documents(DOCUMENTS)
    signs = np.where(encoded >= 0, np.float32(1), np.float32(-1))[np.linalg.norm(encoded, axis=1) > 0]
    stored = -np.sort(-(vectors @ signs.T), axis=1)[:, :10]
    np.testing.assert_allclose([list(one.scores) for one in best], stored, rtol=1e-5)
    scores = np.array([list(one.scores) for one in found])
    assert (scores <= stored + 1e-5).all()
    # Some of the best lie beyond 20 candidates, so that there is something to measure.
    assert (scores < stored - 1e-5).any()


@pytest.mark.parametrize("kind", ["binary", "pq8"])
def test_a_head_does_not_hide_a_vector_that_is_not_finite(tmp_path, kind):
    model = open_base(EncoderSettings(base="splade-tiny", similarity="dot"), offline=True)
    width = model.get_embedding_dimension()
    (row,) = model.tokenizer.convert_tokens_to_ids(["river"])
    with torch.no_grad():
        model[0].auto_model.get_input_embeddings().weight[row] = torch.nan
    sample = np.random.default_rng(3).standard_normal((300, width)).astype(np.float32)
    model.append(SignHead(width) if kind == "binary" else ProductHead.of(train_codebook(sample, 8, rounds=2)))
    model.save(str(tmp_path / "model"))
    corpus = [Document("sound", "flow over a wing"), Document("broken", "flow of a river"), Document("b", "heat")]
    settings = BuildSettings(encoder=str(tmp_path / "model"))
    with pytest.raises(ModelFault, match="unusable vectors for 1 documents: broken"):
        build_index(ListCorpus(corpus), tmp_path / "index", settings, offline=True)
    allowed = settings.model_copy(update={"max_bad_vectors": 1})
    build_index(ListCorpus(corpus), tmp_path / "index", allowed, offline=True, restart=True)
    with open_index(tmp_path / "index", offline=True) as index:
        assert index.manifest.dense.kind == kind
        assert {hit.id for hit in index.search("flow", pipeline="dense").hits} == {"sound", "b"}
        assert {hit.id for hit in index.search("flow", pipeline="bm25").hits} == {"sound", "broken"}


class Constant(HashingEncoder):
    """An encoder that went wrong: one vector for whatever it reads."""

    def encode_documents(self, documents):
        return np.ones((len(documents), self.width), np.float32)


@pytest.mark.parametrize("form", [{"dense": "binary"}, {"dense": "pq32"}, {"dense": "pq8"}])
def test_codes_of_vectors_that_are_all_the_same_are_refused(tmp_path, form):
    with pytest.raises(InvalidInput, match=f"dense vectors of all 600 documents.*the same.*{form['dense']} codes"):
        build(tmp_path / "index", Constant(), **form)
    assert not (tmp_path / "index" / "CURRENT").exists()


@pytest.mark.parametrize("first", [DOCUMENTS[:1], [Document(f"c{i}", "wing flow") for i in range(300)]])
def test_levels_of_too_few_vectors_serve_those_that_come_later(tmp_path, first):
    path = build(tmp_path / "index", corpus=first, dense="pq32", store="none")
    later = [document for document in MORE if document.content.strip()]
    add_documents(ListCorpus(later), path, encoder=HashingEncoder())
    codes = np.load(sorted(path.glob("segments/*/dense.codes.npy"))[-1])
    distinct = {tuple(sorted(document.content.split())) for document in later}
    assert len(np.unique(codes, axis=0)) >= 0.95 * len(distinct)
    vectors = {document.id: HashingEncoder().encode_documents([document])[0] for document in [*first, *later]}
    with open_index(path, encoder=HashingEncoder()) as index:
        for query in QUERIES:
            (own,) = HashingEncoder().encode_queries([query])
            hits = index.search(query, len(index), pipeline="dense").hits
            np.testing.assert_allclose([hit.score for hit in hits], [vectors[hit.id] @ own for hit in hits], atol=0.02)


@pytest.mark.parametrize("kind", ["binary", "pq32"])
def test_copies_of_one_text_and_few_documents_have_codes(tmp_path, kind):
    copies = [Document(str(number), "boundary layer pressure") for number in range(30)]
    build(tmp_path / "copies", corpus=[*copies, Document("empty", "")], dense=kind)
    build(tmp_path / "few", Constant(), corpus=DOCUMENTS[:9], dense=kind)
    build(tmp_path / "one", corpus=DOCUMENTS[:1], dense=kind)
    with open_index(tmp_path / "copies", encoder=HashingEncoder()) as index:
        assert len(index.search(QUERIES[0], 50, pipeline="dense").hits) == 30


@pytest.mark.parametrize("kind", ["binary", "opq8"])
def test_codes_are_read_once_for_all_generations(tmp_path, kind):
    path = build(tmp_path / "index", dense=kind, store="none")
    with open_index(path, encoder=HashingEncoder()) as index:
        index.warm()
        before = index.search(QUERIES[0], 5, pipeline="dense").ranking()
        for file in path.glob("segments/*/dense.codes.npy"):
            content = file.read_bytes()
            file.write_bytes(content[:128] + b"\xff" * (len(content) - 128))
        assert index.search(QUERIES[0], 5, pipeline="dense").ranking() == before
        delete_documents(path, [before[0][0]])
        with index.latest() as newer:
            assert newer is not index
            assert newer.search(QUERIES[0], 4, pipeline="dense").ranking() == before[1:]


def test_the_same_codes_of_another_codebook_are_not_taken_over(tmp_path):
    path = build(tmp_path / "index", dense="opq8", store="none")
    other = tmp_path / "other"
    shutil.copytree(path, other)
    manifest, _ = read_manifest(other)
    file = other / manifest.dense.codebook
    codebook = Codebook.load(file)
    # A codebook that was trained further, JPQ's, whose documents keep their centroids.
    write_codebook(file, Codebook(codebook.rotation, codebook.centroids * 2), manifest.dense.fingerprint)
    files = manifest.files | {file.name: describe_file(file)}
    publish(other, manifest.model_copy(update={"generation": manifest.generation + 1, "files": files}))
    with open_index(path, encoder=HashingEncoder()) as index:
        index.warm()
        before = index.search(QUERIES[0], 20, pipeline="dense").ranking()
        path.rename(tmp_path / "before")
        other.rename(path)
        with index.latest() as newer:
            assert_same(
                [newer.search(QUERIES[0], 20, pipeline="dense").ranking()],
                [[(id_, 2 * score) for id_, score in before]],
            )


@pytest.mark.parametrize(("kind", "scan"), [("binary", (hamming, "nearest_codes")), ("opq8", (pq, "best_codes"))])
def test_codes_are_scanned_before_the_first_query(tmp_path, monkeypatch, kind, scan):
    path = build(tmp_path / "index", dense=kind, store="float32")
    scanned = []
    original = getattr(*scan)

    def counting(codes, *arguments):
        scanned.append(codes.documents)
        return original(codes, *arguments)

    monkeypatch.setattr(*scan, counting)
    monkeypatch.setattr(dense, "LEAST_CANDIDATES", 10)
    with open_index(path, encoder=HashingEncoder()) as index:
        index.warm()
        assert scanned == [300, 300]


def test_codes_of_another_form_are_not_taken_over(tmp_path):
    signs = build(tmp_path / "signs", dense="binary", store="none")
    products = build(tmp_path / "products", dense="opq8", store="none")
    wanted = answers(products)
    with (
        open_index(signs, encoder=HashingEncoder()) as older,
        open_index(products, encoder=HashingEncoder()) as newer,
    ):
        older.warm()
        for mine, other in zip(newer.segments, older.segments, strict=True):
            mine.adopt(other)
        assert_same([answer.ranking() for answer in newer.batch_search(QUERIES, 20, pipeline="dense")], wanted)
