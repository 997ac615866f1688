"""Generated queries: cleaning, filters, collections, real language models, and adapting without labels."""

import http.server
import json
import threading

import numpy as np
import pytest
import torch
import typer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

from indexing.corpora import open_corpus
from retriever.errors import BackendUnavailable, InvalidInput, ModelFault
from retriever.evaluation.collections import open_collection
from retriever.models import resolve
from retriever.types import Document
from tests.factories import HashingEncoder
from tests.retriever.llm.models import save_model
from training import adaptation, commands
from training.candidates import Candidates
from training.commands import adapt
from training.encoders import open_base
from training.generation.cleaning import clean, require_variety
from training.generation.generators import Endpoint, LanguageModel
from training.generation.job import GenerationSettings, generate_queries
from training.generation.pairs import Consistency, found_again, read_pairs, write_collection
from training.generation.prompts import Prompt
from training.jobs import run_generation
from training.recipe import open_parts, plan_of, run_recipe
from training.recipes.gpl import united
from training.recipes.registry import recipe
from training.settings import EncoderSettings, read_settings
from training.stages import Stages


class FirstWords:
    """Writes the first words of a document: queries that BM25 finds again."""

    digest = "first words"

    def __init__(self):
        self.asked = []

    def answers(self, documents, count, seed):
        self.asked.append((len(documents), seed))
        return [[" ".join(text.split()[place : place + 8]) for place in range(count)] for text in documents]


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("What is a socket?", "What is a socket?"),
        ('\n  Query: "read a file"\nText: another', "read a file"),
        ("1. **Question:** How to sort a list?", "How to sort a list?"),
        ("how to sort a list how to sort a list how to", "how to sort a list"),
        ("ok", None),
        ("?! ...", None),
        ("", None),
        ("\n\n- open sockets", "open sockets"),
        ("日本 語", "日本 語"),
        ("Q: how to sort a list", "how to sort a list"),
        ("Question 2. how to sort a list", "how to sort a list"),
        ("2)**how to sort a list**", "how to sort a list"),
        ("Search query:\nhow to sort a list", "how to sort a list"),
        ("## **how to sort a list** ##", "how to sort a list"),
        ('"what is C#"', "what is C#"),
        *(
            (query, query)
            for query in (
                "1.5 mg of aspirin",
                "3.5 mm headphone",
                "802.11 wifi standard",
                "0.05 significance level",
                "10:30 train",
                "-5 degrees outside",
                "Q-learning convergence proof",
                "A-levels in England",
                "A. fumigatus infection",
                "a.out file format",
                "query-by-example systems",
                "answer.txt is missing",
            )
        ),
    ],
)
def test_an_answer_becomes_a_query_or_nothing(answer, query):
    assert clean(answer) == query


def test_an_endless_answer_is_cut():
    assert len(clean(" ".join(f"word{i}" for i in range(500))).split()) == 64


def test_a_generator_that_repeats_itself_is_refused():
    pairs = [(f"query {i}", f"d{i}") for i in range(70)] + [("What is this text about?", f"e{i}") for i in range(30)]
    with pytest.raises(ModelFault, match=r"parrot repeats itself: 'what is this text about\?' came for 30 of 100"):
        require_variety(pairs, "parrot")
    require_variety(pairs[:72], "parrot")


def test_prompts_show_examples_and_end_in_the_document():
    prompt = Prompt.of("keywords", [("a text", "its query")])
    assert [turn["role"] for turn in prompt.messages("new")] == ["user", "assistant", "user"]
    assert prompt.plain("new").endswith("Text: a text\nQuery: its query\n\nText: new\nQuery:")
    assert Prompt.of("Write a title for it.").instruction == "Write a title for it."
    with pytest.raises(InvalidInput, match="question, keywords, statement"):
        Prompt.of("questions")


def test_only_what_bm25_finds_again_stays(pydocs):
    documents = list(open_corpus(str(pydocs)))
    own = max(documents, key=lambda document: len(document.content))
    pairs = [(" ".join(own.content.split()[:10]), own.id), ("zebra crossing in the rain", own.id)]
    assert found_again(pairs, pydocs, 5) == pairs[:1]


