"""Codes fitted to generated queries, from a corpus without judgments to an index, with a real two-layer model."""

import json

import numpy as np
import pytest
import torch

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.heads.sign import SignHead
from retriever.index.manifest import read_manifest
from tests.training.test_generation import FirstWords
from tests.training.test_hashing import batch_of
from training import adaptation
from training.collection import open_training_collection, read_corpus
from training.encoders import as_encoder, head_of, open_base, with_head
from training.generation import GenerationSettings, generate_queries, write_collection
from training.recipe import measure_splits, run_recipe, split_of
from training.recipes.bpr_gpl import BprGplSettings, distilled
from training.recipes.jpq_gpl import DynamicMargins
from training.recipes.registry import recipe
from training.settings import EncoderSettings, read_settings
from training.untrained_heads import QUANTISED, SIGNED

QUICK = ("base=splade-tiny", "document_tokens=24", "query_tokens=12", "fit.batch_size=16", "fit.learning_rate=3e-4")
TEACHER = ("teacher.kind=bi_encoder", "teacher.model=all-MiniLM-L6-v2", "teacher.scale=20")


@pytest.fixture(scope="module")
def generated(pydocs, tmp_path_factory):
    """Return the documents of *pydocs* with generated queries."""
    documents = list(open_corpus(str(pydocs)))
    folder = tmp_path_factory.mktemp("generated")
    generate_queries(
        documents, folder / "q.parquet", GenerationSettings(queries=1, documents=120), generator=FirstWords()
    )
    write_collection(folder / "q.parquet", documents, folder / "data")
    return folder / "data"


def settings_of(name, *changes):
    given = (*QUICK, *changes, *(TEACHER if name.endswith("gpl") else ()))
    return read_settings(recipe(name).settings, None, given)


@pytest.mark.parametrize(
    ("name", "changes", "kind"),
    [
        pytest.param("bpr_genq", ("fit.steps=8",), "binary", marks=pytest.mark.slow),
        ("bpr_gpl", ("fit.steps=8", "fit.warmup=0", "depth=10"), "binary"),
        ("bpr", ("fit.steps=8", "hard=none"), "binary"),
        ("jpq_genq", ("fit.steps=8", "depth=20", "parts=16", "centroid_rate=1e-3"), "pq16"),
        pytest.param(
            "jpq_gpl", ("fit.steps=8", "depth=10", "parts=16", "centroid_rate=1e-3"), "pq16", marks=pytest.mark.slow
        ),
    ],
)
def test_a_training_ends_in_codes_that_an_index_keeps(generated, tmp_path, name, changes, kind):
    settings = settings_of(name, *changes)
    report = run_recipe(recipe(name), settings, generated, tmp_path / "model", splits=("dev",), offline=True)
    found = report["evaluation"]["dev"]["nDCG@10"]
    # The start has the same head, untrained: both take the same bytes. The float base stands beside.
    assert "unlearned" in report["start"]
    floats = report["evaluation_from_float_base"]["dev"]["nDCG@10"]
    assert (floats["end"], floats["start"] != found["start"]) == (found["end"], True)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Start: {report['start']}." in card
    assert f"| {floats['start']:.4f} | {floats['end']:.4f} |" in card
    assert found["start"] > 0
    assert found["end"] > (found["start"] if kind == "binary" else 0.3)
    build_index(
        open_corpus(str(generated)), tmp_path / "index",
        BuildSettings(parts=("dense",), encoder=str(tmp_path / "model")), offline=True,
    )  # fmt: skip
    part = read_manifest(tmp_path / "index")[0].dense
    assert (part.kind, part.stored, part.codes) == (kind, "none", "model")


@pytest.mark.parametrize("name", ["bpr_genq", pytest.param("bpr_gpl", marks=pytest.mark.slow)])
def test_a_base_with_signs_keeps_its_head(generated, tmp_path, name):
    base = open_base(EncoderSettings(base="splade-tiny"), offline=True)
    with_head(base, SignHead(128, scale=3.0)).save(str(tmp_path / "base"))
    settings = settings_of(name, f"base={tmp_path / 'base'}", "fit.steps=1", "fit.warmup=0")
    run_recipe(recipe(name), settings, generated, tmp_path / "model", splits=(), offline=True)
    model = open_base(settings, base=tmp_path / "model", offline=True)
    assert sum(isinstance(module, SignHead) for module in model.modules()) == 1
    assert head_of(model).scale == 3.0


