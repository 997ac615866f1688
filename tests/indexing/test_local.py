"""Indexes with local vectors: a second encoder that puts in order what codes or words found."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents, store_pipelines
from indexing.journal import Operation
from indexing.live import add_vectors, apply_operations, encode_waiting
from indexing.plan import BuildSettings
from indexing.recoding import recode_index
from indexing.verification import verify_index
from retriever.cli import build_app
from retriever.errors import IndexCorrupt, IndexMismatch, InvalidInput, ModelFault
from retriever.index.form import Form
from retriever.index.manifest import read_manifest
from retriever.index.sealed import open_index
from retriever.models import resolve
from retriever.pipeline import Fusion, Local, PipelineSpec
from retriever.search import fuse
from retriever.types import Document
from tests.factories import HashingEncoder, ListCorpus, random_documents

DOCUMENTS = random_documents(150, 1)
MORE = random_documents(30, 2, prefix="m")
QUERIES = ["boundary layer pressure", "supersonic wing drag", "creep of a shell"]
FIELDS = {"kind": "keyword"}
GLOBAL, LOCAL = HashingEncoder(32), HashingEncoder(48, seed="local")


def build(path, documents=DOCUMENTS, overwrite=False, **settings):
    settings = {"dense": "binary", "store": "none", "local_encoder": "second", "local_store": "float32"} | settings
    settings = BuildSettings(shard_documents=40, segment_documents=80, fields=FIELDS, **settings)
    build_index(ListCorpus(documents), path, settings, encoder=GLOBAL, local_encoder=LOCAL, overwrite=overwrite)
    return path


def opened(path, local=LOCAL):
    return open_index(path, encoder=GLOBAL, local_encoder=local)


def answers(path, **options):
    with opened(path) as index:
        return [answer.ranking() for answer in index.batch_search(QUERIES, 400, **options)]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert [id_ for id_, _ in one] == [id_ for id_, _ in other]
        np.testing.assert_allclose([score for _, score in one], [score for _, score in other], rtol=1e-5, atol=1e-6)


def by_hand(first, documents, depth, weight=0.3):
    """Return each query's ranking: the best `depth` by both scores, and how many of them there are."""
    vectors = dict(zip([d.id for d in documents], LOCAL.encode_documents(documents), strict=True))
    found = []
    for query, ranking in zip(LOCAL.encode_queries(QUERIES), first, strict=True):
        scored = [(id_, float(vectors[id_] @ query) + weight * score) for id_, score in ranking[:depth]]
        found.append(sorted(scored, key=lambda pair: (-pair[1], pair[0])))
    return found


def test_codes_find_and_local_vectors_put_in_order(tmp_path):
    path = build(tmp_path / "index")
    manifest, _ = read_manifest(path)
    assert manifest.default_pipeline == "local"
    assert len(manifest.segments) == 2
    names = {Path(name).name for segment in manifest.segments for name in segment.files}
    assert {"dense.codes.npy", "local.vectors.npy", "local.absent.npy"} <= names
    assert "dense.vectors.npy" not in names
    first = answers(path, pipeline="dense")
    assert_same(answers(path), by_hand(first, DOCUMENTS, 1000))
    shallow = PipelineSpec(first=("dense",), local=Local(depth=20, weight=2.0))
    wanted = by_hand(first, DOCUMENTS, 20, 2.0)
    for found, head, before in zip(answers(path, pipeline=shallow), wanted, first, strict=True):
        assert_same([found[:20]], [head])
        # What was not looked at follows in its order, with its distances, below the rest.
        assert [id_ for id_, _ in found[20:]] == [id_ for id_, _ in before[20:]]
        assert found[20][1] == pytest.approx(found[19][1] - 1)
        assert found[20][1] - found[30][1] == pytest.approx(before[20][1] - before[30][1], abs=1e-5)


@pytest.mark.parametrize("method", ["minmax", "rrf"])
@pytest.mark.parametrize("depth", [1000, 20])
def test_what_vectors_found_is_put_in_order_before_it_is_fused(tmp_path, method, depth):
    path, fusion = build(tmp_path / "index"), Fusion(method=method)
    local = Local(of="dense", depth=depth)
    alone = answers(path, pipeline=PipelineSpec(first=("dense",), local=local))
    assert_same(alone, answers(path, pipeline=PipelineSpec(first=("dense",), local=Local(depth=depth))))
    both = PipelineSpec(first=("bm25", "dense"), fusion=fusion, local=local)
    lists = zip(answers(path, pipeline="bm25"), alone, strict=True)
    assert_same(answers(path, pipeline=both), [fuse({"bm25": words, "dense": d}, fusion) for words, d in lists])
    with opened(path) as index:
        hit = next(
            hit for hit in index.search(QUERIES[0], 5, pipeline=both, explain=True).hits if "dense" in hit.scores
        )
        assert set(hit.explanation.ranks) >= {"dense", "fusion", "local"}
    # Vectors that cannot be had leave the list as codes gave it.
    with opened(path, HashingEncoder(48, seed="local", broken=["supersonic"])) as index:
        answer = index.search("supersonic wing drag", 400, pipeline=both)
        assert answer.degraded == ["local_failed"]
        assert answer.ranking() == index.search("supersonic wing drag", 400, pipeline=both.without("local")).ranking()


