"""Queries of the syntax on an index: the documents and scores of a definition that reads every document."""

import functools
import json
import math
import random
import re
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexing.build import add_documents, build_index
from indexing.change import delete_documents
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.index import query as module
from retriever.index.inverted import decode_length, encode_length
from retriever.index.query import Execution, phrase_frequency, within
from retriever.index.sealed import open_index
from retriever.pipeline import PipelineSpec, Rm3
from retriever.query_syntax import Clause, Fuzzy, Group, Phrase, Prefix, Query, Text, format, parse
from retriever.types import Document
from server.app import create_app
from server.settings import Settings
from tests.agreement.lucene import find
from tests.factories import HashingEncoder, ListCorpus

K1, B = 0.9, 0.4
VOCABULARY = ["a", "b", "c", "ab", "abc", "bca", "acb", "cab", "bb", "Cc"]
SETTINGS = BuildSettings(parts=("bm25",), analyser="whitespace", fields={"kind": "keyword"}, k1=K1, b=B)


def random_corpus(count, seed, prefix="d"):
    generator = np.random.default_rng(seed)
    likely = generator.dirichlet(np.ones(len(VOCABULARY)))
    documents = []
    for number in range(count):
        words = generator.choice(VOCABULARY, size=int(generator.integers(0, 12)), p=likely)
        title = str(generator.choice(VOCABULARY)) if number % 3 == 0 else ""
        metadata = {"kind": str(generator.choice(["x", "y"]))}
        documents.append(Document(f"{prefix}{number}", " ".join(words), title, metadata))
    return documents


@functools.cache
def corpora():
    """Return documents, documents that are deleted again, and documents to a segment."""
    return [
        (random_corpus(1, 0), [], 100),
        (random_corpus(40, 1), [], 100),
        (random_corpus(60, 2), [], 17),
        (random_corpus(60, 3), random_corpus(30, 4, "e"), 25),
        (random_corpus(7, 5), random_corpus(80, 6, "e"), 16),
    ]


def changed_indexes(corpora, settings, tmp_path_factory):
    """Yield the indexes of such corpora, each built, added to and deleted from."""
    opened = []
    for documents, deleted, size in corpora:
        path = tmp_path_factory.mktemp("built") / "index"
        build_index(ListCorpus(documents[:30]), path, settings.model_copy(update={"segment_documents": size}))
        if rest := documents[30:] + deleted:
            add_documents(ListCorpus(rest), path)
        if deleted:
            delete_documents(path, [document.id for document in deleted])
        opened.append(open_index(path))
    yield opened
    for index in opened:
        index.close()


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    yield from changed_indexes(corpora(), SETTINGS, tmp_path_factory)


