"""Indexes with a learned sparse part: built, changed, searched, verified."""

import pytest

from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import IndexCorrupt, IndexMismatch, InvalidInput, ModelFault
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec
from retriever.types import Document
from tests.factories import HashingEncoder, HashingTermEncoder, ListCorpus, random_documents

QUERIES = ["wing flow", "alpha beta gamma", "heat transfer in the boundary layer", "d1 n2"]


def build(path, documents, encoder=None, **settings):
    settings = {"parts": ("bm25", "sparse"), "shard_documents": 16} | settings
    return build_index(
        ListCorpus(documents),
        path,
        BuildSettings(**settings),
        encoder=HashingEncoder(),
        sparse_encoder=encoder or HashingTermEncoder(),
    )


def answers(path, pipeline="sparse", **options):
    with open_index(path, encoder=HashingEncoder(), sparse_encoder=HashingTermEncoder()) as index:
        texts = [document.text[:60] for document in index.documents([s.row(0) for s in index.segments]).values()]
        found = index.batch_search([*QUERIES, *texts[:1]], 10, pipeline=pipeline, **options)
        return [[(hit.id, round(hit.score, 4)) for hit in answer.hits] for answer in found][: len(QUERIES)]


@pytest.mark.parametrize("precision", ["uint8", "float32"])
def test_added_deleted_and_compacted_equals_new(tmp_path, precision):
    documents = random_documents(120, seed=3)
    path = tmp_path / "grown"
    build(path, documents[:50], sparse_precision=precision)
    add_documents(ListCorpus(documents[50:]), path, sparse_encoder=HashingTermEncoder(), shard_documents=16)
    gone = [documents[i].id for i in (0, 49, 50, 119)]
    delete_documents(path, gone)
    build(tmp_path / "new", [d for d in documents if d.id not in gone], sparse_precision=precision)
    expected = answers(tmp_path / "new")
    assert any(expected)
    assert answers(path) == expected
    compact_index(path)
    assert answers(path) == expected
    assert verify_index(path, canaries=False).sound


def test_scores_are_inner_products(tmp_path):
    documents = random_documents(60, seed=1)
    build(tmp_path / "index", documents, sparse_precision="float32")
    encoder = HashingTermEncoder()
    query = documents[7].text
    (wanted,) = encoder.encode_queries([query])
    by_hand = {
        document.id: sum(weight * wanted.get(term, 0.0) for term, weight in weights.items())
        for document, weights in zip(documents, encoder.encode_documents(documents), strict=True)
    }
    with open_index(tmp_path / "index", sparse_encoder=encoder) as index:
        hits = index.search(query, 20, pipeline="sparse").hits
    assert len(hits) == 20
    for hit in hits:
        assert hit.score == pytest.approx(by_hand[hit.id], rel=1e-5)
    assert {hit.id for hit in hits} == set(sorted(by_hand, key=lambda id_: -by_hand[id_])[:20])


def test_hybrid_of_three_parts_and_filters(tmp_path):
    documents = [
        Document(d.id, d.text, d.title, {"even": str(i % 2 == 0)}) for i, d in enumerate(random_documents(80, seed=0))
    ]
    build(tmp_path / "index", documents, parts=("bm25", "sparse", "dense"), fields={"even": "keyword"})
    with open_index(tmp_path / "index", encoder=HashingEncoder(), sparse_encoder=HashingTermEncoder()) as index:
        assert list(index.pipelines) == ["bm25", "sparse", "dense", "hybrid"]
        assert index.pipelines["hybrid"].fusion.method == "rrf"
        answer = index.search(documents[0].text, 10)
        assert {"bm25", "sparse", "dense", "fusion"} <= set(answer.hits[0].scores)
        assert {"encode_sparse", "sparse"} <= set(answer.timings)
        only = index.search(documents[0].text, 40, pipeline="sparse", filter={"even": "True"})
        assert {hit.document.metadata["even"] for hit in only.hits} == {"True"}
        described = index.describe()
    assert described["sparse"]["encoder"] == "splade-tiny"
    assert described["bytes"]["sparse"] > 0


def test_the_query_syntax_holds_for_what_weights_find(tmp_path):
    documents = [Document("both", "wing flow"), Document("one", "wing heat"), Document("other", "flow")]
    build(tmp_path / "index", documents)
    with open_index(tmp_path / "index", sparse_encoder=HashingTermEncoder()) as index:
        for pipeline in ("sparse", "hybrid"):
            hits = index.search("wing -heat", 5, pipeline=pipeline, syntax=True).hits
            assert [hit.id for hit in hits] == ["both"]
            hits = index.search("+wing", 5, pipeline=pipeline, syntax=True).hits
            assert {hit.id for hit in hits} == {"both", "one"}


