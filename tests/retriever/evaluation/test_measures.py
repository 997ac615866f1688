"""Rules of measuring: ties, missing queries, self-retrieval; and published scores of real runs."""

import math

import pytest

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, open_collection, read_qrels
from retriever.evaluation.measures import measure
from retriever.evaluation.records import EvaluationSettings, Record, evaluate_index, evaluate_run
from retriever.evaluation.runs import read_run, strictly_decreasing, write_run
from retriever.index.sealed import open_index

# System, nDCG@10 on TREC DL 2019 and 2020 as published with the runs.
PUBLISHED = {
    "bm25": (0.5058, 0.4796),
    "distilbert_tasb": (0.7210, 0.6854),
    "splade_pp": (0.7308, 0.7197),
    "repllama": (0.7384, 0.7195),
}


@pytest.mark.parametrize("year", ["dl19", "dl20"])
@pytest.mark.parametrize("system", PUBLISHED)
def test_real_runs_measure_as_published(shared_data, system, year):
    folder = shared_data / "msmarco-dl"
    qrels_path = folder / f"qrels_full.{year}.trec"
    qrels = read_qrels(qrels_path.read_bytes(), qrels_path)
    run = read_run(folder / "runs" / f"{system}.{year}.trec.gz")
    found = measure(run, qrels, ["nDCG@10"]).means["nDCG@10"]
    assert found == pytest.approx(PUBLISHED[system][year == "dl20"], abs=0.00006)


def test_ties_keep_our_order_although_trec_eval_would_turn_it():
    # trec_eval puts "b" before "a" at equal scores; our ranking says "a" first, and "a" is relevant.
    ranking = [("a", 2.0), ("b", 2.0), ("c", 2.0)]
    assert measure({"q": ranking}, {"q": {"a": 1}}, ["RR@10"]).means["RR@10"] == 1.0
    assert [score for _, score in strictly_decreasing(ranking)] == [2.0, 1.999999, 1.999998]


def test_scores_closer_than_the_file_can_show_stay_in_order(tmp_path):
    ranking = [(f"d{n}", 1.0 - n * 1e-9) for n in range(50)]
    write_run(tmp_path / "x.run.gz", {"q": ranking}, "x")
    assert [id_ for id_, _ in read_run(tmp_path / "x.run.gz")["q"]] == [id_ for id_, _ in ranking]


def test_a_judged_query_without_results_counts_zero():
    qrels = {"a": {"1": 1}, "b": {"2": 1}}
    found = measure({"a": [("1", 1.0)]}, qrels, ["nDCG@10", "R@100"])
    assert found.means == {"nDCG@10": 0.5, "R@100": 0.5}
    assert found.per_query["nDCG@10"] == {"a": 1.0, "b": 0.0}


def test_a_query_without_relevant_documents_counts_zero_and_one_without_judgments_not_at_all():
    qrels = {"a": {"1": 1}, "b": {"2": 0, "3": -1}}
    found = measure({"a": [("1", 1.0)], "b": [("2", 1.0)], "c": [("1", 1.0)]}, qrels, ["nDCG@10"])
    assert found.queries == 2
    assert found.means["nDCG@10"] == 0.5


def test_ndcg_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "c": 0}}
    ideal = 2 + 1 / math.log2(3)
    got = 1 + 0 / math.log2(3) + 2 / math.log2(4)
    run = {"q": [("b", 3.0), ("c", 2.0), ("a", 1.0)]}
    assert measure(run, qrels, ["nDCG@10"]).means["nDCG@10"] == pytest.approx(got / ideal)


def test_unknown_measure():
    with pytest.raises(InvalidInput, match="unknown measure 'nDCG@ten'"):
        measure({}, {"q": {"a": 1}}, ["nDCG@ten"])