class Definition:
    """What each clause means and scores, a document at a time, over the tree as it was parsed."""

    def __init__(self, documents):
        self.terms = {document.id: document.content.split() for document in documents}
        filled = [terms for terms in self.terms.values() if terms]
        self.count = len(filled)
        self.mean = sum(map(len, filled)) / max(1, self.count)
        self.vocabulary = sorted({term for terms in filled for term in terms})

    def idf(self, term):
        frequency = sum(term in terms for terms in self.terms.values())
        return math.log(1 + (self.count - frequency + 0.5) / (frequency + 0.5))

    def saturated(self, weight, frequency, terms):
        length = decode_length(encode_length(len(terms)))
        return weight * frequency / (frequency + K1 * (1 - B + B * length / self.mean))

    def term(self, term, boost, terms):
        if term not in terms:
            return False, 0.0
        return True, self.saturated(boost * self.idf(term), terms.count(term), terms)

    def node(self, node, occur, boost, terms):
        """Return whether a document matches and its score; None if nothing is left of the node."""
        if isinstance(node, Group):
            return self.level(node.query, boost, terms)
        if isinstance(node, Prefix):
            wanted = node.text
            if not any(term.startswith(wanted) for term in self.vocabulary):
                wanted = wanted.lower()
            matches = any(term.startswith(wanted) for term in terms)
            return matches, boost * matches
        if isinstance(node, Fuzzy):
            found = [(False, 0.0)]
            for term in self.vocabulary:
                edits = distance(node.text, term)
                if edits <= node.distance and term[0] == node.text[0]:
                    found.append(self.term(term, boost * (1 - edits / max(len(term), len(node.text))), terms))
            return any(m for m, _ in found), sum(s for _, s in found)
        words = node.text.split()
        if not words:
            return None
        if isinstance(node, Phrase) and len(words) > 1:
            places = {word: [i for i, term in enumerate(terms) if term == word] for word in words}
            if node.slop:
                frequency = phrase_frequency(words, places, node.slop)
            else:
                frequency = sum(terms[i : i + len(words)] == words for i in range(len(terms)))
            return frequency > 0, self.saturated(boost * sum(map(self.idf, words)), frequency, terms)
        found = [self.term(word, boost, terms) for word in words]
        joined = any if occur == "should" else all
        return joined(m for m, _ in found), sum(s for _, s in found)

    def level(self, query, boost, terms):
        results = [(c.occur, self.node(c.node, c.occur, boost * c.boost, terms)) for c in query.clauses]
        results = [(occur, *found) for occur, found in results if found is not None]
        if not results:
            return None
        must = [matches for occur, matches, _ in results if occur == "must"]
        should = [matches for occur, matches, _ in results if occur == "should"]
        excluded = any(matches for occur, matches, _ in results if occur == "must_not")
        matches = (all(must) if must else any(should)) and not excluded
        return matches, matches * sum(score for occur, _, score in results if occur != "must_not")

    def search(self, query):
        found = {id_: self.level(query, 1.0, terms) or (False, 0.0) for id_, terms in self.terms.items()}
        return {id_: score for id_, (matches, score) in found.items() if matches}


@functools.cache
def distance(one, other):
    if not one or not other:
        return len(one) + len(other)
    costs = [
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    ]
    if one[1:2] == other[:1] and other[1:2] == one[:1] and one[1:] and other[1:]:
        costs.append(distance(one[2:], other[2:]) + 1)
    return min(costs)


def assert_answers(hits, expected, k):
    """Hits must be the best k of {id: score}, ties and near ties in any order that the scores allow."""
    assert len(hits) == min(k, len(expected))
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], rel=1e-5, abs=1e-6)
    best = sorted(expected.values(), reverse=True)[:k]
    assert [hit.score for hit in hits] == pytest.approx(best, rel=1e-5, abs=1e-6)
    ranking = [(-hit.score, hit.id) for hit in hits]
    assert ranking == sorted(ranking)


words = st.sampled_from([*VOCABULARY, "none"])
texts = st.one_of(words, st.lists(words, min_size=1, max_size=3).map(" ".join), st.just(" "))
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)
leaves = st.one_of(
    st.builds(Text, texts),
    st.builds(Text, words),
    st.builds(Phrase, phrases, st.integers(0, 4)),
    st.builds(Prefix, st.sampled_from(["a", "ab", "b", "c", "C", "A", "x"])),
    st.builds(Fuzzy, words, st.sampled_from([1, 2])),
)
occurs = st.sampled_from(["should", "should", "must", "must_not"])
boosts = st.sampled_from([1.0, 1.0, 2.0, 0.25, 30.0])


def levels(nodes):
    clauses = st.lists(st.builds(Clause, occurs, nodes, boosts), min_size=1, max_size=4)
    return clauses.filter(lambda clauses: any(c.occur != "must_not" for c in clauses)).map(
        lambda clauses: Query(tuple(clauses))
    )


nodes = st.recursive(leaves, lambda children: levels(children).map(Group), max_leaves=8)


def check(indexes, number, query, k, condition=None):
    documents, _, _ = corpora()[number]
    expected = Definition(documents).search(query)
    if condition:
        kinds = {document.id: document.metadata["kind"] for document in documents}
        expected = {id_: score for id_, score in expected.items() if kinds[id_] == condition["kind"]}
    answer = indexes[number].search(format(query), k, filter=condition, syntax=True)
    assert answer.exact
    assert_answers(answer.hits, expected, k)