def test_of_dense_needs_dense():
    local = Local(of="dense")
    with pytest.raises(ValueError, match=r"not among the first stages \['bm25'\]"):
        PipelineSpec(first=("bm25",), local=local)
    both = PipelineSpec(first=("bm25", "dense"), local=local)
    assert both.without("dense") == PipelineSpec(first=("bm25",))
    assert both.without("bm25").local == local
    assert (both.last, both.without("bm25").last) == (None, "local")
    assert (both.model_copy(update={"local": Local()}).last, PipelineSpec(first=("bm25",)).last) == ("local", None)


def test_each_stage_shows_its_score(tmp_path):
    with opened(build(tmp_path / "index")) as index:
        answer = index.search(QUERIES[0], 3, explain=True)
        hit = answer.hits[0]
        assert set(hit.scores) == {"dense", "local"}
        assert hit.score == pytest.approx(hit.scores["local"] + 0.3 * hit.scores["dense"], abs=1e-5)
        assert hit.explanation.ranks["local"] >= 1
        assert {"local", "encode_local"} <= set(answer.timings)
        assert index.describe()["bytes"]["local"] > 150 * 48 * 4
        both = PipelineSpec(first=("bm25", "dense"), local=Local())
        assert set(index.search(QUERIES[0], 1, pipeline=both).hits[0].scores) == {"bm25", "dense", "fusion", "local"}
        without = index.search(QUERIES[0], 3, pipeline=both.without("local"))
        assert all("local" not in hit.scores for hit in without.hits)


def test_filters_deletions_and_additions(tmp_path):
    path = build(tmp_path / "index")
    with opened(path) as index:
        assert all(
            hit.document.metadata["kind"] == "paper"
            for hit in index.search(QUERIES[0], 50, filter={"kind": "paper"}).hits
        )
    add_documents(ListCorpus(MORE), path, encoder=GLOBAL, local_encoder=LOCAL)
    gone = [document.id for document in DOCUMENTS[10:100:3]]
    delete_documents(path, gone)
    living = [document for document in [*DOCUMENTS, *MORE] if document.id not in gone]
    fresh = build(tmp_path / "fresh", living)
    assert_same(answers(path), answers(fresh))
    compact_index(path)
    assert len(read_manifest(path)[0].segments) == 1
    assert_same(answers(path), answers(fresh))
    assert verify_index(path, encoder=GLOBAL, local_encoder=LOCAL).sound


def test_changes_in_service_get_local_vectors_too(tmp_path):
    path = build(tmp_path / "index")
    new = Document("new", "boundary layer pressure", "new", {"kind": "paper"})
    apply_operations(path, [Operation(1, "new", new, 1)])
    words = PipelineSpec(first=("bm25",), local=Local(depth=10))
    with opened(path) as index:
        answer = index.search(QUERIES[0], 10, pipeline=words)
        assert (answer.exact, answer.warnings) == (False, ["pending_encoding:1"])
        assert index.search(QUERIES[0], 10, pipeline="bm25").exact
        found = answer.hits
        waiting = next(hit for hit in found if hit.id == "new")
        assert set(waiting.scores) == {"bm25"}
        assert waiting.score < min(hit.score for hit in found if "local" in hit.scores)
    add_vectors(path, encode_waiting(path, GLOBAL, None, local_encoder=LOCAL))
    with opened(path) as index:
        answer = index.search(QUERIES[0], 10, pipeline=words)
        assert (answer.exact, answer.warnings) == (True, [])
        hits = {hit.id: hit for hit in answer.hits}
    (own,), (query,) = LOCAL.encode_documents([new]), LOCAL.encode_queries(QUERIES[:1])
    assert hits["new"].scores["local"] == pytest.approx(float(own @ query), abs=1e-5)


def test_overwriting_leaves_nothing_of_older_generations(tmp_path):
    for _ in range(3):
        path = build(tmp_path / "index", DOCUMENTS[:40], overwrite=True)
    assert verify_index(path, encoder=GLOBAL, local_encoder=LOCAL).warnings == []
    assert {found.name for found in path.glob("local-canaries-*")} == {f"local-canaries-00000{n}.npy" for n in (2, 3)}


def test_another_local_encoder_is_refused(tmp_path):
    path = build(tmp_path / "index")
    other = HashingEncoder(48, seed="other")
    with opened(path, other) as index, pytest.raises(IndexMismatch, match="another encoder"):
        index.search(QUERIES[0])
    with pytest.raises(IndexMismatch, match="another encoder"):
        add_documents(ListCorpus(MORE), path, encoder=GLOBAL, local_encoder=other)


def test_a_fault_of_the_local_encoder_only_degrades(tmp_path):
    path = build(tmp_path / "index")
    broken = HashingEncoder(48, seed="local", broken=["supersonic"])
    with opened(path, broken) as index:
        answer = index.search("supersonic wing drag", 5)
        assert answer.degraded == ["local_failed"]
        assert answer.ranking() == index.search("supersonic wing drag", 5, pipeline="dense").ranking()


