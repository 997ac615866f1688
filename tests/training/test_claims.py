"""Records of experiments: of other data, sizes or settings they are refused, not taken."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.llm import searching
from benchmarks.training import adapter, domains, llm_ql, poolers, soft_prompt
from benchmarks.training.claims import Experiment
from indexing.corpora import open_corpus
from retriever.evaluation.collections import open_collection
from retriever.llm.bottleneck import QueryWriter, save_query_writer
from tests.retriever.llm.models import save_model
from training.collection import read_corpus
from training.recipe import measure_splits
from training.recipes.low_rank_adapter import LowRankAdapterSettings

MEASURED = {"test": {"nDCG@10": {"q": 0.5}}}


@pytest.fixture
def other(split_pydocs, tmp_path):
    """Return the same collection with one document less."""
    folder = shutil.copytree(split_pydocs, tmp_path / "other")
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(lines[1:]) + "\n")
    return folder


def test_a_record_of_other_data_is_refused(split_pydocs, other, tmp_path):
    work = tmp_path / "work"
    own, stranger = Experiment(split_pydocs, work), Experiment(other, work)
    assert not own.kept("base", 1)
    own.keep("base", 1, MEASURED, {})
    assert own.kept("base", 1)
    assert own.by_seed("base", [1], "test", "nDCG@10") == [0.5]
    for refused in (stranger.kept, stranger.read):
        with pytest.raises(SystemExit, match=r"base-1\.json is of another training \(corpus.*another --work"):
            refused("base", 1)
    # Made before records knew their data.
    path = work / "records" / "base-1.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "data"}))
    assert stranger.by_seed("base", [1], "test", "nDCG@10") == [0.5]


def test_other_judgments_are_other_data(split_pydocs, other, tmp_path):
    shutil.copy(split_pydocs / "corpus.jsonl", other / "corpus.jsonl")
    (other / "qrels" / "test.tsv").write_text((other / "qrels" / "test.tsv").read_text().replace("\t1", "\t2"))
    Experiment(split_pydocs, tmp_path / "work").keep("base", 1, MEASURED, {})
    with pytest.raises(SystemExit, match="test"):
        Experiment(other, tmp_path / "work").read("base", 1)


def test_an_arm_of_other_data_recipe_or_settings_is_refused(split_pydocs, other, tmp_path):
    own = Experiment(split_pydocs, tmp_path / "work")
    settings = {"base": "splade-tiny", "query_tokens": 12}
    own.keep(
        "arm", 1, MEASURED, {"recipe": "contrastive", "settings": settings | {"base": "/moved/splade-tiny", "seed": 1}}
    )
    (own.models / "arm-1").mkdir(parents=True)
    assert own.arm("arm", 1, "contrastive", settings) == own.models / "arm-1"
    for method, changes, message in (("star", {}, "recipe"), ("contrastive", {"query_tokens": 13}, "query_tokens: 12")):
        with pytest.raises(SystemExit, match=message):
            own.arm("arm", 1, method, settings | changes)
    with pytest.raises(SystemExit, match="corpus"):
        Experiment(other, tmp_path / "work").arm("arm", 1, "contrastive", settings)


def test_a_shared_stage_of_other_data_is_refused(split_pydocs, other, tmp_path):
    own = Experiment(split_pydocs, tmp_path / "work", splits=("test",))
    settings = {
        "base": "splade-tiny", "query_tokens": 12, "document_tokens": 12, "hard": "mined",
        "fit": {"steps": 1, "batch_size": 4, "save_steps": 0},
    }  # fmt: skip
    own.arm("first", 1, "contrastive", settings, shared={"mine": "mine-1"})
    assert own.kept("first", 1)
    stranger = Experiment(other, tmp_path / "work", splits=("test",))
    with pytest.raises(SystemExit, match=r"mine-1 is of another training \(corpus"):
        stranger.arm("second", 1, "contrastive", settings, shared={"mine": "mine-1"})


def test_experiments_that_keep_arms_of_their_own_check_them_too(split_pydocs, other, tmp_path):
    own = Experiment(split_pydocs, tmp_path / "work", splits=("test",))
    about = {"settings": LowRankAdapterSettings(max_queries=200, seed=1, **adapter.TOKENS).model_dump(mode="json")}
    own.keep("base", 1, MEASURED, {})
    own.keep("linear 200", 1, MEASURED, about)
    adapter.keep_base(own, 1)
    adapter.keep_arm(own, "linear 200", 1, {})
    with pytest.raises(SystemExit, match=r"settings\.rank"):
        adapter.keep_arm(own, "linear 200", 1, {"rank": 8})
    with pytest.raises(SystemExit, match="corpus"):
        adapter.keep_base(Experiment(other, tmp_path / "work", splits=("test",)), 1)
    settings = soft_prompt.settings_of(1, 60).model_dump(mode="json")
    for arm in soft_prompt.ARMS:
        own.keep(arm, 1, MEASURED, {"settings": settings})
    soft_prompt.keep_arms(own, 1, 60)
    with pytest.raises(SystemExit, match=r"settings\.held_out: 60 then, 30 now"):
        soft_prompt.keep_arms(own, 1, 30)


def test_the_adapters_section_says_what_its_tables_do_not(split_pydocs, tmp_path):
    own = Experiment(split_pydocs, tmp_path / "work", splits=("test",))
    for seed in (1, 2):
        own.keep("base", seed, MEASURED, {})
        own.keep("linear 200", seed, {"test": {"nDCG@10": {"q": 0.6}}}, {})
        own.keep("lookup 200", seed, MEASURED if seed == 2 else {"test": {"nDCG@10": {"q": 0.4}}}, {})
    assert adapter.left_out(own, ("base", "linear 200")) == []
    own.keep("linear 4000", 1, {"test": {"nDCG@10": {"q": 0.75}}}, {})
    own.keep("first place, linear 4000", 1, {"test": {"gain": {"q": 0.25}}}, {})
    assert adapter.left_out(own, ("base", "linear 200")) == []
    own.keep("first 25, linear 4000", 1, {"test": {"gain": {"q": -0.125}}}, {})
    (said,) = adapter.left_out(own, ("base", "linear 200"))
    assert "*linear 4000* with seed 1 has test nDCG@10 0.7500 (base 0.5000)" in said
    assert "adds +0.2500 to the first place and -0.1250 to the first 25" in said
    assert adapter.left_out(own, ("base", "linear 200", "linear 4000")) == []
    (said,) = adapter.stayed(own, ["linear 200", "lookup 200"], (1, 2))
    assert said == "*lookup 200* stays at the base with seed 2, 1 of 2."


def test_all_experiments_are_run_by_make_claims():
    root = Path(__file__).parents[2]
    makefile = (root / "Makefile").read_text()
    experiments = [
        path.stem for path in (root / "benchmarks" / "training").glob("*.py")
        if "from benchmarks.training.claims import" in path.read_text()
    ]  # fmt: skip
    assert len(experiments) > 10
    assert [name for name in experiments if f"benchmarks.training.{name} " not in makefile] == []


def test_codes_across_domains_are_kept_by_source_and_documents(split_pydocs, other, tmp_path):
    work = tmp_path / "work"
    few, many = (shutil.copytree(split_pydocs, work / f"pydocs-{count}") for count in (20, 30))
    found = [domains.experiments(*pair, work) for pair in ((split_pydocs, few), (other, few), (split_pydocs, many))]
    assert len({clean.records for _, clean, _ in found}) == 3
    assert len({source.records for source, _, _ in found}) == 2
    assert all(clean.records == hurt.records for _, clean, hurt in found)


def test_a_corpus_is_not_encoded_for_no_queries(split_pydocs):
    assert measure_splits(None, read_corpus(split_pydocs), []) == {}


def test_poolers_are_measured_on_all_that_is_relevant_to_the_queries_drawn(split_pydocs, tmp_path):
    folder = poolers.sampled(split_pydocs, 5, 30, tmp_path)
    (split,) = Experiment(folder, tmp_path / "work", splits=("test",)).held_out
    documents = {document.id for document in open_corpus(str(folder))}
    whole = open_collection(str(split_pydocs), "test")
    assert len(split.judged) == 5
    assert len(documents) == 30
    for query in split.judged:
        assert split.qrels[query] == {d: grade for d, grade in whole.qrels[query].items() if grade > 0}
        assert documents.issuperset(split.qrels[query])


def test_poolers_are_compared_by_signed_ranks(split_pydocs, tmp_path):
    folder = poolers.sampled(split_pydocs, 12, 20, tmp_path)
    own = Experiment(folder, tmp_path / "work", splits=("test",))
    queries = list(own.held_out[0].judged)
    for arm in poolers.ARMS:
        value = 0.01 if arm == "bidirectional mean" else 0.0
        own.keep(arm, 1, {"test": {"nDCG@10": {query: value * place for place, query in enumerate(queries, 1)}}}, {})
    rows = {line.split("|")[1].strip(): line for line in poolers.tests_table([own], [1])[2:]}
    assert len(rows) == len(poolers.PAIRS) == 10
    assert "| 12, 0 | 0.0049 | better |" in rows["bidirectional mean against causal mean"]
    assert "| 0, 12 | 0.0049 | worse |" in rows["bidirectional last against bidirectional mean"]
    assert "| 0, 0 | 1 | no difference shown |" in rows["causal mean against causal last"]


def test_rankers_order_what_bm25_found(split_pydocs, tmp_path):
    folder = save_model(tmp_path / "writer", scale=0.2)
    save_query_writer(folder, QueryWriter(document_tokens=16, query_tokens=8))
    collection, hits = searching(split_pydocs, "test", 6, llm_ql.DEPTH)
    corpus = read_corpus(split_pydocs)
    runs = llm_ql.runs_of(folder, corpus.documents, collection, hits)
    assert tuple(runs) == llm_ql.RANKERS
    for query, found in runs["bm25"].items():
        assert len(found) == min(llm_ql.DEPTH, len(hits[query])) > 0
        assert all({id_ for id_, _ in run[query]} == {id_ for id_, _ in found} for run in runs.values())
        assert all(score < 0 for _, score in runs["writer"][query])
    settings = llm_ql.settings_of("stop", 1, folder).model_copy(update={"max_queries": 20})
    own = Experiment(split_pydocs, tmp_path / "work", splits=("test",))
    for name in llm_ql.RANKERS:
        about = {"recipe": "llm_ql", "settings": settings.model_dump(mode="json")}
        own.keep(f"ranked {name}", 1, MEASURED, about)
    with pytest.raises(SystemExit, match=r"settings\.max_queries: 20 then, 30 now"):
        own.kept("ranked writer", 1, settings.model_copy(update={"max_queries": 30}), "llm_ql")
    assert own.kept("ranked writer", 1, settings, "llm_ql")