@given(
    st.integers(0, 4),
    levels(nodes),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([None, {"kind": "x"}]),
    st.booleans(),
)
@example(1, parse("+(+a b) c"), 100, None, False)
@example(1, parse("+((+a b)) c"), 100, None, False)
@example(2, parse("(+a b) (-a c)^2"), 100, None, False)
@example(3, parse('+a -(b -"a b")'), 100, None, False)
@settings(max_examples=600)
def test_answers_are_those_of_the_definition(indexes, number, query, k, condition, slowly):
    with pytest.MonkeyPatch.context() as patch:
        if slowly:
            patch.setattr(Execution, "flat_weights", lambda self: None)
        check(indexes, number, query, k, condition)


words_only = st.recursive(st.builds(Text, words), lambda children: levels(children).map(Group), max_leaves=12)


@given(st.integers(0, 4), levels(words_only), st.sampled_from([2, 100]))
@settings(max_examples=400)
def test_words_and_groups(indexes, number, query, k):
    check(indexes, number, query, k)


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        ("a b^2 (c ab)^3", True),
        ("+a b -c", True),
        ("a -b*", True),
        ('a -"b c"', True),
        ("+(a b) c", True),
        ("+(+a b -c) ab", True),
        ("(+a) (+(b c))", True),
        ("+((+a b)) c", True),
        ("ab~ c", True),
        ("(+a b) c", False),
        ("(a -b) c", False),
        ("+((+a b) c) ab", False),
        ("a b*", False),
        ('"a b" c', False),
    ],
)
def test_one_search_where_terms_always_count(indexes, text, flat):
    execution = indexes[1].execute_query(text, None)
    assert (execution.flat_weights() is not None) == flat


def test_plain_words_score_as_without_the_syntax(indexes):
    for index in indexes:
        plain = index.search("a b abc none", 100)
        assert index.search("a b abc none", 100, syntax=True).ranking() == plain.ranking()


def test_terms_are_the_positive_ones(indexes):
    execution = indexes[2].execute_query('a +(ab* -c) "bb b" none -Cc acc~1', None)
    assert set(execution.terms) <= {"a", "ab", "abc", "bb", "b", "acb"}
    assert {"a", "bb"} <= set(execution.terms)


def test_a_prefix_as_typed_or_else_in_lower_case(indexes):
    assert indexes[2].execute_query("C*", None).terms == ["Cc"]
    assert indexes[2].execute_query("A*", None).terms == indexes[2].execute_query("a*", None).terms


small = st.text("abcd", max_size=7)


@given(small, st.lists(st.text("abcd", min_size=4, max_size=4), max_size=20), st.sampled_from([1, 2]))
def test_edits(word, terms, most):
    expected = [(term, distance(word, term)) for term in terms if distance(word, term) <= most]
    assert within(word, terms, most) == expected


def positions(text):
    found = {}
    for position, word in enumerate(text.split()):
        found.setdefault(word, []).append(position)
    return found


@pytest.mark.parametrize(
    ("phrase", "slop", "text", "frequency"),
    [
        ("a b", 0, "a b x a b", 2),
        ("a a", 0, "a a a", 2),
        ("a b", 0, "b a", 0),
        ("a b", 1, "a x b", 1 / 2),
        ("a b", 1, "b a", 0),
        ("a b", 2, "b a", 1 / 3),
        ("a b", 5, "a b", 1),
        ("a b c", 2, "a x b x c", 1 / 3),
        ("a b c", 1, "a x b x c", 0),
        ("a b", 3, "a b x x a x b", 1 + 1 / 2),
        ("a a", 3, "a", 0),
        ("a a", 3, "a x a", 1 / 2),
    ],
)
def test_phrase_frequencies(phrase, slop, text, frequency):
    assert phrase_frequency(phrase.split(), positions(text), slop) == pytest.approx(frequency)


def build(path, documents, **settings):
    merged = {"parts": ("bm25",), "analyser": "whitespace", **settings}
    build_index(ListCorpus(documents), path, BuildSettings(**merged))
    return open_index(path)


