"""The residual over frozen embeddings."""

import numpy as np
import pytest
import torch

from indexing.build import build_index
from indexing.plan import BuildSettings
from retriever.encoder import load_encoder
from retriever.errors import IndexMismatch, InvalidInput
from retriever.heads.adapter import AdapterHead
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import ListCorpus
from training.collection import Corpus, TrainingCollection, open_training_collection
from training.encoders import as_encoder
from training.judgments import Judgments
from training.recipes.low_rank_adapter import VectorLoss, adapted
from training.recipes.registry import recipe
from training.settings import read_settings
from training.stages import Stages
from training.task import Task

QUICK = ("base=splade-tiny", "document_tokens=24", "query_tokens=12", "fit.learning_rate=0.02", "rank=8", "cycles=2", "fit.epochs=2",
         "fit.batch_size=16", "depth=20")  # fmt: skip


@pytest.mark.parametrize("form", ["linear", "lookup", "full"])
@pytest.mark.parametrize("sides", ["query", "both"])
def test_a_new_head_changes_nothing_and_has_the_weights_it_says(form, sides):
    head = AdapterHead(12, 3, form, sides)
    vectors = torch.randn(5, 12)
    for task in ("query", "document"):
        assert torch.equal(head({"sentence_embedding": vectors}, task=task)["sentence_embedding"], vectors)
    weights = sum(weight.numel() for weight in head.parameters())
    assert weights == (144 if form == "full" else 72) * (2 if sides == "both" else 1)


def test_the_forms_are_what_they_say():
    vectors = torch.randn(4, 6)
    head = AdapterHead(6, 2, "linear")
    torch.nn.init.normal_(head.query.up)
    expected = vectors + vectors @ head.query.down.T @ head.query.up
    assert torch.allclose(head.adapted(vectors, "query"), expected)
    assert torch.equal(head.adapted(vectors, "document"), vectors)
    head = AdapterHead(6, 2, "lookup")
    torch.nn.init.normal_(head.query.up)
    expected = vectors + torch.softmax(vectors @ head.query.down.T, dim=1) @ head.query.up
    assert torch.allclose(head.adapted(vectors, "query"), expected)
    for rank in (0, 6):
        with pytest.raises(InvalidInput, match="rank must lie in 1 to 5"):
            AdapterHead(6, rank)


@pytest.fixture
def trained(pydocs, tmp_path):
    """Return what trains on *pydocs* with given changes, and opens the outcome."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).symlink_to(pydocs / name)
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text((pydocs / "qrels" / "test.tsv").read_text())
    collection = open_training_collection(folder)

    def train(*changes):
        settings = read_settings(recipe("low_rank_adapter").settings, None, (*QUICK, *changes))
        name = "-".join(changes) or "plain"
        task = Task(collection, settings, Stages(tmp_path / name, {"settings": settings.model_dump()}), True)
        best = recipe("low_rank_adapter").train(task)
        assert best.name in ("start", "fit-0", "fit-1")
        # The last cycle, whichever did best on the queries held back.
        return task, load_encoder(tmp_path / name / "fit-1")

    return train


def test_queries_are_adapted_and_documents_stay_to_the_bit(trained):
    task, encoder = trained()
    base = as_encoder(task.open_base())
    documents = task.collection.documents[:30]
    assert np.array_equal(encoder.encode_documents(documents), base.encode_documents(documents))
    queries = task.collection.queries
    assert not np.allclose(encoder.encode_queries(queries), base.encode_queries(queries), atol=1e-3)
    reports = task.stages.reports
    assert list(reports) == ["vectors", "start", "fit-0", "fit-1"]
    assert reports["start"]["trained_weights"] == 2 * 8 * encoder.width


def test_an_index_of_the_base_is_searched_by_adapted_queries(trained, tmp_path):
    task, encoder = trained()
    task.open_base().save_pretrained(str(tmp_path / "base"), create_model_card=False)
    documents, queries = task.collection.documents[:60], task.collection.queries[:5]
    settings = BuildSettings(parts=("dense",), encoder=str(tmp_path / "base"))
    build_index(ListCorpus(documents), tmp_path / "index", settings, device="cpu")
    adapted_folder = tmp_path / "plain" / "fit-1"
    with open_index(tmp_path / "index", encoder=str(adapted_folder)) as index:
        index.check_canaries()
        answers = index.batch_search(queries, 3, pipeline="dense")
        expected = encoder.encode_queries(queries) @ encoder.encode_documents(documents).T
    for answer, scores in zip(answers, expected, strict=True):
        np.testing.assert_allclose([hit.score for hit in answer.hits], np.sort(scores)[::-1][:3], atol=1e-4)
    base = load_encoder(tmp_path / "base").fingerprint()
    assert {part: value for part, value in encoder.fingerprint().items() if part != "query_adapter"} == base
    assert encoder.fingerprint()["query_adapter"] != trained("seed=9")[1].fingerprint()["query_adapter"]
    both = trained("sides=both")[1]
    with pytest.raises(IndexMismatch, match="made with another encoder. modules: "):
        open_index(tmp_path / "index", encoder=both).search(queries[0], 3, pipeline="dense")


def test_both_sides_are_adapted_apart(trained):
    task, encoder = trained("sides=both", "form=lookup")
    base = as_encoder(task.open_base())
    for own, other in (
        (encoder.encode_documents(task.collection.documents[:9]), base.encode_documents(task.collection.documents[:9])),
        (encoder.encode_queries(task.collection.queries[:9]), base.encode_queries(task.collection.queries[:9])),
    ):
        assert not np.allclose(own, other, atol=1e-3)


def test_a_rotated_side_is_turned_back():
    """Documents as "code": queries in another, rotated space of 8 dimensions, as sheet L's test has it."""
    generator = np.random.default_rng(0)
    width, count = 32, 160
    meanings = generator.standard_normal((count, 8)).astype(np.float32)
    spaces = [np.linalg.qr(generator.standard_normal((width, width)))[0][:8].astype(np.float32) for _ in range(2)]
    sides = [meanings @ space + 0.05 * generator.standard_normal((count, width)).astype(np.float32) for space in spaces]
    queries, documents = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    rows = [Document(f"d{row}", f"text {row}") for row in range(count)]
    corpus = Corpus(None, rows, {document.id: place for place, document in enumerate(rows)}, {})
    ids = [f"q{row}" for row in range(count)]
    collection = TrainingCollection(corpus, ids, ids, Judgments.of_lists([[row] for row in range(count)]), {}, {})
    torch.manual_seed(0)

    class Bare(list):
        similarity_fn_name, device = "cosine", torch.device("cpu")

    def top_1(model):
        scores = adapted(model, queries[100:], "query") @ adapted(model, documents, "document").T
        return float((scores.argmax(axis=1) == np.arange(100, count)).mean())

    model = Bare([AdapterHead(width, 8)])
    before = top_1(model)
    loss = VectorLoss(model, collection, queries, documents, 20.0)
    optimiser = torch.optim.Adam(model[-1].parameters(), 1e-2)
    for _ in range(150):
        labels = torch.from_numpy(generator.permutation(100)[:50]).repeat(2, 1).T
        optimiser.zero_grad()
        loss([], labels).backward()
        optimiser.step()
    assert before < 0.1
    assert top_1(model) > 0.6
