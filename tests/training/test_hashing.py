"""Recipes whose models compress documents, from data to model folder, on real text with a real two-layer model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import TrainerCallback

from retriever.codebook import Codebook
from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.heads.product import ProductHead
from retriever.heads.sign import SignHead
from tests.training.tasks import task_of
from training.batch import Batch, BatchLoss
from training.candidates import Candidates
from training.encoders import as_encoder, head_of, open_base, scale_of, with_head
from training.fitting import fit_encoder
from training.losses.hashing import balanced_shares, part_distances
from training.negatives import positives_only
from training.quantisation import CodedDocuments, default_parts, entropy, start_codebook
from training.recipes.bidr import WalkedNegatives, contrastive_quantisation
from training.recipes.bpr import growing_beta, hashed
from training.recipes.registry import recipe
from training.recipes.repconc import constrained
from training.settings import EncoderSettings
from training.task import Task
from training.untrained_heads import quantised


def batch_of(queries, documents):
    relevant = torch.eye(len(queries), len(documents), dtype=torch.bool)
    return Batch(queries, documents, np.arange(len(queries)), np.arange(len(documents)), relevant)


@pytest.mark.parametrize(
    "changes",
    [(), ("slope=straight-through",), ("binary=none", "hard=none"), ("dense=false", "hard=random"),
     ("binary=cross_entropy", "hard=none", "similarity=dot")],
)  # fmt: skip
def test_bpr_gives_signs_of_documents_and_float_queries(split_pydocs, tmp_path, changes):
    task = task_of(tmp_path / "work", split_pydocs, "bpr", "depth=20", "fit.steps=1", *changes)
    encoder = load_encoder(recipe("bpr").train(task))
    assert encoder.codes == "sign"
    assert not encoder.normalises
    vectors = encoder.encode_documents(task.collection.documents[:20])
    assert set(np.unique(vectors)) == {-1, 1}
    queries = encoder.encode_queries(task.collection.queries[:4])
    assert len(np.unique(queries)) > 400
    unit = "similarity=dot" not in changes
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5) == unit


@pytest.mark.slow
def test_bpr_lowers_its_loss(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "bpr", "hard=none", "fit.steps=100", "fit.warmup=0")
    recipe("bpr").train(task)
    losses = [loss for _, loss in task.stages.reports["bpr"]["losses"]]
    assert losses[1] < 0.9 * losses[0]


def test_bpr_refuses_settings_without_a_loss_and_a_base_with_a_head(split_pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="leaves no loss"):
        task_of(tmp_path / "work", split_pydocs, "bpr", "dense=false", "binary=none")
    model = open_base(EncoderSettings(base="splade-tiny"), offline=True)
    with_head(model, SignHead(128)).save(str(tmp_path / "base"))
    with pytest.raises(InvalidInput, match="SignHead already"):
        recipe("bpr").train(task_of(tmp_path / "work", split_pydocs, "bpr", f"base={tmp_path / 'base'}"))


def test_the_softmax_begins_at_the_scores_of_the_base(split_pydocs, tmp_path):
    # tanh is the identity near 0, so that soft codes of the first step are nearly the scaled embeddings.
    task = task_of(tmp_path / "work", split_pydocs, "bpr")
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


def test_beta_goes_on_from_the_step_that_a_training_was_interrupted_at(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "bpr", "hard=none", "fit.steps=4", "fit.save_steps=3")
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


QUICK_CODES = ("parts=8", "fit.steps=3", "depth=20")


def test_jpq_trains_queries_and_centroids_and_leaves_codes_as_they_are(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "jpq", *QUICK_CODES, "centroid_rate=1e-3")
    documents = task.collection.documents
    before = as_encoder(task.open_base())
    start = before.encode_documents(documents)
    folder = recipe("jpq").train(task)
    book = Codebook.load(tmp_path / "work" / "codebook" / "codebook.safetensors")
    encoder = load_encoder(folder)
    codes = book.encode(start)
    assert np.array_equal(codes, np.load(tmp_path / "work" / "codebook" / "codes.npy"))
    # The folder's document side gives what the trained centroids make of the codes that the start gave.
    assert np.array_equal(head_of(encoder.model).assigning_codebook.centroids, book.centroids)
    assert not np.allclose(encoder.codes.centroids, book.centroids, atol=1e-4)
    assert np.array_equal(encoder.encode_documents(documents), encoder.codes.decode(codes))
    queries = task.collection.queries[:8]
    assert not np.allclose(encoder.encode_queries(queries), book.rotated(before.encode_queries(queries)), atol=1e-3)


def test_jpq_goes_on_from_a_model_with_a_codebook(split_pydocs, tmp_path):
    first = recipe("jpq").train(task_of(tmp_path / "first", split_pydocs, "jpq", *QUICK_CODES, "centroid_rate=1e-3"))
    changes = ("depth=20", "fit.steps=1", "fit.learning_rate=1e-9", "centroid_rate=1e-9", f"base={first}")
    task = task_of(tmp_path / "second", split_pydocs, "jpq", *changes)
    start, end = load_encoder(first), load_encoder(recipe("jpq").train(task))
    documents, queries = task.collection.documents[:20], task.collection.queries[:5]
    np.testing.assert_allclose(end.encode_documents(documents), start.encode_documents(documents), atol=1e-6)
    np.testing.assert_allclose(end.encode_queries(queries), start.encode_queries(queries), atol=1e-5)
    with pytest.raises(InvalidInput, match="8 parts already; leave out parts=4"):
        recipe("jpq").train(task_of(tmp_path / "third", split_pydocs, "jpq", *changes, "parts=4"))


def test_codes_are_searched_as_what_they_stand_for():
    generator = torch.Generator().manual_seed(0)
    head = ProductHead(12, 3)
    with torch.no_grad():
        head.centroids += torch.randn(head.centroids.shape, generator=generator)
    codes = torch.randint(256, (50, 3), generator=generator)
    documents = CodedDocuments(codes.numpy().astype(np.uint8), head)
    queries = torch.randn(4, 12, generator=generator, requires_grad=True)
    expected = queries @ head.decode(codes).T
    rows = documents.nearest(queries, 7)
    assert np.array_equal(rows, expected.detach().topk(7).indices.numpy())
    scores = documents.scores(queries, rows)
    assert torch.allclose(scores, expected.gather(1, torch.from_numpy(rows)), atol=1e-5)
    weights = torch.randn(4, 7, generator=generator)
    found = torch.autograd.grad((scores * weights).sum(), [queries, head.centroids])
    wanted = torch.autograd.grad(
        (expected.gather(1, torch.from_numpy(rows)) * weights).sum(), [queries, head.centroids]
    )
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_centroids_have_a_rate_of_their_own_and_no_decay(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "jpq", *QUICK_CODES, "centroid_rate=1e-3", "fit.weight_decay=0.5")
    seen = []

    class Groups(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, model=None, **kwargs):
            names = {id(value): name for name, value in model.named_parameters()}
            for group in optimizer.param_groups:
                owned = [names[id(value)] for value in group["params"]]
                seen.append((group["initial_lr"], group["weight_decay"], owned))

    plain = Task.fit_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "fit_loss", lambda *args, **kwargs: plain(*args, **kwargs, callbacks=[Groups()]))
        recipe("jpq").train(task)
    (centroids,) = [group for group in seen if any("centroids" in name for name in group[2])]
    assert centroids[:2] == (1e-3, 0)
    assert len(centroids[2]) == 1
    others = [group for group in seen if group is not centroids and group[2]]
    assert {group[0] for group in others} == {3e-4}
    assert {group[1] for group in others} == {0.5, 0.0}
    assert all("document" not in name for group in others for name in group[2])


@pytest.mark.parametrize("balanced", ["true", "false"])
def test_repconc_settles_on_its_trained_centroids(split_pydocs, tmp_path, balanced):
    changes = ("parts=4", "fit.steps=1", "fit.batch_size=128", "fit.warmup=0", "depth=5", "centroid_rate=0.01",
               f"balanced={balanced}")  # fmt: skip
    task = task_of(tmp_path / "work", split_pydocs, "repconc", *changes)
    encoder = load_encoder(recipe("repconc").train(task))
    start = Codebook.load(tmp_path / "work" / "codebook" / "codebook.safetensors")
    assert not np.allclose(encoder.codes.centroids, start.centroids, atol=1e-3)
    # A new document's code is its nearest trained centroids.
    assert np.array_equal(head_of(encoder.model).assigning_codebook.centroids, encoder.codes.centroids)


def test_balanced_codes_tell_more_bits_than_the_nearest():
    generator = torch.Generator().manual_seed(0)
    centroids = torch.randn(2, 256, 4, generator=generator)
    crowded = 0.4 * torch.randn(600, 8, generator=generator) + 0.5
    distances = part_distances(crowded, centroids)
    nearest = distances.argmin(dim=2).T.numpy().astype(np.uint8)
    balanced = balanced_shares(distances).argmax(dim=2).T.numpy().astype(np.uint8)
    assert entropy(nearest) < 6
    assert entropy(balanced) > entropy(nearest) + 0.5
    assert entropy(np.arange(256, dtype=np.uint8).reshape(-1, 1)) == 8
    assert entropy(np.zeros((9, 3), np.uint8)) == 0


def test_repconc_assigns_within_the_batch_and_gradients_reach_both_sides():
    generator = torch.Generator().manual_seed(0)
    head = ProductHead(4, 2)
    with torch.no_grad():
        head.centroids += torch.randn(head.centroids.shape, generator=generator)
    queries = torch.randn(3, 4, generator=generator, requires_grad=True)
    documents = torch.randn(3, 4, generator=generator, requires_grad=True)
    settings = recipe("repconc").settings(balanced=False, error_weight=0.5)
    losses = constrained(settings, head, 2.0)(batch_of(queries, documents))
    codes = part_distances(documents, head.centroids).argmin(dim=2).T
    expected = torch.nn.functional.cross_entropy(2 * queries @ head.decode(codes).T, torch.arange(3))
    assert torch.allclose(losses["ranking"], expected)
    assert torch.allclose(losses["error"], 0.5 * ((head.decode(codes) - documents) ** 2).sum(dim=1).mean())
    for value in torch.autograd.grad(losses["ranking"], [queries, documents, head.centroids]):
        assert value.abs().sum() > 0


def test_settings_that_cannot_quantise_are_refused(split_pydocs, tmp_path):
    with pytest.raises(InvalidInput, match="batch of 128 documents cannot use 256 centroids"):
        task_of(tmp_path / "a", split_pydocs, "repconc", "fit.batch_size=64")
    with pytest.raises(InvalidInput, match="depth=100 does not reach"):
        task_of(tmp_path / "b", split_pydocs, "bidr", "depth=100")
    with pytest.raises(InvalidInput, match="5 parts do not divide the width 128"):
        recipe("jpq").train(task_of(tmp_path / "c", split_pydocs, "jpq", "parts=5"))
    task = task_of(tmp_path / "d", split_pydocs, "jpq", "parts=8")
    few = replace(task.collection.corpus, documents=task.collection.documents[:200])
    with pytest.raises(InvalidInput, match="from 200 vectors"):
        start_codebook(task.on(replace(task.collection, corpus=few)), task.open_base(), 8)


SMALL_BIDR = ("parts=8", "depth=40", "near=[0,20]", "far=[20,40]", "fit.steps=2",
              "quantise_fit.batch_size=16", "quantise_fit.steps=2", "quantise_fit.learning_rate=1e-3",
              "local_fit.batch_size=16", "local_fit.steps=2")  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), [("repconc", ("balanced=false",)), ("bidr", SMALL_BIDR)])
def test_codes_that_cannot_be_are_refused_before_anything_is_trained(split_pydocs, tmp_path, name, changes):
    task = task_of(tmp_path / "parts", split_pydocs, name, *changes, "parts=7")
    with pytest.raises(InvalidInput, match="7 parts do not divide the width 128"):
        recipe(name).train(task)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["plan.json"]
    task = task_of(tmp_path / "few", split_pydocs, name, *changes)
    few = replace(task.collection.corpus, documents=task.collection.documents[:200])
    with pytest.raises(InvalidInput, match="256 centroids cannot be found from 200 vectors"):
        recipe(name).train(task.on(replace(task.collection, corpus=few)))
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["plan.json"]


def test_without_a_setting_the_parts_divide_the_width(split_pydocs, tmp_path):
    assert [default_parts(width) for width in (4, 96, 100, 127, 384)] == [1, 12, 10, 1, 48]
    task = task_of(tmp_path / "work", split_pydocs, "jpq")
    model = task.open_base()
    model.append(Dense(128, 100, bias=False, activation_function=torch.nn.Identity()))
    assert head_of(quantised(model, task.collection.corpus, task.settings)).parts == 10


def test_bidr_leaves_two_encoders(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "bidr", *SMALL_BIDR, "error_weight=1e-3")
    folder = recipe("bidr").train(task)
    assert list(task.stages.reports) == ["global", "codebook", "quantise", "mine", "local"]
    light, local = load_encoder(folder), load_encoder(folder / "local")
    start = Codebook.load(tmp_path / "work" / "codebook" / "codebook.safetensors")
    assert np.array_equal(light.codes.rotation, start.rotation)
    assert not np.allclose(light.codes.centroids, start.centroids, atol=1e-5)
    assert local.codes is None
    texts = task.collection.queries[:4]
    assert local.encode_queries(texts).shape == (4, 128)
    assert not (folder / "local" / "checkpoints").exists()


def test_contrastive_quantisation_trains_encoder_and_centroids():
    generator = torch.Generator().manual_seed(0)
    head = ProductHead(4, 2)
    with torch.no_grad():
        head.centroids += torch.randn(head.centroids.shape, generator=generator)
    queries = torch.randn(3, 4, generator=generator, requires_grad=True)
    documents = torch.randn(3, 4, generator=generator, requires_grad=True)
    settings = recipe("bidr").settings(error_weight=1.0)
    losses = contrastive_quantisation(settings, head, 1.0)(batch_of(queries, documents))
    codes = part_distances(documents, head.centroids).argmin(dim=2).T
    decoded = head.decode(codes)
    target = torch.arange(3)
    for name, scores in (("continuous", queries @ documents.T), ("quantised", queries @ decoded.T)):
        assert torch.allclose(losses[name], torch.nn.functional.cross_entropy(scores, target), atol=1e-5)
    assert torch.allclose(losses["error"], ((decoded - documents) ** 2).sum(dim=1).mean(), atol=1e-5)
    for value in torch.autograd.grad(losses["quantised"], [queries, documents, head.centroids]):
        assert value.abs().sum() > 0


def test_negatives_of_a_walk_are_those_by_which_queries_were_left(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "bidr", *SMALL_BIDR)
    collection = task.collection
    count = len(collection.queries)
    generator = np.random.default_rng(0)
    # Query 0 has no candidates near enough, so that its negative is drawn from the others.
    lists = [generator.permutation(300)[: 0 if row == 0 else 40] for row in range(count)]
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in lists])])
    documents = np.concatenate(lists).astype(np.int32)
    scores = np.concatenate([-np.arange(len(rows), dtype=np.float32) for rows in lists])
    walked = WalkedNegatives(task, Candidates(offsets, documents, scores))
    sampler = walked.batches(range(count), 16, True, seed=3)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        walked.set_epoch(epoch)
        walk = sampler.walk(epoch)
        for number, batch in enumerate(sampler):
            queries = np.array(batch)
            assert np.array_equal(queries, walk.queries[16 * number : 16 * number + 16])
            positives, negatives = walked(queries, generator)
            left_by = walk.negatives[16 * number : 16 * number + 16]
            assert np.array_equal(negatives[left_by >= 0], left_by[left_by >= 0])
            for query, positive, negative in zip(batch, positives, negatives[:, 0], strict=True):
                assert positive in collection.judgments.relevant(query)
                assert 0 <= negative < 300
                if query == 0:
                    assert negative not in collection.barred.relevant(0)
