"""Recipes whose models compress documents, from data to model folder, on real text with a real two-layer model."""

import math

import numpy as np
import pytest
import torch

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.heads.sign import SignHead
from tests.training.test_recipes import pydocs, task_of
from training.batch import Batch, BatchLoss
from training.encoders import head_of, open_base, scale_of, with_head
from training.fitting import fit_encoder
from training.negatives import positives_only
from training.recipes.bpr import growing_beta, hashed
from training.recipes.registry import recipe
from training.settings import EncoderSettings

__all__ = ["pydocs"]


def batch_of(queries, documents):
    relevant = torch.eye(len(queries), len(documents), dtype=torch.bool)
    return Batch(queries, documents, np.arange(len(queries)), np.arange(len(documents)), relevant)


@pytest.mark.parametrize(
    "changes",
    [(), ("slope=straight-through",), ("binary=none", "hard=none"), ("dense=false", "hard=random"),
     ("binary=cross_entropy", "hard=none", "similarity=dot")],
)  # fmt: skip
def test_bpr_gives_signs_of_documents_and_float_queries(pydocs, tmp_path, changes):
    task = task_of(tmp_path / "work", pydocs, "bpr", "depth=20", "fit.steps=3", *changes)
    encoder = load_encoder(recipe("bpr").train(task))
    assert encoder.codes == "sign"
    assert not encoder.normalises
    vectors = encoder.encode_documents(task.collection.documents[:20])
    assert set(np.unique(vectors)) == {-1, 1}
    queries = encoder.encode_queries(task.collection.queries[:4])
    assert len(np.unique(queries)) > 400
    unit = "similarity=dot" not in changes
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5) == unit


def test_bpr_lowers_its_loss(pydocs, tmp_path):
    task = task_of(tmp_path / "work", pydocs, "bpr", "hard=none", "fit.steps=100", "fit.warmup=0")
    recipe("bpr").train(task)
    losses = [loss for _, loss in task.stages.reports["bpr"]["losses"]]
    assert losses[1] < 0.9 * losses[0]


def test_bpr_refuses_settings_without_a_loss_and_a_base_with_a_head(pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="leaves no loss"):
        task_of(tmp_path / "work", pydocs, "bpr", "dense=false", "binary=none")
    model = open_base(EncoderSettings(base="splade-tiny"), offline=True)
    with_head(model, SignHead(128)).save(str(tmp_path / "base"))
    with pytest.raises(InvalidInput, match="SignHead already"):
        recipe("bpr").train(task_of(tmp_path / "work", pydocs, "bpr", f"base={tmp_path / 'base'}"))


def test_the_softmax_begins_at_the_scores_of_the_base(pydocs, tmp_path):
    # tanh is the identity near 0, so that soft codes of the first step are nearly the scaled embeddings.
    task = task_of(tmp_path / "work", pydocs, "bpr")
    model = open_base(task.settings, offline=True)
    tokens = model.preprocess(["sort a list", "open a file", "a socket"])
    embeddings = torch.nn.functional.normalize(model(dict(tokens))["sentence_embedding"].detach(), dim=1)
    length = 128**0.5
    head = SignHead(128, scale=length).train()
    head.beta = 0.01
    soft = head.codes(embeddings) / head.beta
    cosines = 20 * embeddings @ embeddings.T
    assert torch.allclose(scale_of(task.settings, model) / length * (embeddings @ soft.T), cosines, atol=0.02)


def test_each_term_of_bpr_can_be_left_out():
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(3, 8, generator=generator), torch.randn(6, 8, generator=generator).tanh()
    head = SignHead(8).train()
    settings = recipe("bpr").settings
    for changes, names in (({}, {"dense", "binary"}), ({"dense": False}, {"binary"}), ({"binary": "none"}, {"dense"})):
        losses = hashed(settings(**changes), head, 1.0)(batch_of(queries, documents))
        assert losses.keys() == names
    hinge, other = (
        hashed(settings(binary=binary), head, 1.0)(batch_of(queries, documents))["binary"]
        for binary in ("margin", "cross_entropy")
    )
    scores = queries.tanh() @ documents.T
    apart = ~torch.eye(3, 6, dtype=torch.bool)
    expected = torch.relu(2 - scores.diagonal().unsqueeze(1) + scores)[apart].mean()
    assert float(hinge) == pytest.approx(float(expected))
    assert float(other) == pytest.approx(float(torch.nn.functional.cross_entropy(scores, torch.arange(3))))


def test_beta_goes_on_from_the_step_that_a_training_was_interrupted_at(pydocs, tmp_path):
    task = task_of(tmp_path / "work", pydocs, "bpr", "hard=none", "fit.steps=4", "fit.save_steps=3")
    draw = positives_only(task.collection.judgments)

    def fitted(folder, stop):
        model = task.open_base()
        head = SignHead(128)
        seen = []

        def objective(batch):
            seen.append(head.beta)
            if len(seen) == stop:
                raise KeyboardInterrupt
            return hashed(task.settings, head, 1.0)(batch)["dense"]

        model = with_head(model, head)
        loss = BatchLoss(model, task.collection, objective)
        callbacks = [growing_beta(head, 0.1)]
        fit_encoder(
            model, loss, task.collator(model, draw), folder, settings=task.settings.fit, seed=1,
            examples=len(task.collection.queries), callbacks=callbacks,
        )  # fmt: skip
        return seen, model

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "broken", 4)
    resumed, again = fitted(tmp_path / "broken", None)
    betas, whole = fitted(tmp_path / "whole", None)
    assert betas == [math.sqrt(1 + 0.1 * step) for step in range(4)]
    assert resumed == betas[3:]
    assert head_of(again) is not None
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
