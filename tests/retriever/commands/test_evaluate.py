"""`retriever eval` as a user runs it."""

import json

import pytest
from typer.testing import CliRunner

from retriever.commands.evaluate import app
from retriever.errors import InvalidInput

runner = CliRunner()


def evaluate(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InvalidInput):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def records(small_index, pydocs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    result = evaluate("run", small_index, pydocs, "--output", folder, "--json")
    assert result.exit_code == 0, result.output
    name = pydocs.name
    return {p: folder / f"{name}.test.{p}.json" for p in ("bm25", "dense", "hybrid")}


def test_a_run_file_measures_like_the_index_that_made_it(records, pydocs, tmp_path):
    run_file = records["hybrid"].with_name(records["hybrid"].name.replace(".json", ".run.gz"))
    result = evaluate("run", "--run", run_file, pydocs, "--output", tmp_path, "--json")
    (measured,) = json.loads(result.stdout)
    assert measured["means"] == json.loads(records["hybrid"].read_text())["means"]


def test_a_current_record_is_not_measured_again(records, small_index, pydocs):
    before = records["bm25"].stat().st_mtime_ns
    evaluate("run", small_index, pydocs, "-p", "bm25", "--output", records["bm25"].parent)
    assert records["bm25"].stat().st_mtime_ns == before
    evaluate("run", small_index, pydocs, "-p", "bm25", "--output", records["bm25"].parent, "--again")
    assert records["bm25"].stat().st_mtime_ns > before


def test_a_run_and_a_file_of_judgments_are_enough(tmp_path):
    (tmp_path / "dl.trec").write_text("1 0 d 2\n2 0 e 1\n")
    (tmp_path / "x.run").write_text("1 Q0 d 1 2.0 x\n")
    result = evaluate("run", "--run", tmp_path / "x.run", tmp_path / "dl.trec", "--output", tmp_path, "--json")
    (measured,) = json.loads(result.stdout)
    assert measured["means"]["RR@10"] == 0.5
    assert (tmp_path / "dl.all.x.run.json").is_file()


def test_an_index_needs_queries_with_texts(small_index, tmp_path):
    (tmp_path / "dl.trec").write_text("1 0 d 2\n")
    with pytest.raises(InvalidInput, match="no judged query of dl all has a text"):
        evaluate("run", small_index, tmp_path / "dl.trec", "-p", "bm25", "--output", tmp_path)


def test_another_batch_size_is_measured_again(records, small_index, pydocs):
    arguments = ["run", small_index, pydocs, "-p", "bm25", "--output", records["bm25"].parent]
    evaluate(*arguments, "--batch-size", 7)
    assert json.loads(records["bm25"].read_text())["latency_ms"]["batch_size"] == 7


def test_comparison_and_gate(records):
    result = evaluate("compare", records["bm25"], records["hybrid"], "-m", "nDCG@10", "--json")
    (one,) = json.loads(result.stdout)["comparisons"]
    assert (one["name"], one["measure"]) == ("1 hybrid", "nDCG@10")
    assert one["difference"] == pytest.approx(one["system"] - one["baseline"])
    assert one["difference"] > 0
    assert one["p_holm"] < 0.01
    assert evaluate("compare", records["bm25"], records["hybrid"], "--fail-if-worse", 0.005).exit_code == 0
    worse = evaluate("compare", records["hybrid"], records["bm25"], "--fail-if-worse", 0.005)
    assert worse.exit_code == 1
    assert "significantly worse than hybrid" in worse.stderr


def test_the_readable_comparison_shows_both_sides(records):
    shown = evaluate("compare", records["bm25"], records["dense"], records["hybrid"], "--margin", 0.01).stdout
    assert "greatest gain in nDCG@10" in shown
    # Also on a narrow terminal no number is cut.
    assert "…" not in shown.replace(" … ", "")
    means = json.loads(records["hybrid"].read_text())["means"]
    assert all(f"{value:.4f}" in shown for value in means.values())
    assert "bytes" in shown


def test_across_collections(records):
    folder = records["bm25"].parent
    result = evaluate("across", "--baseline", f"{folder}/*.bm25.json", "--system", f"{folder}/*.hybrid.json", "--json")
    assert json.loads(result.stdout)["difference"] > 0


def test_records_with_other_queries_are_not_compared(records, tmp_path):
    other = json.loads(records["bm25"].read_text())
    for values in other["per_query"].values():
        values.popitem()
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(InvalidInput, match="hold different queries"):
        evaluate("compare", records["bm25"], tmp_path / "other.json")


def test_a_table_that_expects_what_it_does_not_measure(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "title: t\nrows:\n  - name: x\n    data: x\n    pipelines: [bm25]\n"
        "    expected: {dense: {nDCG@10: {value: 0.5, tolerance: 0.1, source: s}}}\n"
    )
    with pytest.raises(InvalidInput, match="which it does not measure"):
        evaluate("reproduce", tmp_path / "t.yaml", "--data", tmp_path, "--work", tmp_path / "w")


def test_records_of_different_collections_are_not_compared(records, tmp_path):
    other = json.loads(records["bm25"].read_text()) | {"collection": "other"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(InvalidInput, match="compare records of the same collection"):
        evaluate("compare", records["bm25"], tmp_path / "other.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "give INDEX and COLLECTION"),
        (["compare", "nowhere.json", "nothing.json"], "there is no record"),
        (["compare", "one.json"], "at least two records"),
        (["across", "--baseline", "no*", "--system", "none*"], "no record matches"),
        (["reproduce", "nowhere.yaml", "--data", "."], "is no reproduction table"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        evaluate(*arguments)


def test_the_shipped_table_is_valid_and_a_row_reproduces(shared_data, tmp_path):
    from pathlib import Path

    import retriever.evaluation

    table = Path(retriever.evaluation.__file__).with_name("reproduction.yaml")
    (tmp_path / "table.yaml").write_text(
        "title: t\nrows:\n  - name: nfcorpus\n    data: nfcorpus\n    build: [--parts, bm25]\n    pipelines: [bm25]\n"
        "    keep_self: true\n"
        "    expected: {bm25: {nDCG@10: {value: 0.3218, tolerance: 0.003, source: Anserini}}}\n"
    )
    options = ["--data", shared_data, "--work", tmp_path / "work", "--output", tmp_path / "out"]
    result = evaluate("reproduce", tmp_path / "table.yaml", *options)
    assert result.exit_code == 0, result.output
    assert "reproduced" in (tmp_path / "out" / "reproduction.md").read_text()
    assert "nfcorpus,bm25,nDCG@10,0.3218,0.3218" in (tmp_path / "out" / "reproduction.csv").read_text()
    assert json.loads((tmp_path / "work" / "records" / "nfcorpus.bm25.json").read_text())["settings"]["keep_self"]
    # A number that does not come out ends with 1.
    content = (tmp_path / "table.yaml").read_text().replace("value: 0.3218", "value: 0.5")
    (tmp_path / "table.yaml").write_text(content)
    assert evaluate("reproduce", tmp_path / "table.yaml", *options).exit_code == 1
    from retriever.evaluation.reproduction import read_table

    assert {row.name for row in read_table(table).rows} >= {"scifact", "nfcorpus", "arxiv-title", "jaquad"}