def test_a_pair_that_an_encoder_finds_inconsistent_is_dropped(pydocs, tmp_path):
    documents = list(open_corpus(str(pydocs)))

    class Wrong(FirstWords):
        def answers(self, documents, count, seed):
            """Ask of one document for what another one says."""
            found = super().answers(documents, count, seed)
            return [found[1], *found[1:]]

    settings = GenerationSettings(queries=1, documents=30)
    generate_queries(documents, tmp_path / "queries.parquet", settings, generator=Wrong())
    (query, wrong), (same, right) = read_pairs(tmp_path / "queries.parquet")[:2]
    assert query == same
    encoder = HashingEncoder(256)

    def written(name, consistency):
        write_collection(
            tmp_path / "queries.parquet", documents, tmp_path / name, top_k=None, held_out=0, consistency=consistency
        )
        split = open_collection(str(tmp_path / name), "train")
        return {id_ for number, text in split.queries.items() if text == query for id_ in split.qrels[number]}

    assert written("all", None) == {wrong, right}
    assert written("consistent", Consistency(encoder, 10)) == {right}
    assert written("alike", Consistency(encoder, 10, 0.999)) == set()


def test_the_threshold_of_consistency_belongs_to_its_filter(tmp_path):
    options = ["corpus", "--output", str(tmp_path), "--consistent-threshold", "0.7"]
    for app, arguments in ((commands.app, ["generate", *options]), (alone(adapt), [*options, "--without-labels"])):
        with pytest.raises(InvalidInput, match="belongs to --consistent-top-k"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(InvalidInput, match="belong to --without-labels"):
        CliRunner().invoke(alone(adapt), [*options[:3], "--consistent-top-k", "2"], catch_exceptions=False)


def alone(command):
    app = typer.Typer()
    app.command()(command)
    return app


def test_a_job_makes_a_collection_and_goes_on_where_it_stopped(pydocs, tmp_path):
    documents = list(open_corpus(str(pydocs)))
    settings = GenerationSettings(queries=2, documents=40, portion=16)

    class Failing(FirstWords):
        def answers(self, documents, count, seed):
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().answers(documents, count, seed)

    output = tmp_path / "queries.parquet"
    with pytest.raises(KeyboardInterrupt):
        generate_queries(documents, output, settings, generator=Failing())
    generator = FirstWords()
    outcome = generate_queries(documents, output, settings, generator=generator)
    # Two portions of three were there; each has a seed of its own.
    assert [size for size, _ in generator.asked] == [8]
    assert outcome.metadata["documents_asked"] == 40
    whole = tmp_path / "whole.parquet"
    generate_queries(documents, whole, settings, generator=FirstWords())
    assert read_pairs(output) == read_pairs(whole)
    counts = write_collection(output, documents, tmp_path / "made", top_k=20, held_out=0.3)
    assert counts["generated"] == len(read_pairs(whole)) >= counts["kept"] >= counts["train"] + counts["dev"]
    train, dev = (open_collection(str(tmp_path / "made"), split) for split in ("train", "dev"))
    assert counts["train"] == len(train.qrels)
    asked = [{document for found in split.qrels.values() for document in found} for split in (train, dev)]
    assert min(map(len, asked)) > 0
    assert not asked[0] & asked[1]
    # Made again without held-out queries, nothing of the old split overlaps the new one.
    again = write_collection(output, documents, tmp_path / "made", top_k=20, held_out=0)
    assert again["train"] == counts["train"] + counts["dev"]
    with pytest.raises(InvalidInput, match="has no split 'dev'; it has: train"):
        open_collection(str(tmp_path / "made"), "dev")


def test_without_a_usable_answer_there_is_no_collection(pydocs, tmp_path):
    class Silent(FirstWords):
        def answers(self, documents, count, seed):
            return [[""] * count for _ in documents]

    documents = list(open_corpus(str(pydocs)))[:10]
    output = tmp_path / "queries.parquet"
    outcome = generate_queries(documents, output, GenerationSettings(queries=1), generator=Silent())
    assert outcome.metadata["counts"]["unusable"] == outcome.metadata["counts"]["answers"]
    with pytest.raises(InvalidInput, match="no usable answer"):
        write_collection(output, documents, tmp_path / "made")
    with pytest.raises(InvalidInput, match="none of the 1 documents has 40 characters"):
        generate_queries([Document("d", "short")], output, GenerationSettings(), generator=Silent())


def test_a_collection_of_somebody_is_not_written_over(pydocs):
    before = (pydocs / "queries.jsonl").read_bytes()
    with pytest.raises(InvalidInput, match="not generated here"):
        run_generation(str(pydocs), pydocs, GenerationSettings(documents=1))
    assert (pydocs / "queries.jsonl").read_bytes() == before


def test_a_real_language_model_writes_queries_the_same_again():
    document = (
        "The socket module provides access to the BSD socket interface. It is available on all modern Unix systems, "
        "Windows and macOS. socket.create_connection connects to a TCP service."
    )
    model = LanguageModel(
        "SmolLM2-135M-Instruct", Prompt.of("question"), new_tokens=12, document_tokens=48, offline=True
    )
    first, again = (model.answers([document, "Sort a list with sorted()."], 2, seed=3) for _ in range(2))
    assert first == again
    assert [len(own) for own in first] == [2, 2]
    assert any(clean(answer) for own in first for answer in own)
    assert model.answers([document], 2, seed=4) != first[:1]
    greedy = LanguageModel("SmolLM2-135M-Instruct", Prompt.of("question"), temperature=0, offline=True)
    with pytest.raises(InvalidInput, match="temperature 0"):
        greedy.answers([document], 2, seed=0)
    with pytest.raises(InvalidInput, match="precision must be float32 or bfloat16, got 'int8'"):
        LanguageModel("SmolLM2-135M-Instruct", Prompt.of("question"), precision="int8", offline=True)
    halved = LanguageModel("SmolLM2-135M-Instruct", Prompt.of("question"), precision="bfloat16", offline=True)
    assert halved._model.dtype == torch.bfloat16
    assert any(clean(answer) for answer in halved.answers([document], 2, seed=3)[0])
    with pytest.raises(BackendUnavailable):
        LanguageModel("all-MiniLM-L6-v2", Prompt.of("question"), offline=True)


def test_a_plain_model_begins_as_its_tokenizer_does_and_has_room(tmp_path):
    folder = save_model(tmp_path / "plain", kind="gpt2", chat=False, window=128)
    prompt = Prompt.of("question")
    bare = LanguageModel(folder, prompt, new_tokens=8, document_tokens=16, offline=True)
    first = AutoTokenizer.from_pretrained(folder)
    first.bos_token = "<|im_start|>"
    first.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", first.bos_token_id)]
    )
    first.save_pretrained(folder)
    opened = LanguageModel(folder, prompt, new_tokens=8, document_tokens=16, offline=True)
    assert opened._tokens("a text") == [first.bos_token_id, *bare._tokens("a text")]
    with pytest.raises(
        InvalidInput, match=r"document_tokens=100 and the answer take up to \d+ tokens, and .* reads 128"
    ):
        LanguageModel(folder, prompt, new_tokens=8, document_tokens=100, offline=True)


