"""Searching a real index of real docstrings with a real encoder: modes, filters, honesty, bad requests."""

import sqlite3
import threading
from contextlib import closing

import numpy as np
import pytest
from pydantic import ValidationError

import retriever
from indexing.build import build_index
from indexing.plan import BuildSettings
from retriever.encoder import load_encoder
from retriever.errors import DeadlineExceeded, IndexMismatch, InvalidInput, ModelFault, ModelOverloaded
from retriever.fusion import reciprocal_rank, weighted_minmax
from retriever.index.sealed import open_index
from retriever.pipeline import Fusion, PipelineSpec, Rerank, read_pipelines
from retriever.types import Document
from tests.factories import HashingEncoder, ListCorpus

QUERY = "decode a JSON document from a string"


@pytest.fixture(scope="module")
def index(small_index, encoder):
    with open_index(small_index, encoder=encoder) as opened:
        yield opened


class LengthReranker:
    """Prefers short documents; stands in for a model whose order is known beforehand."""

    name = "length"

    def __init__(self, fault=None, value=None):
        self.fault = fault
        self.value = value
        self.calls = 0

    def score(self, query, documents):
        self.calls += 1
        if self.fault:
            raise self.fault
        if self.value is not None:
            return np.full(len(documents), self.value, np.float32), 0
        return np.array([-len(document.text) for document in documents], np.float32), 1


@pytest.mark.parametrize("pipeline", ["bm25", "dense", "hybrid"])
def test_the_right_document_is_near_the_top(index, pipeline):
    answer = index.search(QUERY, 5, pipeline=pipeline)
    assert any(hit.id.startswith("json.") for hit in answer.hits)
    assert answer.status == "exact"
    assert answer.pipeline == pipeline
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
    assert answer.timings["total"] > 0
    assert all(np.isfinite(score) for hit in answer.hits for score in hit.scores.values())


@pytest.mark.parametrize("grouped", [False, True])
def test_a_record_that_is_missing_costs_its_hit_the_text(tmp_path, grouped):
    documents = [Document("a", "a wing"), Document("b", "a wing and a flow")]
    build_index(ListCorpus(documents), tmp_path / "index", BuildSettings(parts=("bm25",)))
    with closing(sqlite3.connect(tmp_path / "index" / "documents.sqlite")) as records, records:
        records.execute("DELETE FROM documents WHERE id = 'b'")
    with open_index(tmp_path / "index") as index:
        hits = index.search("wing flow", 5, group_by_parent=grouped, highlight=True, explain=True).hits
    assert [(hit.id, hit.document) for hit in hits] == [("b", None), ("a", documents[0])]


def test_hybrid_is_the_fusion_of_its_parts(index):
    parts = {p: index.search(QUERY, 1000, pipeline=p).ranking() for p in ("bm25", "dense")}
    rrf = PipelineSpec(first=("bm25", "dense"), fusion=Fusion(method="rrf", constant=7))
    assert index.search(QUERY, 50, pipeline=rrf).ranking() == reciprocal_rank(parts, constant=7)[:50]
    weights = {"bm25": 0.4, "dense": 0.6}
    fused = weighted_minmax(parts, weights=weights)[:50]
    assert index.search(QUERY, 50, pipeline="hybrid").ranking() == fused


def test_a_batch_answers_like_single_queries(index):
    queries = [QUERY, "parse command line arguments", "compress files into an archive"]
    for pipeline in index.pipelines:
        batch = index.batch_search(queries, 10, pipeline=pipeline)
        for query, answer in zip(queries, batch, strict=True):
            single = index.search(query, 10, pipeline=pipeline)
            assert [hit.id for hit in answer.hits] == [hit.id for hit in single.hits]
            np.testing.assert_allclose(
                [hit.score for hit in answer.hits], [hit.score for hit in single.hits], rtol=1e-3, atol=1e-4
            )


def test_many_threads_get_the_same_answers(index):
    expected = index.search(QUERY, 10, pipeline="hybrid").ranking()
    found = []

    def ask():
        found.append(index.search(QUERY, 10, pipeline="hybrid").ranking())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ranking for ranking in found if [i for i, _ in ranking] != [i for i, _ in expected]] == []
    assert len(found) == 8


