"""Search by field: weighted sums of each field's own BM25, against a definition that reads every document."""

import functools
import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents, store_pipelines
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.cli import build_app
from retriever.errors import InvalidInput
from retriever.fields import field_text, read_weights
from retriever.index.query import Execution
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec, Rm3
from retriever.query_syntax import Clause, Fuzzy, Group, Phrase, Prefix, Query, Text, format
from retriever.types import Document
from server.app import create_app
from server.settings import Settings
from tests.factories import ListCorpus
from tests.retriever.test_query import (
    Definition,
    assert_answers,
    boosts,
    changed_indexes,
    occurs,
    phrases,
    texts,
    words,
)

FIELDS = ("title", "text", "names")
SETTINGS = BuildSettings(
    parts=("bm25",), analyser="whitespace", fields={"kind": "keyword"}, search_fields=FIELDS, k1=0.9, b=0.4
)
WORDS = ["a", "b", "c", "ab", "abc", "bca", "acb", "cab", "bb", "Cc"]
WEIGHTS = [
    {"title": 2.0, "contents": 1.0},
    {"title": 3.5},
    {"names": 1.3, "text": 0.25, "title": 7.0},
    {"contents": 1.0, "title": 0.01, "text": 100.0, "names": 1.0},
]


def random_documents(count, seed, prefix="d"):
    generator = np.random.default_rng(seed)
    likely = generator.dirichlet(np.ones(len(WORDS)))

    def some(most):
        return " ".join(generator.choice(WORDS, size=int(generator.integers(0, most)), p=likely))

    documents = []
    for number in range(count):
        metadata = {"kind": str(generator.choice(["x", "y"])), "year": 2000}
        if number % 2:
            metadata["names"] = [some(3), some(3)] if number % 3 else some(4)
        documents.append(Document(f"{prefix}{number}", some(12), some(4), metadata))
    return documents


@functools.cache
def corpora():
    """Return documents, documents that are deleted again, and documents to a segment."""
    return [
        (random_documents(1, 0), [], 100),
        (random_documents(50, 1), [], 100),
        (random_documents(60, 3), random_documents(30, 4, "e"), 25),
        (random_documents(9, 5), random_documents(80, 6, "e"), 16),
    ]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    yield from changed_indexes(corpora(), SETTINGS, tmp_path_factory)


class Fielded:
    """What each clause means and scores, from the definition of each field alone."""

    def __init__(self, documents, weights=None):
        self.ids = [document.id for document in documents]
        self.weights = weights or {"contents": 1.0}
        self.parts = {}
        for field in ("contents", *FIELDS):
            of_field = [Document(document.id, field_text(document, field)) for document in documents]
            self.parts[field] = Definition(of_field)
            # A field without any term has no lengths.
            self.parts[field].mean = self.parts[field].mean or 1.0

    def clause(self, clause, boost, id_):
        if isinstance(clause.node, Group):
            return self.level(clause.node.query, boost, id_)
        if isinstance(clause.node, Text) and len(clause.node.text.split()) != 1:
            # Each word for itself, in whichever field; all of them where they are required or excluded.
            found = [
                self.clause(Clause(clause.occur, Text(word), field=clause.field), boost, id_)
                for word in clause.node.text.split()
            ]
            joined = any if clause.occur == "should" else all
            return (joined(m for m, _ in found), sum(s for _, s in found)) if found else None
        scope = self.weights if clause.field is None else {clause.field: 1.0}
        found = [
            self.parts[field].node(clause.node, clause.occur, boost * weight, self.parts[field].terms[id_])
            for field, weight in scope.items()
        ]
        if all(part is None for part in found):
            return None
        return any(m for m, _ in found), sum(s for _, s in found)

    def level(self, query, boost, id_):
        results = [(c.occur, self.clause(c, boost * c.boost, id_)) for c in query.clauses]
        results = [(occur, *found) for occur, found in results if found is not None]
        if not results:
            return None
        must = [matches for occur, matches, _ in results if occur == "must"]
        should = [matches for occur, matches, _ in results if occur == "should"]
        excluded = any(matches for occur, matches, _ in results if occur == "must_not")
        matches = (all(must) if must else any(should)) and not excluded
        return matches, matches * sum(score for occur, _, score in results if occur != "must_not")

    def search(self, query):
        found = {id_: self.level(query, 1.0, id_) or (False, 0.0) for id_ in self.ids}
        return {id_: score for id_, (matches, score) in found.items() if matches}


def plain(text):
    return Query(tuple(Clause("should", Text(word)) for word in text.split()))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("condition", [None, {"kind": "x"}])
