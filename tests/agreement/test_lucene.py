"""Our analyser and BM25 against Lucene itself, and against a frozen sample of Lucene's terms where there is no Java."""

import gzip
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from retriever.analysis import analyser, standard_tokenizer, word_breaks
from tests.agreement import scanner, texts
from tests.agreement.lucene import Lucene, find

FROZEN = Path(__file__).with_name("lucene_tokens.jsonl.gz")
ENGLISH = analyser("lucene-english")


@pytest.fixture(scope="module")
def lucene() -> Lucene:
    found = find()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def differing(given, expected):
    """Return the texts whose terms are not Lucene's, with both lists, and where the first difference is."""
    faults = []
    for text, terms in zip(given, expected, strict=True):
        ours = ENGLISH.terms(text)
        if ours != terms:
            pairs = itertools.zip_longest(ours, terms)
            faults.append((text[:80], next((a, b) for a, b in pairs if a != b)))
    return faults


def frozen(kind):
    with gzip.open(FROZEN, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row[1] for row in rows if row[0] == kind], [row[2] for row in rows if row[0] == kind]


def test_the_frozen_terms_of_real_text():
    given, expected = frozen("real")
    assert len(given) > 18_000
    assert differing(given, expected) == []


def test_the_frozen_terms_of_hard_text():
    given, expected = frozen("hard")
    assert len(given) > 1000
    assert differing(given, expected) == []


@pytest.mark.agreement
def test_the_scanner_of_the_jar():
    """Its classes are those frozen in `word_breaks`, and its automaton finds the tokens that our pattern finds."""
    path = scanner.jar()
    if path is None:
        pytest.skip("there is no jar of Anserini")
    lucene_scanner = scanner.Scanner(path)
    assert scanner.ranges(lucene_scanner) == {letter: text.strip() for letter, text in word_breaks.RANGES.items()}
    for text in scanner.random_texts(random.Random(12), 20_000):
        found = list(standard_tokenizer.spans(text))
        assert found == list(lucene_scanner.spans(text)), ascii(text)
        assert standard_tokenizer.words(text) == [text[start:end] for start, end in found], ascii(text)


@pytest.mark.agreement
def test_terms_of_real_passages(lucene, shared_data):
    given = list(texts.passages(shared_data))
    assert len(given) > 5000
    assert differing(given, lucene.ask("analyse", texts=given)) == []


@pytest.mark.agreement
def test_terms_of_hard_texts(lucene):
    assert differing(texts.EDGES, lucene.ask("analyse", texts=texts.EDGES)) == []


@pytest.mark.agreement
def test_terms_around_every_character(lucene):
    given = list(texts.assigned_characters())
    assert differing(given, lucene.ask("analyse", texts=given)) == []


@pytest.mark.agreement
def test_bm25_on_scifact(lucene, shared_data, tmp_path):
    """Ids in the same order and scores equal as float32, to a depth of 100, at Anserini's k1 and b."""
    from indexing.build import build_index
    from indexing.corpora import open_corpus
    from indexing.plan import BuildSettings
    from retriever.index.sealed import open_index

    folder = shared_data / "scifact"
    with gzip.open(folder / "queries.jsonl.gz", "rt", encoding="utf-8") as file:
        queries = [json.loads(line)["text"] for line in file]
    (tmp_path / "corpus").mkdir()
    with (tmp_path / "corpus" / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for id_, text in texts.collection(folder):
            file.write(json.dumps({"id": id_, "contents": text}) + "\n")
    lucene.ask("index", str(tmp_path / "corpus"), str(tmp_path / "lucene"))
    expected = lucene.ask("search", str(tmp_path / "lucene"), "100", texts=queries)
    build_index(open_corpus(str(folder)), tmp_path / "ours", BuildSettings(parts=("bm25",), k1=0.9, b=0.4))
    with open_index(tmp_path / "ours") as index:
        for query, hits in zip(queries, expected, strict=True):
            found, _ = index.search_bm25(query, 100, None)
            assert found.ids == [id_ for id_, _ in hits], query
            scores = np.array([score for _, score in hits], np.float32)
            assert np.array_equal(np.array(found.scores, np.float32), scores), query


@pytest.mark.agreement
@pytest.mark.parametrize("weights", [{"title": 2.0, "contents": 1.0}, {"title": 0.3, "text": 1.7}, {"title": 5.0}])
def test_fields_on_scifact(lucene, fielded, weights):
    """To a depth of 100: a flat BooleanQuery over the fields gives the same ids in the same order and the same float32
    scores; Anserini's, which rounds each field's sum to float32 before it adds them, those but for the last bit."""
    theirs, ours, queries = fielded
    written = ",".join(f"{name}={weight}" for name, weight in weights.items())
    expected = lucene.ask("search-fields", str(theirs), "100", written, texts=queries)
    for query, (nested, flat) in zip(queries, expected, strict=True):
        found, _ = ours.search_bm25(query, 100, None, weights)
        assert found.ids == [id_ for id_, _ in flat], query
        assert np.array_equal(np.array(found.scores, np.float32), np.array([s for _, s in flat], np.float32)), query
        scores = np.array([score for _, score in nested], np.float32)
        np.testing.assert_allclose(found.scores, scores, rtol=3e-7, err_msg=query)
        known = dict(zip(found.ids, found.scores, strict=True))
        last = scores[-1] * (1 + 1e-6) if len(scores) == 100 else 0
        assert all(score == pytest.approx(known[id_], rel=3e-7) for id_, score in nested if score > last), query


@pytest.fixture(scope="module")
def fielded(lucene, shared_data, tmp_path_factory):
    """Return SciFact with its title and text as fields in Lucene and in an index of ours, and its queries."""
    from indexing.build import build_index
    from indexing.corpora import open_corpus
    from indexing.plan import BuildSettings
    from retriever.index.sealed import open_index

    folder, made = shared_data / "scifact", tmp_path_factory.mktemp("fielded")
    with gzip.open(folder / "queries.jsonl.gz", "rt", encoding="utf-8") as file:
        queries = [json.loads(line)["text"] for line in file]
    contents = dict(texts.collection(folder))
    (made / "corpus").mkdir()
    with (
        gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file,
        (made / "corpus" / "corpus.jsonl").open("w", encoding="utf-8") as out,
    ):
        for line in file:
            row = json.loads(line)
            fields = {"title": row["title"], "text": row["text"]}
            out.write(json.dumps({"id": row["_id"], "contents": contents[row["_id"]], **fields}) + "\n")
    lucene.ask("index", str(made / "corpus"), str(made / "lucene"), "title", "text")
    settings = BuildSettings(parts=("bm25",), k1=0.9, b=0.4, search_fields=("title", "text"))
    build_index(open_corpus(str(folder)), made / "ours", settings)
    with open_index(made / "ours") as index:
        yield made / "lucene", index, queries
