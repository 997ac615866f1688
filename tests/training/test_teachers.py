"""Teachers: their arithmetic by hand, and real models asked by row."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from retriever.errors import InvalidInput, ModelFault
from retriever.models import resolve
from retriever.rerank import CrossEncoderReranker
from retriever.types import Document
from tests.retriever.test_rerank import save_model
from training.teachers import (
    BiEncoderTeacher,
    CachedScores,
    CrossEncoderTeacher,
    EnsembleTeacher,
    LateInteractionTeacher,
    cosines,
    ensemble,
    min_max,
    model_digest,
    mutual,
    probabilities,
    unit_labels,
)

NAN = float("nan")


@pytest.fixture(scope="module")
def texts(shared_data):
    """Return real questions and commands of nl2bash."""
    import gzip

    def first(name, count):
        with gzip.open(shared_data / "nl2bash" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(next(file))["text"] for _ in range(count)]

    return first("queries", 6), first("corpus", 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "cross")


QUERIES = np.array([0, 3, 0, 5, 3], np.int64)
DOCUMENTS = np.array([8, 1, 2, 2, 8], np.int64)


def offsets(*counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def test_min_max_of_each_query():
    scores = np.float32([2, 4, 3, -1, -5, 7, 7, 9])
    # Three candidates, none, two, then two that are equal, then one alone.
    found = min_max(scores, offsets(3, 0, 2, 2, 1))
    np.testing.assert_array_equal(found, np.float32([0, 1, 0.5, 1, 0, 1, 1, 1]))
    assert len(min_max(np.zeros(0), offsets(0, 0))) == 0
    # Scores that are far from zero must not lose their differences.
    np.testing.assert_allclose(min_max(np.array([1e8, 1e8 + 1, 1e8 + 2]), offsets(3)), [0, 0.5, 1])


def test_min_max_refuses_what_does_not_fit():
    for values, places, message in (
        ([1.0, 2.0], offsets(3), "offsets must rise from 0 to 2"),
        ([1.0, NAN], offsets(2), "teacher score 1 is NaN or infinite"),
        ([np.inf, 1.0], offsets(2), "teacher score 0 is NaN"),
    ):
        with pytest.raises(InvalidInput, match=message):
            min_max(np.array(values), places)


def test_the_ensemble_is_thirty_times_the_mean_of_stretched_scores():
    dense = np.float32([[0.2, 0.6, 0.4], [0.5, 0.5, 0.5]])
    sparse = np.float32([[10, 20, 30], [0, 8, 2]])
    # First query: (0, 1, .5) and (0, .5, 1); second: (1, 1, 1) and (0, 1, .25).
    expected = np.float32([[0, 22.5, 22.5], [15, 30, 18.75]])
    np.testing.assert_allclose(ensemble([dense, sparse]), expected, rtol=1e-6)
    np.testing.assert_allclose(ensemble([dense.ravel(), sparse.ravel()], offsets(3, 3)), expected.ravel(), rtol=1e-6)
    np.testing.assert_allclose(ensemble([dense, sparse], scale=1), expected / 30, rtol=1e-6)
    # The scale of a teacher does not count.
    np.testing.assert_allclose(ensemble([dense, 1000 * sparse - 7]), expected, rtol=1e-5)
    for scores in ([], [dense, sparse[:1]], [dense.ravel()]):
        with pytest.raises(InvalidInput):
            ensemble(scores)


def test_labels_of_pairs():
    first = np.array([[3, 4], [1, 0], [0, 0], [1, 0]], np.float32)
    second = np.array([[6, 8], [0, 2], [1, 1], [-2, 0]], np.float32)
    labels = cosines(first, second)
    np.testing.assert_allclose(labels, [1, 0, 0, -1], atol=1e-7)
    np.testing.assert_allclose(unit_labels(labels), [1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(unit_labels(labels, "rescale"), [1, 0.5, 0.5, 0], atol=1e-7)
    # Rounding may leave a cosine beyond 1, which binary cross-entropy refuses.
    assert unit_labels(np.array([1.0000001])) == 1
    np.testing.assert_allclose(mutual([labels, np.array([0, 1, 0.5, 1])]), [0.5, 0.5, 0.25, 0], atol=1e-7)
    with pytest.raises(InvalidInput, match="how must be clip or rescale"):
        unit_labels(labels, "shift")
    with pytest.raises(InvalidInput, match="of one shape"):
        mutual([labels, labels[:2]])


def test_probabilities_stay_apart_and_do_not_overflow():
    np.testing.assert_allclose(probabilities(np.array([0.0, np.log(3), -np.log(3)])), [0.5, 0.75, 0.25])
    large = probabilities(np.float32([-1000, 20, 21, 1000]))
    assert large[0] == 0
    assert large[3] == 1
    assert large[1] < large[2] < 1


def test_a_cross_encoder_scores_pairs_by_row_in_any_batch(texts, folder):
    from sentence_transformers import CrossEncoder

    queries, documents = texts
    reranker = CrossEncoderReranker(folder, device="cpu")
    expected = [
        reranker.score(queries[q], [Document("", documents[d])])[0][0] for q, d in zip(QUERIES, DOCUMENTS, strict=True)
    ]
    assert len(set(expected)) == len(expected)
    teacher = CrossEncoderTeacher(reranker, queries, documents)
    np.testing.assert_allclose(teacher.scores(QUERIES, DOCUMENTS), expected, atol=1e-5)
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True).train()
    for most in (None, 1, 100):
        live = CrossEncoderTeacher(model, queries, documents, max_batch_tokens=most)
        np.testing.assert_allclose(live.scores(QUERIES, DOCUMENTS), expected, atol=1e-5)
    # A model that is in training stays in training.
    assert model.training
    assert len(live.scores(QUERIES[:0], DOCUMENTS[:0])) == 0


def test_a_broken_teacher_is_not_believed(texts, tmp_path):
    from sentence_transformers import CrossEncoder

    broken = CrossEncoder(str(save_model(tmp_path / "nan", bias=NAN)), device="cpu", local_files_only=True)
    teacher = CrossEncoderTeacher(broken, *texts)
    with pytest.raises(ModelFault, match="gave nan for query row 0 and document row 8"):
        teacher.scores(QUERIES, DOCUMENTS)


def test_late_interaction_is_maxsim_live(texts):
    from sentence_transformers import MultiVectorEncoder

    queries, documents = texts
    model = MultiVectorEncoder(str(resolve("all-MiniLM-L6-v2")), device="cpu", local_files_only=True)
    teacher = LateInteractionTeacher(model, queries, documents)
    matrix = teacher.matrix(QUERIES[:3], DOCUMENTS[:2])
    for row, query in enumerate(QUERIES[:3]):
        for column, document in enumerate(DOCUMENTS[:2]):
            ours = model.encode_query(queries[query]).cpu().numpy()
            theirs = model.encode_document(documents[document]).cpu().numpy()
            assert matrix[row, column] == pytest.approx((ours @ theirs.T).max(axis=1).sum(), rel=1e-4)
    np.testing.assert_allclose(teacher.scores(QUERIES[:2], DOCUMENTS[:2]), matrix.diagonal(), rtol=1e-4)
    np.testing.assert_array_equal(matrix[0], matrix[2])
    assert len(teacher.scores(QUERIES[:0], DOCUMENTS[:0])) == 0


def test_a_bi_encoder_encodes_each_text_once(texts, encoder):
    queries, documents = texts
    asked = []

    class Counting:
        width = encoder.width

        def encode_queries(self, texts):
            asked.extend(texts)
            return 3 * encoder.encode_queries(texts)

        def encode_documents(self, texts):
            asked.extend(text.text for text in texts)
            return encoder.encode_documents(texts)

    vectors = encoder.encode_queries(queries), encoder.encode_documents([Document("", text) for text in documents])
    expected = (vectors[0][QUERIES] * vectors[1][DOCUMENTS]).sum(axis=1)
    teacher = BiEncoderTeacher(Counting(), queries, documents)
    np.testing.assert_allclose(teacher.scores(QUERIES, DOCUMENTS), 3 * expected, atol=1e-4)
    np.testing.assert_allclose(teacher.scores(QUERIES[::-1], DOCUMENTS[::-1]), 3 * expected[::-1], atol=1e-4)
    assert sorted(asked) == sorted([queries[0], queries[3], queries[5], documents[1], documents[2], documents[8]])
    by_angle = BiEncoderTeacher(Counting(), queries, documents, cosine=True)
    np.testing.assert_allclose(by_angle.scores(QUERIES, DOCUMENTS), expected, atol=1e-5)


class Table:
    """Scores that stand in a table; counts how often it is asked."""

    def __init__(self, scores):
        self.table = np.array(scores, np.float32)
        self.asked = 0

    def scores(self, query_rows, document_rows):
        self.asked += len(query_rows)
        return self.table[query_rows, document_rows]


def test_an_ensemble_of_teachers_takes_each_query_s_pairs_together():
    first, second = Table([[1, 2, 3], [5, 5, 9]]), Table([[0, 40, 20], [7, 8, 9]])
    joined = EnsembleTeacher([first, second])
    # In the order asked: query 1 with documents 0 and 2, query 0 with all.
    found = joined.scores(np.array([1, 0, 0, 1, 0]), np.array([0, 2, 0, 2, 1]))
    np.testing.assert_allclose(found, [0, 22.5, 0, 30, 22.5])


def test_cached_scores_ask_only_for_what_is_missing(tmp_path):
    path = tmp_path / "scores.parquet"
    queries, documents = {"a": 0, "b": 1}, {"x": 0, "y": 1, "z": 2}
    live = Table([[1, 2, 3], [4, 5, 6]])
    with CachedScores(path, queries, documents, teacher=live, name="table") as cache:
        np.testing.assert_array_equal(cache.scores(np.array([0, 1, 0]), np.array([2, 0, 2])), [3, 4, 3])
        assert live.asked == 2
        np.testing.assert_array_equal(cache.scores(np.array([1, 1]), np.array([0, 1])), [4, 5])
        assert live.asked == 3
        assert not path.exists()
    assert len(cache) == 3
    # Other rows for the same ids, and one id less, whose scores must stay in the file.
    swapped = CachedScores(path, {"b": 0}, {"z": 0, "y": 1, "x": 2}, name="table")
    np.testing.assert_array_equal(swapped.scores(np.array([0, 0]), np.array([2, 1])), [4, 5])
    with pytest.raises(InvalidInput, match="lacks the scores of 1 pairs, such as query 'b' with document 'z'"):
        swapped.scores(np.array([0]), np.array([0]))
    with CachedScores(path, {"b": 0}, {"z": 0}, teacher=Table([[6]]), save_every=1) as more:
        np.testing.assert_array_equal(more.scores(np.array([0]), np.array([0])), [6])
        assert pq.read_metadata(path).num_rows == 4
    whole = CachedScores(path, queries, documents, name="table")
    rows = np.array([0, 1, 1, 1]), np.array([2, 0, 1, 2])
    np.testing.assert_array_equal(whole.scores(*rows), [3, 4, 5, 6])


def test_cached_scores_refuse_what_would_mix_or_break(tmp_path):
    import pyarrow as pa

    path = tmp_path / "scores.parquet"
    with pytest.raises(InvalidInput, match="retriever train score"):
        CachedScores(path, {"a": 0}, {"x": 0})
    with CachedScores(path, {"a": 0}, {"x": 0}, teacher=Table([[NAN]]), name="first") as cache:
        with pytest.raises(ModelFault, match="the teacher gave nan"):
            cache.scores(np.array([0]), np.array([0]))
        assert len(cache) == 0
    assert not path.exists()
    with CachedScores(path, {"a": 0}, {"x": 0}, teacher=Table([[2]]), name="first") as cache:
        cache.scores(np.array([0]), np.array([0]))
    with pytest.raises(InvalidInput, match="holds scores of 'first', not of 'second'"):
        CachedScores(path, {"a": 0}, {"x": 0}, name="second")
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "score", pa.array([NAN], pa.float32())), path)
    with pytest.raises(InvalidInput, match="holds a score that is not finite"):
        CachedScores(path, {"a": 0}, {"x": 0})


def test_the_digest_of_a_model_is_of_its_weights_not_of_its_place(folder, tmp_path):
    import shutil

    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("a card")
    assert model_digest(copy) == model_digest(folder)
    assert model_digest(save_model(tmp_path / "other", bias=1.0)) != model_digest(folder)