def test_scores_are_weighted_sums(indexes, number, weights, condition):
    documents, _, _ = corpora()[number]
    definition = Fielded(documents, weights)
    kinds = {document.id: document.metadata["kind"] for document in documents}
    for text in ("a", "a b b Cc", "none abc cab", "none"):
        expected = definition.search(plain(text))
        if condition:
            expected = {id_: score for id_, score in expected.items() if kinds[id_] == "x"}
        for k in (1, 5, 100):
            answer = indexes[number].search(text, k, field_weights=weights, filter=condition)
            assert answer.exact
            assert_answers(answer.hits, expected, k)


def test_by_hand(tmp_path):
    """Two documents: `wing` is in one title and in both texts; every length is 1 or 2, so b does nothing to titles."""
    documents = [Document("one", "wing flow", "wing"), Document("two", "wing heat", "shell")]
    with built(tmp_path, documents, search_fields=("title", "text")) as index:
        found = dict(index.search("wing", field_weights={"title": 3.0, "text": 1.0}).ranking())
        rare, common = math.log(1 + 1.5 / 1.5), math.log(1 + 0.5 / 2.5)
        assert found == pytest.approx({"one": 3 * rare / 1.9 + common / 1.9, "two": common / 1.9})
        assert [hit.id for hit in index.search("wing", field_weights={"title": 1}).hits] == ["one"]
        assert index.search_fields == ("contents", "title", "text")


def built(folder, documents, **options):
    path = folder / "index"
    build_index(ListCorpus(documents), path, BuildSettings(**{"parts": ("bm25",), **options}))
    return open_index(path)


fields = st.sampled_from([None, "contents", *FIELDS])
leaves = st.one_of(
    st.builds(Clause, occurs, st.one_of(st.builds(Text, texts), st.builds(Text, words)), boosts, fields),
    st.builds(Clause, occurs, st.builds(Phrase, phrases, st.integers(0, 4)), boosts, fields),
    st.builds(Clause, occurs, st.builds(Prefix, st.sampled_from(["a", "ab", "b", "C", "A", "x"])), boosts, fields),
    st.builds(Clause, occurs, st.builds(Fuzzy, words, st.sampled_from([1, 2])), boosts, fields),
)


def levels(clauses):
    some = st.lists(clauses, min_size=1, max_size=4)
    return some.filter(lambda found: any(c.occur != "must_not" for c in found)).map(lambda found: Query(tuple(found)))


clauses = st.recursive(
    leaves, lambda children: st.builds(Clause, occurs, levels(children).map(Group), boosts), max_leaves=8
)


@given(
    st.integers(0, 3),
    levels(clauses),
    st.sampled_from([None, *WEIGHTS]),
    st.sampled_from([1, 3, 100]),
    st.booleans(),
)
@settings(max_examples=300)
def test_the_syntax_over_fields_is_that_of_the_definition(indexes, number, query, weights, k, slowly):
    expected = Fielded(corpora()[number][0], weights).search(query)
    with pytest.MonkeyPatch.context() as patch:
        if slowly:
            patch.setattr(Execution, "flat_weights", lambda self: None)
        answer = indexes[number].search(format(query), k, syntax=True, field_weights=weights)
    assert answer.exact
    assert_answers(answer.hits, expected, k)


def test_fields_in_the_syntax(tmp_path):
    documents = [
        Document("one", "the flow round a swept plate", "Swept wing", {"authors": ["Ada Berg", "Cai Dahl"]}),
        Document("two", "a swept wing is heated", "Flow round plates", {"authors": ["Cai Berg"]}),
        Document("three", "a wing that was swept away", "Heat", {"authors": 3}),
    ]
    with built(tmp_path, documents, search_fields=("title", "authors")) as index:

        def found(query, **options):
            return {hit.id for hit in index.search(query, syntax=True, **options).hits}

        assert found("title:wing") == {"one"}
        assert found('title:"swept wing"') == {"one"}
        assert found('"swept wing"') == {"one", "two"}
        assert found("title:(heat flow)") == {"two", "three"}
        assert found("+wing -title:wing") == {"two", "three"}
        assert found('authors:"cai berg"') == {"two"}
        # Strings of a list stand beside each other.
        assert found('authors:"berg cai"') == {"one"}
        assert found("wing", field_weights={"title": 1}) == {"one"}
        assert found("flo*", field_weights={"title": 1, "authors": 1}) == {"two"}
        with pytest.raises(InvalidInput, match="the field 'text'.*can search contents, title, authors by name"):
            found("text:wing")
        with pytest.raises(InvalidInput, match="'text' cannot be searched.*it has contents, title, authors"):
            found("wing", field_weights={"text": 1})


