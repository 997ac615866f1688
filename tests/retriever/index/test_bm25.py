"""BM25 over whole indexes under odd input: nothing to find, too much to find, and from many threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexing.build import add_documents, build_index
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.index.bm25 import Bm25
from retriever.index.inverted import InvertedReader, write_inverted
from retriever.index.plain import PlainPostings
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import ListCorpus, random_documents

BM25 = BuildSettings(parts=("bm25",), shard_documents=64)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("bm25") / "index"
    build_index(ListCorpus(random_documents(300, seed=4)), path, BM25)
    for part in range(3):
        add_documents(ListCorpus(random_documents(50, seed=10 + part, prefix=f"p{part}-")), path)
    return path


def test_queries_without_anything_to_find(path):
    with open_index(path) as index:
        for query in ("the of and", "zzzzzz qqqqqq", "!?…", "🙂"):
            answer = index.search(query, 5)
            assert (answer.hits, answer.warnings) == ([], ["no_terms"])
        for query in ("", " \n\t"):
            with pytest.raises(InvalidInput, match="the query is empty"):
                index.search(query, 5)


def test_a_query_of_a_hundred_thousand_characters_is_cut_and_says_so(path):
    with open_index(path) as index:
        text = index.documents([index.segments[0].row(0)]).popitem()[1].text
        answer = index.search((text + " ") * (100_000 // len(text) + 1), 5)
        assert answer.truncated
        assert len(answer.hits) == 5


def test_ten_thousand_words_score_as_their_sum(path):
    with open_index(path) as index:
        bm25 = Bm25([s.inverted for s in index.segments], [s.id_rank for s in index.segments], 0.9, 0.4)
        words = [term for reader in bm25.readers for term in reader.terms]
        every = dict.fromkeys([*words, *(f"absent{i}" for i in range(10_000))], 1.0)
        expected = [np.zeros(segment.documents, np.float64) for segment in index.segments]
        for word in set(words):
            for total, (scores, found) in zip(expected, bm25.search({word: 1.0}, 1000), strict=True):
                total[found] += scores
        for (scores, found), total in zip(bm25.search(every, 1000), expected, strict=True):
            np.testing.assert_allclose(scores, total[found], rtol=1e-5)
            assert len(found) == np.count_nonzero(total)


def test_threads_find_what_one_finds(path):
    with open_index(path) as index:
        queries = [
            document.text[:80]
            for document in index.documents([s.row(i) for s in index.segments for i in range(20)]).values()
        ]
        alone = [index.search_bm25(query, 20, None)[0].ranking() for query in queries]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda query: index.search_bm25(query, 20, None)[0].ranking(), queries * 5))
    assert together == alone * 5


def test_terms_are_remembered_only_up_to_a_limit(path, monkeypatch):
    monkeypatch.setattr("retriever.index.bm25.MOST_KNOWN", 3)
    with open_index(path) as index:
        words = list(index.segments[0].inverted.terms[:40])
        first = [index.search_bm25(word, 5, None)[0].ranking() for word in words]
        assert [index.search_bm25(word, 5, None)[0].ranking() for word in words] == first
        assert len(index._bm25._known) <= 3


def test_an_id_with_a_tab_or_newline_is_refused_where_it_comes_in(tmp_path):
    from indexing.corpora import open_corpus

    (tmp_path / "c.jsonl").write_text('{"_id": "a\\tb", "text": "x"}\n')
    with pytest.raises(InvalidInput, match="white space or control characters"):
        build_index(open_corpus(str(tmp_path / "c.jsonl")), tmp_path / "index", BM25)


@pytest.mark.slow
def test_ten_million_terms(tmp_path):
    count = 10_000_000
    terms = [b"t%08d" % number for number in range(count)]
    documents = np.arange(count, dtype=np.int64) // 1000
    plain = PlainPostings(
        terms, np.arange(count + 1, dtype=np.int64), documents.astype(np.int32), np.ones(count, np.uint8),
        np.full(count // 1000, 1000, np.int32),
    )  # fmt: skip
    write_inverted(plain, tmp_path, 0.9, 0.4)
    reader = InvertedReader(tmp_path)
    bm25 = Bm25([reader], [np.arange(reader.documents, dtype=np.int32)], 0.9, 0.4)
    for number in (0, 63, 64, 5_000_000, count - 1):
        ((_, found),) = bm25.search({f"t{number:08d}": 1.0}, 5)
        assert found.tolist() == [number // 1000]


def test_a_document_of_one_word_a_million_times(tmp_path):
    documents = [Document("long", "spam " * 1_000_000), Document("short", "spam"), Document("other", "ham")]
    build_index(ListCorpus(documents), tmp_path / "index", BM25)
    with open_index(tmp_path / "index") as index:
        hits = index.search("spam", 5).hits
        bm25 = index._bm25
    # By hand: n = k1 * (1 - b + b * length / mean length), the length rounded down to a byte's.
    idf, mean = np.log(1 + 1.5 / 2.5), bm25.mean_length
    length = 983_064
    expected = {
        "long": idf * 1e6 / (1e6 + 0.9 * (0.6 + 0.4 * length / mean)),
        "short": idf * 1 / (1 + 0.9 * (0.6 + 0.4 * 1 / mean)),
    }
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, rel=1e-5)
    assert hits[0].id == max(expected, key=expected.__getitem__)