def test_a_sequence_to_sequence_model_gets_the_document_alone(pydocs, tmp_path):
    folder = tmp_path / "t5"
    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2", offline=True))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = LanguageModel(folder, Prompt.of("question"), new_tokens=6, document_tokens=8, offline=True)
    texts = ["a file is opened and read line by line until it ends", "sockets", "lists are sorted"]
    # No instruction, and of the first no more than eight tokens.
    assert model._text(texts[0]) == "a file is opened and read line by"
    found, again = (model.answers(texts, 2, seed=3) for _ in range(2))
    assert found == again
    assert [len(own) for own in found] == [2, 2, 2]
    prompts = tokenizer(texts)["input_ids"]
    made = model._generate(prompts, 2, model._beginning(prompts))
    # The start and six new tokens, two answers to each of three documents.
    assert (made.shape[0], made.shape[1] <= 7) == (6, True)
    settings = GenerationSettings(model=str(folder), queries=2, documents=5, new_tokens=6)
    outcome = generate_queries(
        list(open_corpus(str(pydocs))), tmp_path / "queries.parquet", settings, offline=True
    )  # fmt: skip
    assert outcome.metadata["counts"]["answers"] == 10


class Chat(http.server.BaseHTTPRequestHandler):
    """Answers as OpenAI's chat completions do, with the words of the last message."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        if body["model"] == "missing":
            self.send_response(404)
            content = {"error": "no such model"}
        else:
            self.send_response(200)
            text = body["messages"][-1]["content"].split("Text: ")[1]
            content = {"choices": [{"message": {"content": f"Query: {' '.join(text.split()[:4])}"}}]}
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def chat():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.bodies = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_writes_queries(chat):
    url = f"http://127.0.0.1:{chat.server_address[1]}/v1/"
    found = Endpoint(url, "some-model", Prompt.of("question")).answers(["one two three four five"] * 2, 2, seed=7)
    assert found == [["Query: one two three four"] * 2] * 2
    assert sorted(body["seed"] for body in chat.bodies) == [7, 8, 9, 10]
    with pytest.raises(BackendUnavailable, match="answered 404 for missing"):
        Endpoint(url, "missing", Prompt.of("question")).answers(["a text"], 1, seed=0)
    chat.shutdown()
    chat.server_close()
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        Endpoint(url, "some-model", Prompt.of("question")).answers(["a text"], 1, seed=0)


def written(chat, path, **given):
    """Return what an endpoint was asked for one document, and the queries that came of it."""
    chat.bodies.clear()
    url = f"http://127.0.0.1:{chat.server_address[1]}/v1"
    settings = GenerationSettings(endpoint=url, model="some-model", queries=1, **given)
    generate_queries([Document("a", "this text is long enough to be asked for")], path, settings)
    return chat.bodies[0]["messages"], [query for query, _ in read_pairs(path)]


def test_a_style_comes_with_examples_of_its_own(chat, tmp_path):
    turns, queries = written(chat, tmp_path / "a.parquet", style="keywords")
    assert [turn["role"] for turn in turns] == [*["user", "assistant"] * 3, "user"]
    assert turns[1]["content"] == "resting heart rate adults"
    assert queries == ["this text is long"]
    assert len(written(chat, tmp_path / "b.parquet", examples=())[0]) == 1
    assert len(written(chat, tmp_path / "c.parquet", style="Say what it is.")[0]) == 1
    turns, _ = written(chat, tmp_path / "d.parquet", examples=(("a document", "its query"),))
    assert [turn["content"] for turn in turns][1:2] == ["its query"]


def test_the_query_of_an_example_is_no_query_of_a_document(chat, tmp_path):
    for number, query in enumerate(("This text is LONG", ' Query: "this  text is long"')):
        _, queries = written(chat, tmp_path / f"{number}.parquet", examples=(("a document", query),))
        assert queries == []


def test_an_endpoint_takes_no_precision(tmp_path):
    settings = GenerationSettings(endpoint="http://127.0.0.1:1/v1", precision="bfloat16")
    with pytest.raises(InvalidInput, match="leave out bfloat16"):
        generate_queries(
            [Document("a", "long enough to be asked for, in words " * 2)], tmp_path / "q.parquet", settings
        )


def test_lists_of_several_retrievers_unite():
    def of(*rows):
        offsets = np.cumsum([0, *map(len, rows)])
        scores = np.concatenate([-np.arange(len(row), dtype=np.float32) for row in rows])
        return Candidates(offsets, np.concatenate(rows).astype(np.int32), scores)

    found = united([of([4, 2, 9], [1]), of([2, 7], [3, 1])])
    assert found.of(0)[0].tolist() == [2, 4, 7, 9]
    assert found.of(1)[0].tolist() == [1, 3]


QUICK = ("base=splade-tiny", "document_tokens=24", "query_tokens=12", "fit.batch_size=16", "fit.learning_rate=3e-4")


@pytest.fixture
def generated(pydocs, tmp_path):
    """Return the documents of *pydocs* with generated queries."""
    documents = list(open_corpus(str(pydocs)))
    path = tmp_path / "queries.parquet"
    generate_queries(documents, path, GenerationSettings(queries=1, documents=120), generator=FirstWords())
    write_collection(path, documents, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.slow
def test_gpl_copies_the_margins_of_its_teacher(generated, tmp_path):
    changes = (*QUICK, "fit.steps=30", "fit.warmup=0.1", "depth=10", "retrievers=[all-MiniLM-L6-v2]",
               "teacher.kind=bi_encoder", "teacher.model=all-MiniLM-L6-v2", "teacher.scale=20")  # fmt: skip
    settings = read_settings(recipe("gpl").settings, None, changes)
    report = run_recipe(recipe("gpl"), settings, generated, tmp_path / "model", splits=("dev",), offline=True)
    assert [stage for stage in report["stages"] if not stage.startswith("teacher-")][:2] == ["mine", "mine-0"]
    found = report["evaluation"]["dev"]["nDCG@10"]
    assert found["end"] > found["start"]


@pytest.mark.parametrize("name", ["gpl", "bpr_gpl", "jpq_gpl"])
def test_a_teacher_of_another_kind_is_found_before_mining(generated, tmp_path, name):
    settings = read_settings(recipe(name).settings, None, (*QUICK, "teacher.model=all-MiniLM-L6-v2"))
    with pytest.raises(InvalidInput, match="all-MiniLM-L6-v2"):
        run_recipe(recipe(name), settings, generated, tmp_path / "model", splits=(), offline=True)
    assert not [path for path in (tmp_path / ".model.work").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ([], "all-MiniLM-L6-v2"),
        (["--recipe", "genq"], "all-MiniLM-L6-v2"),
        (["--recipe", "repllama"], "SmolLM2-135M-Instruct"),
        (["--recipe", "genq", "--base", "splade-tiny"], "splade-tiny"),
    ],
)
def test_the_recipe_says_what_adapting_starts_from(tmp_path, monkeypatch, options, base):
    asked = []

    def noted(corpus, output, recipe, settings, generation, **_):
        asked.append(settings.base)
        return {"measure": "nDCG@10", "start": 0.5, "end": 0.5, "p": 1, "kept": "base", "queries": 9, "split": "test",
                "compared_with": recipe.start_is}  # fmt: skip

    monkeypatch.setattr(adaptation, "adapt_without_labels", noted)
    app = typer.Typer()
    app.command()(adapt)
    arguments = ["corpus", "--output", str(tmp_path / "model"), "--without-labels", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert asked == [base]
    assert f"the base, {base}: no significant gain" in result.stdout


def test_a_file_of_settings_says_which_recipe_adapts(pydocs, tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text("recipe: cross_encoder\nbase: splade-tiny\n")
    options = [str(pydocs), "--output", str(tmp_path / "model"), "--config", str(config)]

    def refused(message, *more):
        with pytest.raises(InvalidInput, match=message):
            CliRunner().invoke(alone(adapt), [*options, *more], catch_exceptions=False)

    refused("cross_encoder makes no bi-encoder", "--without-labels")
    refused("is for the recipe cross_encoder, and --recipe is gpl", "--without-labels", "--recipe", "gpl")
    refused("is for the recipe cross_encoder, and adapting with labels takes contrastive")
    config.write_text("base: splade-tiny\nteacher: 1\n")
    # Without a line of its own the file is for the one that is given.
    refused("teacher: Extra inputs", "--without-labels", "--recipe", "genq")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cross_encoder", (), "cross_encoder makes no bi-encoder.*gpl or genq"),
        ("soft_prompt", (), "soft_prompt makes no bi-encoder"),
        ("repllama", ("base=all-MiniLM-L6-v2",), "is an encoder already.*recipe contrastive"),
    ],
)
def test_what_adapting_cannot_compare_is_refused_before_any_work(pydocs, tmp_path, name, changes, message):
    settings = read_settings(recipe(name).settings, None, changes)
    generator = FirstWords()
    with pytest.raises(InvalidInput, match=message):
        adaptation.adapt_without_labels(
            str(pydocs), tmp_path / "model", recipe(name), settings, GenerationSettings(queries=1, documents=20),
            offline=True, generator=generator,
        )  # fmt: skip
    assert generator.asked == []
    assert list(tmp_path.iterdir()) == []


MISSING = ("teacher.kind=bi_encoder", "teacher.model=nobody/nothing")


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("gpl", MISSING, BackendUnavailable, "'nobody/nothing' is not on this machine"),
        ("jpq_gpl", MISSING, BackendUnavailable, "'nobody/nothing' is not on this machine"),
        ("bpr_gpl", ("retrievers=[nobody/else]", "teacher.kind=bi_encoder", "teacher.model=all-MiniLM-L6-v2"),
         BackendUnavailable, "'nobody/else' is not on this machine"),
        ("star", ("negatives=nowhere.parquet",), InvalidInput, "negatives: there is no file nowhere.parquet"),
    ],
)  # fmt: skip
def test_what_a_training_lacks_is_said_before_any_work(pydocs, generated, tmp_path, name, changes, error, message):
    settings = read_settings(recipe(name).settings, None, (*QUICK, *changes))
    generator, folder = FirstWords(), tmp_path / "models"
    folder.mkdir()
    with pytest.raises(error, match=message):
        adaptation.adapt_without_labels(
            str(pydocs), folder / "model", recipe(name), settings, GenerationSettings(queries=1, documents=20),
            offline=True, generator=generator,
        )  # fmt: skip
    assert generator.asked == []
    with pytest.raises(error, match=message):
        run_recipe(recipe(name), settings, generated, folder / "model", offline=True)
    # So that the corrected settings are not refused as others than before.
    assert list(folder.iterdir()) == []


def test_a_teacher_that_changes_under_its_name_is_another_training(generated, tmp_path):
    folders = {name: tmp_path / name for name in ("teacher", "retriever")}
    for folder in folders.values():
        open_base(EncoderSettings(base="splade-tiny"), offline=True).save(str(folder))
    changes = ("depth=10", "fit.steps=1", "teacher.kind=bi_encoder", f"teacher.model={folders['teacher']}",
               f"retrievers=[{folders['retriever']}]")  # fmt: skip
    settings = read_settings(recipe("gpl").settings, None, (*QUICK, *changes))

    def plan():
        return plan_of(recipe("gpl"), settings, open_parts(recipe("gpl"), settings, [generated], ()), offline=True)

    Stages(tmp_path / "work", plan())
    Stages(tmp_path / "work", plan())
    for name, setting in (("teacher", "teacher.model"), ("retriever", "retrievers.0")):
        weights = folders[name] / "model.safetensors"
        before = weights.read_bytes()
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(InvalidInput, match=rf"other settings or data \(models\.{setting}: "):
            Stages(tmp_path / "work", plan())
        weights.write_bytes(before)


def test_a_teacher_that_is_not_asked_need_not_be_there():
    def asked(name, *changes):
        return set(read_settings(recipe(name).settings, None, changes).other_models())

    assert asked("tas_b") == {"pair_teacher.model", "batch_teacher.model"}
    assert asked("tas_b", "supervision=pair") == {"pair_teacher.model"}
    assert asked("tas_b", "supervision=in_batch", "sampling=topic") == {"batch_teacher.model"}
    assert asked("tas_b", "supervision=none", "sampling=random") == set()
    assert asked("star", "teacher_margin={teacher: {kind: cross_encoder, model: a}}") == {
        "teacher_margin.teacher.model"
    }
    ensemble = "{kind: ensemble, teachers: [{kind: bi_encoder, model: a}, {kind: bi_encoder, model: b}]}"
    both = {"pair_teacher.teachers.0.model", "pair_teacher.teachers.1.model"}
    assert asked("tas_b", f"pair_teacher={ensemble}", "supervision=pair") == both
    assert asked("ar2") == {"ranker"}
    assert asked("trans_encoder", "second=b") == {"cross_encoder", "second"}
    assert asked("cornstack") == {"filter_model"}
    assert asked("cornstack", "filter_model=null") == set()


def test_adapting_without_labels_is_decided_by_judgments_where_there_are_some(pydocs, tmp_path):
    settings = read_settings(recipe("genq").settings, None, (*QUICK, "fit.steps=25"))
    generation = GenerationSettings(queries=1, documents=150)

    class Straying(FirstWords):
        """Asks of every tenth document for something else."""

        def answers(self, documents, count, seed):
            found = super().answers(documents, count, seed)
            return [[f"zebra {place} in the rain"] if place % 10 == 0 else own for place, own in enumerate(found)]

    found = adaptation.adapt_without_labels(
        str(pydocs), tmp_path / "model", recipe("genq"), settings, generation, top_k=None, consistent_top_k=20,
        offline=True, generator=Straying(),
    )  # fmt: skip
    counts = found["queries_generated"]
    assert 0.6 * counts["generated"] < counts["kept"] < 0.92 * counts["generated"]
    assert found["split"] == "test"
    assert found["queries_generated"]["train"] > 50
    report = json.loads((tmp_path / "model" / "adaptation.json").read_text())
    assert set(report["evaluation"]) == {"generated", "test"}
    assert found["kept"] == ("trained" if found["difference"] > 0 and found["p"] < 0.05 else "base")
    # The judgments of the collection were not trained on.
    assert report["training"]["queries"] == found["queries_generated"]["train"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
