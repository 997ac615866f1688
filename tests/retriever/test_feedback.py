"""Feedback: the formulas by hand, and the stage on real docstrings, with filters, pages, chunks and nothing to learn."""

import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from indexing.build import build_index
from indexing.change import compact_index, delete_documents
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.feedback import Frequencies, rm3, rocchio
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec, Rm3, Rocchio, read_pipelines
from retriever.types import Document
from server.app import create_app
from server.settings import Settings
from tests.factories import HashingEncoder, ListCorpus, random_documents

QUERY = "decode a JSON document from a string"
PLAIN = PipelineSpec(first=("bm25",))
RARE = Frequencies(100, {"heat": 5, "flow": 5, "wing": 10, "drag": 1, "often": 11, "x": 1, "é1": 1, "a" * 21: 1})
METHODS = [Rm3(), Rocchio(), Rocchio(last_documents=10)]


def bm25(feedback, **options):
    return PipelineSpec(first=("bm25",), feedback=feedback, **options)


@pytest.fixture(scope="module")
def index(pydocs, tmp_path_factory):
    path = tmp_path_factory.mktemp("feedback") / "index"
    fields = {"module": "keyword", "kind": "keyword", "lines": "number"}
    build_index(open_corpus(str(pydocs)), path, BuildSettings(parts=("bm25",), fields=fields, segment_documents=100))
    with open_index(path) as opened:
        yield opened


def test_rm3_by_hand():
    documents = [{"heat": 2, "wing": 2, "often": 9}, {"wing": 1, "drag": 3}]
    weights = rm3({"heat": 2, "flow": 1}, documents, [3.0, 1.0], RARE)
    # Relevance model: heat 3 * 2/4, wing 3 * 2/4 + 1 * 1/4, drag 1 * 3/4, of together 4; the query has 3 words.
    assert weights == pytest.approx(
        {
            "heat": 0.5 * 2 + 0.5 * 3 * 1.5 / 4,
            "flow": 0.5 * 1,
            "wing": 0.5 * 3 * 1.75 / 4,
            "drag": 0.5 * 3 * 0.75 / 4,
        }
    )
    assert list(weights)[:2] == ["heat", "flow"]


def test_rm3_cuts_each_document_and_the_model():
    documents = [{"wing": 2, "heat": 2}, {"wing": 1, "drag": 3}]
    # heat and wing stand alike in the first, so the alphabet decides; drag is what is kept of the second.
    assert rm3({"flow": 1}, documents, [3.0, 1.0], RARE, terms=1) == {"flow": 0.5, "heat": 0.5}


def test_rm3_keeps_to_terms_that_say_something():
    documents = [{"often": 1, "x": 1, "é1": 1, "a" * 21: 1, "wing": 1}]
    assert set(rm3({"flow": 1}, documents, [1.0], RARE)) == {"flow", "wing"}
    assert set(rm3({"flow": 1}, documents, [1.0], RARE, filter_terms=False)) == {"flow", "wing", "é1"}
    # The query's own words are beyond question.
    assert rm3({"often": 1}, documents, [1.0], RARE)["often"] == 0.5


def test_rocchio_by_hand():
    documents = [{"heat": 3, "wing": 4, "often": 2}, {"wing": 1}]
    weights = rocchio({"heat": 3, "flow": 4}, documents, RARE)
    # Scaled to length 1 the documents are (heat .6, wing .8) and (wing 1), their mean (.3, .9); the query's length is 5.
    length = math.hypot(0.3, 0.9)
    assert weights == pytest.approx(
        {"heat": 3 + 5 * 0.75 * 0.3 / length, "flow": 4, "wing": 5 * 0.75 * 0.9 / length},
    )
    less = rocchio({"heat": 3, "flow": 4}, documents, RARE, last=[{"flow": 7, "drag": 7}], alpha=2, gamma=0.2)
    assert less["flow"] == pytest.approx(8 - 5 * 0.2 * math.sqrt(0.5))
    assert "drag" not in less


def test_rocchio_counts_documents_that_nothing_is_left_of():
    assert rocchio({"heat": 1}, [{"often": 1}, {"heat": 1}], RARE, terms=1) == {"heat": 1.75}
    alone = rocchio({"flow": 1}, [{"heat": 1, "wing": 1}, {"heat": 1}, {"often": 5}], RARE, terms=1)
    assert alone == {"flow": 1, "heat": 0.75}


