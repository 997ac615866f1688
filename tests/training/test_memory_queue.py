"""The queue of earlier documents: what it holds, what it bars, and a resumption that finds it again."""

import json

import numpy as np
import pytest
import torch
from transformers import Trainer

from retriever.errors import InvalidInput
from tests.training.tasks import task_of
from training.batch import Batch
from training.judgments import Judgments
from training.losses.contrastive import info_nce
from training.memory_queue import MemoryQueue
from training.recipes import contrastive
from training.recipes.registry import recipe


def batch_of(queries, documents, query_rows, document_rows):
    relevant = torch.eye(len(queries)).bool()
    return Batch(torch.tensor(queries), documents, np.array(query_rows), np.array(document_rows), relevant)


def test_the_newest_stay_in_order_and_carry_no_gradient():
    queue = MemoryQueue(3, Judgments.of_lists([]))
    for rows in ([4, 2], [7, 1], [9]):
        documents = torch.tensor([[float(row)] for row in rows], requires_grad=True)
        queue.add(documents, np.array(rows))
    assert queue.rows.tolist() == [7, 1, 9]
    assert queue.vectors.tolist() == [[7.0], [1.0], [9.0]]
    assert not queue.vectors.requires_grad
    queue.add(torch.arange(5.0).unsqueeze(1), np.arange(5))
    assert queue.rows.tolist() == [2, 3, 4]


def test_scores_and_barred_documents_by_hand():
    # Documents 5 and 6 were in an earlier batch; 5 is relevant to query 1 too.
    queue = MemoryQueue(8, Judgments.of_lists([[0], [1, 5]]))
    documents = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    batch = batch_of([[1.0, 0.0], [0.0, 1.0]], documents, [0, 1], [0, 1])
    empty, none = queue.scores(batch)
    assert empty.shape == none.shape == (2, 0)
    queue.add(torch.tensor([[2.0, 3.0], [4.0, 5.0]]), np.array([5, 6]))
    scores, barred = queue.scores(batch)
    assert scores.tolist() == [[2.0, 4.0], [3.0, 5.0]]
    assert barred.tolist() == [[False, False], [True, False]]
    loss = info_nce(torch.cat([batch.scores(), scores], dim=1), torch.cat([batch.relevant, barred], dim=1))
    # -log of e^1 / (e^1 + e^0 + e^2 + e^4), and without document 5 of e^1 / (e^1 + e^0 + e^5).
    e = np.exp
    by_hand = [-np.log(e(1) / (e(1) + 1 + e(2) + e(4))), -np.log(e(1) / (e(1) + 1 + e(5)))]
    np.testing.assert_allclose(loss.item(), np.mean(by_hand), rtol=1e-6)


def test_what_is_saved_is_found_again(tmp_path):
    queue = MemoryQueue(3, Judgments.of_lists([]))
    queue.save(tmp_path)
    queue.load(tmp_path)
    assert queue.vectors is None
    queue.add(torch.tensor([[1.0], [2.0]]), np.array([8, 9]))
    queue.save(tmp_path)
    other = MemoryQueue(3, Judgments.of_lists([]))
    other.load(tmp_path)
    assert other.rows.tolist() == [8, 9]
    assert torch.equal(other.vectors, queue.vectors)


def test_killed_between_a_checkpoint_and_what_follows_the_queue_is_found_again(split_pydocs, tmp_path, monkeypatch):
    changes = ("queue=32", "fit.steps=5", "fit.save_steps=2")
    save, widths, loss = Trainer._save_checkpoint, [], contrastive.info_nce

    def killed(trainer, *args, **kwargs):
        save(trainer, *args, **kwargs)
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt

    def train():
        return recipe("contrastive").train(task_of(tmp_path / "work", split_pydocs, "contrastive", *changes))

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train()
    checkpoints = tmp_path / "work" / "contrastive" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-4", "memory-2", "memory-4"]
    (checkpoints / "memory-4").rename(tmp_path / "memory")
    with pytest.raises(InvalidInput, match=r"step 4 has no memory .* --restart"):
        train()
    (tmp_path / "memory").rename(checkpoints / "memory-4")
    # What a training that was begun anew has left behind.
    (checkpoints / "memory-900").mkdir()
    monkeypatch.setattr(contrastive, "info_nce", lambda s, r: widths.append(s.shape[1]) or loss(s, r))
    assert json.loads((train() / "fit.json").read_text())["resumed_from"] == 4
    assert widths == [48]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-5", "memory-4", "memory-5"]


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_the_same_queue(split_pydocs, tmp_path, monkeypatch):
    changes = ("queue=40", "fit.steps=6", "fit.save_steps=2")
    widths = []
    loss = contrastive.info_nce

    def interrupted(scores, relevant):
        widths.append(scores.shape[1])
        if len(widths) == 12:
            raise KeyboardInterrupt
        return loss(scores, relevant)

    monkeypatch.setattr(contrastive, "info_nce", interrupted)
    whole = recipe("contrastive").train(task_of(tmp_path / "whole", split_pydocs, "contrastive", *changes))
    assert widths == [16, 32, 48, 56, 56, 56]
    with pytest.raises(KeyboardInterrupt):
        recipe("contrastive").train(task_of(tmp_path / "broken", split_pydocs, "contrastive", *changes))
    again = recipe("contrastive").train(task_of(tmp_path / "broken", split_pydocs, "contrastive", *changes))
    assert json.loads((again / "fit.json").read_text())["resumed_from"] == 4
    assert widths[12:] == [56, 56]
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    plain = recipe("contrastive").train(task_of(tmp_path / "plain", split_pydocs, "contrastive", "fit.steps=6"))
    assert (plain / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()
