"""TAS-B: its pairs and its loss by hand, and training with every kind of teacher."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.models import resolve
from tests.retriever.test_rerank import save_model
from tests.training.tasks import settings_of, task_of
from training.batch import Batch
from training.candidates import Candidates
from training.collection import open_training_collection
from training.encoders import open_base
from training.losses.contrastive import info_nce
from training.pair_scores import pair_scores
from training.pairs import hard_margin, margin_bins, uniform
from training.recipes.registry import recipe
from training.recipes.tas_b import TasBSettings, drawn_pairs, supervised
from training.settings import EncoderSettings
from training.teacher_settings import TeacherSettings, open_teacher, score_matrix, stage_of
from training.vector_teacher import VectorTeacher


def small_task(folder, split_pydocs, queries, *changes):
    task = task_of(folder, split_pydocs, "tas_b", *changes)
    task.collection = open_training_collection(split_pydocs, max_queries=queries)
    return task


def embeddings(seed, rows):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32))


def batch_of(size, seed=0):
    """Return a batch of made-up embeddings: query i, its document i, its negative size + i."""
    relevant = torch.zeros(size, 2 * size, dtype=torch.bool)
    relevant[torch.arange(size), torch.arange(size)] = True
    rows = np.arange(2 * size)
    return Batch(embeddings(seed, size), embeddings(seed + 1, 2 * size), rows[:size], rows, relevant)


def teacher_of(size, seed=7):
    return VectorTeacher(embeddings(seed, size).numpy(), embeddings(seed + 1, 2 * size).numpy())


def test_the_loss_by_hand():
    # Two queries on the axes; student scores are documents' coordinates, doubled by the scale.
    queries = torch.eye(2)
    documents = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [5.0, 1.0]])
    rows = np.arange(4)
    batch = Batch(queries, documents, rows[:2], rows, torch.eye(2, 4).bool())
    teacher = VectorTeacher(np.eye(2, dtype=np.float32), np.float32([[4, 0], [0, 4], [2, 1], [1, 2]]))
    settings = TasBSettings(batch_teacher=TeacherSettings(kind="bi_encoder", model="x", scale=0.5))
    found = supervised(settings, 2.0, teacher.scores, teacher)(batch)
    # Pairs: student margins 6 - 2 = 4 and 4 - 2 = 2, teacher 4 - 2 = 2 and 4 - 2 = 2.
    assert float(found["pair"]) == pytest.approx((4 + 0) / 2)
    # Positives of the other query: student 6 - 0 = 6, 4 - 2 = 2; teacher halved 2 - 0 = 2 for both.
    assert float(found["in_batch_positives"]) == pytest.approx(0.375 * (16 + 0) / 2)
    # Its negatives: student 6 - 10 = -4, 4 - 0 = 4; teacher 2 - .5 = 1.5, 2 - .5 = 1.5.
    assert float(found["in_batch_negatives"]) == pytest.approx(0.375 * (5.5**2 + 2.5**2) / 2)
    assert set(found) == {"pair", "in_batch_positives", "in_batch_negatives"}


def test_a_student_that_agrees_with_its_teachers_has_nothing_to_learn():
    batch = batch_of(5)
    teacher = VectorTeacher(batch.queries.numpy(), batch.documents.numpy())
    settings = TasBSettings(batch_teacher=TeacherSettings(kind="bi_encoder", model="x", scale=20))

    def pairs(queries, documents):
        return 20 * teacher.scores(queries, documents)

    losses = supervised(settings, 20.0, pairs, teacher)(batch)
    assert all(float(value) == pytest.approx(0, abs=1e-6) for value in losses.values())
    other = supervised(settings, 19.0, pairs, teacher)(batch)
    assert all(float(value) > 1e-3 for value in other.values())


def test_without_teachers_it_is_the_softmax_over_the_batch():
    batch = batch_of(4)
    found = supervised(TasBSettings(supervision="none"), 3.0, None, None)(batch)
    assert float(found) == float(info_nce(3.0 * batch.scores(), batch.relevant))


@pytest.mark.parametrize("supervision", ["pair", "in_batch"])
def test_batch_mates_matter_only_to_in_batch_supervision(supervision):
    """The reason why topics cannot help a training by pairs alone."""
    batch, teacher = batch_of(6), teacher_of(6)
    pairs, live = (teacher.scores, None) if supervision == "pair" else (None, teacher)
    objective = supervised(TasBSettings(), 1.0, pairs, live)

    def gradient(chosen):
        documents = [*chosen, *(place + 6 for place in chosen)]
        queries = batch.queries[chosen].clone().requires_grad_()
        part = Batch(queries, batch.documents[documents], batch.query_rows[chosen], batch.document_rows[documents],
                     batch.relevant[chosen][:, documents])  # fmt: skip
        sum(objective(part).values()).backward()
        return queries.grad[0] * len(chosen)

    together, apart = gradient([0, 1, 2]), gradient([0, 4, 5])
    assert torch.allclose(together, apart, atol=1e-5) == (supervision == "pair")


@pytest.fixture(scope="module")
def collection(split_pydocs):
    return open_training_collection(split_pydocs)


def mined_of(collection, depth):
    """Return as each query's negatives the first documents that are not relevant to it, with scores of their place."""
    lists = [np.setdiff1d(np.arange(depth + 3), collection.judgments.relevant(row))[:depth]
             for row in range(len(collection.queries))]  # fmt: skip
    return Candidates.of_matrix(np.array(lists), np.tile(np.linspace(1, 0, depth), (len(lists), 1)))