@pytest.mark.slow
def test_a_base_with_a_codebook_keeps_it(generated, tmp_path):
    first = settings_of("jpq_genq", "fit.steps=1", "parts=8", "depth=10")
    run_recipe(recipe("jpq_genq"), first, generated, tmp_path / "first", splits=(), offline=True)
    settings = settings_of("jpq_gpl", f"base={tmp_path / 'first'}", "fit.steps=2", "depth=10")
    run_recipe(recipe("jpq_gpl"), settings, generated, tmp_path / "second", splits=(), offline=True)
    one, two = (head_of(open_base(settings, base=tmp_path / name, offline=True)) for name in ("first", "second"))
    assert torch.equal(one.assigning, two.assigning)
    assert torch.equal(one.rotation, two.rotation)
    assert not torch.equal(one.centroids, two.centroids)


class Known:
    """A teacher with a score for each document."""

    def __init__(self, scores):
        self.known = np.array(scores, np.float32)

    def scores(self, queries, documents):
        return self.known[documents]


def test_the_teacher_says_which_document_a_code_should_be_near():
    head = SignHead(2).train()
    queries = torch.tensor([[1.0, 0.0]])
    documents = torch.tensor([[0.5, 0.0], [0.2, 0.0]])
    settings = BprGplSettings(margin=1.0)
    code = float(torch.tanh(queries)[0, 0])
    for known, order in (([3.0, 1.0], 1), ([1.0, 3.0], -1), ([2.0, 2.0], 0)):
        losses = distilled(settings, head, 2.0, Known(known))(batch_of(queries, documents))
        assert float(losses["dense"]) == pytest.approx((2 * 0.3 - (known[0] - known[1])) ** 2, abs=1e-5)
        assert float(losses["binary"]) == pytest.approx(1 - order * code * 0.3, abs=1e-5)
    without = BprGplSettings(binary="none")
    assert set(distilled(without, head, 2.0, Known([3.0, 1.0]))(batch_of(queries, documents))) == {"dense"}


def test_negatives_are_what_the_codes_find_and_never_relevant(generated, tmp_path):
    collection = open_training_collection(generated)
    settings = settings_of("jpq_gpl", "depth=3")
    model = open_base(settings, offline=True)
    loss = DynamicMargins(model, collection, [0] * 300, Known([]), settings=settings, scale=1.0)
    rows = np.arange(8)
    relevant = [collection.judgments.relevant(row) for row in rows]
    found = np.array([[own[0], (own[0] + 1) % 300, (own[0] + 2) % 300] for own in relevant])
    pairs = loss._pairs(rows, found)
    for row, (positive, negative) in enumerate(pairs.tolist()):
        assert positive in relevant[row]
        assert negative in found[row]
        assert negative not in collection.barred.relevant(row)
    assert np.array_equal(pairs, loss._pairs(rows, found))
    # Where only relevant documents are found, any other one is the negative.
    alone = np.array([[own[0]] * 3 for own in relevant])
    assert all(
        negative not in own for (_, negative), own in zip(loss._pairs(rows, alone).tolist(), relevant, strict=True)
    )


@pytest.mark.slow
def test_adapting_without_labels_compares_codes_with_codes(pydocs, tmp_path):
    settings = settings_of("bpr_genq", "fit.steps=8")
    generation = GenerationSettings(queries=1, documents=120)
    adaptation.adapt_without_labels(
        str(pydocs), tmp_path / "model", recipe("bpr_genq"), settings, generation, offline=True, generator=FirstWords()
    )
    report = json.loads((tmp_path / "model" / "adaptation.json").read_text())
    signs = with_head(open_base(settings, offline=True), SignHead(128))
    found = measure_splits(signs, read_corpus(pydocs), [split_of(pydocs, "test")])["test"]["nDCG@10"]
    assert report["evaluation"]["test"]["nDCG@10"]["start"] == pytest.approx(np.mean(list(found.values())))


@pytest.mark.parametrize("name", ["bpr", "bpr_genq", "bpr_gpl", "jpq", "jpq_genq", "jpq_gpl", "repconc", "bidr"])
def test_every_recipe_of_codes_is_compared_with_codes_of_the_same_bytes(generated, name):
    settings = read_settings(recipe(name).settings, None, ("base=splade-tiny",))
    base = open_base(settings, offline=True)
    corpus = read_corpus(generated)
    started = recipe(name).start(base, corpus, settings)
    vectors = as_encoder(started).encode_documents(corpus.documents[:50])
    if name.startswith("bpr"):
        assert set(np.unique(vectors)) == {-1.0, 1.0}
        assert recipe(name).start_is == SIGNED
    else:
        # An eighth of the width in bytes: 16 parts, each one of 256 centroids.
        codebook = head_of(started).codebook
        assert codebook.parts == 16
        np.testing.assert_allclose(codebook.decode(codebook.encode_rotated(vectors)), vectors, atol=1e-5)
        assert recipe(name).start_is == QUANTISED