def test_the_querys_own_document_is_removed_unless_asked_for():
    collection = Collection("c", "test", {"q": "text"}, {"q": {"a": 1}})
    run = {"q": [("q", 9.0), ("a", 1.0)]}
    assert evaluate_run(run, collection, "x").means["RR@10"] == 1.0
    kept = evaluate_run(run, collection, "x", EvaluationSettings(keep_self=True))
    assert kept.means["RR@10"] == 0.5
    assert kept.policies["self"] == "a document whose id is the query's stays in its ranking"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q\td", r"q\.tsv:3: a judgment is"),
        ("q\td\tgood", r"q\.tsv:3: a judgment is"),
        ("q\td\t1\tx\ty", r"q\.tsv:3: a judgment is"),
        ("a\tb\t0", r"q\.tsv:3: 'a', 'b' is judged both 1 and 0"),
    ],
)
def test_faulty_judgments(tmp_path, line, message):
    path = tmp_path / "q.tsv"
    with pytest.raises(InvalidInput, match=message):
        read_qrels(f"query-id\tcorpus-id\tscore\na\tb\t1\n{line}\n".encode(), path)


def test_trec_judgments_and_repeated_lines(tmp_path):
    assert read_qrels(b"q 0 d 2\nq 0 d 2\nq 0 e -1\n", tmp_path / "q") == {"q": {"d": 2, "e": -1}}
    with pytest.raises(InvalidInput, match="holds no judgments"):
        read_qrels(b"query-id\tcorpus-id\tscore\n", tmp_path / "q")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 high x", "a run has six columns"),
        ("q Q0 d 1 1.0", "a run has six columns"),
        ("q Q0 d 1 nan x", "not finite"),
        ("q Q0 a 1 1.0 x", "lists 'a' a second time"),
    ],
)
def test_faulty_runs(tmp_path, line, message):
    (tmp_path / "x.run").write_text(f"q Q0 a 1 2.0 x\n{line}\n")
    with pytest.raises(InvalidInput, match=message):
        read_run(tmp_path / "x.run")


def test_a_collection_says_which_splits_it_has(pydocs):
    with pytest.raises(InvalidInput, match="has no split 'dev'; it has: test"):
        open_collection(str(pydocs), "dev")
    with pytest.raises(InvalidInput, match=r"it has no queries\.jsonl"):
        open_collection(str(pydocs / "qrels"))


def test_every_pipeline_of_an_index_on_real_queries(small_index, pydocs, encoder, tmp_path):
    collection = open_collection(str(pydocs))
    means = {}
    with open_index(small_index, encoder=encoder) as index:
        for pipeline in index.pipelines:
            run, record = evaluate_index(index, collection, pipeline)
            means[pipeline] = record.means["nDCG@10"]
            assert record.queries["measured"] == len(collection.qrels) == 300
            assert record.queries["judged_documents_not_in_index"] == 0
            assert record.latency_ms["p50"] > 0
            assert len(run) == 300
            record.write(tmp_path / "r.json")
            assert Record.read(tmp_path / "r.json") == record
    # Summaries are short and lack the code's own words: meaning helps, and both help most.
    assert means["hybrid"] > means["dense"] > means["bm25"] > 0.4


@pytest.mark.parametrize(("name", "expected", "recall"), [("scifact", 0.6789, 0.9253), ("nfcorpus", 0.3218, 0.2457)])
def test_bm25_gives_anserinis_numbers(shared_data, tmp_path, name, expected, recall):
    from indexing.build import build_index
    from indexing.corpora import open_corpus
    from indexing.plan import BuildSettings

    source = str(shared_data / name)
    build_index(open_corpus(source), tmp_path / "index", BuildSettings(parts=("bm25",)))
    with open_index(tmp_path / "index") as index:
        _, record = evaluate_index(index, open_collection(source), "bm25")
    assert record.means["nDCG@10"] == pytest.approx(expected, abs=0.00006)
    assert record.means["R@100"] == pytest.approx(recall, abs=0.00006)