def test_pages_follow_each_other(index):
    whole = index.search(QUERY, 20).ranking()
    assert index.search(QUERY, 5, offset=10).ranking() == whole[10:15]


def test_filters_keep_only_what_matches_and_the_order(index):
    condition = {"kind": {"in": ["function", "method"]}, "lines": {"lt": 20}, "not": {"module": "json"}}
    everything = index.search(QUERY, 1000, pipeline="dense")
    answer = index.search(QUERY, 1000, pipeline="dense", filter=condition)
    assert answer.hits
    assert answer.exact
    kept = [
        hit.id
        for hit in everything.hits
        if hit.document.metadata["kind"] != "class"
        and hit.document.metadata["lines"] < 20
        and hit.document.metadata["module"] != "json"
    ]
    assert [hit.id for hit in answer.hits] == kept


def test_a_filter_that_matches_nothing(index):
    answer = index.search(QUERY, 5, filter={"module": "no such module"})
    assert (answer.hits, answer.status) == ([], "exact")


def test_highlights_mark_words_of_the_query(index):
    answer = index.search(QUERY, 5, pipeline="bm25", highlight=True)
    marked = {hit.document.text[start:end].lower() for hit in answer.hits for start, end in hit.highlights}
    assert marked & {"json", "decode", "decoded", "decoding", "string", "strings", "document", "documents"}
    assert not marked & {"the", "a"}


def test_facets(index):
    assert dict(index.facets("kind")).keys() == {"class", "function", "method"}
    with pytest.raises(InvalidInput, match="is not a field"):
        index.facets("colour")


def test_words_that_are_nowhere(index):
    answer = index.search("xyzzyx qwrtpl", 5, pipeline="bm25")
    assert (answer.hits, answer.warnings) == ([], ["no_terms"])
    assert index.search("the of and", 5, pipeline="bm25").warnings == ["no_terms"]
    assert len(index.search("the of and", 5, pipeline="hybrid").hits) == 5


def test_a_query_beyond_the_encoder_is_reported(index):
    answer = index.search("json decoder " * 500, 3, pipeline="dense")
    assert (answer.truncated, answer.status) == (True, "truncated")
    assert index.search("json " * 20_000, 3, pipeline="bm25").truncated


@pytest.mark.parametrize("query", ["", "   ", "\n\t", None, 5])
def test_an_empty_query(index, query):
    with pytest.raises(InvalidInput, match="the query is empty"):
        index.search(query)


@pytest.mark.parametrize("k", [0, -1, 2.5, 10**9, True, "10"])
def test_k_out_of_range(index, k):
    with pytest.raises(InvalidInput, match="k must be a whole number from 1 to 10000"):
        index.search(QUERY, k)


def test_offset_out_of_range(index):
    with pytest.raises(InvalidInput, match=r"k \+ offset must be at most 10000"):
        index.search(QUERY, 9000, offset=2000)
    with pytest.raises(InvalidInput, match="offset must be a whole number"):
        index.search(QUERY, offset=-1)


def test_k_beyond_the_documents_gives_all_of_them(index):
    assert len(index.search(QUERY, 10_000, pipeline="dense").hits) == len(index) == 300


def test_an_unknown_pipeline(index):
    with pytest.raises(InvalidInput, match="unknown pipeline 'fast'; this index offers bm25, dense, hybrid"):
        index.search(QUERY, pipeline="fast")


def reranked(depth=10, weight=1.0, **options):
    rerank = Rerank(model="length", depth=depth, weight=weight)
    return PipelineSpec(first=("bm25", "dense"), rerank=rerank, **options)


def test_reranking_reorders_the_top_and_keeps_the_rest_below(index):
    index.use_reranker("length", LengthReranker())
    before = index.search(QUERY, 30)
    answer = index.search(QUERY, 30, pipeline=reranked())
    lengths = [len(hit.document.text) for hit in answer.hits[:10]]
    assert lengths == sorted(lengths)
    assert {hit.id for hit in answer.hits[:10]} == {hit.id for hit in before.hits[:10]}
    assert [hit.id for hit in answer.hits[10:]] == [hit.id for hit in before.hits[10:]]
    assert [hit.score for hit in answer.hits] == sorted((h.score for h in answer.hits), reverse=True)
    assert "rerank" in answer.hits[0].scores
    assert "rerank" not in answer.hits[10].scores
    assert answer.warnings == ["rerank_truncated_documents:1"]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9])