def test_phrases_read_the_best_candidates_only(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_PHRASE_DOCUMENTS", 20)
    texts = ["a b" if i % 2 else "b a" for i in range(100)]
    with build(
        tmp_path / "index", [Document(f"{i:03}", t) for i, t in enumerate(texts)], segment_documents=30
    ) as index:
        for text in ('"a b"', 'a -"a b"', 'a -(b -"a b")', '"a b" "b a"~2'):
            execution = index.execute_query(text, None)
            read = sum(int(np.count_nonzero(o.certain)) for o in next(iter(execution._phrases.values())))
            assert not execution.exact
            assert 0 < read <= 20
            answer = index.search(text, 100, syntax=True)
            assert (answer.exact, answer.status) == (False, "approximate")
            assert answer.warnings == ["phrase_candidates_cut"]
            # What is shown has been read, or does not need to be.
            expected = Definition([Document(f"{i:03}", t) for i, t in enumerate(texts)]).search(parse(text))
            assert {hit.id for hit in answer.hits} <= expected.keys()
        assert index.search('"a b" -b', 100, syntax=True).exact
        assert index.search('+"a b" +c', 100, syntax=True).exact


def test_prefixes_and_fuzzy_words_are_bounded(tmp_path):
    terms = [
        f"p{one}{two}{three}" for one in string.ascii_lowercase for two in string.ascii_lowercase for three in "ab"
    ]
    with build(tmp_path / "index", [Document(term, term) for term in terms], segment_documents=500) as index:
        assert len(index.search("pa*", 1000, syntax=True).hits) == 52
        with pytest.raises(
            InvalidInput, match=r"more than 1,000 terms of this index, counted up to 'p'\*; write longer"
        ):
            index.search("p*", syntax=True)
        with pytest.raises(InvalidInput, match="more than 1,000 terms"):
            index.search(" ".join(f"p{letter}*" for letter in string.ascii_lowercase), syntax=True)
        found = index.search("pabc~2", 1000, syntax=True)
        assert len(found.hits) == 50
        ordered = sorted(terms, key=lambda term: (-1 + distance("pabc", term) / 4, term))
        assert {hit.id for hit in found.hits} == set(ordered[:50])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title:a b", r"the field 'title', which is not possible.*--filter title=.*title\\:"),
        ("a (b -kind:x)", "the field 'kind'"),
        ("a^0.001 (b^0.01)^0.00001", "boosts round a clause multiply to 1e-07"),
        ("((a^1000)^1000)^1000", "multiply to 1e"),
        ("(a) " * 101, "the query has 101 phrases, prefixes, fuzzy words and groups, at most 100"),
        ('"' + "a " * 21 + '"~2', "a phrase with ~ may have 20 terms at most, this one has 21"),
        ("a \ud800*", "half of a surrogate pair"),
        ("a AND", "AND with nothing after it"),
        ("a " * 20_000, "at most 32,768"),
    ],
)
def test_refusals(indexes, text, message):
    with pytest.raises(InvalidInput) as caught:
        indexes[1].search(text, syntax=True)
    assert re.search(message, str(caught.value))


def test_an_index_without_documents(tmp_path):
    with build(tmp_path / "index", [Document("1", "a")]) as index:
        delete_documents(tmp_path / "index", ["1"])
        assert index.latest().search('a* "a b" -c (+a b) a~', syntax=True).hits == []


