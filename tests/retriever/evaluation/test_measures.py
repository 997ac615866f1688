"""Rules of measuring: ties, missing queries, self-retrieval; and published scores of real runs."""

import gzip
import itertools
import math

import ir_measures
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

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
    judgments = [ir_measures.Qrel("q", "a", 1)]
    untouched = [ir_measures.ScoredDoc("q", *pair) for pair in ranking]
    assert ir_measures.calc_aggregate([ir_measures.RR], judgments, untouched) == {ir_measures.RR: 1 / 3}
    assert measure({"q": ranking}, {"q": {"a": 1}}, ["RR"]).means["RR"] == 1.0


@pytest.mark.parametrize("score", [0.0, 1e-40, -0.03, 2.0, 20.0, 1000.0, -1000.0, 1e5, 3e38])
def test_every_rank_is_seen_as_meant_at_any_size_of_scores(score):
    # The evaluator keeps scores in float32, where a fixed step of 1e-6 is lost above 16.
    ranking = [(f"d{n:02}", score) for n in range(30)]
    qrels = {str(n): {f"d{n:02}": 1} for n in range(30)}
    found = measure(dict.fromkeys(qrels, ranking), qrels, ["RR", "RR@30", "AP", "nDCG@30"])
    for n in range(30):
        values = {name: found.per_query[name][str(n)] for name in found.per_query}
        assert values == pytest.approx(
            {"RR": 1 / (n + 1), "RR@30": 1 / (n + 1), "AP": 1 / (n + 1), "nDCG@30": 1 / math.log2(n + 2)}
        )


@given(st.lists(st.floats(-1e30, 1e30), max_size=40))
def test_scores_fall_strictly_and_by_the_smallest_step(scores):
    ranking = [(str(n), score) for n, score in enumerate(sorted(scores, reverse=True))]
    adjusted = strictly_decreasing(ranking)
    assert [id_ for id_, _ in adjusted] == [id_ for id_, _ in ranking]
    below = [score for _, score in adjusted]
    assert all(a > b for a, b in itertools.pairwise(below))
    # Scores that differ in float32 and do not follow a tie stay as they are.
    normal = [np.float32(score) for _, score in ranking]
    if len(set(normal)) == len(normal) and all(score == 0 or abs(score) > 1e-37 for score in normal):
        assert below == [float(score) for score in normal]


def test_scores_closer_than_float32_can_show_stay_in_order(tmp_path):
    ranking = [(f"d{n}", 100.0 - n * 1e-9) for n in range(50)]
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


@pytest.mark.parametrize(
    ("name", "message"),
    [("nDCG@ten", "unknown measure 'nDCG@ten'"), ("INST", "unknown measure"), ("RBP(p=0.8)", "needs a package")],
)
def test_unknown_measures(name, message):
    with pytest.raises(InvalidInput, match=message):
        measure({}, {"q": {"a": 1}}, [name])


def test_means_are_those_of_ir_measures_over_all_judged_queries():
    qrels = {"a": {"1": 2, "3": 1}, "none": {"2": 1}, "irrelevant": {"2": 0, "3": -1}}
    run = {"a": [("3", 2.0), ("1", 1.0)], "irrelevant": [("2", 1.0)], "unjudged": [("1", 1.0)]}
    names = ["nDCG@10", "R@100", "AP", "P@5", "Judged@10"]
    theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in names], qrels, as_scores(run))
    assert measure(run, qrels, names).means == pytest.approx({str(m): value for m, value in theirs.items()})


def as_scores(run):
    return {query: dict(ranking) for query, ranking in run.items()}


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
        ("q\td\t--1", r"q\.tsv:3: a judgment is"),
        ("q\td\t²", r"q\.tsv:3: a judgment is"),
        ("q\t\t1", r"q\.tsv:3: a judgment is"),
        ("q\td\t1\tx\ty", r"q\.tsv:3: a judgment is"),
        ("a\tb\t0", r"q\.tsv:3: 'a', 'b' is judged both 1 and 0"),
    ],
)
def test_faulty_judgments(tmp_path, line, message):
    path = tmp_path / "q.tsv"
    with pytest.raises(InvalidInput, match=message):
        read_qrels(f"query-id\tcorpus-id\tscore\na\tb\t1\n{line}\n".encode(), path)