def test_a_weight_mixes_the_reranker_with_the_stages_before(index, weight):
    index.use_reranker("length", LengthReranker())
    before = index.search(QUERY, 30)
    answer = index.search(QUERY, 30, pipeline=reranked(weight=weight))
    first = np.array([hit.score for hit in before.hits[:10]])
    raw = np.array([-len(hit.document.text) for hit in before.hits[:10]], np.float64)
    stretched = [(part - part.min()) / (part.max() - part.min()) for part in (first, raw)]
    mixed = (1 - weight) * stretched[0] + weight * stretched[1]
    expected = {hit.id: score for hit, score in zip(before.hits, mixed, strict=False)}
    assert {hit.id: hit.score for hit in answer.hits[:10]} == pytest.approx(expected)
    assert [hit.score for hit in answer.hits] == sorted((h.score for h in answer.hits), reverse=True)
    assert [hit.id for hit in answer.hits[10:]] == [hit.id for hit in before.hits[10:]]
    # The hit still tells what the reranker itself gave.
    assert all(hit.scores["rerank"] == -len(hit.document.text) for hit in answer.hits[:10])
    if weight == 0:
        assert [hit.id for hit in answer.hits] == [hit.id for hit in before.hits]


def test_a_weight_out_of_range():
    for weight in (-0.1, 1.1):
        with pytest.raises(ValidationError, match="weight"):
            reranked(weight=weight)


@pytest.mark.parametrize(
    ("broken", "note"),
    [
        (LengthReranker(fault=ModelFault("NaN")), "rerank_failed"),
        (LengthReranker(fault=RuntimeError("CUDA error")), "rerank_failed"),
        (LengthReranker(value=0.0), "rerank_constant_or_nan"),
        (LengthReranker(value=float("nan")), "rerank_constant_or_nan"),
    ],
)
def test_a_reranker_that_fails_leaves_the_order_and_is_named(index, broken, note):
    index.use_reranker("length", broken)
    answer = index.search(QUERY, 10, pipeline=reranked())
    assert (answer.status, answer.degraded) == ("degraded", [note])
    assert answer.ranking() == index.search(QUERY, 10).ranking()


def test_a_reranker_that_is_too_slow_is_left_out(index):
    slow = LengthReranker()

    def score(query, documents, original=slow.score):
        import time

        time.sleep(0.05)
        return original(query, documents)

    slow.score = score
    index.use_reranker("length", slow)
    index.search(QUERY, 5)
    answer = index.search(QUERY, 20, pipeline=reranked(depth=200), deadline_ms=120)
    assert answer.degraded == ["rerank_timeout"]
    assert slow.calls < 25


def test_pipelines_can_lose_stages():
    spec = reranked()
    assert spec.without("rerank").rerank is None
    assert spec.without("dense").first == ("bm25",)
    with pytest.raises(InvalidInput, match="no first stage would be left"):
        spec.without("dense", "bm25")
    with pytest.raises(InvalidInput, match=r"cannot leave out \['magic'\]"):
        spec.without("magic")


def test_pipelines_from_yaml(tmp_path):
    path = tmp_path / "pipelines.yaml"
    path.write_text("mine:\n  first: [bm25, dense]\n  fusion: {method: rrf, constant: 10}\n")
    assert read_pipelines(path)["mine"].fusion.constant == 10
    for content, message in [
        ("mine:\n  first: [magic]\n", "pipeline 'mine'"),
        ("mine:\n  first: []\n", "pipeline 'mine'"),
        ("mine:\n  first: [bm25, bm25]\n", "stands twice"),
        ("mine:\n  first: [bm25]\n  speed: high\n", "pipeline 'mine'"),
        ("[1, 2]", "must map names to pipelines"),
        ("a: [", "cannot read pipelines"),
    ]:
        path.write_text(content)
        with pytest.raises(InvalidInput, match=message):
            read_pipelines(path)


