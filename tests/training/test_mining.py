"""Mining as a job, on real commands and questions: what counts as a negative, and what an interruption costs."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.errors import IndexLocked, InvalidInput
from retriever.evaluation.collections import open_collection
from retriever.index.sealed import open_index
from retriever.rerank import CrossEncoderReranker
from retriever.storage import exclusive_lock
from tests.factories import HashingEncoder, ListCorpus
from tests.retriever.test_rerank import save_model
from training.candidate_files import read_candidates
from training.commands import app
from training.jobs import run_merging, run_mining, run_scoring
from training.mining import MiningSettings, _Miner, mine_index, normalised, report_of
from training.portions import Shard, portion_file, read_metadata, work_folder

DOCUMENTS = 160


def lines_of(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def collection(shared_data, tmp_path_factory):
    """Return a BEIR folder of 160 real commands with their training questions, and a fault of each kind."""
    source = shared_data / "nl2bash"
    folder = tmp_path_factory.mktemp("mining") / "commands"
    (folder / "qrels").mkdir(parents=True)
    corpus = lines_of(source / "corpus.jsonl.gz")[:DOCUMENTS]
    ids = {record["_id"] for record in corpus}
    qrels = [line.split("\t") for line in (source / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    qrels = [line for line in qrels if line[1] in ids]
    wanted = {query for query, _, _ in qrels}
    queries = [record for record in lines_of(source / "queries.jsonl.gz") if record["_id"] in wanted]
    text = {record["_id"]: record["text"] for record in corpus}
    words = {record["_id"]: set(record["text"].lower().split()) for record in queries}
    # A command that its question finds by words, so that a copy of it is found too.
    _, first = max(((q, d) for q, d, _ in qrels), key=lambda p: len(words[p[0]] & set(text[p[1]].lower().split())))
    corpus.append({"_id": "copy", "text": f"  {text[first].upper()}\n"})
    corpus.append({"_id": qrels[1][0], "text": next(q["text"] for q in queries if q["_id"] == qrels[1][0])})
    queries += [{"_id": f"extra-{number}", "text": "list files by size"} for number in range(3)]
    qrels += [
        ["extra-0", first, "0"],
        ["extra-1", "nowhere", "1"],
        ["extra-2", "nowhere-either", "1"],
        ["extra-2", first, "1"],
        ["unwritten", first, "1"],
    ]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(line) for line in qrels)]
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def path(collection, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "commands"
    build_index(open_corpus(str(collection)), folder, BuildSettings(), encoder=encoder)
    return folder


@pytest.fixture(scope="module")
def index(path, encoder):
    with open_index(path, encoder=encoder) as opened:
        yield opened


@pytest.fixture(scope="module")
def judged(collection):
    return open_collection(str(collection), "train")


@pytest.fixture(scope="module")
def mined(index, judged, tmp_path_factory):
    """Return (file, report) of a whole mining by words and vectors."""
    output = tmp_path_factory.mktemp("mined") / "negatives.parquet"
    outcome = mine_index(index, judged, output, MiningSettings(depth=20, portion=50))
    return output, report_of(outcome.metadata)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "cross")


WORDS_ONLY = {"sources": ("bm25",), "depth": 10, "estimate": False, "portion": 20}


def by_words(index, judged, output, **options):
    return mine_index(index, judged, output, MiningSettings(**WORDS_ONLY), **options)


@pytest.fixture(scope="module")
def whole(index, judged, tmp_path_factory):
    """Return the bytes of what WORDS_ONLY gives without any interruption."""
    output = tmp_path_factory.mktemp("whole") / "negatives.parquet"
    by_words(index, judged, output)
    return output.read_bytes()


def rows(output):
    return pq.read_table(output).to_pylist()


def test_nothing_known_to_be_relevant_is_a_candidate(mined, judged, index):
    output, report = mined
    found = rows(output)
    texts = {id_: normalised(index.get(id_).content) for id_ in {row["document_id"] for row in found}}
    for row in found:
        relevant = {id_ for id_, grade in judged.qrels[row["query_id"]].items() if grade > 0}
        assert row["label"] == (row["document_id"] in relevant)
        assert row["document_id"] != row["query_id"]
        if not row["label"]:
            assert texts[row["document_id"]] not in {texts[id_] for id_ in relevant & texts.keys()}
    counts = report["counts"]
    assert counts["removed_by_text"] >= 1
    assert counts["removed_as_the_query_itself"] == 1
    assert counts["removed_by_id"] > 40
    assert counts["candidates"] == len({(r["query_id"], r["document_id"]) for r in found if not r["label"]})
    assert counts["positives"] == len({(r["query_id"], r["document_id"]) for r in found if r["label"]})


def test_candidates_are_what_each_source_ranks_in_its_order(mined, judged, index):
    output, _ = mined
    found = rows(output)
    for query in sorted({row["query_id"] for row in found})[::40]:
        for source in ("bm25", "dense"):
            hits = index.search(judged.queries[query], 20, pipeline=source).hits
            mine = [row for row in found if row["query_id"] == query and row["source"] == source and row["rank"]]
            for row in mine:
                hit = hits[row["rank"] - 1]
                assert (hit.id, np.float32(hit.score)) == (row["document_id"], pytest.approx(row["score"], abs=1e-6))
            left_out = {hit.id for hit in hits} - {row["document_id"] for row in mine}
            relevant = {normalised(index.get(id_).content) for id_ in judged.qrels[query] if index.get(id_)}
            for id_ in left_out:
                assert id_ == query or normalised(index.get(id_).content) in relevant


def test_what_cannot_be_used_is_named(mined, judged):
    output, report = mined
    queries = report["queries"]
    assert queries["without_positives"] == {"count": 1, "first": ["extra-0"]}
    assert queries["positives_all_missing"] == {"count": 1, "first": ["extra-1"]}
    assert queries["without_text"] == {"count": 1, "first": ["unwritten"]}
    assert queries["mined"] == len(judged.qrels) - 3
    assert report["positives"]["missing_from_corpus"] == {"count": 2, "first": ["nowhere", "nowhere-either"]}
    used = {row["query_id"] for row in rows(output)}
    assert "extra-2" in used
    assert not {"extra-0", "extra-1", "unwritten"} & used


def test_the_rate_of_false_negatives_is_the_share_above_the_middle_positive(mined, judged, index, encoder):
    output, report = mined
    found = rows(output)
    ids = sorted({row["document_id"] for row in found})
    vectors = dict(zip(ids, encoder.encode_documents([index.get(id_) for id_ in ids]), strict=True))
    texts = {query: judged.queries[query] for query in {row["query_id"] for row in found}}
    queries = dict(zip(texts, encoder.encode_queries(list(texts.values())), strict=True))
    scores, above, compared = {}, 0, 0
    for row in found:
        pair = scores.setdefault(row["query_id"], ({}, {}))
        score = queries[row["query_id"]] @ vectors[row["document_id"]]
        pair[row["label"]][row["document_id"]] = score
        if row["source"] == "dense":
            assert row["score"] == pytest.approx(score, abs=1e-5)
    for negatives, positives in scores.values():
        compared += len(negatives)
        above += sum(score > np.median(list(positives.values())) for score in negatives.values())
    assert report["false_negatives"]["compared"] == compared
    # Two ways of adding up a product may differ in the last bit.
    assert report["false_negatives"]["above_positive"] == pytest.approx(above, abs=2)
    assert 0.05 < report["false_negatives"]["rate"] < 0.6


def test_a_cross_encoder_drops_what_it_takes_for_relevant(index, judged, cross_encoder, tmp_path):
    few = open_few(judged, 12)
    plain, clean = tmp_path / "plain.parquet", tmp_path / "clean.parquet"
    mine_index(index, few, plain, MiningSettings(sources=("bm25",), depth=10))
    settings = MiningSettings(sources=("bm25",), depth=10, denoise=str(cross_encoder), denoise_ratio=0.95)
    report = report_of(mine_index(index, few, clean, settings, offline=True).metadata)
    reranker = CrossEncoderReranker(cross_encoder, device="cpu")
    kept = {(row["query_id"], row["document_id"]): row for row in rows(clean)}
    dropped = compared = above = 0
    for query in few.qrels:
        documents = [row for row in rows(plain) if row["query_id"] == query]
        logits, _ = reranker.score(few.queries[query], [index.get(row["document_id"]) for row in documents])
        chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
        middle = np.median([chance for chance, row in zip(chances, documents, strict=True) if row["label"]])
        for logit, chance, row in zip(logits, chances, documents, strict=True):
            pair = (query, row["document_id"])
            assert (pair in kept) == bool(row["label"] or chance <= 0.95 * middle)
            if pair in kept:
                assert kept[pair]["teacher"] == pytest.approx(logit, abs=1e-4)
            compared += not row["label"]
            above += not row["label"] and chance > middle
            dropped += pair not in kept
    assert 0 < dropped < compared
    assert report["counts"]["denoised"] == dropped
    assert report["false_negatives"] == {
        "judge": str(cross_encoder), "compared": compared, "above_positive": above, "rate": above / compared,
    }  # fmt: skip


def open_few(judged, count):
    from dataclasses import replace

    chosen = sorted(judged.qrels)[5 : 5 + count]
    return replace(judged, qrels={query: judged.qrels[query] for query in chosen})


def interrupted_after(count, error=KeyboardInterrupt):
    """Return a subclass of the miner that is stopped when it begins a portion."""

    class Stopped(_Miner):
        made = 0

        def portion(self, number):
            if Stopped.made == count:
                raise error
            Stopped.made += 1
            return super().portion(number)

    return Stopped


def test_an_interrupted_job_goes_on_with_the_same_bytes(index, judged, whole, tmp_path, monkeypatch):
    output = tmp_path / "negatives.parquet"
    monkeypatch.setattr("training.mining._Miner", interrupted_after(2))
    with pytest.raises(KeyboardInterrupt):
        by_words(index, judged, output)
    assert not output.exists()
    work = work_folder(output)
    made = {path.name: path.stat().st_mtime_ns for path in work.glob("*.parquet")}
    assert sorted(made) == ["000000.parquet", "000001.parquet"]
    # A second stop: what was made before is not made again.
    monkeypatch.setattr("training.mining._Miner", interrupted_after(1))
    with pytest.raises(KeyboardInterrupt):
        by_words(index, judged, output)
    assert len(list(work.glob("*.parquet"))) == 3
    assert all((work / name).stat().st_mtime_ns == made[name] for name in made)
    monkeypatch.undo()
    by_words(index, judged, output)
    assert output.read_bytes() == whole
    assert not work.exists()
    # Once more: it is done, and nothing is searched.
    monkeypatch.setattr("training.mining._Miner", interrupted_after(0, AssertionError))
    assert by_words(index, judged, output).metadata == read_metadata(output)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["kill", "ctrl-c"])
def test_a_process_that_is_stopped_leaves_work_that_goes_on(path, collection, tmp_path, sent, code):
    output = tmp_path / "negatives.parquet"
    settings = WORDS_ONLY | {"portion": 1}
    command = [
        sys.executable, "-m", "retriever.cli", "train", "mine", str(path), "--queries", str(collection),
        "--output", str(output), "--sources", "bm25", "--depth", "10", "--no-estimate", "--portion", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not portion_file(work_folder(output), 2).exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert not output.exists()
    if sent is signal.SIGINT:
        assert "run the same command again to go on" in error
    made = len(list(work_folder(output).glob("0*.parquet")))
    report = run_mining(path, str(collection), output, settings=settings)
    other = run_mining(path, str(collection), tmp_path / "other.parquet", settings=settings)
    assert 3 <= made < other["queries"]["mined"]
    assert output.read_bytes() == (tmp_path / "other.parquet").read_bytes()
    assert report["counts"] == other["counts"]


def test_shards_of_one_folder_merge_by_themselves(index, judged, whole, tmp_path):
    output = tmp_path / "negatives.parquet"
    first = by_words(index, judged, output, shard=Shard(1, 2))
    count = len(first.missing) + len(list(work_folder(output).glob("*.parquet")))
    assert first.metadata is None
    assert first.missing == list(range(1, count, 2))
    with (
        exclusive_lock(work_folder(output) / "shard-1-of-2"),
        pytest.raises(IndexLocked, match="is being written"),
    ):
        by_words(index, judged, output, shard=Shard(1, 2))
    assert by_words(index, judged, output, shard=Shard(2, 2)).missing == []
    assert output.read_bytes() == whole


def test_shards_of_several_machines_are_merged_by_a_command(index, judged, whole, tmp_path):
    outputs = [tmp_path / name / "negatives.parquet" for name in ("a", "b", "c")]
    for number, output in enumerate(outputs, 1):
        output.parent.mkdir()
        by_words(index, judged, output, shard=Shard(number, 3))
    works = [work_folder(output) for output in outputs]
    target = tmp_path / "all.parquet"
    with pytest.raises(InvalidInput, match=r"portions are missing, such as \[1, 4"):
        run_merging([works[0], works[2]], target)
    result = CliRunner().invoke(app, ["merge", *map(str, works), "--output", str(target)])
    assert result.exit_code == 0
    assert "candidates of" in result.stdout
    assert target.read_bytes() == whole
    with pytest.raises(InvalidInput, match="exists already"):
        run_merging(works, target)
    other = tmp_path / "d" / "negatives.parquet"
    other.parent.mkdir()
    mine_index(index, judged, other, MiningSettings(**WORDS_ONLY | {"depth": 5}), shard=Shard(2, 3))
    with pytest.raises(InvalidInput, match="of different jobs: depth was 5 and is 10"):
        run_merging([works[0], work_folder(other), works[2]], tmp_path / "mixed.parquet")


def test_a_shard_that_another_one_overtakes_takes_its_result(index, judged, whole, tmp_path, monkeypatch):
    output = tmp_path / "negatives.parquet"

    class Overtaken(_Miner):
        def portion(self, number):
            monkeypatch.undo()
            # Elsewhere all portions are made and merged, and the folder is removed.
            by_words(index, judged, output)
            return super().portion(number)

    monkeypatch.setattr("training.mining._Miner", Overtaken)
    outcome = by_words(index, judged, output, shard=Shard(2, 2))
    assert outcome.metadata == read_metadata(output)
    assert output.read_bytes() == whole


def test_other_settings_are_refused_and_restart_replaces(index, judged, whole, tmp_path, monkeypatch):
    output = tmp_path / "negatives.parquet"
    monkeypatch.setattr("training.mining._Miner", interrupted_after(2))
    with pytest.raises(KeyboardInterrupt):
        by_words(index, judged, output)
    monkeypatch.undo()
    other = MiningSettings(**WORDS_ONLY | {"depth": 7})
    with pytest.raises(InvalidInput, match=r"unfinished work with other settings: depth was 10 and is 7.*--restart"):
        mine_index(index, judged, output, other)
    mine_index(index, judged, output, other, restart=True)
    assert read_metadata(output)["depends_on"]["depth"] == 7
    with pytest.raises(InvalidInput, match="made otherwise: depth was 7 and is 10"):
        by_words(index, judged, output)
    by_words(index, judged, output, restart=True)
    assert output.read_bytes() == whole
    output.write_text("notes")
    with pytest.raises(InvalidInput, match="exists already; choose another output, or replace it with --restart"):
        by_words(index, judged, output)
    assert output.read_text() == "notes"


def test_a_damaged_portion_is_named(index, judged, tmp_path):
    output = tmp_path / "negatives.parquet"
    by_words(index, judged, output, shard=Shard(1, 2))
    portion = portion_file(work_folder(output), 0)
    portion.write_bytes(portion.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match=r"000000\.parquet is no Parquet file"):
        by_words(index, judged, output, shard=Shard(2, 2))
    portion.unlink()
    shutil.copy(portion_file(work_folder(output), 1), portion)
    with pytest.raises(InvalidInput, match="is not portion 0 of this job; remove it"):
        by_words(index, judged, output)
    portion.unlink()
    assert by_words(index, judged, output).metadata is not None


def test_bad_requests(index, judged, collection, path, tmp_path):
    output = tmp_path / "negatives.parquet"
    with pytest.raises(InvalidInput, match="has no sparse part; mine with --sources bm25,dense"):
        mine_index(index, judged, output, MiningSettings(sources=("sparse",)))
    for settings in ({"sources": ("bm25", "bm25")}, {"sources": ("splade",)}, {"depth": 0}, {"denoise_ratio": 1.5}):
        with pytest.raises(InvalidInput, match="settings of mining are not valid"):
            run_mining(path, str(collection), output, settings=settings)
    for text in ("2", "0/3", "4/3", "1/5000", "a/b"):
        with pytest.raises(InvalidInput, match="a shard is NUMBER/OF"):
            Shard.parse(text)
    assert list(Shard.parse("2/3").portions(8)) == [1, 4, 7]
    elsewhere = open_few(judged, 1)
    (query,) = elsewhere.qrels
    elsewhere.qrels[query] = {"nowhere": 1}
    with pytest.raises(InvalidInput, match=r"none of the 1 judged queries.*an index of the same corpus\?"):
        mine_index(index, elsewhere, output)
    assert not work_folder(output).exists()


def test_chunks_count_as_their_document(collection, judged, tmp_path):
    documents = list(open_corpus(str(collection)))
    encoder = HashingEncoder()
    settings = BuildSettings(window=8, overlap=0, encoder="hashing")
    build_index(ListCorpus(documents), tmp_path / "index", settings, encoder=encoder)
    output = tmp_path / "negatives.parquet"
    with open_index(tmp_path / "index", encoder=encoder) as index:
        assert len(index) > len(documents)
        report = report_of(mine_index(index, judged, output, MiningSettings(depth=8)).metadata)
    ids = {document.id for document in documents}
    found = rows(output)
    assert {row["document_id"] for row in found} <= ids
    listed = [(row["query_id"], row["document_id"], row["source"]) for row in found]
    assert len(listed) == len(set(listed))
    assert max(row["rank"] for row in found) == 8
    assert report["counts"]["removed_by_text"] >= 1
    for row in found:
        assert row["label"] == (judged.qrels[row["query_id"]].get(row["document_id"], 0) > 0)


def test_candidates_in_memory(mined, judged, index):
    output, _ = mined
    query_ids = sorted({row["query_id"] for row in rows(output)})
    ids = sorted({id_ for segment in index.segments for id_ in segment.ids})
    query_rows = {id_: row for row, id_ in enumerate(query_ids)}
    document_rows = {id_: row for row, id_ in enumerate(ids)}
    query = query_ids[7]
    own = [row for row in rows(output) if row["query_id"] == query and not row["label"]]
    words = read_candidates(output, query_rows, document_rows, source="bm25")
    assert len(words) == len(query_ids)
    documents, scores = words.of(7)
    listed = [row for row in own if row["source"] == "bm25"]
    assert [ids[row] for row in documents] == [row["document_id"] for row in listed]
    np.testing.assert_array_equal(scores, np.float32([row["score"] for row in listed]))
    both = read_candidates(output, query_rows, document_rows)
    fused = {}
    for row in own:
        fused[row["document_id"]] = fused.get(row["document_id"], 0) + 1 / (60 + row["rank"])
    documents, scores = both.of(7)
    assert {ids[row]: pytest.approx(score) for row, score in zip(documents, scores, strict=True)} == fused
    # Half of the queries: the others are left out, and rows are those of the caller.
    some = read_candidates(output, {query: 1, "absent": 0}, document_rows, source="bm25")
    assert len(some.of(0)[0]) == 0
    np.testing.assert_array_equal(some.of(1)[0], words.of(7)[0])
    relevant = read_candidates(output, query_rows, document_rows, source="dense", label=1)
    assert set(relevant.of(7)[0]) == {document_rows[id_] for id_, grade in judged.qrels[query].items() if grade > 0}
    for options, message in (
        ({"source": "splade"}, "no candidates from 'splade'; it has bm25, dense"),
        ({"by": "teacher"}, "lacks teacher scores"),
        ({"by": "rank"}, "by must be score or teacher"),
    ):
        with pytest.raises(InvalidInput, match=message):
            read_candidates(output, query_rows, document_rows, **options)
    with pytest.raises(InvalidInput, match="holds no candidates of these 1 queries"):
        read_candidates(output, {"absent": 0}, document_rows)
    with pytest.raises(InvalidInput, match="candidates are not in this corpus, such as document"):
        read_candidates(output, query_rows, {id_: row for id_, row in document_rows.items() if row > 50})


def test_scores_of_pairs_are_the_reranker_s(path, collection, judged, index, cross_encoder, tmp_path):
    pairs, output = tmp_path / "negatives.parquet", tmp_path / "scores.parquet"
    few = open_few(judged, 10)
    mine_index(index, few, pairs, MiningSettings(sources=("bm25",), depth=5), origin=str(collection))
    options = ["score", str(pairs), "--model", str(cross_encoder), "--output", str(output), "--offline", "--json"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.exception
    report = json.loads(result.stdout)
    mined = {(row["query_id"], row["document_id"]) for row in rows(pairs)}
    found = {(row["query_id"], row["document_id"]): row["score"] for row in rows(output)}
    assert found.keys() == mined
    assert report["counts"]["pairs"] == len(mined) == pq.read_metadata(output).num_rows
    reranker = CrossEncoderReranker(cross_encoder, device="cpu")
    for (query, document), score in found.items():
        expected, _ = reranker.score(judged.queries[query], [index.get(document)])
        assert score == pytest.approx(expected[0], abs=1e-4)
    assert run_scoring(pairs, output, str(cross_encoder), offline=True)["counts"] == report["counts"]
    other = tmp_path / "other"
    shutil.copytree(collection, other)
    (other / "queries.jsonl").write_text((other / "queries.jsonl").read_text().replace("file", "folder"))
    with pytest.raises(InvalidInput, match="was mined from another collection"):
        run_scoring(pairs, tmp_path / "x.parquet", str(cross_encoder), queries=str(other), offline=True)


def test_pairs_from_elsewhere_need_to_say_where_their_texts_are(path, collection, judged, cross_encoder, tmp_path):
    import pyarrow as pa

    query = sorted(judged.qrels)[5]
    document = next(iter(judged.qrels[query]))
    pairs, output = tmp_path / "pairs.parquet", tmp_path / "scores.parquet"
    pq.write_table(pa.table({"query_id": [query, query], "document_id": [document, document]}), pairs)
    with pytest.raises(InvalidInput, match="add --index and --queries"):
        run_scoring(pairs, output, str(cross_encoder), offline=True)
    places = {"index": path, "queries": str(collection), "offline": True}
    assert run_scoring(pairs, output, str(cross_encoder), **places)["counts"]["pairs"] == 1
    for table, message in (
        ({"query_id": [query], "document_id": ["nowhere"]}, "holds no document 'nowhere'"),
        ({"query_id": ["nobody"], "document_id": [document]}, "no text of 1 queries, such as 'nobody'"),
        ({"query_id": [query], "text": [document]}, "has no column document_id; it has query_id, text"),
        ({"query_id": [None], "document_id": [document]}, "holds a pair without an id"),
    ):
        pq.write_table(pa.table(table), pairs)
        with pytest.raises(InvalidInput, match=message):
            run_scoring(pairs, tmp_path / "new.parquet", str(cross_encoder), **places)
        work = work_folder(tmp_path / "new.parquet")
        if work.exists():
            shutil.rmtree(work)