def test_the_contents_are_what_they_are_without_fields(tmp_path, indexes):
    """Same files, same scores: search fields stand beside the default part and change nothing of it."""
    documents = corpora()[1][0][:30]
    (tmp_path / "plain").mkdir()
    with built(tmp_path / "plain", documents, analyser="whitespace") as index:
        mine = index.manifest.segments[0].files
        theirs = indexes[1].manifest.segments[0].files
        assert {name: entry for name, entry in theirs.items() if ".field" not in name and "000001" in name} == mine
        assert sum("inverted.field2." in name for name in theirs) == len(mine) - 3
    for weights in (None, {"contents": 1.0}):
        assert (
            indexes[1].search("a b b cab", 100, field_weights=weights).ranking()
            == indexes[1].search("a b b cab", 100).ranking()
        )


def test_the_title_alone_scores_as_an_index_of_titles(tmp_path, indexes):
    documents = [Document(document.id, document.title) for document in corpora()[2][0]]
    with built(tmp_path, documents, analyser="whitespace") as titles:
        for text in ("a", "a b b cab", "Cc bb"):
            expected = titles.search(text, 100).ranking()
            assert indexes[2].search(text, 100, field_weights={"title": 1.0}).ranking() == expected
            assert indexes[2].search(" ".join(f"title:{w}" for w in text.split()), 100, syntax=True).ranking() == (
                expected
            )


def test_incremental_equals_new(tmp_path):
    """Adds, overwrites, deletes and compaction leave the scores of a new index, bit for bit."""
    first, second = random_documents(40, 11), random_documents(40, 12)
    with built(tmp_path, first, analyser="whitespace", search_fields=FIELDS, segment_documents=15) as index:
        path = index.path
    add_documents(ListCorpus(second[:20]), path, duplicates="overwrite")
    gone = [document.id for document in first if document.metadata["kind"] == "x"][:8]
    delete_documents(path, gone)
    documents = [d for d in [*second[:20], *first[20:]] if d.id not in gone]
    (tmp_path / "new").mkdir()
    with built(tmp_path / "new", documents, analyser="whitespace", search_fields=FIELDS) as new:
        expected = {
            (text, number): new.search(text, 100, field_weights=weights).ranking()
            for number, weights in enumerate(WEIGHTS)
            for text in ("a b", "Cc abc abc")
        }
    assert any(len(ranking) > 10 for ranking in expected.values())

    def assert_same():
        with open_index(path) as changed:
            for (text, number), ranking in expected.items():
                assert changed.search(text, 100, field_weights=WEIGHTS[number]).ranking() == ranking

    assert_same()
    assert verify_index(path).sound
    compact_index(path)
    assert_same()
    assert verify_index(path).sound


def test_a_build_in_several_processes_gives_the_same_bytes(tmp_path):
    documents = random_documents(300, 21)
    options = BuildSettings(**SETTINGS.model_dump() | {"shard_documents": 60})
    for processes in (1, 2):
        build_index(ListCorpus(documents), tmp_path / str(processes), options, processes=processes)
    with open_index(tmp_path / "1") as one, open_index(tmp_path / "2") as two:
        assert one.manifest.segments[0].files == two.manifest.segments[0].files


def test_an_altered_field_is_refused(tmp_path, indexes):
    shutil.copytree(indexes[1].path, tmp_path / "index")
    (name,) = (tmp_path / "index" / "segments" / "000001").glob("inverted.field1.codes.npy")
    content = bytearray(name.read_bytes())
    content[-1] ^= 1
    name.write_bytes(content)
    verdict = verify_index(tmp_path / "index")
    assert not verdict.sound
    assert "inverted.field1.codes.npy was altered" in verdict.problems[0]


def test_pipelines_hold_weights(tmp_path):
    documents = corpora()[1][0]
    weighted = PipelineSpec(first=("bm25",), field_weights={"title": 2.0, "contents": 1.0})
    with built(tmp_path, documents, analyser="whitespace", search_fields=("title",)) as index:
        path = index.path
    store_pipelines(path, {"weighted": weighted}, "weighted")
    with open_index(path) as index:
        expected = index.search("a b", 50, pipeline="bm25", field_weights=weighted.field_weights).ranking()
        assert index.search("a b", 50).ranking() == expected
        assert index.search("a b", 50, pipeline="bm25").ranking() != expected
        assert index.search("a b", 50, field_weights={"contents": 1}).ranking() == (
            index.search("a b", 50, pipeline="bm25").ranking()
        )
        # Feedback weighs the terms that it adds by field, too.
        spec = PipelineSpec(first=("bm25",), feedback=Rm3(documents=3, filter_terms=False), field_weights={"title": 1})
        found = index.search("a", 50, pipeline=spec)
        titles = {document.id: document.title.split() for document in documents}
        assert 0 < len(found.hits) == sum(bool(titles[hit.id]) for hit in found.hits)
    with pytest.raises(InvalidInput, match="the field 'text' cannot be searched by name"):
        store_pipelines(path, {"other": PipelineSpec(first=("bm25",), field_weights={"text": 1.0})})
    with pytest.raises(InvalidInput, match="the field 'body' cannot be searched by name"):
        build_index(
            ListCorpus(documents),
            tmp_path / "other",
            BuildSettings(parts=("bm25",)),
            pipelines={"other": PipelineSpec(first=("bm25",), field_weights={"body": 1.0})},
        )


