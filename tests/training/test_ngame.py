"""NGAME: collected embeddings, clustered batches, its mask, and a resumption that clusters the same."""

import json

import numpy as np
import pytest
import torch

from retriever.errors import InvalidInput
from tests.training.tasks import settings_of, task_of
from training.batch import Batch
from training.embedding_memory import EmbeddingMemory
from training.recipes import ngame
from training.recipes.registry import recipe


def test_the_memory_holds_the_latest_and_encodes_only_what_had_no_turn(tmp_path):
    asked = []

    def encode(rows):
        asked.append(rows.tolist())
        return np.full((len(rows), 2), -1.0, np.float32)

    memory = EmbeddingMemory(5, 2, encode)
    memory.add(np.array([3, 0]), np.float32([[1, 2], [3, 4]]))
    memory.add(np.array([0]), np.float32([[5, 6]]))
    memory.save(tmp_path)
    np.testing.assert_array_equal(memory.vectors(1), [[5, 6], [-1, -1], [-1, -1], [1, 2], [-1, -1]])
    memory.vectors(2)
    assert asked == [[1, 2, 4]]
    assert memory.encoded == 3
    other = EmbeddingMemory(5, 2, encode)
    other.load(tmp_path)
    assert other.seen.tolist() == [True, False, False, True, False]
    np.testing.assert_array_equal(other.vectors(1), memory.vectors(1))
    other.load(tmp_path / "nothing")
    assert other.seen.all()


def test_documents_of_others_are_negatives_unless_they_are_relevant_too():
    relevant = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    batch = Batch(torch.eye(3), torch.eye(3), np.arange(3), np.arange(3), relevant)
    assert ngame.negatives(batch, mask=True).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert ngame.negatives(batch, mask=False).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_it_compares_by_cosine_whatever_the_lengths():
    queries, documents = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[2.0, 0.0], [4.0, 3.0]])
    batch = Batch(queries, documents, np.arange(2), np.arange(2), torch.eye(2).bool())
    assert torch.allclose(ngame.cosines(batch), torch.tensor([[1.0, 0.8], [0.0, 0.6]]))


def test_embeddings_come_from_training_itself(split_pydocs, tmp_path):
    task = task_of(tmp_path, split_pydocs, "ngame", "doublings=[1, 2]", "refresh=1", "fit.epochs=3")
    recipe("ngame").train(task)
    report = task.stages.reports["ngame"]
    # What the incomplete batch of the first epoch left out, and nothing else.
    assert report["queries_encoded_for_clustering"] == len(task.collection.queries) % 16
    assert 0 < report["clustering_seconds"] < report["seconds"]
    assert list(report["negative_cosine_by_epoch"]) == ["0", "1", "2"]
    assert sorted(path.name for path in tmp_path.rglob("clusters-*.npy")) == [
        "clusters-000001.npy", "clusters-000002.npy"]  # fmt: skip


def test_clusters_bring_negatives_that_are_nearer(split_pydocs, tmp_path):
    found = {}
    for name, changes in (("random", ["batches=random"]), ("clustered", ["doublings=[0, 0, 0, 0]"])):
        task = task_of(tmp_path / name, split_pydocs, "ngame", "fit.epochs=1", "fit.learning_rate=1e-9", *changes)
        recipe("ngame").train(task)
        found[name] = task.stages.reports["ngame"]["negative_cosine_by_epoch"]["0"]
    assert found["clustered"] > found["random"]


@pytest.mark.slow
def test_an_interrupted_training_clusters_what_the_whole_one_does(split_pydocs, tmp_path, monkeypatch):
    changes = ("doublings=[1, 1]", "fit.epochs=2", "fit.save_steps=3")
    whole = recipe("ngame").train(task_of(tmp_path / "whole", split_pydocs, "ngame", *changes))
    steps = json.loads((whole / "fit.json").read_text())["steps"]
    calls = []
    loss = ngame.triplet_hard_mining

    def interrupted(*args, **kwargs):
        calls.append(1)
        # In the second epoch, two batches behind a checkpoint.
        if len(calls) == steps // 2 + 5:
            raise KeyboardInterrupt
        return loss(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ngame, "triplet_hard_mining", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe("ngame").train(task_of(tmp_path / "broken", split_pydocs, "ngame", *changes))
    task = task_of(tmp_path / "broken", split_pydocs, "ngame", *changes)
    again = recipe("ngame").train(task)
    assert task.stages.reports["ngame"]["resumed_from"] == (steps // 2 + 4) // 3 * 3
    name = "clusters-000001.npy"
    assert (again / "clusters" / name).read_bytes() == (whole / "clusters" / name).read_bytes()
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_doublings_must_rise():
    assert settings_of("ngame", "doublings=[0, 0, 3]").doublings == (0, 0, 3)
    for wrong in ("[3, 1]", "[-1]"):
        with pytest.raises(InvalidInput, match="ascending order"):
            settings_of("ngame", f"doublings={wrong}")