def test_local_vectors_survive_another_form_of_the_others(tmp_path):
    path = build(tmp_path / "index", dense="flat", store="float32")
    recode_index(path, tmp_path / "codes", Form(32, "binary", "none"))
    first = answers(tmp_path / "codes", pipeline="dense")
    assert_same(answers(tmp_path / "codes"), by_hand(first, DOCUMENTS, 1000))


def test_the_window_fits_every_encoder(tmp_path):
    short, long, settings = HashingEncoder(48), HashingEncoder(32), BuildSettings(window=32, overlap=8)
    short.max_tokens = 16
    chunks = settings.model_copy(update={"local_encoder": "second"})
    with pytest.raises(InvalidInput, match="window of 32 tokens is longer than the local encoder's 16"):
        build_index(ListCorpus(DOCUMENTS[:5]), tmp_path / "index", chunks, encoder=long, local_encoder=short)
    with pytest.raises(InvalidInput, match="window of 32 tokens is longer than the encoder's 16"):
        build_index(ListCorpus(DOCUMENTS[:5]), tmp_path / "index", settings, encoder=short)


def test_an_encoder_object_has_a_name_of_its_own(tmp_path):
    with pytest.raises(InvalidInput, match="set `local_encoder` in the settings"):
        build_index(ListCorpus(DOCUMENTS[:5]), tmp_path / "index", encoder=GLOBAL, local_encoder=LOCAL)
    named = HashingEncoder(48, seed="local")
    named.name = "second"
    build_index(ListCorpus(DOCUMENTS[:5]), tmp_path / "index", encoder=GLOBAL, local_encoder=named)
    assert read_manifest(tmp_path / "index")[0].local.encoder == "second"


def test_a_document_that_no_model_can_encode_counts_once(tmp_path):
    settings = BuildSettings(local_encoder="second", shard_documents=10, max_bad_vectors=2)

    def built(documents, one, other):
        encoders = {
            "encoder": HashingEncoder(broken=[one]),
            "local_encoder": HashingEncoder(48, seed="local", broken=[other]),
        }
        return build_index(ListCorpus(documents), tmp_path / "index", settings, overwrite=True, **encoders)

    some = [document for document in DOCUMENTS if document.content.strip()][:30]
    poison, bane = Document("poison", "poison"), Document("bane", "bane")
    assert built([poison, *some, bane], "poison", "poison")["bad_vectors"] == ["poison"]
    assert built([poison, *some, bane], "poison", "bane")["bad_vectors"] == ["poison", "bane"]
    third = Document("both", "bane poison")
    with pytest.raises(ModelFault, match="unusable vectors for 1 documents: both"):
        built([poison, *some[:15], bane, *some[15:], third], "poison", "bane")


def test_bad_input(tmp_path):
    plain = tmp_path / "plain"
    build_index(ListCorpus(DOCUMENTS[:40]), plain, BuildSettings(), encoder=GLOBAL)
    spec = PipelineSpec(first=("dense",), local=Local())
    with open_index(plain, encoder=GLOBAL) as index, pytest.raises(InvalidInput, match="--local-encoder"):
        index.search(QUERIES[0], pipeline=spec)
    with pytest.raises(InvalidInput, match="local vectors"):
        store_pipelines(plain, {"two": spec})
    path = build(tmp_path / "index")
    vectors = next(path.glob("segments/*/local.vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(IndexCorrupt, match="local.vectors"):
        opened(path)


def test_the_commands(tmp_path):
    lines = [
        json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(["open a file", "sort a list", "a port"])
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "how is a file opened"}))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    second, moved = tmp_path / "second", str(tmp_path / "moved")
    second.symlink_to(resolve("all-MiniLM-L6-v2", offline=True))
    arguments = ["index", "build", str(tmp_path / "corpus.jsonl"), str(tmp_path / "index"), "--dense", "binary"]
    arguments += ["--store", "none", "--local-encoder", str(second), "--offline", "--quiet"]
    assert CliRunner().invoke(build_app("index"), arguments, catch_exceptions=False).exit_code == 0
    # A model that is elsewhere now is named anew.
    second.rename(moved)
    index, options = str(tmp_path / "index"), ["--local-encoder", moved, "--json", "--offline"]
    arguments = ["search", index, "how is a file opened", *options]
    found = CliRunner().invoke(build_app("search"), arguments, catch_exceptions=False)
    hit = json.loads(found.stdout)["hits"][0]
    assert hit["id"] == "0"
    assert hit["score"] == pytest.approx(hit["scores"]["local"] + 0.3 * hit["scores"]["dense"], abs=1e-4)
    arguments = ["index", "verify", index, *options]
    assert json.loads(CliRunner().invoke(build_app("index"), arguments).stdout)["sound"]
    arguments = ["eval", "run", index, str(tmp_path), "--output", str(tmp_path / "runs"), "-p", "local", *options]
    (record,) = json.loads(CliRunner().invoke(build_app("eval"), arguments, catch_exceptions=False).stdout)
    assert record["means"]["nDCG@10"] == 1
    assert record["answers"].get("degraded", 0) == 0