@pytest.mark.parametrize("documents", [[], [{}], [{"often": 3, "x": 1}], [{}, {}]])
def test_nothing_to_learn_leaves_the_query_as_it_is(documents):
    query = {"heat": 2, "often": 1}
    assert rm3(query, documents, [1.0] * len(documents), RARE) == query
    assert rocchio(query, documents, RARE) == query
    assert rocchio(query, documents, RARE, last=documents) == query


def test_a_model_of_weight_nothing_leaves_the_query_as_it_is():
    assert rm3({"heat": 2}, [{"wing": 1}], [0.0], RARE) == {"heat": 2}
    assert rocchio({"heat": 2}, [{"wing": 1}], RARE, alpha=0, beta=0) == {"heat": 2}


counts = st.dictionaries(st.sampled_from(sorted(RARE.of)), st.integers(1, 20))


@given(counts.filter(bool), st.lists(counts, max_size=5), st.integers(1, 4), st.floats(0, 1))
def test_weights_are_above_0_and_all_of_the_query_counts_once(query, documents, terms, weight):
    scores = [2.0 / (1 + place) for place in range(len(documents))]
    found = rm3(query, documents, scores, RARE, terms=terms, original_weight=weight)
    assert sum(found.values()) == pytest.approx(sum(query.values()))
    assert len(found.keys() - query) <= terms
    for some in (found, rocchio(query, documents, RARE, last=documents[::-1], terms=terms)):
        assert some
        assert all(value > 0 for value in some.values())


@pytest.mark.parametrize("feedback", [Rm3(original_weight=1), Rocchio(beta=0)])
def test_weight_on_the_query_alone_is_bm25(index, feedback):
    for query in (QUERY, "json json decode", "parse the command line", "zip archive"):
        expected = index.search(query, 200, pipeline=PLAIN)
        assert index.search(query, 200, pipeline=bm25(feedback)).ranking() == expected.ranking()


def test_the_stage_is_the_formula_over_the_first_search(index):
    first = index.search(QUERY, 10, pipeline=PLAIN)
    documents = [Counter(index.analyser.terms(hit.document.content)) for hit in first.hits]
    terms = sorted(set().union(*documents))
    frequencies = Frequencies(index.document_count, dict(zip(terms, index.document_frequency(terms), strict=True)))
    words = Counter(index.analyser.terms(QUERY))
    weights = rm3(words, documents, [hit.score for hit in first.hits], frequencies)
    assert weights.keys() - words
    found = index.search_terms(weights, 50, None)
    answer = index.search(QUERY, 50, pipeline=bm25(Rm3()))
    assert answer.ranking() == found.ranking()
    assert answer.ranking() != index.search(QUERY, 50, pipeline=PLAIN).ranking()
    weights = rocchio(words, documents, frequencies)
    assert (
        index.search(QUERY, 50, pipeline=bm25(Rocchio())).ranking() == index.search_terms(weights, 50, None).ranking()
    )


@pytest.mark.parametrize("feedback", METHODS)
def test_an_answer_says_what_it_took_and_nothing_else_changes(index, feedback):
    plain, answer = index.search(QUERY, 5, pipeline=PLAIN), index.search(QUERY, 5, pipeline=bm25(feedback))
    assert "feedback" in answer.timings
    assert "feedback" not in plain.timings
    assert (answer.warnings, answer.degraded, answer.status) == ([], [], "exact")
    assert all(hit.scores == {"bm25": hit.score} for hit in answer.hits)


@pytest.mark.parametrize("feedback", METHODS)
def test_how_many_hits_are_asked_for_changes_nothing(index, feedback):
    whole = index.search(QUERY, 60, pipeline=bm25(feedback)).ranking()
    assert index.search(QUERY, 1, pipeline=bm25(feedback)).ranking() == whole[:1]
    assert index.search(QUERY, 7, offset=20, pipeline=bm25(feedback)).ranking() == whole[20:27]


