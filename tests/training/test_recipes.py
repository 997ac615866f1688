"""Recipes from data to model folder, on real text with a real two-layer model."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.encoder import load_encoder
from retriever.errors import InvalidInput, ModelFault
from retriever.evaluation.collections import open_collection
from retriever.index.sealed import open_index
from retriever.rerank import CrossEncoderReranker
from tests.training.tasks import QUICK, settings_of, task_of
from training.batch import Batch, BatchLoss
from training.encoders import as_encoder, open_base
from training.fitting import arguments_of, run
from training.judgments import Judgments
from training.negatives import positives_only
from training.rankers import ListLoss, open_ranker
from training.recipe import run_recipe
from training.recipes import cornstack, star
from training.recipes.registry import CONFIGS, NAMES, configured, recipe
from training.settings import EncoderSettings, read_settings
from training.stages import Stages
from training.task import Part, Task


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_a_file_of_its_defaults(name):
    found, path = configured(name)
    assert path == CONFIGS / f"{name}.yaml"
    read = read_settings(found.settings, path, ignore=("recipe",))
    assert read.model_fields_set >= {"base"}
    # Python and files of one's own, which leave most settings out, get the same.
    assert read == found.settings()


def test_training_lifts_the_measures_and_the_index_takes_the_model(split_pydocs, tmp_path):
    report = run_recipe(
        recipe("contrastive"), settings_of("contrastive", "fit.steps=12"), split_pydocs, tmp_path / "model"
    )
    found = report["evaluation"]["test"]["nDCG@10"]
    assert found["end"] > found["start"]
    assert report["stages"]["contrastive"]["resumed_from"] == 0
    assert (tmp_path / "model" / "README.md").read_text().startswith("---\nlibrary_name")
    assert not (tmp_path / ".model.work").exists()
    build_index(
        open_corpus(str(split_pydocs)),
        tmp_path / "index",
        BuildSettings(parts=("dense",), encoder=str(tmp_path / "model")),
    )
    with open_index(tmp_path / "index") as index:
        assert index.search("read a file", 3).hits
    with pytest.raises(InvalidInput, match="finished training"):
        run_recipe(recipe("contrastive"), settings_of("contrastive"), split_pydocs, tmp_path / "model")


def test_weights_are_trained_in_float32_whatever_the_base_is_saved_in(tmp_path):
    open_base(EncoderSettings(base="splade-tiny"), offline=True).bfloat16().save(str(tmp_path / "base"))
    opened = open_base(EncoderSettings(base=str(tmp_path / "base"), head="linear_norm"), offline=True)
    ranker = open_ranker(tmp_path / "base", max_tokens=32, seed=1, offline=True)
    for model in (opened, ranker):
        assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_adore_changes_queries_and_leaves_documents_to_the_bit(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "adore", "fit.steps=4", "depth=20", "scale=20")
    folder = recipe("adore").train(task)
    before, after = as_encoder(task.open_base()), load_encoder(folder)
    documents = task.collection.documents[:40]
    assert np.array_equal(before.encode_documents(documents), after.encode_documents(documents))
    queries = task.collection.queries[:8]
    assert not np.allclose(before.encode_queries(queries), after.encode_queries(queries), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("contrastive", ("hard=mined", "fit.steps=3")),
        ("contrastive", ("hard=random", "fit.steps=3", "head=linear_norm", "similarity=dot")),
        ("contrastive", ("hard=mined", "fit.steps=3", "choose.by=gaussian", "choose.a=300")),
        ("star", ("fit.steps=3", "choose.by=softmax")),
        ("star", ("fit.steps=3", "in_batch=false", "share_hard=false")),
        ("star", ("fit.steps=3", "count=0")),
        ("ance", ("cycles=2", "fit.steps=2", "refresh=false")),
        ("ance", ("cycles=1", "fit.steps=2", "in_batch=true", "choose.by=gaussian")),
    ],
)
def test_recipes_train(split_pydocs, tmp_path, name, changes):
    task = task_of(tmp_path / "work", split_pydocs, name, *changes)
    folder = recipe(name).train(task)
    vectors = load_encoder(folder).encode_queries(["open a socket"])
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize(
    ("in_batch", "share_hard", "expected"),
    [
        (True, True, ["011101", "001111"]),
        (False, True, ["001101", "001111"]),
        (True, False, ["011100", "000011"]),
        (False, False, ["001100", "000011"]),
    ],
)
def test_which_documents_are_negatives_of_star(in_batch, share_hard, expected):
    # The relevant documents of two queries, then two negatives of each. A negative of the second query is relevant to
    # the first one, and the first one's document to the second.
    relevant = torch.tensor([[1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    batch = Batch(torch.zeros(2, 3), torch.zeros(6, 3), np.arange(2), np.arange(6), relevant)
    found = star.negatives(batch, in_batch=in_batch, share_hard=share_hard)
    assert ["".join(map(str, row)) for row in found.int().tolist()] == expected


SMALL_RANKER = ("ranker=splade-tiny", "ranker_tokens=40", "depth=10", "count=3", "fit.batch_size=8", "fit.steps=2",
                "ranker_warmup.batch_size=8", "ranker_warmup.steps=2", "ranker_fit.batch_size=8", "ranker_fit.steps=2")  # fmt: skip


def test_ar2_trains_retriever_and_ranker_in_turns(split_pydocs, tmp_path, monkeypatch):
    seeds, fit = {}, Task.fit_ranker

    def noted(task, name, *args):
        seeds[name] = task.settings.seed
        return fit(task, name, *args)

    monkeypatch.setattr(Task, "fit_ranker", noted)
    task = task_of(tmp_path / "work", split_pydocs, "ar2", *SMALL_RANKER, "cycles=2", "adversarial_reduction=mean")
    folder = recipe("ar2").train(task)
    stages = ["mine-0", "ranker-warmup", "ranker-0", "retriever-0", "mine-1", "ranker-1", "retriever-1"]
    assert list(task.stages.reports) == stages
    # No cycle gives the ranker the batches of its warm-up again.
    assert list(seeds) == ["ranker-warmup", "ranker-0", "ranker-1"]
    assert len(set(seeds.values())) == 3
    # The second cycle goes on from the first one's models.
    weights = [
        (tmp_path / "work" / stage / "model.safetensors").read_bytes() for stage in stages if "mine" not in stage
    ]
    assert len(set(weights)) == 5
    assert (folder / "ranker" / "model.safetensors").read_bytes() == weights[3]
    assert np.isfinite(load_encoder(folder).encode_queries(["open a socket"])).all()
    reranker = CrossEncoderReranker(folder / "ranker", offline=True)
    assert np.isfinite(reranker.score_pairs([("open a socket", "a file")])).all()


@pytest.mark.slow
def test_ar2_weighs_its_two_terms(split_pydocs, tmp_path):
    folders = []
    for number, weight in enumerate((0, 0.5, 1)):
        changes = (*SMALL_RANKER, "cycles=1", f"adversarial={weight}", "adversarial_reduction=mean")
        folders.append(recipe("ar2").train(task_of(tmp_path / str(number), split_pydocs, "ar2", *changes)))
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 3
    # The ranker's own training comes first, and does not depend on lambda.
    assert len({(folder / "ranker" / "model.safetensors").read_bytes() for folder in folders}) == 1


def test_cornstack_drops_mismatched_pairs_and_keeps_right_ones(split_pydocs, tmp_path):
    planted = tmp_path / "planted"
    shutil.copytree(split_pydocs, planted)
    head, *lines = (planted / "qrels" / "train.tsv").read_text().splitlines()
    documents = [line.split("\t")[1] for line in lines]
    wrong = set(range(0, len(lines), 4))
    # A document of a pair half the collection away.
    mixed = [
        "\t".join([line.split("\t")[0], documents[(i + len(lines) // 2) % len(lines)], "1"]) if i in wrong else line
        for i, line in enumerate(lines)
    ]
    (planted / "qrels" / "train.tsv").write_text("\n".join([head, *mixed]) + "\n")
    task = task_of(
        tmp_path / "work", planted, "cornstack", "top_k=5", "threshold=0.2", "depth=10", "count=2", "fit.steps=2"
    )
    folder = recipe("cornstack").train(task)
    assert np.isfinite(load_encoder(folder).encode_queries(["open a socket"])).all()
    kept = np.load(tmp_path / "work" / "filter" / "kept.npy", allow_pickle=False)
    pairs = {(line.split("\t")[0], line.split("\t")[1]): i for i, line in enumerate(mixed)}
    collection = task.collection
    places = np.array([
        pairs[collection.query_ids[row], collection.documents[document].id]
        for row in range(len(collection.queries)) for document in collection.judgments.relevant(row)
    ])  # fmt: skip
    right = ~np.isin(places, sorted(wrong))
    assert kept[~right].mean() < 0.1
    assert kept[right].mean() > 0.6


@pytest.mark.parametrize("prompt", ["find code: ", None])
def test_cornstacks_prompt_stands_before_queries_and_stays(split_pydocs, tmp_path, monkeypatch, prompt):
    asked, preprocess = [], SentenceTransformer.preprocess

    def noted(self, texts, **options):
        asked.append((options.get("task"), options.get("prompt")))
        return preprocess(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "preprocess", noted)
    value = "null" if prompt is None else f"'{prompt}'"
    changes = (f"query_prompt={value}", "filter_model=null", "depth=10", "count=2", "fit.steps=2")
    encoder = load_encoder(recipe("cornstack").train(task_of(tmp_path, split_pydocs, "cornstack", *changes)))
    assert {stands or "" for task, stands in asked if task == "query"} == {prompt or ""}
    assert {stands or "" for task, stands in asked if task == "document"} == {""}
    found = encoder.encode_queries(["open a socket"])
    assert np.array_equal(found, encoder.encode_texts([(prompt or "") + "open a socket"]))


def test_cornstacks_temperature_falls_over_the_whole_training_and_goes_on_where_it_was(
    split_pydocs, tmp_path, monkeypatch
):
    draw, found, most = cornstack.Curriculum.__call__, [], []

    def noted(self, queries, generator):
        drawn = draw(self, queries, generator)
        found.append(self.temperature)
        if most == [len(found)]:
            raise KeyboardInterrupt
        return drawn

    def trained(folder):
        found.clear()
        changes = ("filter_model=null", "depth=10", "count=2", "fit.batch_size=64", "fit.epochs=2", "fit.save_steps=2")
        task = task_of(tmp_path / folder, split_pydocs, "cornstack", *changes)
        return (recipe("cornstack").train(task) / "model.safetensors").read_bytes(), task.stages.reports["cornstack"]

    monkeypatch.setattr(cornstack.Curriculum, "__call__", noted)
    whole, report = trained("whole")
    temperatures = list(found)
    assert temperatures == pytest.approx(np.geomspace(0.05, 0.001, report["steps"]))
    assert report["steps"] > 5
    most.append(5)
    with pytest.raises(KeyboardInterrupt):
        trained("broken")
    most.clear()
    again, report = trained("broken")
    assert report["resumed_from"] == 2
    assert found == temperatures[2:]
    assert again == whole


def test_trans_encoder_leaves_both_models_and_does_not_look_at_judgments(split_pydocs, tmp_path):
    changes = ("cross_encoder=splade-tiny", "cross_tokens=40", "depth=10", "cycles=2", "fit.steps=2",
               "cross_fit.batch_size=8", "cross_fit.steps=2", "select=last")  # fmt: skip
    task = task_of(tmp_path / "work", split_pydocs, "trans_encoder", *changes)
    folder = recipe("trans_encoder").train(task)
    assert list(task.stages.reports) == ["pairs", "cross-0-0", "bi-0-0", "cross-1-0", "bi-1-0"]
    reranker = CrossEncoderReranker(folder / "cross_encoder", offline=True)
    assert np.isfinite(reranker.score_pairs([("open a socket", "a file")])).all()
    # Other judgments of the same queries change nothing.
    other = task_of(tmp_path / "other", split_pydocs, "trans_encoder", *changes)
    first = Judgments.of_lists([[0]] * len(other.collection.queries))
    other = other.on(replace(other.collection, judgments=first))
    again = recipe("trans_encoder").train(other)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_trans_encoder_starts_from_a_joint_model_and_selects_on_dev(split_pydocs, tmp_path):
    changes = ("cross_encoder=splade-tiny", "cross_start=joint", "joint_layers=1", "both_orders=true", "cross_tokens=40",
               "depth=10", "cycles=2", "fit.steps=2", "cross_fit.batch_size=8", "cross_fit.steps=2", "max_queries=40")  # fmt: skip
    task = task_of(tmp_path / "work", split_pydocs, "trans_encoder", *changes)
    with pytest.raises(InvalidInput, match=r"select=dev needs judgments qrels/dev.tsv.*set select=last"):
        recipe("trans_encoder").train(task)
    dev = replace(open_collection(str(split_pydocs), "test"), split="dev")
    task.parts = [Part("pydocs", task.collection, [dev], {})]
    folder = recipe("trans_encoder").train(task)
    assert list(task.stages.reports) == [
        "cross-start",
        "pairs",
        "cross-0-0",
        "bi-0-0",
        "dev-0",
        "cross-1-0",
        "bi-1-0",
        "dev-1",
    ]
    qualities = [task.stages.reports[f"dev-{cycle}"]["nDCG@10"] for cycle in range(2)]
    assert folder.name == f"bi-{np.argmax(qualities)}-0"
    assert json.loads((folder / "cross_encoder" / "config.json").read_text())["model_type"] == "joint_bert"


def test_both_orders_of_a_pair(split_pydocs, tmp_path):
    task = task_of(tmp_path, split_pydocs, "trans_encoder")
    model = open_ranker("splade-tiny", max_tokens=40, seed=1, offline=True).eval()
    seen = []

    def objective(lists):
        seen.append(lists)
        return lists.scores.mean()

    rows = torch.tensor([[3, 10, 11, 12], [5, 20, 21, 22]])
    loss = ListLoss(model, task.collection, objective, both_orders=True)
    loss([], rows)
    (lists,) = seen
    assert lists.query_rows.tolist() == [3, 5, 3, 5]
    assert lists.document_rows.tolist() == rows[:, 1:].tolist() * 2
    assert lists.relevant.shape == lists.scores.shape == (4, 3)
    content = task.collection.documents[21].content
    swapped = model.predict([(content, task.collection.queries[5])], activation_fn=torch.nn.Identity())
    scores = lists.scores.detach()
    assert float(scores[3, 1]) == pytest.approx(float(swapped[0]), abs=1e-5)
    assert float(scores[1, 1]) != pytest.approx(float(swapped[0]), abs=1e-4)


def test_ar2_starts_from_a_joint_ranker(split_pydocs, tmp_path):
    changes = (*SMALL_RANKER, "cycles=1", "ranker_start=joint", "joint_layers=1", "max_queries=40")
    task = task_of(tmp_path / "work", split_pydocs, "ar2", *changes)
    folder = recipe("ar2").train(task)
    assert "ranker-start" in task.stages.reports
    assert json.loads((folder / "ranker" / "config.json").read_text())["model_type"] == "joint_bert"


def test_warm_up_is_a_share_or_a_number_of_steps(tmp_path):
    from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments

    for warmup, steps in ((0.1, 20), (1, 1), (150, 150)):
        settings = read_settings(EncoderSettings, None, [f"fit.warmup={warmup}"]).fit
        arguments = SentenceTransformerTrainingArguments(**arguments_of(settings, tmp_path, 1))
        assert arguments.get_warmup_steps(200) == steps
    with pytest.raises(InvalidInput, match=r"a share below 1 or a whole number of steps, got 1\.5"):
        read_settings(EncoderSettings, None, ["fit.warmup=1.5"])


@pytest.mark.parametrize(
    ("name", "ranker"),
    [pytest.param("ar2", "ranker", marks=pytest.mark.slow), ("trans_encoder", "cross_encoder")],
)
def test_reports_have_the_cross_encoder_too(split_pydocs, tmp_path, name, ranker):
    changes = {
        "ar2": (*SMALL_RANKER, "cycles=1"),
        "trans_encoder": ("cross_encoder=splade-tiny", "cross_tokens=40", "depth=10", "cycles=1", "fit.steps=2",
                          "cross_fit.batch_size=8", "cross_fit.steps=2"),
    }  # fmt: skip
    settings = settings_of(name, *changes[name])
    report = run_recipe(recipe(name), settings, split_pydocs, tmp_path / "model", splits=("test",))
    found = report["evaluation"]
    assert list(found) == ["test", f"test, best 20 by {ranker}"]
    own, read = found.values()
    assert list(read) == ["nDCG@10", "RR@10"]
    for measure, values in read.items():
        assert values["queries"] == own[measure]["queries"] < 200
        assert values["start"] == pytest.approx(own[measure]["end"])
        assert values["end"] != values["start"]
    assert f"best 20 by {ranker}" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_the_mutual_form_of_trans_encoder_has_two_of_each(split_pydocs, tmp_path):
    changes = ("second=splade-tiny", "cross_encoder=splade-tiny", "cross_tokens=40", "depth=10", "cycles=1", "fit.steps=2",
               "cross_fit.batch_size=8", "cross_fit.steps=2")  # fmt: skip
    task = task_of(tmp_path / "work", split_pydocs, "trans_encoder", *changes)
    recipe("trans_encoder").train(task)
    assert list(task.stages.reports) == ["pairs", "cross-0-0", "cross-0-1", "bi-0-0", "bi-0-1"]


def test_cycles_see_other_batches(split_pydocs, tmp_path, monkeypatch):
    seen = []
    loss = BatchLoss.forward

    def noted(self, features, labels):
        seen.append(labels[:16].tolist())
        return loss(self, features, labels)

    monkeypatch.setattr(BatchLoss, "forward", noted)
    recipe("ance").train(task_of(tmp_path, split_pydocs, "ance", "cycles=2", "fit.steps=2", "depth=10"))
    assert len(seen) == 4
    assert seen[0] != seen[2]


def test_an_interruption_at_any_stage_changes_nothing(split_pydocs, tmp_path, monkeypatch):
    changes = ("cycles=2", "fit.steps=3", "depth=10")
    whole = recipe("ance").train(task_of(tmp_path / "whole", split_pydocs, "ance", *changes))
    run = Stages.run
    interrupted = []

    def interrupt(self, name, work):
        def broken(folder):
            work(folder)
            interrupted.append(name)
            raise KeyboardInterrupt

        # Once in each stage, its work done but not yet marked so.
        return run(self, name, work if name in interrupted else broken)

    monkeypatch.setattr(Stages, "run", interrupt)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            recipe("ance").train(task_of(tmp_path / "broken", split_pydocs, "ance", *changes))
    again = recipe("ance").train(task_of(tmp_path / "broken", split_pydocs, "ance", *changes))
    assert interrupted == ["mine-0", "fit-0", "mine-1", "fit-1"]
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_killed_training_goes_on_to_the_same_weights(split_pydocs, tmp_path):
    command = (
        "import sys; from pathlib import Path; from training.recipe import run_recipe; "
        "from training.recipes.registry import recipe; from training.settings import read_settings; "
        "run_recipe(recipe('contrastive'), read_settings(recipe('contrastive').settings, None, sys.argv[3:]),"
        " Path(sys.argv[1]), Path(sys.argv[2]), splits=(), keep_work=True)"
    )
    changes = [*QUICK, "hard=random", "fit.steps=24", "fit.save_steps=4"]
    arguments = [sys.executable, "-c", command, str(split_pydocs)]
    whole = tmp_path / "whole"
    subprocess.run([*arguments, str(whole), *changes], check=True, capture_output=True, timeout=240)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*arguments, str(killed), *changes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / ".killed.work" / "contrastive" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run([*arguments, str(killed), *changes], check=True, capture_output=True, timeout=240)
    report = json.loads((killed / "training_report.json").read_text())
    assert report["stages"]["contrastive"]["resumed_from"] > 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_what_no_training_made_is_never_replaced(split_pydocs, tmp_path):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1.tex").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(InvalidInput, match="no finished training"):
            run_recipe(recipe("contrastive"), settings_of("contrastive"), split_pydocs, mine, restart=restart)
    assert (mine / "chapter1.tex").read_text() == "years of work"


def test_another_base_of_the_same_name_is_another_training(split_pydocs, tmp_path):
    base = tmp_path / "base"
    open_base(settings_of("contrastive"), offline=True).save(str(base))
    settings = settings_of("contrastive", f"base={base}", "fit.steps=1")
    run_recipe(recipe("contrastive"), settings, split_pydocs, tmp_path / "model", splits=(), keep_work=True)
    shutil.rmtree(tmp_path / "model")
    modules = json.loads((base / "modules.json").read_text())
    (base / "modules.json").write_text(json.dumps(modules, indent=3))
    with pytest.raises(InvalidInput, match="other settings or data .base: "):
        run_recipe(recipe("contrastive"), settings, split_pydocs, tmp_path / "model", splits=())


def test_other_settings_do_not_go_on_in_the_same_work_folder(tmp_path):
    Stages(tmp_path, {"settings": {"seed": 1}})
    with pytest.raises(InvalidInput, match=r"settings\.seed: 1 then, 2 now"):
        Stages(tmp_path, {"settings": {"seed": 2}})


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(split_pydocs, tmp_path):
    task = task_of(tmp_path / "work", split_pydocs, "contrastive", "fit.steps=3")
    model = task.open_base()
    calls = []

    def objective(batch):
        calls.append(batch.query_rows)
        loss = batch.scores().mean()
        return loss * float("nan") if len(calls) == 2 else loss

    loss = BatchLoss(model, task.collection, objective)
    with pytest.raises(ModelFault, match="step 1: the loss of a batch is nan; its queries are") as caught:
        task.fit_loss("fit", model, loss, positives_only(task.collection.judgments))
    assert task.collection.query_ids[calls[1][0]] in str(caught.value)
    weights = load_encoder(tmp_path / "work" / "fit" / "stopped").model.state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(("step", "precision"), [(1, "bfloat16"), (2, "float32")], ids=["on the way", "last step"])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_take_it(split_pydocs, tmp_path, step, precision):
    task = task_of(tmp_path / "work", split_pydocs, "contrastive", "fit.steps=3", f"fit.precision={precision}")
    model = task.open_base()
    calls, before = [], {}

    def objective(batch):
        calls.append(batch.query_rows)
        loss = batch.scores().mean()
        if len(calls) <= step:
            return loss
        before.update({name: value.clone() for name, value in model.state_dict().items()})
        # The root of 0 is 0, its slope infinite.
        return loss + (0 * batch.queries).sum().sqrt()

    loss = BatchLoss(model, task.collection, objective)
    with pytest.raises(
        ModelFault, match=f"step {step}: the norm of the gradient of a batch is nan; its queries are"
    ) as caught:
        task.fit_loss("fit", model, loss, positives_only(task.collection.judgments))
    assert len(calls) == step + 1
    assert task.collection.query_ids[calls[step][0]] in str(caught.value)
    folder = tmp_path / "work" / "fit"
    stopped = load_encoder(folder / "stopped").model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in stopped.items())
    assert not [path.name for path in folder.iterdir() if path.name not in ("stopped", "checkpoints")]


def test_weights_that_are_not_finite_are_never_a_finished_model(split_pydocs, tmp_path):
    changes = ("fit.steps=1", "fit.warmup=0", "fit.weight_decay=1", "fit.learning_rate=3e38")
    task = task_of(tmp_path / "work", split_pydocs, "contrastive", *changes)
    for _ in range(2):
        with pytest.raises(ModelFault, match="the weights of .* are not finite; lower learning_rate"):
            recipe("contrastive").train(task)
    assert not list((tmp_path / "work" / "contrastive").glob("*.safetensors"))


@pytest.mark.parametrize("name", ["adore", "ngame"])
def test_every_kind_of_loss_stops_at_a_gradient_and_names_the_batch(split_pydocs, tmp_path, monkeypatch, name):
    task = task_of(tmp_path / "work", split_pydocs, name, "fit.steps=3", "depth=20" if name == "adore" else "count=3")
    backward = torch.Tensor.backward
    steps = []

    def broken(loss, *args, **kwargs):
        steps.append(float(loss.detach()))
        backward(loss * (torch.nan if len(steps) == 2 else 1), *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", broken)
    with pytest.raises(
        ModelFault, match=r"step 1: the norm of the gradient of a batch is nan; its queries are \['.*stopped"
    ):
        recipe(name).train(task)
    assert np.isfinite(steps).all()
    weights = load_encoder(tmp_path / "work" / name / "stopped").model.state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(("name", "what"), [("adore", "sum of the query vectors"), ("ngame", "loss")])
def test_a_model_that_is_broken_from_the_start_is_not_kept(split_pydocs, tmp_path, monkeypatch, name, what):
    def poisoned(trainer, model, folder, finish):
        next(weights for weights in model.parameters() if weights.requires_grad).data.fill_(torch.nan)
        return run(trainer, model, folder, finish)

    monkeypatch.setattr("training.fitting.run", poisoned)
    task = task_of(tmp_path / "work", split_pydocs, name, "fit.steps=3")
    with pytest.raises(ModelFault, match=f"step 0: the {what} of a batch is nan.* before that step is broken too"):
        recipe(name).train(task)
    assert not (tmp_path / "work" / name / "stopped").exists()


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(InvalidInput, match=r"fit\.rate: Extra inputs.*fit\.learning_rate"):
        read_settings(EncoderSettings, None, ["fit.rate=1"])
    with pytest.raises(InvalidInput, match="key=value"):
        read_settings(EncoderSettings, None, ["seed"])
    with pytest.raises(InvalidInput, match="contrastive, star"):
        recipe("nothing")


@pytest.mark.parametrize("name", ["adore", "jpq"])
def test_a_metric_without_a_cut_is_refused(name):
    # Slicing from None made every weight 0 in the original code.
    with pytest.raises(InvalidInput, match="metric_cut: Input should be a valid integer"):
        read_settings(recipe(name).settings, None, ["metric_cut=null"])


def test_the_head_starts_as_the_identity(tmp_path):
    settings = EncoderSettings(base="splade-tiny", head="linear_norm")
    plain = open_base(EncoderSettings(base="splade-tiny"), offline=True)
    headed = open_base(settings, offline=True)
    assert len(list(headed)) == len(list(plain)) + 2
    tokens = plain.preprocess(["some words"])
    expected = torch.nn.functional.layer_norm(plain(dict(tokens))["sentence_embedding"], (128,))
    assert torch.allclose(headed(dict(tokens))["sentence_embedding"], expected, atol=1e-5)
