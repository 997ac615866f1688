"""Collections as rows, and what is left out of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from retriever.errors import InvalidInput
from retriever.types import Document
from training.collection import Corpus, TrainingCollection, open_training_collection, read_corpus
from training.judgments import Judgments
from training.negatives import draw_positives, with_negatives


def write(folder, documents, queries, qrels):
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": id_, "title": "", "text": text}) for id_, text in documents.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"_id": id_, "text": text}) for id_, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(map("\t".join, qrels)))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(
        tmp_path / "data",
        {"a": "one", "b": "two", "c": "three", "q4": "four"},
        {"q1": "1", "q2": "2", "q3": "3", "q4": "4"},
        [
            ("q1", "a", "1"),
            ("q1", "b", "0"),
            ("q2", "gone", "1"),
            ("q3", "c", "2"),
            ("q3", "gone", "1"),
            ("q4", "q4", "1"),
        ],
    )


def test_queries_without_a_relevant_document_are_counted_and_named(folder):
    found = open_training_collection(folder)
    assert found.query_ids == ["q1", "q3"]
    assert [found.judgments.relevant(row).tolist() for row in range(2)] == [[0], [2]]
    assert found.dropped["queries_without_relevant_document"] == 2
    assert found.dropped["first_queries"] == ["q2", "q4"]
    assert found.dropped["judged_documents_missing"] == 2


def test_nothing_to_train_on_is_refused(tmp_path):
    folder = write(tmp_path / "data", {"a": "one"}, {"q1": "1"}, [("q1", "gone", "1")])
    with pytest.raises(InvalidInput, match="gone"):
        open_training_collection(folder)
    with pytest.raises(InvalidInput, match="corpus.jsonl"):
        read_corpus(tmp_path)


def test_the_seed_decides_which_queries_are_kept(folder):
    kept = [open_training_collection(folder, max_queries=1, seed=seed).query_ids for seed in range(8)]
    assert {tuple(ids) for ids in kept} == {("q1",), ("q3",)}
    assert kept == [open_training_collection(folder, max_queries=1, seed=seed).query_ids for seed in range(8)]


def test_masks_and_draws_keep_to_the_judgments():
    generator = np.random.default_rng(0)
    relevant = [sorted(generator.choice(20, generator.integers(1, 6), replace=False).tolist()) for _ in range(30)]
    judgments = Judgments.of_lists(relevant)
    mask = judgments.mask(np.arange(30), np.arange(20))
    assert mask.tolist() == [[document in rows for document in range(20)] for rows in relevant]
    queries = np.repeat(np.arange(30), 200)
    positives = draw_positives(judgments, queries, generator)
    assert mask[queries, positives].all()
    assert len(set(zip(queries.tolist(), positives.tolist(), strict=True))) == sum(map(len, relevant))


def small(texts, relevant, query_ids=None):
    """Return a collection of these texts, documents named d0, d1, ..."""
    documents = [Document(f"d{row}", text) for row, text in enumerate(texts)]
    corpus = Corpus(Path(), documents, {document.id: row for row, document in enumerate(documents)}, {})
    ids = query_ids or [f"q{row}" for row in range(len(relevant))]
    return TrainingCollection(corpus, ids, ids, Judgments.of_lists(relevant), {}, {})


def test_random_negatives_are_uniform_over_what_is_not_relevant():
    # Document 5 has the text of a relevant one, document 8 is the query itself.
    texts = ["a", "b", "c", "d", "e", "a", "g", "h", "i"]
    draw = with_negatives(small(texts, [[0, 2, 3, 7]], ["d8"]), 500)
    _, negatives = draw(np.zeros(8, np.int64), np.random.default_rng(1))
    rows, counts = np.unique(negatives, return_counts=True)
    assert rows.tolist() == [1, 4, 6]
    assert counts.min() > 1100
    with pytest.raises(InvalidInput, match="'q0'.* no negatives"):
        with_negatives(small(["a", "b", "a"], [[0, 1]]), 1)(np.zeros(1, np.int64), np.random.default_rng(1))


def test_copies_and_the_query_itself_are_barred_and_stay_so_after_a_filter():
    collection = small(["a", "b", "a", "c", "b"], [[0, 1], [3]], ["q", "d0"])
    assert [collection.barred.relevant(row).tolist() for row in (0, 1)] == [[0, 1, 2, 4], [0, 3]]
    kept = collection.restrict(np.array([False, True, True]))
    assert [kept.barred.relevant(row).tolist() for row in (0, 1)] == [[1, 4], [0, 3]]


@pytest.mark.parametrize(("queries", "documents"), [(0, 5), (3, 0), (1, 1), (7, 13), (33, 67), (64, 5)])
def test_the_mask_is_that_of_its_definition(queries, documents):
    generator = np.random.default_rng(queries)
    # Some queries have nothing relevant, some much; queries and documents come more than once and in any order.
    judgments = Judgments.of_lists(
        [generator.integers(0, 40, generator.integers(0, 9)) * generator.integers(0, 2) for _ in range(21)]
        + [[], range(40)]
    )
    rows = generator.integers(0, 23, queries)
    columns = generator.integers(0, 40, documents)
    found = judgments.mask(rows, columns)
    assert found.shape == (queries, documents)
    assert found.dtype == np.bool_
    for row, line in zip(rows, found, strict=True):
        assert line.tolist() == [column in judgments.relevant(row).tolist() for column in columns]


def test_a_mask_of_judgments_without_any_is_empty():
    assert not Judgments.of_lists([[], []]).mask(np.array([1, 0]), np.arange(3)).any()