@pytest.mark.parametrize("feedback", METHODS)
def test_a_filter_holds_in_both_searches(index, feedback):
    condition = {"kind": "class"}
    answer = index.search(QUERY, 100, pipeline=bm25(feedback), filter=condition)
    assert answer.hits
    assert {hit.document.metadata["kind"] for hit in answer.hits} == {"class"}
    unfiltered = index.search(QUERY, 300, pipeline=bm25(feedback))
    kept = [hit.id for hit in unfiltered.hits if hit.document.metadata["kind"] == "class"]
    # Learnt from other documents, so it is not the unfiltered answer with lines struck out.
    assert [hit.id for hit in answer.hits] != kept
    if feedback == Rm3():
        mask = index.mask(condition)
        first, _ = index.search_bm25(QUERY, 10, mask)
        documents = index.documents(first.rows)
        learnt = [Counter(index.analyser.terms(documents[row].content)) for row in first.rows]
        terms = sorted(set().union(*learnt))
        frequencies = Frequencies(index.document_count, dict(zip(terms, index.document_frequency(terms), strict=True)))
        weights = rm3(Counter(index.analyser.terms(QUERY)), learnt, first.scores, frequencies)
        assert answer.ranking() == index.search_terms(weights, 100, mask).ranking()


@pytest.mark.parametrize("feedback", METHODS)
def test_queries_that_find_nothing(index, feedback):
    for query in ("the and of", "qqqqzzzz", "!?"):
        answer = index.search(query, 5, pipeline=bm25(feedback))
        assert (answer.hits, answer.warnings, answer.status) == ([], ["no_terms"], "exact")
    nothing = index.search(QUERY, 5, pipeline=bm25(feedback), filter={"module": "no such module"})
    assert (nothing.hits, nothing.degraded, nothing.status) == ([], [], "exact")


def emptied(path):
    """Make an index that has lost its only document, segment and all."""
    build_index(ListCorpus([Document("a", "wing")]), path, BuildSettings(parts=("bm25",)))
    delete_documents(path, ["a"])
    compact_index(path)


@pytest.mark.parametrize("feedback", METHODS)
def test_small_indexes(tmp_path, feedback):
    emptied(tmp_path / "emptied")
    for name, text in (("one", "heat and flow"), ("without a term", "the")):
        build_index(ListCorpus([Document("a", text)]), tmp_path / name, BuildSettings(parts=("bm25",)))
    for name, hits in (("emptied", 0), ("one", 1), ("without a term", 0)):
        with open_index(tmp_path / name) as opened:
            answer = opened.search("heat of a wing", 5, pipeline=bm25(feedback))
            assert len(answer.hits) == hits
            assert answer.ranking() == opened.search("heat of a wing", 5, pipeline=PLAIN).ranking()


@pytest.mark.parametrize("feedback", METHODS)
def test_chunks_are_feedback_documents_of_their_own(tmp_path, feedback):
    documents = random_documents(200, 1)
    long = Document("long", " ".join(document.text + "." for document in documents[:40]), "title")
    settings = BuildSettings(encoder="hashing", window=24, overlap=8)
    build_index(ListCorpus([long, *documents]), tmp_path / "index", settings, encoder=HashingEncoder())
    with open_index(tmp_path / "index", encoder=HashingEncoder()) as opened:
        answer = opened.search("wing flow", 50, pipeline=bm25(feedback))
        assert any(hit.document.parent == "long" for hit in answer.hits)
        grouped = opened.search("wing flow", 50, pipeline=bm25(feedback), group_by_parent=True)
        assert len({hit.id for hit in grouped.hits}) == len(grouped.hits)
        assert any(hit.id == "long" for hit in grouped.hits)
        hybrid = opened.search("wing flow", 5, pipeline=PipelineSpec(first=("bm25", "dense"), feedback=feedback))
        assert {"feedback", "bm25", "dense", "fusion"} <= hybrid.timings.keys()


def test_statistics_of_terms(index):
    held = [set(index.analyser.terms(document.content)) for document in documents_of(index)]
    terms = ["json", "decod", "qqqqzzzz", "return"]
    frequencies = index.document_frequency(terms)
    assert frequencies.tolist() == [sum(term in one for one in held) for term in terms]
    assert index.document_count == sum(bool(one) for one in held)
    expected = np.log(1 + (index.document_count - frequencies + 0.5) / (frequencies + 0.5))
    np.testing.assert_allclose(index.idf(terms), expected, rtol=1e-6)
    assert index.document_frequency([]).tolist() == index.idf([]).tolist() == []