def test_another_encoder_is_refused(tmp_path):
    path = tmp_path / "index"
    build(path, random_documents(20, seed=0))
    with (
        open_index(path, sparse_encoder=HashingTermEncoder(seed="other")) as index,
        pytest.raises(IndexMismatch, match="weights: the index has"),
    ):
        index.search("wing", 3, pipeline="sparse")
    with pytest.raises(IndexMismatch, match="made with another encoder"):
        add_documents(
            ListCorpus(random_documents(3, seed=5, prefix="n")), path, sparse_encoder=HashingTermEncoder(seed="other")
        )


def test_a_failing_encoder_degrades_or_says_so(tmp_path):
    path = tmp_path / "index"
    build(path, [Document("a", "wing flow"), Document("b", "heat")])
    with open_index(path, sparse_encoder=HashingTermEncoder(broken=["wing"])) as index:
        both = index.search("wing", 3, pipeline=PipelineSpec(first=("bm25", "sparse")))
        assert both.degraded == ["sparse_failed"]
        assert [hit.id for hit in both.hits] == ["a"]
        with pytest.raises(ModelFault, match="not finite for 'wing'"):
            index.search("wing", 3, pipeline="sparse")


def test_unusable_weights_stop_the_build_unless_allowed(tmp_path):
    documents = [Document("good", "wing"), Document("bad", "wing broken"), Document("empty", " ")]
    with pytest.raises(ModelFault, match=r"unusable weights for 1 documents: bad.*--max-bad-vectors"):
        build(tmp_path / "a", documents, HashingTermEncoder(broken=["broken"]))
    report = build(tmp_path / "b", documents, HashingTermEncoder(broken=["broken"]), max_bad_vectors=1)
    assert report["bad_vectors"] == ["bad"]
    assert [id_ for id_, _ in answers(tmp_path / "b")[0]] == ["good"]


def test_weights_beyond_the_levels_are_counted(tmp_path):
    report = build(tmp_path / "a", [Document("a", "wing " * 40)], sparse_step=1 / 64)
    assert report["clipped"] == 2


def test_a_flipped_bit_is_an_error_at_opening(tmp_path):
    build(tmp_path / "index", random_documents(30, seed=0))
    path = next((tmp_path / "index").glob("segments/*/impacts.codes.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match=r"impacts.codes.npy was altered"):
        open_index(tmp_path / "index")


def test_an_index_without_the_part_says_so(tmp_path):
    build(tmp_path / "index", random_documents(5, seed=0), parts=("bm25",))
    with open_index(tmp_path / "index") as index, pytest.raises(InvalidInput, match="no learned sparse part"):
        index.search("wing", 3, pipeline=PipelineSpec(first=("sparse",)))


def test_pooling_in_portions_gives_the_librarys_weights(monkeypatch):
    from retriever import term_encoder

    texts = ["what causes rain", "", "The quick brown fox jumps over the lazy dog. " * 20, "Übergröße 日本語 🙂"]
    fast = term_encoder.load_term_encoder("splade-tiny", device="cpu")
    monkeypatch.setattr(term_encoder, "_pool_in_portions", lambda model: False)
    slow = term_encoder.load_term_encoder("splade-tiny", device="cpu")
    assert type(fast.model[1]) is not type(slow.model[1])
    assert fast.fingerprint() == slow.fingerprint()
    for a, b in zip(fast.encode_queries(texts), slow.encode_queries(texts), strict=True):
        for term in a.keys() | b.keys():
            assert a.get(term, 0.0) == pytest.approx(b.get(term, 0.0), abs=1e-4)
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    assert fast.encode_documents(documents)[2].keys() == fast.encode_queries(texts)[2].keys()


def test_a_real_encoder_finds_without_common_words(pydocs, tmp_path):
    from indexing.corpora import open_corpus
    from retriever.evaluation.collections import open_collection

    path = tmp_path / "index"
    build_index(open_corpus(str(pydocs)), path, BuildSettings(parts=("sparse",)))
    collection = open_collection(str(pydocs), "test")
    with open_index(path) as index:
        first = 0
        queries = list(collection.judged.items())[:40]
        for id_, text in queries:
            hits = index.search(text, 10).hits
            first += any(collection.qrels[id_].get(hit.id, 0) > 0 for hit in hits)
    # A chance hit among ten of 300 has a probability of 0.03.
    assert first >= len(queries) // 3