def test_balanced_pairs_fill_the_bins_and_random_ones_follow_the_crowd(collection):
    mined = mined_of(collection, 40)
    # Of each query's 40 negatives 36 are far from the relevant document, 4 ever nearer.
    by_place = np.concatenate([np.linspace(9, 3, 4), np.full(36, 0.0)]).astype(np.float32)

    def scores(queries, documents):
        found = np.full(len(queries), 10.0, np.float32)
        for place, (query, document) in enumerate(zip(queries, documents, strict=True)):
            listed = np.flatnonzero(mined.of(query)[0] == document)
            if len(listed):
                found[place] = by_place[listed[0]]
        return found

    queries = np.arange(len(collection.queries))
    shares = {}
    for name, choose in (
        ("random", uniform), ("balanced", margin_bins), ("hard", partial(hard_margin, cutoff=5.0)),
        ("too easy", partial(hard_margin, cutoff=0.5)),
    ):  # fmt: skip
        draw = drawn_pairs(collection, mined, choose, scores)
        counts = Counter()
        for seed in range(3):
            positives, negatives = draw(queries, np.random.default_rng(seed))
            assert negatives.shape == (len(queries), 1)
            assert all(p in collection.judgments.relevant(q) for q, p in enumerate(positives))
            counts.update(10 - float(scores([q], [d])[0]) for q, d in enumerate(negatives[:, 0]))
        shares[name] = {margin: count / sum(counts.values()) for margin, count in counts.items()}

    def entropy(shares):
        return -sum(share * np.log(share) for share in shares.values())

    # Five bins have members; four of them hold one document in forty each.
    assert shares["balanced"][10] == pytest.approx(1 / 5, abs=0.06)
    assert shares["random"][10] == pytest.approx(36 / 40, abs=0.05)
    assert entropy(shares["balanced"]) > entropy(shares["random"])
    assert set(shares["hard"]) == {1.0, 3.0, 5.0}
    # No margin is below the cutoff: the hardest pair instead of none.
    assert shares["too easy"] == {1.0: 1.0}