def test_statistics_of_an_empty_index_and_of_one_without_words(tmp_path):
    emptied(tmp_path / "emptied")
    with open_index(tmp_path / "emptied") as opened:
        assert (opened.document_count, opened.document_frequency(["a"]).tolist()) == (0, [0])
    settings = BuildSettings(parts=("dense",), encoder="hashing")
    build_index(ListCorpus([Document("a", "wing")]), tmp_path / "dense", settings, encoder=HashingEncoder())
    with open_index(tmp_path / "dense", encoder=HashingEncoder()) as opened:
        for ask in (
            lambda: opened.document_count,
            lambda: opened.idf(["a"]),
            lambda: opened.search_terms({"a": 1}, 1, None),
        ):
            with pytest.raises(InvalidInput, match="no BM25 part"):
                ask()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"first": ["dense"], "feedback": {"method": "rm3"}}, "feedback is for bm25"),
        ({"first": ["bm25"], "feedback": {"method": "magic"}}, "'rm3', 'rocchio'"),
        ({"first": ["bm25"], "feedback": {"documents": 3}}, "discriminator 'method'"),
        ({"first": ["bm25"], "feedback": {"method": "rm3", "documents": 0}}, "greater than or equal to 1"),
        ({"first": ["bm25"], "feedback": {"method": "rm3", "documents": 101}}, "less than or equal to 100"),
        ({"first": ["bm25"], "feedback": {"method": "rm3", "terms": 501}}, "less than or equal to 500"),
        ({"first": ["bm25"], "feedback": {"method": "rm3", "original_weight": 1.5}}, "less than or equal to 1"),
        ({"first": ["bm25"], "feedback": {"method": "rm3", "alpha": 1}}, "alpha"),
        ({"first": ["bm25"], "feedback": {"method": "rocchio", "beta": float("nan")}}, "beta"),
        (
            {"first": ["bm25"], "feedback": {"method": "rocchio", "last_documents": 45}},
            "at most first_depth, got 10 . 45",
        ),
    ],
)
def test_faulty_settings_are_named(entry, message):
    with pytest.raises(ValidationError, match=message):
        PipelineSpec.model_validate(entry)


def test_the_query_syntax_fixes_the_words(index):
    with pytest.raises(InvalidInput, match="use one of both"):
        index.search('+json "a string"', pipeline=bm25(Rm3()), syntax=True)


def test_leaving_out_bm25_leaves_out_its_feedback():
    spec = PipelineSpec(first=("bm25", "dense"), feedback=Rm3())
    assert spec.without("bm25") == PipelineSpec(first=("dense",))
    assert spec.without("dense").feedback == Rm3()
    assert PipelineSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_pipeline_in_yaml_reaches_the_command_line(index, tmp_path):
    file = tmp_path / "pipelines.yaml"
    file.write_text("fed:\n  first: [bm25]\n  feedback: {method: rocchio, documents: 5, terms: 20}\n")
    spec = read_pipelines(file)["fed"]
    assert spec.feedback == Rocchio(documents=5, terms=20)
    # An index of its own: the change would be seen by other tests.
    build_index(ListCorpus(documents_of(index)), tmp_path / "index", BuildSettings(parts=("bm25",)))
    for arguments in (
        ["index", "pipelines", tmp_path / "index", file],
        ["search", tmp_path / "index", QUERY, "-p", "fed", "--json"],
    ):
        command = [sys.executable, "-m", "retriever.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["timings"]["feedback"] > 0
    assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == index.search(QUERY, pipeline=spec).ranking()


def test_a_pipeline_in_a_request_over_http(index):
    fed = {"first": ["bm25"], "feedback": {"method": "rm3", "terms": 20}}
    # The app closes the index that it is given.
    app = create_app(Settings(index=index.path), open_index(index.path))
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/v1/search", json={"query": QUERY, "pipeline": fed}).json()["results"][0]
        expected = index.search(QUERY, pipeline=PipelineSpec.model_validate(fed)).ranking()
        assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == expected
        assert answer["timings"]["feedback"] > 0
        fed["feedback"]["documents"] = 1000
        refused = client.post("/v1/search", json={"query": QUERY, "pipeline": fed})
        assert refused.status_code in (400, 422)
        assert "less than or equal to 100" in refused.text


def documents_of(index):
    for segment in index.manifest.segments:
        for _, document in index.records.segment_documents(segment.number):
            yield document