def test_a_faulty_first_line_is_no_header(tmp_path):
    with pytest.raises(InvalidInput, match=r"q\.tsv:1: a judgment is"):
        read_qrels(b"q\td\tgood\nq\td\t1\n", tmp_path / "q.tsv")


def test_trec_judgments_and_repeated_lines(tmp_path):
    assert read_qrels(b"q 0 d 2\nq 0 d 2\nq 0 e -1\n", tmp_path / "q") == {"q": {"d": 2, "e": -1}}
    with pytest.raises(InvalidInput, match="holds no judgments"):
        read_qrels(b"query-id\tcorpus-id\tscore\n", tmp_path / "q")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 high x", "a run has six columns"),
        ("q Q0 d 1 1.0", "a run has six columns"),
        ("q Q0 d 1 nan x", "not a finite float32"),
        ("q Q0 d 1 1e39 x", "not a finite float32"),
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


def write_collection(folder, suffix="", encode=bytes):
    folder.mkdir()
    (folder / "qrels").mkdir()
    (folder / f"queries.jsonl{suffix}").write_bytes(encode(b'{"_id": "1", "text": "wing"}\n'))
    (folder / f"qrels/test.tsv{suffix}").write_bytes(encode(b"query-id\tcorpus-id\tscore\n1\td\t1\n2\td\t1\n"))
    return str(folder)


@pytest.mark.parametrize(("suffix", "encode"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)])
def test_compressed_collections_are_the_same_and_damage_is_told(tmp_path, suffix, encode):
    plain = open_collection(write_collection(tmp_path / "plain"))
    packed = open_collection(write_collection(tmp_path / "packed", suffix, encode))
    assert (packed.queries, packed.qrels, packed.sha256) == (plain.queries, plain.qrels, plain.sha256)
    path = tmp_path / "packed" / "qrels" / f"test.tsv{suffix}"
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-6], b"no archive", whole[:middle] + b"\xff\xff" + whole[middle + 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"test\.tsv"):
            open_collection(str(tmp_path / "packed"))


def test_queries_without_text_or_results_are_counted_and_score_zero(tmp_path):
    collection = open_collection(write_collection(tmp_path / "c"))
    assert list(collection.judged) == ["1"]
    record = evaluate_run({"1": [("d", 1.0)]}, collection, "x")
    assert record.means["RR@10"] == 0.5
    assert record.queries["without_text"] == record.queries["without_results"] == 1
    assert record.queries["measured"] == 2


def test_files_of_judgments_and_queries_are_a_collection(tmp_path):
    (tmp_path / "dl.trec").write_text("1 0 d 2\n2 0 e 1\n")
    (tmp_path / "topics.tsv").write_text("1\twing\n2\tflow of\theat\n")
    bare = open_collection(str(tmp_path / "dl.trec"))
    assert (bare.name, bare.split, bare.qrels) == ("dl", "all", {"1": {"d": 2}, "2": {"e": 1}})
    assert evaluate_run({"1": [("d", 1.0)]}, bare, "x").means["RR@10"] == 0.5
    full = open_collection(str(tmp_path / "dl.trec"), queries=tmp_path / "topics.tsv")
    assert full.judged == {"1": "wing", "2": "flow of\theat"}
    assert set(full.sha256) == {"dl.trec", "topics.tsv"}
    (tmp_path / "topics.tsv").write_text("1\twing\nflow\n")
    with pytest.raises(InvalidInput, match=r"topics\.tsv:2: a query needs"):
        open_collection(str(tmp_path / "dl.trec"), queries=tmp_path / "topics.tsv")


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
            assert record.means["RR@10"] == pytest.approx(reciprocal_rank_by_hand(run, collection.qrels))
            record.write(tmp_path / "r.json")
            assert Record.read(tmp_path / "r.json") == record
    # Summaries are short and lack the documents' own words, so meaning helps.
    assert means["dense"] > means["bm25"] > 0.4
    assert means["hybrid"] > means["bm25"]


def reciprocal_rank_by_hand(run, qrels):
    total = 0.0
    for query, graded in qrels.items():
        places = [place for place, (id_, _) in enumerate(run[query][:10], 1) if graded.get(id_, 0) > 0]
        total += 1 / places[0] if places else 0.0
    return total / len(qrels)


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
