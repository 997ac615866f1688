"""Instructions: batches of one collection, its own words before its queries, its own kind of negatives."""

import shutil

import numpy as np
import pytest
import torch

from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.heads import open_model
from tests.retriever.llm.models import save_model
from training.batches import PartBatchSampler
from training.collection import open_training_collection, pooled
from training.encoders import as_encoder
from training.mined import load, mine
from training.recipe import run_recipe
from training.recipes import instruct
from training.recipes.instruct import InstructCollator, InstructSettings
from training.recipes.registry import configured, recipe
from training.settings import read_settings
from training.stages import Stages
from training.task import Part, Task

LITTLE = (
    "document_tokens=16", "query_tokens=32", "hard=random", "count=2", "latents=3", "first.batch_size=8", "first.steps=4",
    "fit.batch_size=4", "fit.steps=8", "fit.learning_rate=1e-3",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", scale=0.2)


def batches(parts, size, seed=0, epoch=0):
    sampler = PartBatchSampler(range(len(parts)), size, False, seed, parts=parts)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_batches_are_of_one_part():
    parts = np.array([0] * 10 + [1] * 3 + [-1] * 6 + [2] * 9)
    found = batches(parts, 4)
    assert sorted(parts[batch[0]] for batch in found) == [0, 0, 2, 2]
    assert all(len(set(parts[batch])) == 1 and len(set(batch)) == 4 for batch in found)
    taken = [row for batch in found for row in batch]
    assert len(set(taken)) == len(taken)
    assert found == batches(parts, 4)
    epochs = [batches(parts, 4, epoch=epoch) for epoch in range(20)]
    # What is left out of one epoch has its turn in others.
    assert {row for epoch in epochs for batch in epoch for row in batch} == set(np.flatnonzero(parts % 2 == 0))
    with pytest.raises(InvalidInput, match="no collection has a batch of 11"):
        batches(parts, 11)
    with pytest.raises(InvalidInput, match="the data set has 28 examples, but 19 are said to be of a part"):
        PartBatchSampler(range(28), 4, False, parts=parts[:19])


@pytest.mark.parametrize("pooling", ["mean", "latent_attention", "multi_layer"])
def test_an_instruction_is_seen_and_left_out_of_the_pooling(folder, split_pydocs, pooling):
    settings = InstructSettings(
        base=str(folder), pooling=pooling, latents=3, sets={"b": {"instruction": "Find {code}"}}
    )
    model = instruct.open_encoder(settings, True, ["a", "b"])
    assert model.prompts["query"] == model.prompts["a"] == f"Instruct: {settings.instruction}\nQuery:\n"
    collection = open_training_collection(split_pydocs)
    collator = InstructCollator(
        model, collection, None, query_tokens=32, document_tokens=16, seed=1, parts=np.array([0, 0, 1, 1]),
        prompts=[model.prompts["a"], model.prompts["b"]],
    )  # fmt: skip
    inputs = collator([{"row": 2}, {"row": 3}])
    text = model.tokenizer.decode(inputs["query_input_ids"][0])
    assert text.startswith(f"Instruct: Find {{code}}\nQuery:\n{collection.queries[2]}"[:40])
    length = inputs["query_prompt_length"]
    assert length == len(model.tokenizer("Instruct: Find {code}\nQuery:\n", add_special_tokens=False)["input_ids"])
    features = {key.removeprefix("query_"): value for key, value in inputs.items() if key.startswith("query_")}
    with torch.inference_mode():
        states = model[0](dict(features))
        vector = model[1](dict(states))["sentence_embedding"]
        layers = (states["token_embeddings"], *states.get("all_layer_embeddings", ()))
        for layer in layers:
            layer[:, :length] = 1e6
        assert torch.equal(model[1](dict(states))["sentence_embedding"], vector)
        first_word = model.tokenizer.decode(inputs["query_input_ids"][0][length]).strip()
        assert first_word
        assert collection.queries[2].startswith(first_word)
        for layer in layers:
            layer[:, length] = 1e6
        assert not torch.equal(model[1](dict(states))["sentence_embedding"], vector)


def test_a_prompt_that_shares_a_token_with_the_query_is_refused(folder):
    settings = InstructSettings(base=str(folder), query_prompt="Instruct: {instruction}\nQuery: ")
    with pytest.raises(InvalidInput, match=r"joins the end of the prompt 'Instruct: .*Query: ' to the word behind it"):
        instruct.open_encoder(settings, True, [])


def test_each_collection_is_learned_from_in_its_own_way(folder, split_pydocs, tmp_path, monkeypatch):
    other = shutil.copytree(split_pydocs, tmp_path / "other")
    seen = {"info_nce": [], "own_softmax": []}
    for name, rows in seen.items():
        loss = getattr(instruct, name)
        monkeypatch.setattr(
            instruct,
            name,
            lambda scores, relevant, loss=loss, rows=rows: (rows.append(scores.shape), loss(scores, relevant))[1],
        )
    sets = f"sets={{{split_pydocs.name}: {{in_batch: true, instruction: Find the function}}, other: {{first: false}}}}"
    settings = read_settings(recipe("instruct").settings, None, [f"base={folder}", *LITTLE, sets])
    report = run_recipe(recipe("instruct"), settings, [split_pydocs, other], tmp_path / "out", offline=True)
    assert [stage["steps"] for stage in report["stages"].values()] == [4, 8]
    # The first stage has the batch's negatives beside one's own; in the second, (4, 4 + 8) are all, (4, 3) one's own.
    assert seen["info_nce"][:4] == [(8, 8 + 16)] * 4
    assert set(seen["info_nce"][4:]) == {(4, 12)}
    assert set(seen["own_softmax"]) == {(4, 3)}
    assert len(seen["info_nce"]) - 4 + len(seen["own_softmax"]) == 8
    assert {name.split()[0] for name in report["evaluation"]} == {split_pydocs.name, "other"}
    model = open_model(tmp_path / "out")
    assert not model[1].include_prompt
    assert "LatentAttentionPooling without the prompt" in as_encoder(model).fingerprint()["modules"]
    assert model.prompts[split_pydocs.name] == "Instruct: Find the function\nQuery:\n"
    assert model[0].model.config.is_causal is False
    assert load_encoder(str(tmp_path / "out"), device="cpu").encode_queries(["read a file"]).shape == (1, 32)


@pytest.fixture
def two_parts(folder, split_pydocs, tmp_path):
    """Return what makes a task of two collections of the same texts, with instructions of their own."""
    other = shutil.copytree(split_pydocs, tmp_path / "other")
    collections = [open_training_collection(path, max_queries=12) for path in (split_pydocs, other)]
    parts = [Part(name, collection, [], {}) for name, collection in zip(["pydocs", "other"], collections, strict=True)]

    def make(*changes):
        sets = "sets={other: {instruction: Which texts speak of files and of nothing else}}"
        settings = read_settings(recipe("instruct").settings, None, [f"base={folder}", *LITTLE, sets, *changes])
        return Task(pooled(collections), settings, Stages(tmp_path / "work", {}), True, parts)

    return make


def test_a_collection_is_mined_by_its_own_instruction(two_parts):
    task = two_parts("hard=mined", "depth=5", "ratio=null", "count=3")
    model = instruct.open_encoder(task.settings, True, [part.name for part in task.parts])
    model.max_seq_length = 32
    draw = instruct.drawn_apart(task, model, "blend", [0, 1])
    assert model.prompts["query"] == task.settings.prompt()
    count = len(task.parts[0].collection.queries)
    found = []
    for number, part in enumerate(task.parts):
        model.prompts["query"] = task.settings.prompt(part.name)
        expected = mine(as_encoder(model), part.collection, 5)
        assert np.array_equal(load(task.stages.folder / f"mine-blend-{part.name}").candidates.documents,
                              expected.candidates.documents)  # fmt: skip
        found.append(expected.candidates.documents)
        rows = np.arange(4) + number * count
        _, negatives = draw(rows, np.random.default_rng(0))
        for row, drawn in enumerate(negatives - number * len(part.collection.documents)):
            assert set(drawn) <= set(expected.candidates.of(row)[0])
    # The two are the same texts: only the words before the queries differ.
    assert not np.array_equal(*found)


def test_negatives_are_of_the_own_collection(two_parts):
    task = two_parts("count=20")
    draw = instruct.drawn_apart(task, instruct.open_encoder(task.settings, True, []), "blend", [0, 1])
    queries, documents = (len(rows) for rows in (task.parts[0].collection.queries, task.parts[0].collection.documents))
    for number in range(2):
        rows = np.arange(8) + number * queries
        positives, negatives = draw(rows, np.random.default_rng(1))
        assert set(np.concatenate([positives, negatives.ravel()]) // documents) == {number}
        assert not task.collection.barred.mask(rows, negatives.ravel()).reshape(8, 8, 20)[range(8), range(8)].any()
        assert task.collection.judgments.mask(rows, positives).diagonal().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["sets={nowhere: {first: false}}"], "sets names nowhere"),
        (["hard=none"], "needs its own ones"),
        (["sets={NAME: {first: false}}"], "has a part in the first stage"),
        (["first.batch_size=1000"], r"NAME has \d+ queries.* first.batch_size is 1000"),
        (["fit.batch_size=1000"], r"NAME has \d+ queries.* fit.batch_size is 1000"),
        (["query_tokens=24"], "queries of NAME takes 17 tokens.* query_tokens=24 .*set it to 25 or more"),
    ],
)
def test_settings_that_do_not_fit_the_collections(folder, split_pydocs, tmp_path, changes, message):
    changes = [change.replace("NAME", split_pydocs.name) for change in changes]
    settings = read_settings(recipe("instruct").settings, None, [f"base={folder}", *LITTLE, *changes])
    with pytest.raises(InvalidInput, match=message.replace("NAME", split_pydocs.name)):
        run_recipe(recipe("instruct"), settings, split_pydocs, tmp_path / "out", offline=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.name != ".out.work"]
    with pytest.raises(InvalidInput, match="place for {instruction}"):
        read_settings(recipe("instruct").settings, None, ["query_prompt=query"])


@pytest.mark.parametrize("name", ["query", "document"])
def test_a_collection_named_as_a_prompt_of_the_model(folder, split_pydocs, tmp_path, name):
    data = shutil.copytree(split_pydocs, tmp_path / name)
    settings = read_settings(recipe("instruct").settings, None, [f"base={folder}", *LITTLE])
    with pytest.raises(InvalidInput, match=f"a prompt by the name '{name}'"):
        run_recipe(recipe("instruct"), settings, data, tmp_path / "out", offline=True)


def test_settings_of_a_file_of_ones_own_are_those_of_the_configuration(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("recipe: instruct\nfirst: {steps: 3}\nfit: {steps: 5}\nlora: {rank: 16}\n")
    recipe_of_own, path = configured(str(own))
    kind = recipe_of_own.settings
    expected = read_settings(
        kind, configured("instruct")[1], ["first.steps=3", "fit.steps=5", "lora.rank=16"], ignore=("recipe",)
    )
    assert read_settings(kind, path, ignore=("recipe",)) == expected
    assert kind() == read_settings(kind, configured("instruct")[1], ignore=("recipe",))