ENGLISH = [
    Document("1", "Dense passage retrieval ranks passages with a dual encoder.", "Dense retrieval"),
    Document("2", "The state of the art in ranking is late interaction, as ColBERT showed."),
    Document("3", "A passage is retrieved, then ranked by BERT."),
    Document("4", "Sparse retrieval with BM25 needs no encoder."),
    Document("5", "An art of its own."),
]


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    path = tmp_path_factory.mktemp("english") / "index"
    build_index(ListCorpus(ENGLISH), path, BuildSettings(encoder="hashing"), encoder=HashingEncoder())
    with open_index(path, encoder=HashingEncoder()) as index:
        yield index


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("retrieval -sparse", "13"),
        ("+passage +rank", "13"),
        ('"passage retrieval"', "13"),  # "passage is retrieved": stop words are not counted
        ('"retrieval dense"~2', "1"),
        ("state-of-the-art", "25"),
        ("+state-of-the-art", "2"),
        ("art -state-of-the-art", "5"),
        ("+the +encoder", "14"),
        ("encod* -bm25", "1"),
        ("Colb*", "2"),
        ("retreival~", "134"),
        ("(dense AND encoder) OR (late AND interaction)", "12"),
        ('"dense retrieval dense passage"', "1"),
    ],
)
def test_with_the_english_analyser(english, text, ids):
    hits = english.search(text, pipeline="bm25", syntax=True).hits
    assert sorted(hit.id for hit in hits) == sorted(ids)


def test_prefixes_give_their_boost_once(english):
    for hit in english.search("re*^2.5", pipeline="bm25", syntax=True).hits:
        assert hit.score == 2.5


def test_words_without_terms_are_reported(english):
    assert english.search("+the encoder", syntax=True).warnings == ["clauses_without_terms:1"]
    assert english.search("the (of)", pipeline="bm25", syntax=True).warnings == ["clauses_without_terms:2", "no_terms"]


@pytest.mark.parametrize("pipeline", ["bm25", "dense", "hybrid"])
def test_every_stage_keeps_the_conditions(english, pipeline):
    answer = english.search("+retrieval -sparse colbert", pipeline=pipeline, syntax=True, highlight=True)
    assert {hit.id for hit in answer.hits} == {"1", "3"}
    for hit in answer.hits:
        marked = {hit.document.text[start:end].lower() for start, end in hit.highlights}
        assert marked <= {"retrieval", "retrieved"}
        assert marked


def test_models_see_the_words_that_are_not_excluded(english):
    plan = english.execute_query('+dense -sparse "passage retrieval"~2 (rank* -bert) colbrt~', None).plan
    assert plan.words == "dense passage retrieval rank colbrt"


def test_off_by_default(english):
    plain = english.search('+retrieval -sparse "x', pipeline="bm25")
    assert {hit.id for hit in plain.hits} == {"1", "3", "4"}


def test_not_together_with_feedback(english):
    with pytest.raises(InvalidInput, match="feedback"):
        english.search("a", pipeline=PipelineSpec(first=("bm25",), feedback=Rm3()), syntax=True)