def test_a_query_to_which_all_is_relevant_is_named(collection):
    offsets = np.zeros(len(collection.queries) + 1, np.int64)
    none = Candidates(offsets, np.zeros(0, np.int32), np.zeros(0, np.float32))
    with pytest.raises(InvalidInput, match=f"query '{collection.query_ids[2]}' has no negative"):
        drawn_pairs(collection, none, uniform, None)(np.array([2]), np.random.default_rng(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a small model of each kind of teacher; what stands on their bodies is untrained."""
    from sentence_transformers import MultiVectorEncoder

    folder = tmp_path_factory.mktemp("teachers")
    MultiVectorEncoder(str(resolve("splade-tiny")), device="cpu", local_files_only=True).save_pretrained(
        str(folder / "late"), create_model_card=False
    )
    open_base(EncoderSettings(base="splade-tiny"), offline=True).save_pretrained(
        str(folder / "bi"), create_model_card=False
    )
    return {
        "bi_encoder": str(folder / "bi"), "late_interaction": str(folder / "late"),
        "cross_encoder": str(save_model(folder / "cross")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sampling", "supervision", "pair", "batch"),
    [
        ("topic_balanced", "both", "cross_encoder", "late_interaction"),
        ("topic_balanced_hard", "both", "bi_encoder", "bi_encoder"),
        ("topic", "in_batch", "bi_encoder", "cross_encoder"),
        ("random", "none", "bi_encoder", "bi_encoder"),
    ],
)
def test_it_trains_and_tells_its_stages(split_pydocs, tmp_path, folders, sampling, supervision, pair, batch):
    task = small_task(
        tmp_path, split_pydocs, 48, f"sampling={sampling}", f"supervision={supervision}", "fit.steps=2", "depth=4",
        "queries_per_cluster=40", f"pair_teacher.kind={pair}", f"pair_teacher.model={folders[pair]}",
        f"batch_teacher.kind={batch}", f"batch_teacher.model={folders[batch]}", "fit.batch_size=4",
    )  # fmt: skip
    folder = recipe("tas_b").train(task)
    assert np.isfinite(load_encoder(folder).encode_queries(["open a socket"])).all()
    stages = task.stages.reports
    assert ("cluster" in stages) == (sampling != "random")
    assert ("score" in stages) == (supervision == "both")
    # The vectors of a teacher that is asked twice are computed once.
    asked = {pair} if supervision == "both" else set()
    asked |= {batch} if supervision in ("both", "in_batch") else set()
    assert sum(name.startswith("teacher-") for name in stages) == ("bi_encoder" in asked)
    queries = len(task.collection.queries)
    if "score" in stages:
        assert stages["score"]["pairs"] == 4 * queries + len(task.collection.judgments.documents)


def test_scores_of_a_matrix_are_those_of_its_pairs(split_pydocs, tmp_path, folders):
    task = small_task(tmp_path, split_pydocs, 6)
    queries, documents = np.array([4, 0, 4]), np.array([7, 2])
    for kind, model in folders.items():
        settings = TeacherSettings(kind=kind, model=model)
        teacher = open_teacher(settings, task)
        matrix = score_matrix(teacher, queries, documents)
        assert matrix.shape == (3, 2)
        pairs = teacher.scores(np.array([0, 4]), np.array([2, 7]))
        np.testing.assert_allclose(pairs, [matrix[1, 1], matrix[0, 0]], rtol=1e-4)
    assert list(task.stages.reports) == [stage_of(TeacherSettings(kind="bi_encoder", model=folders["bi_encoder"]))]


def test_interrupted_scoring_asks_only_for_what_is_missing(split_pydocs, tmp_path, folders, monkeypatch):
    model = ("supervision=pair", "sampling=random", "depth=3", "pair_teacher.kind=bi_encoder",
             f"pair_teacher.model={folders['bi_encoder']}", "pair_teacher.scale=20")  # fmt: skip
    monkeypatch.setattr("training.pair_scores.PORTION", 10)
    asked = []
    ask = VectorTeacher.scores

    def scores(self, queries, documents):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(queries))
        return ask(self, queries, documents)

    task = small_task(tmp_path, split_pydocs, 8, *model)
    mined = task.mine("mine", task.open_base(), 3).candidates
    with monkeypatch.context() as patch:
        patch.setattr(VectorTeacher, "scores", scores)
        with pytest.raises(KeyboardInterrupt):
            pair_scores(task, mined, task.settings.pair_teacher, "score")
        # Ten pairs or more, since a query's are asked for together.
        first = sum(asked)
        assert min(asked) >= 10
        asked[:] = [0, 0, 0]
        found = pair_scores(task, mined, task.settings.pair_teacher, "score")
    count = 3 * 8 + len(task.collection.judgments.documents)
    assert sum(asked) == count - first
    teacher = VectorTeacher.load(tmp_path / stage_of(task.settings.pair_teacher))
    queries, documents = mined.queries[::-1].copy(), mined.documents[::-1].astype(np.int64)
    np.testing.assert_array_equal(found(queries, documents), np.float32(20) * teacher.scores(queries, documents))


def test_a_bi_encoder_is_no_late_interaction_model(split_pydocs, tmp_path):
    task = small_task(tmp_path, split_pydocs, 6)
    with pytest.raises(InvalidInput, match=r"no late-interaction model \(BertModel\)"):
        open_teacher(TeacherSettings(kind="late_interaction", model="all-MiniLM-L6-v2"), task)


def test_settings_of_teachers_are_named():
    changed = settings_of("tas_b", "pair_teacher.kind=bi_encoder", "pair_teacher.model=all-MiniLM-L6-v2")
    assert changed.pair_teacher == TeacherSettings(kind="bi_encoder", model="all-MiniLM-L6-v2")
    with pytest.raises(InvalidInput, match=r"batch_teacher\.kind.*late_interaction"):
        settings_of("tas_b", "batch_teacher.kind=oracle", "batch_teacher.model=x")