def test_the_same_weights_in_another_place_are_accepted_and_others_are_not(small_index, encoder, tmp_path):
    encoder.model.save_pretrained(str(tmp_path / "copy"))
    with open_index(small_index, encoder=str(tmp_path / "copy")) as index:
        assert index.search(QUERY, 3, pipeline="dense").hits
        assert index.check_canaries() < 1e-5
    shorter = load_encoder(tmp_path / "copy", device="cpu")
    shorter.model.max_seq_length = 64
    changed = type(shorter)(shorter.model, name="shorter")
    with (
        open_index(small_index, encoder=changed) as index,
        pytest.raises(IndexMismatch, match="max_tokens: the index has '256', the encoder has '64'"),
    ):
        index.search(QUERY, 3, pipeline="dense")


def test_bfloat16_is_close_enough_to_query_a_float32_index(small_index):
    half = load_encoder("all-MiniLM-L6-v2", device="cpu", precision="bfloat16")
    with open_index(small_index, encoder=half) as index:
        assert index.check_canaries() < 1e-3
        assert index.search(QUERY, 3, pipeline="dense").hits


def test_opening_and_searching_make_no_network_call(small_index, no_network):
    with retriever.open(small_index, offline=True) as index:
        assert index.search(QUERY, 3).hits


def test_encoding_does_not_depend_on_the_company(encoder):
    texts = ["short", "a text of medium length about decoding", "long " * 200]
    alone = np.concatenate([encoder.encode_queries([text]) for text in texts])
    together = encoder.encode_queries(texts)
    np.testing.assert_allclose(alone, together, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_encoding_from_many_threads_gives_the_same_vectors(encoder):
    texts = [f"text {n} " + "word " * (n * 40) for n in range(10)]
    expected = encoder.encode_queries(texts)
    drifts = []

    def work():
        encoder.count_tokens(texts)
        drifts.append(float(np.abs(encoder.encode_queries(texts) - expected).max()))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drifts) == 6
    assert max(drifts) < 1e-5


def test_minilm_gives_its_known_cosines(encoder):
    person, *others = encoder.encode_queries(
        ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    )
    assert [float(person @ other) for other in others] == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-3)


def test_texts_without_content_are_indexed_but_found_by_nothing(tmp_path):
    documents = [Document("empty", ""), Document("blank", "  \n "), Document("emoji", "😀"), Document("stop", "the of")]
    documents.append(Document("real", "wing flow"))
    settings = BuildSettings(encoder="hashing")
    report = build_index(ListCorpus(documents), tmp_path / "index", settings, encoder=HashingEncoder())
    assert report["empty"] == 2
    with open_index(tmp_path / "index", encoder=HashingEncoder()) as index:
        dense = {hit.id for hit in index.search("wing", 10, pipeline="dense").hits}
        assert dense == {"emoji", "stop", "real"}
        assert [hit.id for hit in index.search("😀", 10, pipeline="bm25").hits] == ["emoji"]
        assert index.get("empty").text == ""


def test_a_description_is_ready_for_json(index):
    import json

    described = json.loads(json.dumps(index.describe()))
    assert described["documents"] == 300
    assert described["dense"]["encoder"] == "all-MiniLM-L6-v2"
    assert described["bytes"]["total"] > described["bytes"]["dense"] > 300 * 384 * 4


class LateEncoder(HashingEncoder):
    """An encoder behind a queue that no query leaves in time."""

    def encode_queries_until(self, queries, deadline):
        return None


def test_when_no_first_stage_is_left_the_reason_is_raised(tmp_path):
    documents = [Document(str(number), f"text {number} of many") for number in range(5)]
    build_index(ListCorpus(documents), tmp_path / "index", BuildSettings(encoder="hashing"), encoder=LateEncoder())
    with open_index(tmp_path / "index", encoder=LateEncoder()) as late:
        answer = late.search("text", 3, pipeline="hybrid", deadline_ms=1000)
        assert (answer.degraded, answer.warnings, len(answer.hits)) == (["dense_timeout"], [], 3)
        with pytest.raises(DeadlineExceeded, match="1000 ms"):
            late.search("text", 3, pipeline="dense", deadline_ms=1000)
        assert len(late.search("text", 3, pipeline="dense").hits) == 3
        late.use_reranker("length", LengthReranker(fault=ModelOverloaded("busy", 3)))
        answer = late.search("text", 3, pipeline=PipelineSpec(first=("bm25",), rerank=Rerank(model="length")))
        assert (answer.degraded, answer.warnings) == (["rerank_failed"], ["rerank_overloaded"])