def test_on_the_command_line(tmp_path):
    build_index(ListCorpus(ENGLISH), tmp_path / "index", BuildSettings(parts=("bm25",)))
    for flags, ids in ((["--syntax"], {"1", "3"}), ([], {"1", "3", "4"})):
        done = subprocess.run(
            [sys.executable, "-m", "retriever.cli", "search", str(tmp_path / "index"), "+retrieval -sparse", "--json", *flags],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert {hit["id"] for hit in json.loads(done.stdout)["hits"]} == ids


def test_over_http(english):
    app = create_app(Settings(index=english.path), open_index(english.path, encoder=HashingEncoder()))
    with TestClient(app, base_url="http://localhost") as client:
        for syntax, ids in ((True, {"1", "3"}), (False, {"1", "3", "4"})):
            body = {"query": "+retrieval -sparse", "pipeline": "bm25", "syntax": syntax}
            response = client.post("/v1/search", json=body)
            assert {hit["id"] for hit in response.json()["results"][0]["hits"]} == ids
        response = client.post("/v1/search", json={"query": "retrieval^0", "syntax": True})
        assert response.status_code == 422
        assert "at character 10: found '^0'" in response.json()["error"]["message"]


LUCENE = """
import json, sys
from pyserini.pyclass import autoclass

given = json.load(sys.stdin)
directory = autoclass("org.apache.lucene.store.ByteBuffersDirectory")()
analyser = autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")()
similarity = autoclass("org.apache.lucene.search.similarities.BM25Similarity")(given["k1"], given["b"])
config = autoclass("org.apache.lucene.index.IndexWriterConfig")(analyser)
config.setSimilarity(similarity)
writer = autoclass("org.apache.lucene.index.IndexWriter")(directory, config)
no = autoclass("org.apache.lucene.document.Field$Store").NO
for id_, text in given["documents"]:
    document = autoclass("org.apache.lucene.document.Document")()
    document.add(autoclass("org.apache.lucene.document.StoredField")("id", id_))
    document.add(autoclass("org.apache.lucene.document.TextField")("text", text, no))
    writer.addDocument(document)
writer.close()
reader = autoclass("org.apache.lucene.index.DirectoryReader").open(directory)
searcher = autoclass("org.apache.lucene.search.IndexSearcher")(reader.getContext())
searcher.setSimilarity(similarity)
parser = autoclass("org.apache.lucene.queryparser.classic.QueryParser")("text", analyser)
parser.setFuzzyPrefixLength(1)
stored = reader.storedFields()
for query in given["queries"]:
    found = searcher.search(parser.parse(query), 10_000).scoreDocs
    print(json.dumps({stored.document(hit.doc).get("id"): hit.score for hit in found}))
"""


@pytest.mark.agreement
@pytest.mark.parametrize("positions", [False, True])
def test_answers_are_those_of_lucene(tmp_path, positions):
    lucene = find()
    if isinstance(lucene, str):
        pytest.skip(lucene)
    generator = random.Random(0)
    letters = list("abcdef")
    documents = [
        Document(f"d{i}", " ".join(generator.choices([*letters, "ab", "abc", "acb"], k=generator.randint(1, 14))))
        for i in range(400)
    ]

    def phrase():
        text = " ".join(generator.choices(letters[:4], k=generator.randint(2, 4)))
        return f'"{text}"' + generator.choice(["", "~1", "~2", "~3", "~5", "~8"])

    def leaf(depth):
        kind = generator.choice(["word", "word", "phrase", "prefix", "group"])
        if kind == "group" and depth:
            return f"({level(depth - 1)})"
        return {"phrase": phrase, "prefix": lambda: generator.choice(["a*", "ab*"])}.get(
            kind, lambda: generator.choice(letters)
        )()

    def level(depth):
        signs = ["", *(generator.choice(["", "", "+", "-"]) for _ in range(generator.randint(0, 3)))]
        return " ".join(sign + leaf(depth) + generator.choice(["", "", "^2", "^0.5"]) for sign in signs)

    # Fuzzy words are scored otherwise, but the same documents are found.
    fuzzy = ["abcd~1", "abc~1", "acb~1", "ab~1", "abx~1 -c", "acbx~2", "cab~2"]
    queries = [*fuzzy, *(phrase() for _ in range(300)), *(level(2) for _ in range(700))]
    given = {"documents": [(d.id, d.text) for d in documents], "queries": queries, "k1": K1, "b": B}
    done = subprocess.run(
        [lucene._command[0], "-c", LUCENE],
        input=json.dumps(given),
        env=lucene._variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    with build(tmp_path / "index", documents, segment_documents=150, k1=K1, b=B, positions=positions) as index:
        for query, wanted in zip(queries, expected, strict=True):
            found = {hit.id: hit.score for hit in index.search(query, 10_000, syntax=True).hits}
            assert found.keys() == wanted.keys(), query
            if query not in fuzzy:
                assert found == pytest.approx(wanted, rel=1e-5), query


def test_the_examples_of_the_guide(tmp_path, monkeypatch):
    """Runs the guide's first complete example and compares what it says to print."""
    guide = (Path(__file__).resolve().parents[2] / "docs" / "query-syntax.md").read_text(encoding="utf-8")
    (code,) = (part for part in re.findall(r"(?:^    .*\n|^\n)+", guide, re.MULTILINE) if "jsonl" in part)
    monkeypatch.chdir(tmp_path)
    script, printed = [], []
    for line in code.splitlines():
        call, _, result = line.removeprefix("    ").partition("  # ")
        script.append(f"shown({call})" if result else call)
        if result:
            printed.append(result.strip())
    shown = []
    exec("\n".join(script), {"shown": lambda value: shown.append(str(value))})
    assert shown == printed
    assert len(shown) > 8