def test_explanations_add_up_and_facets_count_what_matches(indexes):
    index, documents = indexes[2], corpora()[2][0]
    weights = {"title": 2.0, "names": 0.5, "text": 1.0}
    answer = index.search("a b b", 100, pipeline="bm25", field_weights=weights, explain=True, facets=["kind"])
    expected = Fielded(documents, weights).search(plain("a b b"))
    assert answer.facets.documents == len(expected) == len(answer.hits)
    kinds = Counter(document.metadata["kind"] for document in documents if document.id in expected)
    assert dict(answer.facets.counts["kind"]) == kinds
    seen = set()
    for hit in answer.hits:
        terms = hit.explanation.terms
        seen |= {part.field for part in terms}
        assert np.float32(sum(part.score for part in terms)) == np.float32(hit.score)
        assert all(part.weight == weights[part.field] * (2 if part.term == "b" else 1) for part in terms)
    assert seen == set(weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search_fields": ("contents",)}, "always searched"),
        ({"search_fields": ("title", "title")}, "twice"),
        ({"search_fields": ("a b",)}, "letters, digits"),
        ({"search_fields": tuple(f"f{i}" for i in range(17))}, "at most 16"),
        ({"search_fields": ("year",), "fields": {"year": "number"}}, "declared as a number"),
    ],
)
def test_fields_that_cannot_be_built(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build_index(ListCorpus(corpora()[1][0]), tmp_path / "i", BuildSettings(parts=("bm25",), **options))


@pytest.mark.parametrize(
    "weights", [{}, {"title": 0}, {"title": -1.0}, {"title": math.nan}, {"title": 1e4}, {"title": True}, {"title": "2"}]
)
def test_weights_that_are_refused(indexes, weights):
    with pytest.raises(InvalidInput, match="weight"):
        indexes[1].search("a", field_weights=weights)
    with pytest.raises(ValueError, match="weight"):
        PipelineSpec(first=("bm25",), field_weights=weights)


@pytest.mark.parametrize("text", ["", "title", "title=", "=2", "title=x", "title=1,title=2", "title=1,", "title=nan"])
def test_weights_that_cannot_be_read(text):
    with pytest.raises(InvalidInput):
        read_weights(text)


def test_command_line(tmp_path):
    lines = [{"id": d.id, "title": d.title, "text": d.text, **d.metadata} for d in corpora()[1][0]]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = CliRunner().invoke
    arguments = ["index", "build", str(tmp_path / "corpus.jsonl"), str(tmp_path / "index"), "--parts", "bm25", "-q"]
    result = run(build_app(), [*arguments, "--analyser", "whitespace", "--search-fields", "title, names,nothing"])
    assert result.exit_code == 0, result.output
    assert "no document has text in the search field 'nothing'" in result.output
    search = ["search", str(tmp_path / "index"), "a b", "-k", "5", "--json"]
    answer = json.loads(run(build_app(), [*search, "--field-weights", "title=2,names=0.5"]).stdout)
    with open_index(tmp_path / "index") as index:
        expected = index.search("a b", 5, field_weights={"title": 2, "names": 0.5}).ranking()
    assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == expected


def test_over_http(indexes):
    app = create_app(Settings(index=indexes[1].path), open_index(indexes[1].path))
    weights = {"title": 2, "names": 0.5}
    expected = indexes[1].search("a b", 5, field_weights=weights).ranking()
    with TestClient(app, base_url="http://localhost") as client:
        body = {"query": "a b", "k": 5, "field_weights": weights, "explain": True}
        (result,) = client.post("/v1/search", json=body).json()["results"]
        assert [(hit["id"], hit["score"]) for hit in result["hits"]] == expected
        assert {part["field"] for hit in result["hits"] for part in hit["explanation"]["terms"]} == set(weights)
        for refused, message in (({"body": 1}, "'body' cannot be searched"), ({"title": 0}, "weight of the field")):
            response = client.post("/v1/search", json=body | {"field_weights": refused})
            assert response.status_code == 422
            assert message in response.json()["error"]["message"]
